#include "noise_loops.h"

#include "../kernels/noise.h"
#include "chunks.h"
#include "normals.h"
#include "tile.h"

namespace dgm {
namespace DGM_LEVEL {

using L = SimdLanes;
static DGM_HD void tile(float* out, uint32_t k0, uint32_t k1, uint64_t counter) {
  L::F z[4];
  draw_tile(z, k0, k1, counter);
  __builtin_memcpy(out, z, sizeof(z));
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

static void fill(const NormalFill& args, const Range& range) {
  DGM_DISPATCH(args.dtype, rounded_normals((T*)args.out, (uint64_t)*args.seed, args.first, range.begin, range.end));
}

static void words(uint32_t* out, uint64_t seed, uint64_t first, int64_t n) {
  const uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int64_t i = 0; i < n; i += L::width) {
    L::U w0, w1, w2, w3;
    L::words(first + (uint64_t)i, k0, k1, w0, w1, w2, w3);
    L::F ordered[4] = {L::from_bits(w0), L::from_bits(w1), L::from_bits(w2), L::from_bits(w3)};
    L::in_order(ordered[0], ordered[1], ordered[2], ordered[3]);
    uint32_t edge[kTile];
    __builtin_memcpy(edge, ordered, sizeof(ordered));
    const int64_t m = n - i < L::width ? n - i : L::width;
    for (int64_t j = 0; j < 4 * m; ++j) out[4 * i + j] = edge[j];
  }
}

extern const NoiseLoops noise_loops;
const NoiseLoops noise_loops = {normals, words};

extern const NormalLoops normal_loops;
const NormalLoops normal_loops = {fill};

}  // namespace DGM_LEVEL
}  // namespace dgm
