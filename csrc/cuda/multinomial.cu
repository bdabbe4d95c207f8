#include "pointwise.h"
// the driver first
#include "../kernels/multinomial_kernels.h"

namespace dgm {
namespace DGM_LEVEL {

// The non-zeros of a row; none, and not right, where its ends are not within all of them.
struct Row {
  int64_t begin, end;
  bool right;
};

template <class Index>
DGM_HD Row row_of(const SparseMultinomial& args, int64_t n) {
  const int64_t begin = ((const Index*)args.crow)[n], end = ((const Index*)args.crow)[n + 1];
  const bool right = 0 <= begin && begin <= end && end <= args.nonzeros;
  return {right ? begin : 0, right ? end : 0, right};
}

// A warp sums a row.
template <class T, class N, class Index>
struct SparseSumJob {
  using C = compute_t<T>;
  static constexpr int kTeam = 32;
  struct Shared {
    double sums[kThreads];
  };

  SparseMultinomial args;
  int64_t rows;

  DGM_HD int phases() const { return 6; }

  DGM_HD void run(int phase, int64_t block, int thread, Shared& shared) const {
    const int lane = thread % kTeam;
    const int64_t n = block * (kThreads / kTeam) + thread / kTeam;
    if (n >= rows) return;
    if (phase == 0) {
      shared.sums[thread] = sum(n, lane);
      return;
    }
    const int stride = kTeam >> phase;
    if (lane >= stride) return;
    shared.sums[thread] += shared.sums[thread + stride];
    if (stride == 1) ((C*)args.nll)[n] = (C)shared.sums[thread];
  }

 private:
  DGM_HD double sum(int64_t n, int lane) const {
    const Row row = row_of<Index>(args, n);
    double sum = row.right ? 0 : __builtin_nan("");
    for (int64_t e = row.begin + lane; e < row.end; e += kTeam) {
      const int64_t column = ((const Index*)args.col)[e];
      if (column < 0 || column >= args.columns)
        sum = __builtin_nan("");
      else
        sum += (double)multinomial_nll((C)in_compute(((const T*)args.log_probs)[n * args.columns + column]),
                                       (C)in_compute(((const N*)args.counts.values)[e]));
    }
    return sum;
  }
};

// A block fills a row with zeros, then puts the gradients of its non-zeros. Of equal columns the first one's thread
// adds up all.
template <class T, class N, class Index>
struct SparseGradientJob {
  using C = compute_t<T>;
  struct Shared {
    int ascending, right;
  };

  SparseMultinomial args;

  DGM_HD int phases() const { return 4; }

  DGM_HD void run(int phase, int64_t n, int thread, Shared& shared) const {
    const Index* const col = (const Index*)args.col;
    const Row row = row_of<Index>(args, n);
    if (phase == 0) {
      if (thread != 0) return;
      shared.ascending = 1;
      shared.right = row.right;
      return;
    }
    if (phase == 1) {
      for (int64_t e = row.begin + thread; e < row.end; e += kThreads) {
        if (e > row.begin && col[e] <= col[e - 1]) shared.ascending = 0;
        if (col[e] < 0 || (int64_t)col[e] >= args.columns) shared.right = 0;
      }
      return;
    }
    T* const dlog_probs = (T*)args.dlog_probs + n * args.columns;
    if (phase == 2) {
      for (int64_t v = thread; v < args.columns; v += kThreads)
        put(dlog_probs[v], shared.right ? (C)0 : (C)__builtin_nan(""));
      return;
    }
    if (!shared.right) return;
    for (int64_t e = row.begin + thread; e < row.end; e += kThreads) {
      double sum = gradient(n, e);
      bool first = true;
      if (!shared.ascending)
        for (int64_t other = row.begin; other < row.end; ++other) {
          if (other == e || col[other] != col[e]) continue;
          if (other < e) first = false;
          sum += gradient(n, other);
        }
      if (first) put(dlog_probs[col[e]], (C)sum);
    }
  }

 private:
  DGM_HD double gradient(int64_t n, int64_t e) const {
    return (double)multinomial_nll(((const C*)args.grad)[n], (C)in_compute(((const N*)args.counts.values)[e]));
  }
};

// Calls body(counts, indices) with pointers of their types.
template <class T, class Body>
static void with_types(const SparseMultinomial& args, const Body& body) {
  with_values<T>(args.counts, [&](auto* values) {
    if (args.wide_indices)
      body(values, (const int64_t*)args.crow);
    else
      body(values, (const int32_t*)args.crow);
  });
}

template <class T, class N, class Index>
static void sum_rows(const N*, const Index*, const SparseMultinomial& args, const Range& rows) {
  launch(SparseSumJob<T, N, Index>{args, rows.end}, divide_up(rows.end, kThreads / SparseSumJob<T, N, Index>::kTeam),
         rows.stream);
}

static void sparse_forward(const SparseMultinomial& args, const Range& rows) {
  DGM_DISPATCH(args.dtype,
               with_types<T>(args, [&](auto* values, auto* index) { sum_rows<T>(values, index, args, rows); }));
}

template <class T, class N, class Index>
static void put_rows(const N*, const Index*, const SparseMultinomial& args, const Range& rows) {
  launch(SparseGradientJob<T, N, Index>{args}, rows.end, rows.stream);
}

static void sparse_backward(const SparseMultinomial& args, const Range& rows) {
  DGM_DISPATCH(args.dtype,
               with_types<T>(args, [&](auto* values, auto* index) { put_rows<T>(values, index, args, rows); }));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
