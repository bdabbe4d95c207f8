#include "../kernels/multinomial.h"

#include "operands.h"

namespace dgm {
namespace {

CountType count_type(const Tensor& counts, const Tensor& log_probs, const char* name) {
  if (counts.scalar_type() == log_probs.scalar_type()) return CountType::like_log_probs;
  if (counts.scalar_type() == ScalarType::Int) return CountType::int32;
  if (counts.scalar_type() == ScalarType::Long) return CountType::int64;
  throw std::invalid_argument(std::string(name) + ": expected the dtype of log_probs, int32 or int64");
}

// Dense counts, in the layout of log_probs; `kept` keeps a dense copy alive.
Counts dense_counts(const Tensor& counts, const Tensor& log_probs, MemoryFormat layout, Tensor& kept) {
  require(same_shape(counts, log_probs) && is_beside(counts, log_probs),
          "counts: expected a " DGM_DEVICE " tensor of the shape of log_probs");
  kept = dense(counts, layout);
  return {count_type(counts, log_probs, "counts"), kept.const_data_ptr()};
}

const MultinomialLoops& loops() { return pick_multinomial_loops(level()); }

Tensor multinomial_nll(const Tensor& log_probs, const Tensor& counts) {
  Operands tensors(log_probs);
  Tensor kept;
  const Multinomial args = {tensors.dtype, dense_counts(counts, log_probs, tensors.layout, kept),
                            tensors.in(log_probs, "log_probs"), tensors.inner};
  return tensors.sum_samples<1>(
      [&](const SampleSums& sums, const Range& range) { loops().sums(args, sums, range); })[0];
}

Tensor multinomial_nll_backward(const Tensor& grad, const Tensor& log_probs, const Tensor& counts) {
  Operands tensors(log_probs);
  Tensor kept, dlog_probs;
  const MultinomialBackward args = {tensors.dtype, dense_counts(counts, log_probs, tensors.layout, kept),
                                    tensors.per_sample(grad, "grad"), tensors.out(dlog_probs), tensors.inner};
  tensors.run([&](const Range& range) { loops().backward(args, range); });
  return dlog_probs;
}

// The counts of a CSR tensor [N, V]. On the CPU rows are checked here and columns by the loops; on CUDA, where a check
// would sync, kernels keep to the bounds.
class Sparse {
 public:
  Operands tensors;
  SparseMultinomial args;

  Sparse(const Tensor& crow, const Tensor& col, const Tensor& values, const Tensor& log_probs)
      : tensors(log_probs),
        crow_(dense(crow, MemoryFormat::Contiguous)),
        col_(dense(col, MemoryFormat::Contiguous)),
        values_(dense(values, MemoryFormat::Contiguous)) {
    require(log_probs.dim() == 2, "log_probs: expected a tensor [N, V]");
    const bool wide = crow.scalar_type() == ScalarType::Long;
    require(is_beside(crow, log_probs) && crow.dim() == 1 && crow.size(0) == log_probs.size(0) + 1 &&
                (wide || crow.scalar_type() == ScalarType::Int),
            "crow_indices: expected a " DGM_DEVICE " tensor [N + 1], int64 or int32");
    require(is_beside(values, log_probs) && values.dim() == 1,
            "values: expected a " DGM_DEVICE " tensor with one dimension");
    require(is_beside(col, log_probs) && same_shape(col, values) && col.scalar_type() == crow.scalar_type(),
            "col_indices: expected a " DGM_DEVICE " tensor of the shape of values and the dtype of crow_indices");
    args.dtype = tensors.dtype;
    args.counts = {count_type(values, log_probs, "values"), values_.const_data_ptr()};
    args.crow = crow_.const_data_ptr();
    args.col = col_.const_data_ptr();
    args.wide_indices = wide;
    args.nonzeros = values.numel();
    args.columns = log_probs.size(1);
    args.outside = &outside_;
#if !defined(DGM_NO_SYNC)
    int64_t last = 0;
    for (int64_t n = 0; n <= log_probs.size(0); ++n) {
      const int64_t end = index(crow_, n);
      require(n > 0 || end == 0, "crow_indices: expected to begin with 0");
      require(end >= last, "crow_indices: expected numbers that never fall");
      last = end;
    }
    require(last == values.numel(), "crow_indices: expected to end with the number of values");
#endif
  }

  // Runs a loop(range) over the rows.
  template <class Loop>
  void run(int64_t work, const Loop& loop) const {
    tensors.run_samples(loop, work);
#if !defined(DGM_NO_SYNC)
    if (outside_ >= 0)
      throw std::out_of_range("col_indices: expected columns in [0, " + std::to_string(args.columns) + "), got " +
                              std::to_string(index(col_, outside_)));
#endif
  }

 private:
  static int64_t index(const Tensor& x, int64_t i) {
    return x.scalar_type() == ScalarType::Long ? x.const_data_ptr<int64_t>()[i] : x.const_data_ptr<int32_t>()[i];
  }

  Tensor crow_, col_, values_;
  int64_t outside_ = -1;
};

Tensor multinomial_nll_csr(const Tensor& log_probs, const Tensor& crow, const Tensor& col, const Tensor& values) {
  Sparse sparse(crow, col, values, log_probs);
  Tensor nll = empty_samples(log_probs, sparse.tensors.sum_type());
  sparse.args.log_probs = sparse.tensors.in(log_probs, "log_probs").data;
  sparse.args.nll = nll.mutable_data_ptr();
  sparse.run(values.numel(), [&](const Range& range) { loops().sparse_forward(sparse.args, range); });
  return nll;
}

Tensor multinomial_nll_csr_backward(const Tensor& grad, const Tensor& log_probs, const Tensor& crow, const Tensor& col,
                                    const Tensor& values) {
  Sparse sparse(crow, col, values, log_probs);
  Tensor dlog_probs;
  sparse.args.grad = sparse.tensors.per_sample(grad, "grad");
  sparse.args.dlog_probs = sparse.tensors.out(dlog_probs).data;
  sparse.run(values.numel() + log_probs.numel() / 16,
             [&](const Range& range) { loops().sparse_backward(sparse.args, range); });
  return dlog_probs;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("multinomial_nll", TORCH_BOX(&dgm::multinomial_nll));
  m.impl("multinomial_nll_backward", TORCH_BOX(&dgm::multinomial_nll_backward));
  m.impl("multinomial_nll_csr", TORCH_BOX(&dgm::multinomial_nll_csr));
  m.impl("multinomial_nll_csr_backward", TORCH_BOX(&dgm::multinomial_nll_csr_backward));
}
