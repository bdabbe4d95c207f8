// Multinomial negative log-likelihoods of dense counts: kernels. Included by a driver's translation unit.
#include "../math/likelihood.h"
#include "convert.h"
#include "multinomial.h"
#include "work.h"

namespace dgm {
namespace DGM_LEVEL {

// Counts are read by the kernel itself: they may be integers.
template <class N>
struct CountsOf {
  static constexpr bool kIndexed = true;

  const N* counts;
};

template <class T, class N>
struct MultinomialNll : UniformKernel<T, 1, 0, 1, false>, CountsOf<N> {
  using C = compute_t<T>;

  DGM_HD void operator()(const NoSample&, In<C> in, Out<C> out, int from, int to, int64_t i) const {
    const C* const log_probs = in[0];
    const N* const n = this->counts + i;
    C* const terms = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) terms[j] = multinomial_nll(log_probs[j], (C)in_compute(n[j]));
  }
};

template <class T, class N>
struct MultinomialGradient : KernelBase<T, 0, 1, 0, false>, CountsOf<N> {
  using C = compute_t<T>;
  using Sample = C;

  const C* grad;

  DGM_HD Sample of(int64_t n) const { return grad[n]; }

  DGM_HD void operator()(const C& grad_n, In<C>, Out<C> out, int from, int to, int64_t i) const {
    const N* const n = this->counts + i;
    C* const dlog_probs = out[0];
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) dlog_probs[j] = multinomial_nll(grad_n, (C)in_compute(n[j]));
  }
};

// Calls body(values) with the counts as what they are; those like log_probs are T.
template <class T, class Body>
static void with_values(const Counts& counts, const Body& body) {
  switch (counts.type) {
    case CountType::int32: return body((const int32_t*)counts.values);
    case CountType::int64: return body((const int64_t*)counts.values);
    default: return body((const T*)counts.values);
  }
}

template <class T, class N>
static void sums_as(const N* counts, const Multinomial& args, const SampleSums& sums, const Range& parts) {
  run(Work<MultinomialNll<T, N>>{{{}, {counts}}, args.inner, {args.log_probs}, {}}, sums, parts);
}

static void sums(const Multinomial& args, const SampleSums& sums, const Range& parts) {
  DGM_DISPATCH(args.dtype, with_values<T>(args.counts, [&](auto* counts) { sums_as<T>(counts, args, sums, parts); }));
}

template <class T, class N>
static void backward_as(const N* counts, const MultinomialBackward& args, const Range& elements) {
  run(
      Work<MultinomialGradient<T, N>>{
          {{}, {counts}, (const compute_t<T>*)args.grad}, args.inner, {}, {args.dlog_probs}},
      elements);
}

static void backward(const MultinomialBackward& args, const Range& elements) {
  DGM_DISPATCH(args.dtype, with_values<T>(args.counts, [&](auto* counts) { backward_as<T>(counts, args, elements); }));
}

// of the driver
static void sparse_forward(const SparseMultinomial& args, const Range& rows);
static void sparse_backward(const SparseMultinomial& args, const Range& rows);

extern const MultinomialLoops multinomial_loops;
const MultinomialLoops multinomial_loops = {sums, backward, sparse_forward, sparse_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
