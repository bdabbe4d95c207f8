#include "../kernels/likelihood.h"

#include "operands.h"

namespace dgm {
namespace {

struct Named {
  const Tensor& tensor;
  const char* name;
};

template <class Args>
Args inputs(Operands& tensors, Density density, std::initializer_list<Named> named) {
  Args args;
  args.density = density;
  args.dtype = tensors.dtype;
  args.inner = tensors.inner;
  Operand* next = args.in;
  for (const Named& each : named) *next++ = tensors.in(each.tensor, each.name);
  return args;
}

Tensor nll(Density density, std::initializer_list<Named> named) {
  Operands tensors(named.begin()->tensor);
  const Likelihood args = inputs<Likelihood>(tensors, density, named);
  const LikelihoodLoops& loops = pick_likelihood_loops(level());
  return tensors.sum_samples<1>([&](const SampleSums& sums, const Range& range) { loops.sums(args, sums, range); })[0];
}

template <int kOut>
std::array<Tensor, kOut> gradients(Density density, const Tensor& grad, std::initializer_list<Named> named) {
  Operands tensors(named.begin()->tensor);
  LikelihoodBackward args = inputs<LikelihoodBackward>(tensors, density, named);
  args.grad = tensors.per_sample(grad, "grad");
  std::array<Tensor, kOut> results;
  for (int k = 0; k < kOut; ++k) args.out[k] = tensors.out(results[k]);
  const LikelihoodLoops& loops = pick_likelihood_loops(level());
  tensors.run([&](const Range& range) { loops.backward(args, range); }, kGrainDrawn);
  return results;
}

Tensor bernoulli_nll(const Tensor& logits, const Tensor& x) {
  return nll(Density::bernoulli, {{logits, "logits"}, {x, "x"}});
}

Tensor bernoulli_nll_backward(const Tensor& grad, const Tensor& logits, const Tensor& x) {
  return gradients<1>(Density::bernoulli, grad, {{logits, "logits"}, {x, "x"}})[0];
}

Tensor gaussian_nll(const Tensor& x, const Tensor& mean, const Tensor& logvar) {
  return nll(Density::gaussian, {{x, "x"}, {mean, "mean"}, {logvar, "logvar"}});
}

std::tuple<Tensor, Tensor> gaussian_nll_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                 const Tensor& logvar) {
  const auto [dmean, dlogvar] = gradients<2>(Density::gaussian, grad, {{x, "x"}, {mean, "mean"}, {logvar, "logvar"}});
  return {dmean, dlogvar};
}

Tensor discretized_gaussian_nll(const Tensor& x, const Tensor& mean, const Tensor& log_scale) {
  return nll(Density::discretized_gaussian, {{x, "x"}, {mean, "mean"}, {log_scale, "log_scale"}});
}

std::tuple<Tensor, Tensor> discretized_gaussian_nll_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                             const Tensor& log_scale) {
  const auto [dmean, dlog_scale] =
      gradients<2>(Density::discretized_gaussian, grad, {{x, "x"}, {mean, "mean"}, {log_scale, "log_scale"}});
  return {dmean, dlog_scale};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, DGM_KEY, m) {
  m.impl("bernoulli_nll", TORCH_BOX(&dgm::bernoulli_nll));
  m.impl("bernoulli_nll_backward", TORCH_BOX(&dgm::bernoulli_nll_backward));
  m.impl("gaussian_nll", TORCH_BOX(&dgm::gaussian_nll));
  m.impl("gaussian_nll_backward", TORCH_BOX(&dgm::gaussian_nll_backward));
  m.impl("discretized_gaussian_nll", TORCH_BOX(&dgm::discretized_gaussian_nll));
  m.impl("discretized_gaussian_nll_backward", TORCH_BOX(&dgm::discretized_gaussian_nll_backward));
}
