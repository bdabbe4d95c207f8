#include "noise_loops.h"

#include "../math/normal.h"
#include "chunks.h"
#include "normals.h"

namespace dgm {
namespace DGM_LEVEL {

using L = SimdLanes;
constexpr int kTile = 4 * L::width;  // normals of one Philox call on every lane

static DGM_HD void tile(float* out, uint32_t k0, uint32_t k1, uint64_t counter) {
  L::U w0, w1, w2, w3;
  L::words(counter, k0, k1, w0, w1, w2, w3);
  L::F z0, z1, z2, z3;
  box_muller<L>(w0, w1, z0, z1);
  box_muller<L>(w2, w3, z2, z3);
  L::store_tile(out, z0, z1, z2, z3);
}

void normals(float* out, uint64_t seed, uint64_t first, int64_t n) {
  const uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  uint64_t counter = first / 4;
  int64_t done = 0, skip = (int64_t)(first % 4);  // normals of the first tile that lie before the range
  float edge[kTile];
  while (done < n) {
    if (skip == 0 && n - done >= kTile) {
      tile(out + done, k0, k1, counter);
      done += kTile;
    } else {
      tile(edge, k0, k1, counter);
      int64_t i = skip;
      for (; i < kTile && done < n; ++i) out[done++] = edge[i];
      skip = 0;
    }
    counter += L::width;
  }
}

template <class T>
static void rounded_normals(T* out, uint64_t seed, uint64_t first, int64_t begin, int64_t end) {
  float eps[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    normals(eps, seed, first + (uint64_t)i, m);
    write(out + i, m, eps);
  }
}

template <>
void rounded_normals(float* out, uint64_t seed, uint64_t first, int64_t begin, int64_t end) {
  normals(out + begin, seed, first + (uint64_t)begin, end - begin);
}

template <>
void rounded_normals(double* out, uint64_t seed, uint64_t first, int64_t begin, int64_t end) {
  float eps[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    normals(eps, seed, first + (uint64_t)i, m);
    for (int j = 0; j < m; ++j) out[i + j] = (double)eps[j];
  }
}

static void normals_as(Dtype dtype, void* out, uint64_t seed, uint64_t first, int64_t begin, int64_t end) {
  DGM_DISPATCH(dtype, rounded_normals((T*)out, seed, first, begin, end));
}

static void words(uint32_t* out, uint64_t seed, uint64_t first, int64_t n) {
  const uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int64_t i = 0; i < n; i += L::width) {
    L::U w0, w1, w2, w3;
    L::words(first + (uint64_t)i, k0, k1, w0, w1, w2, w3);
    float edge[kTile];
    L::store_tile(edge, L::from_bits(w0), L::from_bits(w1), L::from_bits(w2), L::from_bits(w3));
    const int64_t m = n - i < L::width ? n - i : L::width;
    for (int64_t j = 0; j < 4 * m; ++j) out[4 * i + j] = bits_as<uint32_t>(edge[j]);
  }
}

extern const NoiseLoops noise_loops;
const NoiseLoops noise_loops = {normals, normals_as, words};

}  // namespace DGM_LEVEL
}  // namespace dgm
