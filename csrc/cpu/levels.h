// One table of loops per instruction set; the best one that this CPU has is picked at run time.
//
// Every <family>_loops.cpp is compiled three times, with DGM_LEVEL = baseline, avx2, avx512, and includes neither torch
// nor std headers: an inline function of theirs, compiled for AVX-512, must not be the copy that the linker keeps.
#pragma once

namespace dgm {

enum class Level { baseline, avx2, avx512 };

#if defined(DGM_CUDA) || defined(DGM_EMULATED)
inline Level level() { return Level::baseline; }
#else
// What this CPU has, or what the environment variable DGMKERN_CPU names (less is possible, more is an error); read
// once.
Level level();
#endif
// The best level that this CPU has.
Level best_level();
const char* name_of(Level level);
// The level of that name; false if there is none.
bool level_of(const char* name, Level& level);

}  // namespace dgm

#if defined(DGM_CUDA) || defined(DGM_EMULATED)  // one table: the launches of the CUDA kernels
#define DGM_LOOPS(type, table)                                   \
  namespace dgm {                                                \
  namespace cuda {                                               \
  extern const type table;                                       \
  }                                                              \
  inline const type& pick_##table(Level) { return cuda::table; } \
  }
#elif defined(__x86_64__)
#define DGM_LOOPS(type, table)                   \
  namespace dgm {                                \
  namespace baseline {                           \
  extern const type table;                       \
  }                                              \
  namespace avx2 {                               \
  extern const type table;                       \
  }                                              \
  namespace avx512 {                             \
  extern const type table;                       \
  }                                              \
  inline const type& pick_##table(Level level) { \
    switch (level) {                             \
      case Level::avx512: return avx512::table;  \
      case Level::avx2: return avx2::table;      \
      default: return baseline::table;           \
    }                                            \
  }                                              \
  }
#else
#define DGM_LOOPS(type, table)                                       \
  namespace dgm {                                                    \
  namespace baseline {                                               \
  extern const type table;                                           \
  }                                                                  \
  inline const type& pick_##table(Level) { return baseline::table; } \
  }
#endif
