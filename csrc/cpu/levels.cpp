#include "levels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dgm {

Level best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return Level::avx512;
  if (avx2) return Level::avx2;
#endif
  return Level::baseline;
}

const char* name_of(Level level) {
  switch (level) {
    case Level::avx512: return "avx512";
    case Level::avx2: return "avx2";
    default: return "baseline";
  }
}

bool level_of(const char* name, Level& level) {
  for (Level candidate : {Level::baseline, Level::avx2, Level::avx512}) {
    if (std::string(name) == name_of(candidate)) {
      level = candidate;
      return true;
    }
  }
  return false;
}

namespace {

Level chosen_level() {
  const Level best = best_level();
  const char* forced = std::getenv("DGMKERN_CPU");
  if (forced == nullptr || *forced == '\0') return best;
  Level level;
  if (!level_of(forced, level))
    throw std::invalid_argument(std::string("DGMKERN_CPU: expected baseline, avx2 or avx512, got ") + forced);
  if (level > best)
    throw std::invalid_argument(std::string("DGMKERN_CPU: this CPU has ") + name_of(best) + " at best, got " + forced);
  return level;
}

}  // namespace

Level level() {
  static const Level chosen = chosen_level();
  return chosen;
}

}  // namespace dgm
