// Runs blocks of the CUDA drivers on tensors that are not there, with a kernel that only records which elements and
// samples it is given: indices past 2^32 cost nothing. One line a query on standard input:
//   position I RUN PITCH REPEAT | number I FIRST CHANNELS PIXELS | pointwise NUMEL INNER TURNS BLOCK
//   | sums INNER PART EACH TEAM BLOCK UNITS
#include <cstdio>
#include <iostream>
#include <string>

#include "../../csrc/cuda/pointwise.h"

namespace dgm {
namespace DGM_LEVEL {

struct Recorder {
  using T = float;
  using C = float;
  using Sample = int64_t;
  static constexpr int kIn = 0, kOut = 0, kSums = 1;
  static constexpr bool kDraws = false, kIndexed = true;

  DGM_HD Sample of(int64_t n) const { return n; }
  DGM_HD void operator()(const Sample& n, In<C>, Out<C> out, int from, int to, int64_t i) const {
    for (int j = from; j < to; ++j) out[0][j] = 0;
    std::printf("%lld %lld %d\n", (long long)(i + from), (long long)n, to - from);
  }
};

struct PointwiseRecorder : Recorder {
  static constexpr int kSums = 0;
  DGM_HD void operator()(const Sample& n, In<C>, Out<C>, int from, int to, int64_t i) const {
    std::printf("%lld %lld %d\n", (long long)(i + from), (long long)n, to - from);
  }
};

template <class Job>
void run_block(const Job& job, int64_t block) {
  static typename Job::Shared shared;
  for (int phase = 0; phase < job.phases(); ++phase)
    for (int thread = 0; thread < kThreads; ++thread) job.run(phase, block, thread, shared);
}

}  // namespace DGM_LEVEL
}  // namespace dgm

int main() {
  using namespace dgm;
  using namespace dgm::cuda;
  std::string query;
  while (std::cin >> query) {
    int64_t a, b, c, d;
    std::cin >> a >> b >> c >> d;
    if (query == "position") {
      std::printf("%lld\n", (long long)position(Operand{nullptr, b, c, d}, a));
    } else if (query == "number") {
      NoiseSource noise;
      noise.first = (uint64_t)b;
      noise.channels = c;
      noise.pixels = d;
      std::printf("%lld\n", (long long)number_of(noise, a));
    } else if (query == "pointwise") {
      run_block(PointwiseJob<PointwiseRecorder>{{{}, b, {}, {}}, a, (int)c, true}, d);
    } else {
      int64_t block, units;
      std::cin >> block >> units;
      int log_team = 0;
      while (1 << log_team < d) ++log_team;
      double parts[1];
      float out[1];
      SampleSums sums = {b, c, 1, parts, {out}, false, {1.0}};
      sums.all = 0;
      // what is finished or kept lands nowhere: only the elements matter
      SumJob<Recorder, AddTerms> job = {{{}, a, {}, {}}, sums, units, (int)d, log_team, true};
      SumJob<Recorder, AddTerms>::Shared* shared = new SumJob<Recorder, AddTerms>::Shared;
      for (int phase = 0; phase < 2; ++phase)
        for (int thread = 0; thread < kThreads; ++thread) job.run(phase, block, thread, *shared);
      delete shared;
    }
    std::printf("end\n");
  }
}
