// What one thread does with elements of a work (kernels/work.h): a vector of them at once, 16 bytes of each tensor, or
// a single one.
#pragma once
#include "../kernels/convert.h"
#include "../kernels/work.h"
#include "../math/normal.h"
#include "launch.h"

namespace dgm {
namespace DGM_LEVEL {

// Elements of a vector: four normals, or more.
template <class T>
constexpr int kVector = sizeof(T) < 4 ? 8 : 4;

#if defined(__CUDACC__)
using Bits16 = uint4;
#else
struct alignas(16) Bits16 {
  uint32_t words[4];
};
#endif

template <class T, int n>
DGM_HD void load(const T* from, compute_t<T> (&x)[n]) {
  if constexpr (n == 1) {
    x[0] = in_compute(*from);
  } else {
    constexpr int each = 16 / (int)sizeof(T);
    struct Piece {
      T elements[each];
    };
    DGM_UNROLL
    for (int p = 0; p < n / each; ++p) {
      const Piece piece = bits_as<Piece>(((const Bits16*)from)[p]);
      DGM_UNROLL
      for (int j = 0; j < each; ++j) x[p * each + j] = in_compute(piece.elements[j]);
    }
  }
}

template <class T, int n>
DGM_HD void store(T* to, const compute_t<T> (&x)[n]) {
  if constexpr (n == 1) {
    put(*to, x[0]);
  } else {
    constexpr int each = 16 / (int)sizeof(T);
    struct Piece {
      T elements[each];
    };
    DGM_UNROLL
    for (int p = 0; p < n / each; ++p) {
      Piece piece;
      DGM_UNROLL
      for (int j = 0; j < each; ++j) put(piece.elements[j], x[p * each + j]);
      ((Bits16*)to)[p] = bits_as<Bits16>(piece);
    }
  }
}

// Where element i of x lies.
DGM_HD int64_t position(const Operand& x, int64_t i) {
  if (x.run == 0) return i;
  const int64_t row = divide(i, x.run);
  return (x.repeat == 1 ? row : divide(row, x.repeat)) * x.pitch + (i - row * x.run);
}

// The four normals of a counter.
DGM_HD void draw(uint64_t key, uint64_t counter, float (&z)[4]) {
  uint32_t w0 = (uint32_t)counter, w1 = (uint32_t)(counter >> 32), w2, w3;
  philox_of_index<ScalarLanes>(w0, w1, w2, w3, (uint32_t)key, (uint32_t)(key >> 32));
  box_muller<ScalarLanes>(w0, w1, z[0], z[1]);
  box_muller<ScalarLanes>(w2, w3, z[2], z[3]);
}

DGM_HD float draw_one(uint64_t key, uint64_t number) {
  float z[4];
  draw(key, number / 4, z);
  const float low = number & 1 ? z[1] : z[0], high = number & 1 ? z[3] : z[2];
  return number & 2 ? high : low;
}

// Normals are numbered in logical order, channels outside pixels; a channels_last tensor holds channels inside.
DGM_HD uint64_t number_of(const NoiseSource& noise, int64_t i) {
  if (noise.channels == 0) return noise.first + (uint64_t)i;
  const int64_t row = divide(i, noise.channels), channel = i - row * noise.channels;
  const int64_t sample = divide(row, noise.pixels), pixel = row - sample * noise.pixels;
  return noise.first + (uint64_t)((sample * noise.channels + channel) * noise.pixels + pixel);
}

// The noise of elements i ... i + n - 1; a vector of them begins with a counter.
template <class T, int n>
DGM_HD void read_noise(const NoiseSource& noise, int64_t i, compute_t<T> (&eps)[n]) {
  if (noise.given != nullptr) return load((const T*)noise.given + i, eps);
  const uint64_t key = (uint64_t)*noise.seed;
  if constexpr (n == 1) {
    eps[0] = (compute_t<T>)draw_one(key, number_of(noise, i));
  } else {
    DGM_UNROLL
    for (int j = 0; j < n; j += 4) {
      float z[4];
      draw(key, (noise.first + (uint64_t)(i + j)) / 4, z);
      DGM_UNROLL
      for (int k = 0; k < 4; ++k) eps[j + k] = (compute_t<T>)z[k];
    }
  }
}

// Whether a thread may take vectors of this work: every one of them aligned, in one piece, and its noise that of whole
// counters.
template <class Kernel>
bool takes_vectors(const Work<Kernel>& work) {
  constexpr int64_t n = kVector<typename Kernel::T>;
  const auto fits = [](const void* data) { return (uint64_t)data % 16 == 0; };
  bool all = true;
  for (const Operand& x : work.in) all = all && fits(x.data) && x.run % n == 0 && x.pitch % n == 0;
  for (const Operand& x : work.out) all = all && fits(x.data) && x.run % n == 0 && x.pitch % n == 0;
  if (!Kernel::kDraws) return all;
  return all &&
         (work.noise.given != nullptr ? fits(work.noise.given) : work.noise.channels == 0 && work.noise.first % 4 == 0);
}

// Elements i ... i + n - 1, all of one sample: reads, draws, calls the kernel, writes; terms[k] gets what is summed.
template <int n, class Kernel>
DGM_HD void take(const Work<Kernel>& work, int64_t i, const typename Kernel::Sample& sample,
                 compute_t<typename Kernel::T> (&terms)[Kernel::kSums + 1][n]) {
  using T = typename Kernel::T;
  using C = compute_t<T>;
  constexpr int kIn = Kernel::kIn, kOut = Kernel::kOut, kSums = Kernel::kSums;
  C read[kIn + 1][n], results[kOut + 1][n];
  const C* in[kIn + 1];
  C* out[kOut + kSums];
  DGM_UNROLL
  for (int k = 0; k < kIn; ++k) {
    load((const T*)work.in[k].data + position(work.in[k], i), read[k]);
    in[k] = read[k];
  }
  if constexpr (Kernel::kDraws) {
    read_noise<T>(work.noise, i, read[kIn]);
    in[kIn] = read[kIn];
  }
  DGM_UNROLL
  for (int k = 0; k < kOut; ++k) out[k] = results[k];
  DGM_UNROLL
  for (int k = 0; k < kSums; ++k) out[kOut + k] = terms[k];
  Call<Kernel>::template of<C>(work.kernel, sample, in, out, 0, n, i);
  DGM_UNROLL
  for (int k = 0; k < kOut; ++k) store((T*)work.out[k].data + position(work.out[k], i), results[k]);
}

}  // namespace DGM_LEVEL
}  // namespace dgm
