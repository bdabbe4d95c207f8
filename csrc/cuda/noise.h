// Normals on a CUDA device: the launcher of noise.cu, without CUDA types, so that any C++ compiler can call it.
#pragma once
#include <stdint.h>

#include "../cpu/dtypes.h"

// out[i] = normal offset + i of the seed that lies at `seed` on the device, i < n, rounded to a dtype. Returns a
// cudaError_t.
extern "C" int dgm_cuda_normals(dgm::Dtype dtype, void* out, const int64_t* seed, uint64_t offset, int64_t n,
                                void* stream);
