#include <atomic>

#include "multinomial_loops.h"
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
  require(same_shape(counts, log_probs) && counts.is_cpu(), "counts: expected a CPU tensor of the shape of log_probs");
  kept = dense(counts, layout);
  return {count_type(counts, log_probs, "counts"), kept.const_data_ptr()};
}

Multinomial parameters(const Operands& tensors) {
  Multinomial args;
  args.dtype = tensors.dtype;
  args.inner = tensors.inner;
  return args;
}

Tensor multinomial_nll(const Tensor& log_probs, const Tensor& counts) {
  Operands tensors(log_probs);
  Multinomial args = parameters(tensors);
  Tensor kept;
  args.counts = dense_counts(counts, log_probs, tensors.layout, kept);
  args.log_probs = tensors.in(log_probs, "log_probs");
  const MultinomialLoops& loops = pick_multinomial_loops(level());
  return tensors.sum_samples<1>(
      [&](double* sums, int64_t all, int64_t begin, int64_t end) { loops.sums(args, sums, all, begin, end); })[0];
}

Tensor multinomial_nll_backward(const Tensor& grad, const Tensor& log_probs, const Tensor& counts) {
  Operands tensors(log_probs);
  Multinomial args = parameters(tensors);
  Tensor kept, dlog_probs;
  args.counts = dense_counts(counts, log_probs, tensors.layout, kept);
  args.grad = tensors.per_sample(grad, "grad");
  args.dlog_probs = tensors.out(dlog_probs);
  const MultinomialLoops& loops = pick_multinomial_loops(level());
  tensors.run([&](int64_t begin, int64_t end) { loops.backward(args, begin, end); });
  return dlog_probs;
}

template <class Index>
void check_rows(const Tensor& crow, int64_t nonzeros) {
  const Index* const ends = crow.const_data_ptr<Index>();
  const int64_t rows = crow.numel() - 1;
  require(ends[0] == 0, "crow_indices: expected to begin with 0");
  require(ends[rows] == nonzeros, "crow_indices: expected to end with the number of values");
  for (int64_t n = 0; n < rows; ++n) require(ends[n] <= ends[n + 1], "crow_indices: expected numbers that never fall");
}

// The counts of a CSR tensor [N, V], rows checked; the loops check the columns.
class Sparse {
 public:
  Counts counts;

  Sparse(const Tensor& crow, const Tensor& col, const Tensor& values, const Tensor& log_probs)
      : crow_(dense(crow, MemoryFormat::Contiguous)),
        col_(dense(col, MemoryFormat::Contiguous)),
        values_(dense(values, MemoryFormat::Contiguous)) {
    require(log_probs.dim() == 2, "log_probs: expected a tensor [N, V]");
    const bool wide = crow.scalar_type() == ScalarType::Long;
    require(crow.is_cpu() && crow.dim() == 1 && crow.size(0) == log_probs.size(0) + 1 &&
                (wide || crow.scalar_type() == ScalarType::Int),
            "crow_indices: expected a CPU tensor [N + 1], int64 or int32");
    require(values.is_cpu() && values.dim() == 1, "values: expected a CPU tensor with one dimension");
    require(col.is_cpu() && same_shape(col, values) && col.scalar_type() == crow.scalar_type(),
            "col_indices: expected a CPU tensor of the shape of values and the dtype of crow_indices");
    if (wide)
      check_rows<int64_t>(crow_, values.numel());
    else
      check_rows<int32_t>(crow_, values.numel());
    counts = {count_type(values, log_probs, "values"), values_.const_data_ptr(), crow_.const_data_ptr(),
              col_.const_data_ptr(), wide};
  }

  // Runs loop(begin, end) over the rows; it returns the number of a non-zero outside the columns, or -1.
  template <class Loop>
  void run(int64_t rows, int64_t columns, int64_t work, const Loop& loop) const {
    std::atomic<int64_t> outside{-1};
    const int64_t grain = rows * kGrainDrawn / (work + 1) + 1;
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      const int64_t found = loop(begin, end);
      if (found >= 0) outside = found;
    });
    if (outside >= 0)
      throw std::out_of_range("col_indices: expected columns in [0, " + std::to_string(columns) + "), got " +
                              std::to_string(column(outside)));
  }

 private:
  int64_t column(int64_t e) const {
    return counts.wide_indices ? col_.const_data_ptr<int64_t>()[e] : col_.const_data_ptr<int32_t>()[e];
  }

  Tensor crow_, col_, values_;
};

Tensor multinomial_nll_csr(const Tensor& log_probs, const Tensor& crow, const Tensor& col, const Tensor& values) {
  Operands tensors(log_probs);
  const Sparse sparse(crow, col, values, log_probs);
  const int64_t rows = log_probs.size(0), columns = log_probs.size(1);
  Multinomial args = parameters(tensors);
  args.inner = columns;
  args.counts = sparse.counts;
  args.log_probs = tensors.in(log_probs, "log_probs");
  std::vector<double> sums(rows);
  const MultinomialLoops& loops = pick_multinomial_loops(level());
  sparse.run(rows, columns, values.numel(),
             [&](int64_t begin, int64_t end) { return loops.sparse_sums(args, sums.data(), begin, end); });
  Tensor nll = empty_samples(log_probs, tensors.sum_type());
  void* data = nll.mutable_data_ptr();
  for (int64_t n = 0; n < rows; ++n)
    if (args.dtype == Dtype::f64)
      ((double*)data)[n] = sums[n];
    else
      ((float*)data)[n] = (float)sums[n];
  return nll;
}

Tensor multinomial_nll_csr_backward(const Tensor& grad, const Tensor& log_probs, const Tensor& crow, const Tensor& col,
                                    const Tensor& values) {
  Operands tensors(log_probs);
  const Sparse sparse(crow, col, values, log_probs);
  const int64_t rows = log_probs.size(0), columns = log_probs.size(1);
  Multinomial args = parameters(tensors);
  args.inner = columns;
  args.counts = sparse.counts;
  args.grad = tensors.per_sample(grad, "grad");
  Tensor dlog_probs;
  args.dlog_probs = tensors.out(dlog_probs);
  const MultinomialLoops& loops = pick_multinomial_loops(level());
  sparse.run(rows, columns, values.numel() + log_probs.numel() / 16,
             [&](int64_t begin, int64_t end) { return loops.sparse_backward(args, begin, end); });
  return dlog_probs;
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("multinomial_nll", TORCH_BOX(&dgm::multinomial_nll));
  m.impl("multinomial_nll_backward", TORCH_BOX(&dgm::multinomial_nll_backward));
  m.impl("multinomial_nll_csr", TORCH_BOX(&dgm::multinomial_nll_csr));
  m.impl("multinomial_nll_csr_backward", TORCH_BOX(&dgm::multinomial_nll_csr_backward));
}
