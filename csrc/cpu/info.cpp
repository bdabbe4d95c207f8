// What this library is: how it was built, and which loops it runs here.
#include "../build_info.h"
#include "../ops/tensors.h"

namespace dgm {
namespace {

std::string cpu_capability() { return name_of(level()); }

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_FRAGMENT(dgmkern, m) {
  m.def("cpu_capability() -> str");
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&dgm::cpu_capability));
  m.impl("build_info", TORCH_BOX(&dgm::build_info));
}
