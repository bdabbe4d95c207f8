// dgmkern._native: the noise of dgmkern for NumPy and JAX users and for known-answer tests; no torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "../build_info.h"
#include "../cpu/noise_loops.h"
#include "../math/philox.h"

namespace py = pybind11;

namespace {

dgm::Level level_named(const std::optional<std::string>& name) {
  if (!name) return dgm::level();
  dgm::Level level;
  if (!dgm::level_of(name->c_str(), level))
    throw py::value_error("level: expected baseline, avx2 or avx512, got " + *name);
  if (level > dgm::best_level())
    throw py::value_error(std::string("level: this CPU has ") + dgm::name_of(dgm::best_level()) + " at best, got " +
                          *name);
  return level;
}

py::array_t<float> normal(uint64_t seed, py::ssize_t n, uint64_t offset, const std::optional<std::string>& level) {
  if (n < 0) throw py::value_error("n: expected a number of elements >= 0, got " + std::to_string(n));
  const dgm::NoiseLoops& loops = dgm::pick_noise_loops(level_named(level));
  py::array_t<float> out(n);
  float* data = out.mutable_data();
  py::gil_scoped_release release;
  loops.normals(data, seed, offset, n);
  return out;
}

py::array_t<uint32_t> words(uint64_t seed, py::ssize_t n, uint64_t first, const std::optional<std::string>& level) {
  if (n < 0) throw py::value_error("n: expected a number of counters >= 0, got " + std::to_string(n));
  const dgm::NoiseLoops& loops = dgm::pick_noise_loops(level_named(level));
  py::array_t<uint32_t> out({n, (py::ssize_t)4});
  uint32_t* data = out.mutable_data();
  py::gil_scoped_release release;
  loops.words(data, seed, first, n);
  return out;
}

py::tuple philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  auto [c0, c1, c2, c3] = counter;
  dgm::philox<dgm::ScalarLanes>(c0, c1, c2, c3, key[0], key[1]);
  return py::make_tuple(c0, c1, c2, c3);
}

py::dict info() {
  py::dict result;
  const std::string text = dgm::build_info();
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    const std::string line = text.substr(begin, end - begin);
    const size_t equals = line.find('=');
    result[py::str(line.substr(0, equals))] = line.substr(equals + 1);
    begin = end + 1;
  }
  return result;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The noise of dgmkern without torch: NumPy arrays in and out.";
  m.def("normal", &normal, py::arg("seed"), py::arg("n"), py::arg("offset") = 0, py::kw_only(),
        py::arg("level") = py::none(),
        "Normals offset ... offset + n - 1 of `seed`, float32 [n]: the numbers of dgmkern.normal. `level` forces an\n"
        "instruction set: baseline, avx2 or avx512.");
  m.def("words", &words, py::arg("seed"), py::arg("n"), py::arg("first") = 0, py::kw_only(),
        py::arg("level") = py::none(),
        "Philox4x32-10 words of counters (first ... first + n - 1, 0, 0) under the key `seed`, uint32 [n, 4].");
  m.def("philox", &philox, py::arg("counter"), py::arg("key"),
        "Philox4x32-10 of one counter (4 words) under one key (2 words).");
  m.def("build_info", &info, "How the native code was built.");
  m.def(
      "best_level", [] { return std::string(dgm::name_of(dgm::best_level())); },
      "The best instruction set that this CPU has: baseline, avx2 or avx512.");
  m.def(
      "level", [] { return std::string(dgm::name_of(dgm::level())); },
      "The instruction set in use: the best one, or what DGMKERN_CPU names.");
}
