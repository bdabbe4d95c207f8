// Launching jobs: what a grid of blocks does, in phases between which the threads of a block wait for each other.
//
// A job is a struct: Shared, what the threads of a block share; phases(), how many there are; run(phase, block, thread,
// shared). It is plain C++: nvcc makes a kernel of it, and any other compiler a loop over blocks, phases and threads,
// so that all of its indexing, tails and reductions runs in the tests of a machine without a GPU.
#pragma once
#define DGM_LEVEL cuda

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include <cstdlib>
#include <cstring>
#endif

#include <stdexcept>
#include <string>

#include "../kernels/range.h"

#if defined(__CUDA_ARCH__)
#define DGM_UNROLL _Pragma("unroll")
#define DGM_ROLL _Pragma("unroll 1")
#else
#define DGM_UNROLL
#define DGM_ROLL
#endif

namespace dgm {
namespace DGM_LEVEL {

constexpr int kThreads = 256;  // of a block

#if defined(__CUDACC__)

template <class Job>
__global__ void __launch_bounds__(kThreads, 1) job_kernel(const __grid_constant__ Job job) {
  __shared__ typename Job::Shared shared;
  const int phases = job.phases();
  DGM_ROLL
  for (int phase = 0; phase < phases; ++phase) {
    if (phase > 0) __syncthreads();
    job.run(phase, (int64_t)blockIdx.x, (int)threadIdx.x, shared);
  }
}

template <class Job>
void launch(const Job& job, int64_t blocks, void* stream) {
  if (blocks > 0x7fffffff) throw std::invalid_argument("expected fewer elements: they need over 2^31 blocks");
  job_kernel<Job><<<(unsigned)blocks, kThreads, 0, (cudaStream_t)stream>>>(job);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("the launch of a CUDA kernel failed: ") + cudaGetErrorString(error));
}

#else

template <class Job>
void launch(const Job& job, int64_t blocks, void*) {
  auto* const shared = (typename Job::Shared*)std::malloc(sizeof(typename Job::Shared));
  for (int64_t block = 0; block < blocks; ++block) {
    std::memset((void*)shared, 0xFE, sizeof(*shared));  // what is not written shows
    for (int phase = 0; phase < job.phases(); ++phase)
      for (int thread = 0; thread < kThreads; ++thread) job.run(phase, block, thread, *shared);
  }
  std::free(shared);
}

#endif

DGM_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a / b for a >= 0, b > 0: in 32 bits where they suffice, a quarter of the instructions.
DGM_HD int64_t divide(int64_t a, int64_t b) {
  return ((uint64_t)(a | b) >> 32) == 0 ? (int64_t)((uint32_t)a / (uint32_t)b) : a / b;
}

}  // namespace DGM_LEVEL
}  // namespace dgm
