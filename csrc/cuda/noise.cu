#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../math/normal.h"
#include "noise.h"

namespace dgm {

template <class T>
__device__ __forceinline__ T rounded(float z) {
  return (T)z;  // exact
}
template <>
__device__ __forceinline__ __nv_bfloat16 rounded(float z) {
  return __float2bfloat16_rn(z);
}
template <>
__device__ __forceinline__ __half rounded(float z) {
  return __float2half_rn(z);
}

// One Philox call a thread and turn: the four normals of a counter. 64-bit indices, grid-stride.
template <class T>
__global__ void normals(T* __restrict__ out, const int64_t* __restrict__ seed, uint64_t offset, int64_t n) {
  const uint64_t key = (uint64_t)*seed, first = offset / 4;
  const int64_t skip = (int64_t)(offset % 4), counters = (n + skip + 3) / 4;
  const int64_t stride = (int64_t)gridDim.x * blockDim.x;
  for (int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; c < counters; c += stride) {
    const uint64_t counter = first + (uint64_t)c;
    uint32_t w0 = (uint32_t)counter, w1 = (uint32_t)(counter >> 32), w2, w3;
    philox_of_index<ScalarLanes>(w0, w1, w2, w3, (uint32_t)key, (uint32_t)(key >> 32));
    float z[4];
    box_muller<ScalarLanes>(w0, w1, z[0], z[1]);
    box_muller<ScalarLanes>(w2, w3, z[2], z[3]);
    const int64_t i = 4 * c - skip;
#pragma unroll
    for (int lane = 0; lane < 4; ++lane)
      if (i + lane >= 0 && i + lane < n) out[i + lane] = rounded<T>(z[lane]);
  }
}

template <class T>
int launch(void* out, const int64_t* seed, uint64_t offset, int64_t n, void* stream) {
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 1 << 16;
  int64_t blocks = (n / 4 + kThreads) / kThreads + 1;
  if (blocks > kMostBlocks) blocks = kMostBlocks;
  normals<T><<<(unsigned)blocks, kThreads, 0, (cudaStream_t)stream>>>((T*)out, seed, offset, n);
  return (int)cudaGetLastError();
}

}  // namespace dgm

extern "C" int dgm_cuda_normals(dgm::Dtype dtype, void* out, const int64_t* seed, uint64_t offset, int64_t n,
                                void* stream) {
  if (n == 0) return 0;
  switch (dtype) {
    case dgm::Dtype::f64: return dgm::launch<double>(out, seed, offset, n, stream);
    case dgm::Dtype::f32: return dgm::launch<float>(out, seed, offset, n, stream);
    case dgm::Dtype::bf16: return dgm::launch<__nv_bfloat16>(out, seed, offset, n, stream);
    default: return dgm::launch<__half>(out, seed, offset, n, stream);
  }
}
