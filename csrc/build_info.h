// How the native code was built: one `key=value` a line. CMake defines the DGM_BUILD_* strings.
#pragma once
#include <string>

namespace dgm {

inline std::string build_info() {
  return "version=" DGM_BUILD_VERSION "\ncompiler=" DGM_BUILD_COMPILER "\ntorch=" DGM_BUILD_TORCH
         "\nstable_abi=" DGM_BUILD_STABLE_ABI "\ncpu_levels=" DGM_BUILD_LEVELS "\ncuda=" DGM_BUILD_CUDA
         "\nsanitize=" DGM_BUILD_SANITIZE;
}

}  // namespace dgm
