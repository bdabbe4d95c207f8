#include "pointwise.h"
// the driver first
#include "../kernels/multinomial_kernels.h"

namespace dgm {
namespace DGM_LEVEL {

// Calls start(n) for each row of a CSR tensor, then body(n, column, count) for its non-zeros; columns outside are left
// out and reported.
template <class T, class Start, class Body>
static void for_each_nonzero(const SparseMultinomial& args, const Range& rows, const Start& start, const Body& body) {
  const auto with = [&](auto* crow, auto* col, auto* values) {
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      start(n);
      for (int64_t e = crow[n]; e < (int64_t)crow[n + 1]; ++e)
        if (col[e] >= 0 && col[e] < args.columns)
          body(n, (int64_t)col[e], (compute_t<T>)in_compute(values[e]));
        else
          __atomic_store_n(args.outside, e, __ATOMIC_RELAXED);
    }
  };
  with_values<T>(args.counts, [&](auto* values) {
    if (args.wide_indices)
      with((const int64_t*)args.crow, (const int64_t*)args.col, values);
    else
      with((const int32_t*)args.crow, (const int32_t*)args.col, values);
  });
}

template <class T>
static void sparse_forward_as(const SparseMultinomial& args, const Range& rows) {
  using C = compute_t<T>;
  const T* const log_probs = (const T*)args.log_probs;
  C* const nll = (C*)args.nll;
  double sum = 0;  // of the row
  for_each_nonzero<T>(
      args, rows, [&](int64_t n) { nll[n] = 0, sum = 0; },
      [&](int64_t n, int64_t column, C count) {
        sum += (double)multinomial_nll((C)in_compute(log_probs[n * args.columns + column]), count);
        nll[n] = (C)sum;
      });
}

static void sparse_forward(const SparseMultinomial& args, const Range& rows) {
  DGM_DISPATCH(args.dtype, sparse_forward_as<T>(args, rows));
}

template <class T>
static void sparse_backward_as(const SparseMultinomial& args, const Range& rows) {
  using C = compute_t<T>;
  T* const dlog_probs = (T*)args.dlog_probs;
  const C* const grad = (const C*)args.grad;
  for_each_nonzero<T>(
      args, rows,
      [&](int64_t n) {
        if (args.columns > 0) __builtin_memset(dlog_probs + n * args.columns, 0, args.columns * sizeof(T));
      },
      [&](int64_t n, int64_t column, C count) {
        T& element = dlog_probs[n * args.columns + column];
        put(element, (C)in_compute(element) + multinomial_nll(grad[n], count));
      });
}

static void sparse_backward(const SparseMultinomial& args, const Range& rows) {
  DGM_DISPATCH(args.dtype, sparse_backward_as<T>(args, rows));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
