// Blocks of a part: rows of elements that lie one after the other, in lanes, so that one loop over the lanes serves
// both layouts. In channels_last a lane is a channel (of one of a few pixels where channels are few), otherwise it is
// one of 64 neighbouring pixels of a channel.
#pragma once
#include "../kernels/normalization_parameters.h"
#include "chunks.h"
#include "sums.h"

namespace dgm {
namespace DGM_LEVEL {

// Where the numbers of a unit's channels lie in an array [N, C], and which channels they are.
struct Channels {
  int64_t sample, first, row;

  Channels(const NormShape& s, int64_t unit) {
    sample = s.channels_last ? unit : unit / s.groups;
    first = s.channels_last ? 0 : unit % s.groups * s.group_channels();
    row = sample * s.channels;
  }
};

constexpr int kNormLanes = 512;  // at most
constexpr int kPixelLanes = 64;

struct Block {
  int64_t offset;  // of its first element, from the beginning of the tensor
  int64_t stride;  // from row to row
  int64_t rows;
  int lanes, tail;  // elements of each row, and of one more row after them
  int64_t channel;  // of lane 0 in the sample
  int period;       // lane j has channel `channel + j % period`; 0: all have the same
};

// Lanes of a channels_last row: a few pixels of few channels, so that a row is some whole vectors.
inline int channels_last_lanes(int64_t channels) {
  if (channels >= kNormLanes) return kNormLanes;
  for (int lanes = (int)channels; lanes <= kNormLanes; lanes += (int)channels)
    if (lanes >= 64 && lanes % 16 == 0) return lanes;
  return channels >= 64 ? (int)channels : kNormLanes / (int)channels * (int)channels;
}

// Calls body(block) for the blocks of a part. `merged`: neighbouring channels of one group may go into one block.
template <class Body>
static DGM_HD void for_each_block(const NormShape& s, int64_t unit, int64_t part, bool merged, const Body& body) {
  const int64_t first_pixel = part % s.pixel_parts() * s.part_pixels();
  const int64_t left = s.pixels - first_pixel, pixels = left < s.part_pixels() ? left : s.part_pixels();
  if (s.channels_last) {
    const int64_t offset = unit * s.unit_size() + first_pixel * s.channels;
    const int lanes = channels_last_lanes(s.channels);
    if (s.channels <= kNormLanes) {
      const int64_t elements = pixels * s.channels;
      body(Block{offset, lanes, elements / lanes, lanes, (int)(elements % lanes), 0, (int)s.channels});
      return;
    }
    for (int64_t c = 0; c < s.channels; c += lanes) {
      const int64_t more = s.channels - c;
      const int here = more < lanes ? (int)more : lanes;
      body(Block{offset + c, s.channels, pixels, here, 0, c, here});
    }
    return;
  }
  const int64_t first = part / s.pixel_parts() * s.part_channels();
  const int64_t channels_left = s.unit_channels() - first;
  const int64_t channels = channels_left < s.part_channels() ? channels_left : s.part_channels();
  const int64_t channel = unit % s.groups * s.group_channels() + first;
  const int64_t offset = (unit * s.unit_channels() + first) * s.pixels + first_pixel;
  const int64_t run = merged ? channels * pixels : pixels;  // more than one channel: then all their pixels
  for (int64_t c = 0; c < (merged ? 1 : channels); ++c)
    body(Block{offset + c * s.pixels, kPixelLanes, run / kPixelLanes, kPixelLanes, (int)(run % kPixelLanes),
               channel + c, 0});
}

template <int n>
struct Rows {
  static constexpr int value = n;
};

// Calls body(Rows<k>, offset, lanes) for all rows of a block, k = 4 at a time where there are so many: what belongs to
// a lane is then fetched, and its sums stored, once for four elements.
template <class Body>
static DGM_HD void for_each_row(const Block& b, const Body& body) {
  int64_t row = 0;
  for (; row + 4 <= b.rows; row += 4) body(Rows<4>{}, b.offset + row * b.stride, b.lanes);
  for (; row < b.rows; ++row) body(Rows<1>{}, b.offset + row * b.stride, b.lanes);
  if (b.tail > 0) body(Rows<1>{}, b.offset + b.rows * b.stride, b.tail);
}

inline int used_lanes(const Block& b) { return b.rows > 0 ? b.lanes : b.tail; }

// A number per channel into one per lane.
template <class C>
static DGM_HD void to_lanes(const Block& b, const C* of_channel, C* of_lane) {
  const int lanes = used_lanes(b);
  if (b.period == 0) {
    const C value = of_channel[b.channel];
    for (int j = 0; j < lanes; ++j) of_lane[j] = value;
    return;
  }
  for (int from = 0; from < lanes; from += b.period)
    for (int j = 0; j < b.period && from + j < lanes; ++j) of_lane[from + j] = of_channel[b.channel + j];
}

// Calls body(from, to, group) for each run of lanes of one group, groups counted from the unit's first.
template <class Body>
static DGM_HD void for_each_group(const NormShape& s, const Block& b, const Body& body) {
  const int lanes = used_lanes(b);
  if (b.period == 0) {
    body(0, lanes, (int64_t)0);
    return;
  }
  const int64_t size = s.group_channels();
  for (int pixel = 0; pixel < lanes; pixel += b.period) {
    const int end = pixel + b.period < lanes ? pixel + b.period : lanes;
    int64_t group = b.channel / size;
    for (int from = pixel; from < end; ++group) {
      const int64_t next = pixel + (group + 1) * size - b.channel;
      const int to = next < end ? (int)next : end;
      body(from, to, group);
      from = to;
    }
  }
}

// The sum of some lanes: of pixels, which are many and whole vectors, or of the channels of a group.
template <class C>
static DGM_HD double sum_of_run(const Block& b, const C* lane, int from, int to) {
  if (b.period == 0) return sum_of(lane, to);
  double sum = 0;
  for (int j = from; j < to; ++j) sum += lane[j];
  return sum;
}

// Rows of a block, read in the compute type. fp16 goes through a buffer: its conversion is an instruction that GCC does
// not make of a loop (apply on [64, 64, 28, 28]: 9.4 ms without).
template <class T>
struct RowsIn {
  const T* x;
  int64_t stride;
  RowsIn(const T* x_, int64_t stride_, int, int) : x(x_), stride(stride_) {}
  static DGM_HD double to(double value) { return value; }
  static DGM_HD float to(float value) { return value; }
  static DGM_HD float to(bf16 value) { return to_float(value); }
  DGM_HD compute_t<T> operator()(int row, int lane) const { return to(x[lane + row * stride]); }
};

template <>
struct RowsIn<f16> {
  float buffer[4 * kNormLanes];
  RowsIn(const f16* x, int64_t stride, int rows, int lanes) {
    for (int row = 0; row < rows; ++row) read(x + row * stride, lanes, buffer + row * kNormLanes);
  }
  DGM_HD float operator()(int row, int lane) const { return buffer[lane + row * kNormLanes]; }
};

template <class T>
struct RowsOut {
  T* x;
  int64_t stride;
  RowsOut(T* x_, int64_t stride_, int, int) : x(x_), stride(stride_) {}
  static DGM_HD void to(double* element, double value) { *element = value; }
  static DGM_HD void to(float* element, float value) { *element = value; }
  static DGM_HD void to(bf16* element, float value) { *element = to_bf16(value); }
  DGM_HD void put(int row, int lane, compute_t<T> value) { to(x + lane + row * stride, value); }
  void done() {}
};

template <>
struct RowsOut<f16> {
  f16* x;
  int64_t stride;
  int rows, lanes;
  float buffer[4 * kNormLanes];
  RowsOut(f16* x_, int64_t stride_, int rows_, int lanes_) : x(x_), stride(stride_), rows(rows_), lanes(lanes_) {}
  DGM_HD void put(int row, int lane, float value) { buffer[lane + row * kNormLanes] = value; }
  void done() {
    for (int row = 0; row < rows; ++row) write(x + row * stride, lanes, buffer + row * kNormLanes);
  }
};

}  // namespace DGM_LEVEL
}  // namespace dgm
