#include "multinomial_loops.h"

#include "../math/likelihood.h"
#include "pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

// Calls body(values) with the counts as what they are; those like log_probs are T.
template <class T, class Body>
static DGM_HD void with_values(const Counts& counts, const Body& body) {
  switch (counts.type) {
    case CountType::int32: return body((const int32_t*)counts.values);
    case CountType::int64: return body((const int64_t*)counts.values);
    default: return body((const T*)counts.values);
  }
}

// Calls body(crow, col) of a CSR tensor.
template <class Body>
static DGM_HD void with_indices(const Counts& counts, const Body& body) {
  if (counts.wide_indices)
    body((const int64_t*)counts.crow, (const int64_t*)counts.col);
  else
    body((const int32_t*)counts.crow, (const int32_t*)counts.col);
}

// n integers in the compute type
template <class C, class N>
static DGM_HD const C* read_integers(const N* x, int n, C* buffer) {
  for (int i = 0; i < n; ++i) buffer[i] = (C)x[i];
  return buffer;
}
inline const float* read(const int32_t* x, int n, float* buffer) { return read_integers(x, n, buffer); }
inline const float* read(const int64_t* x, int n, float* buffer) { return read_integers(x, n, buffer); }
inline const double* read(const int32_t* x, int n, double* buffer) { return read_integers(x, n, buffer); }
inline const double* read(const int64_t* x, int n, double* buffer) { return read_integers(x, n, buffer); }

template <class C, class N>
static DGM_HD C one(const N& x) {
  C number;
  return *read(&x, 1, &number);
}

template <class T>
static DGM_HD void add_to(T& sum, compute_t<T> x) {
  compute_t<T> total = one<compute_t<T>>(sum) + x;
  write_from(&sum, 1, &total);
}

template <class T>
static void sums_loop(const Multinomial& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  with_values<T>(args.counts, [&](auto* values) {
    sum_parts<C, 1>(sums, all, args.inner, begin, end, [&](int64_t i, int m, auto terms) {
      C buffer[kChunk];
      const C* const counts = read(values + i, m, buffer);
      pointwise_chunk<T, 1, 0, false>({args.log_probs}, nullptr, nullptr, args.inner, i, m,
                                      [&](const C* const* in, C* const*, int from, int to, int64_t) {
                                        const C* const log_probs = in[0];
                                        C* const term = terms[0];
                                        DGM_INDEPENDENT
                                        for (int j = from; j < to; ++j)
                                          term[j] = multinomial_nll(log_probs[j], counts[j]);
                                      });
    });
  });
}

static void sums(const Multinomial& args, double* sums, int64_t all, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, sums_loop<T>(args, sums, all, begin, end));
}

template <class T>
static void backward_loop(const Multinomial& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  with_values<T>(args.counts, [&](auto* values) {
    C count_buffer[kChunk], result_buffer[kChunk];
    for (int64_t i = begin; i < end; i += kChunk) {
      const int m = end - i < kChunk ? (int)(end - i) : kChunk;
      const C* const counts = read(values + i, m, count_buffer);
      C* const results = place<T>(args.dlog_probs, i, m, result_buffer);
      for_each_sample(i, m, args.inner, [&](int from, int to, int64_t sample) {
        const C g = ((const C*)args.grad)[sample];
        DGM_INDEPENDENT
        for (int j = from; j < to; ++j) results[j] = multinomial_nll(g, counts[j]);
      });
      write<T>(args.dlog_probs, i, m, results);
    }
  });
}

static void backward(const Multinomial& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.dtype, backward_loop<T>(args, begin, end));
}

// Calls start(n) for each row, then body(n, column, count) for its non-zeros; returns the number of one whose column is
// not in [0, columns), which it leaves out, or -1.
template <class T, class Start, class Body>
static DGM_HD int64_t for_each_nonzero(const Counts& counts, int64_t columns, int64_t begin, int64_t end,
                                       const Start& start, const Body& body) {
  int64_t outside = -1;
  with_values<T>(counts, [&](auto* values) {
    with_indices(counts, [&](auto* crow, auto* col) {
      for (int64_t n = begin; n < end; ++n) {
        start(n);
        for (int64_t e = crow[n]; e < (int64_t)crow[n + 1]; ++e)
          if (col[e] >= 0 && col[e] < columns)
            body(n, (int64_t)col[e], one<compute_t<T>>(values[e]));
          else
            outside = e;
      }
    });
  });
  return outside;
}

template <class T>
static int64_t sparse_sums_loop(const Multinomial& args, double* sums, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const T* const log_probs = (const T*)args.log_probs.data;
  return for_each_nonzero<T>(
      args.counts, args.inner, begin, end, [&](int64_t n) { sums[n] = 0; },
      [&](int64_t n, int64_t column, C count) {
        sums[n] += (double)multinomial_nll(one<C>(log_probs[n * args.inner + column]), count);
      });
}

static int64_t sparse_sums(const Multinomial& args, double* sums, int64_t begin, int64_t end) {
  int64_t outside = -1;
  DGM_DISPATCH(args.dtype, outside = sparse_sums_loop<T>(args, sums, begin, end));
  return outside;
}

template <class T>
static int64_t sparse_backward_loop(const Multinomial& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  T* const dlog_probs = (T*)args.dlog_probs.data;
  const C* const grad = (const C*)args.grad;
  return for_each_nonzero<T>(
      args.counts, args.inner, begin, end,
      [&](int64_t n) {
        if (args.inner > 0) __builtin_memset(dlog_probs + n * args.inner, 0, args.inner * sizeof(T));
      },
      [&](int64_t n, int64_t column, C count) {
        add_to(dlog_probs[n * args.inner + column], multinomial_nll(grad[n], count));
      });
}

static int64_t sparse_backward(const Multinomial& args, int64_t begin, int64_t end) {
  int64_t outside = -1;
  DGM_DISPATCH(args.dtype, outside = sparse_backward_loop<T>(args, begin, end));
  return outside;
}

extern const MultinomialLoops multinomial_loops;
const MultinomialLoops multinomial_loops = {sums, backward, sparse_sums, sparse_backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
