// The noise of an op, in the order in which its elements lie in memory.
#pragma once
#include "../kernels/noise_source.h"
#include "chunks.h"

namespace dgm {
namespace DGM_LEVEL {

// out[i] = normal first + i of `seed`, i < n (noise_loops.cpp)
void normals(float* out, uint64_t seed, uint64_t first, int64_t n);

// Reads the noise of elements in memory order, a chunk at a time: the tensor given, or normals drawn from the seed.
template <class T>
class NoiseReader {
 public:
  using C = compute_t<T>;

  explicit NoiseReader(const NoiseSource& source)
      : source_(source), seed_(source.seed == nullptr ? 0 : (uint64_t)*source.seed) {}

  bool draws() const { return source_.given == nullptr; }

  // Noise of the m <= kChunk elements from memory index i; buffer holds kChunk numbers.
  const C* read(int64_t i, int m, C* buffer) {
    if (source_.given != nullptr) return DGM_LEVEL::read((const T*)source_.given + i, m, buffer);
    if (source_.channels == 0) {
      normals(drawn_, seed_, source_.first + (uint64_t)i, m);
      return widened(drawn_, m, buffer);
    }
    for (int j = 0; j < m; ++j) {
      if (i + j < begin_ || i + j >= end_) draw_block(i + j);
      buffer[j] = (C)block_[i + j - begin_];
    }
    return buffer;
  }

 private:
  // Normals are numbered in logical order, channels outside pixels; a channels_last tensor holds channels inside.
  // Draws a block of pixels with all their channels (some channels of one pixel where there are very many).
  void draw_block(int64_t i) {
    const int64_t channels = source_.channels, pixels = source_.pixels;
    const int64_t sample = i / (channels * pixels), in_sample = i % (channels * pixels);
    const int64_t pixel = in_sample / channels;
    int64_t count = kBlock / channels, c0 = 0, c1 = channels;
    if (count == 0) {
      count = 1;
      c0 = in_sample % channels / kBlock * kBlock;
      if (c1 > c0 + kBlock) c1 = c0 + kBlock;
    }
    if (count > kChunk) count = kChunk;
    if (count > pixels - pixel) count = pixels - pixel;
    for (int64_t c = c0; c < c1; ++c) {
      normals(drawn_, seed_, source_.first + (uint64_t)((sample * channels + c) * pixels + pixel), count);
      for (int64_t p = 0; p < count; ++p) block_[p * (c1 - c0) + c - c0] = drawn_[p];
    }
    begin_ = (sample * pixels + pixel) * channels + c0;
    end_ = begin_ + count * (c1 - c0);
  }

  static const float* widened(const float* eps, int, float*) { return eps; }
  static const double* widened(const float* eps, int m, double* buffer) {
    for (int j = 0; j < m; ++j) buffer[j] = (double)eps[j];
    return buffer;
  }

  static constexpr int64_t kBlock = 16384;

  const NoiseSource source_;
  const uint64_t seed_;
  int64_t begin_ = 0, end_ = 0;  // memory indices in block_
  float drawn_[kChunk];
  float block_[kBlock];
};

}  // namespace DGM_LEVEL
}  // namespace dgm
