// GroupNorm + modulation + SiLU on the current stream of a CUDA device.
#pragma once
#include "../kernels/normalization.h"
#include "../ops/queue.h"

namespace dgm {
namespace {

void run_forward(const NormForward& args, const Queue& queue, const Tensor&) {
  queue.run(1, 1, [&](const Range& range) { pick_norm_launches(level()).forward(args, range.stream); });
}

void run_backward(NormBackward& args, const Queue& queue, const Tensor& x) {
  const int64_t bytes = args.shape.samples * args.shape.channels * (int64_t)sizeof(NormSums);
  Tensor totals = empty_strided(x, {bytes / 8}, {1}, ScalarType::Double);
  args.totals = (NormSums*)totals.mutable_data_ptr();
  queue.run(1, 1, [&](const Range& range) { pick_norm_launches(level()).backward(args, range.stream); });
}

}  // namespace
}  // namespace dgm
