// A tile: the normals of one Philox call on every lane.
#pragma once
#include "../math/normal.h"
#include "simd.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int kTile = 4 * SimdLanes::width;

// The normals of counters `counter` and following, in order.
static DGM_HD void draw_tile(SimdLanes::F z[4], uint32_t k0, uint32_t k1, uint64_t counter) {
  using L = SimdLanes;
  L::U w0, w1, w2, w3;
  L::words(counter, k0, k1, w0, w1, w2, w3);
  box_muller<L>(w0, w1, z[0], z[1]);
  box_muller<L>(w2, w3, z[2], z[3]);
  L::in_order(z[0], z[1], z[2], z[3]);
}

}  // namespace DGM_LEVEL
}  // namespace dgm
