// The weights of interpolation, one per sample.
#pragma once
#include "../math/uniform.h"
#include "simd.h"
#include "weight_source.h"

namespace dgm {

namespace DGM_LEVEL {

// The weight of one sample after another: those given, or uniforms drawn a tile at a time.
template <class C>
class WeightReader {
 public:
  explicit WeightReader(const WeightSource& source) : source_(source) {}

  C operator()(int64_t sample) {
    if (source_.given != nullptr) return ((const C*)source_.given)[sample];
    const uint64_t number = source_.first + (uint64_t)sample;
    if (number - tile_ >= kTile || !drawn_) draw(number / 4);
    return (C)uniforms_[number - tile_];
  }

 private:
  using L = SimdLanes;
  static constexpr uint64_t kTile = 4 * L::width;

  void draw(uint64_t counter) {
    L::U w[4];
    L::F u[4];
    L::words(counter, (uint32_t)source_.seed, (uint32_t)(source_.seed >> 32), w[0], w[1], w[2], w[3]);
    for (int k = 0; k < 4; ++k) u[k] = uniform_of<L>(w[k]);
    L::in_order(u[0], u[1], u[2], u[3]);
    __builtin_memcpy(uniforms_, u, sizeof(u));
    tile_ = 4 * counter;
    drawn_ = true;
  }

  const WeightSource& source_;
  bool drawn_ = false;
  uint64_t tile_ = 0;  // number of uniforms_[0]
  float uniforms_[kTile];
};

}  // namespace DGM_LEVEL
}  // namespace dgm
