// The driver of kernels (kernels/work.h) on CUDA: elementwise works, and works whose terms are summed over samples.
#pragma once
#include "elements.h"

namespace dgm {
namespace DGM_LEVEL {

template <class Sample>
constexpr bool kPerSample = true;
template <>
constexpr bool kPerSample<NoSample> = false;

// A block takes a tile: `turns` vectors a thread. The numbers of the tile's samples are made once a block.
template <class Kernel>
struct PointwiseJob {
  using T = typename Kernel::T;
  using Sample = typename Kernel::Sample;
  static constexpr int V = kVector<T>, kMost = 8;
  struct Shared {
    int64_t first, boundary;  // sample of the tile's first element; where the next one begins
    Sample samples[kMost];
  };

  Work<Kernel> work;
  int64_t numel;
  int turns;
  bool vectors;

  DGM_HD int phases() const { return kPerSample<Sample> ? 2 : 1; }

  DGM_HD void run(int phase, int64_t block, int thread, Shared& shared) const {
    const int64_t tile = (int64_t)kThreads * V * turns, begin = block * tile;
    const int64_t end = begin + tile < numel ? begin + tile : numel;
    if (kPerSample<Sample> && phase == 0) {
      if (thread >= kMost) return;
      const int64_t first = divide(begin, work.inner);
      if (thread == 0) {
        shared.first = first;
        shared.boundary = (first + 1) * work.inner;
      }
      if ((first + thread) * work.inner < end) shared.samples[thread] = work.kernel.of(first + thread);
      return;
    }
    DGM_ROLL
    for (int turn = 0; turn < turns; ++turn) {
      const int64_t i = begin + ((int64_t)turn * kThreads + thread) * V;
      if (i >= end) return;
      const int64_t from = sample_from(i, shared);
      if (vectors && i + V <= end && i + V <= sample_end(from, shared)) {
        compute_t<T> none[1][V];
        take<V>(work, i, sample(from, shared), none);
        continue;
      }
      DGM_ROLL
      for (int64_t j = i; j < end && j < i + V; ++j) {
        compute_t<T> none[1][1];
        take<1>(work, j, sample(sample_from(j, shared), shared), none);
      }
    }
  }

 private:
  // The sample of element i, counted from the tile's first.
  DGM_HD int64_t sample_from(int64_t i, const Shared& shared) const {
    if (!kPerSample<Sample> || i < shared.boundary) return 0;
    const int64_t past = i - shared.boundary;  // below the tile: 32 bits, and so has `inner` where that is less
    return past < work.inner ? 1 : 1 + (int64_t)((uint32_t)past / (uint32_t)work.inner);
  }

  DGM_HD int64_t sample_end(int64_t from, const Shared& shared) const {
    return kPerSample<Sample> ? shared.boundary + from * work.inner : numel;
  }

  DGM_HD Sample sample(int64_t from, const Shared& shared) const {
    if constexpr (!kPerSample<Sample>)
      return {};
    else
      return from < kMost ? shared.samples[from] : work.kernel.of(shared.first + from);
  }
};

// All elements.
template <class Kernel>
static void run(const Work<Kernel>& work, const Range& elements) {
  // enough blocks for two waves on a large GPU, up to eight turns; what a tile makes once pays from the first one on
  constexpr int64_t turn = (int64_t)kThreads * kVector<typename Kernel::T>;
  const int64_t wanted = elements.end / (turn * 1024);
  const int turns = wanted < 1 ? 1 : (wanted > 8 ? 8 : (int)wanted);
  const PointwiseJob<Kernel> job = {work, elements.end, turns, takes_vectors(work)};
  launch(job, divide_up(elements.end, turn * turns), elements.stream);
}

// How the terms of a vector add up, before its sum is added to the thread's.
struct AddTerms {
  template <class C>
  using Sum = C;
  template <class C>
  static DGM_HD void add(C& sum, C term) {
    sum += term;
  }
};

// A team of threads (a power of two) sums a part of a sample; its sums go to parts, or are finished here.
template <class Kernel, class Add>
struct SumJob {
  using T = typename Kernel::T;
  using C = compute_t<T>;
  using Sample = typename Kernel::Sample;
  static constexpr int V = kVector<T>, kSums = Kernel::kSums, kWarp = 32;
  struct Shared {
    double sums[kSums][kThreads];
    Sample samples[kThreads / kWarp];  // of teams of a warp or more
  };

  Work<Kernel> work;
  SampleSums sums;
  int64_t units;  // parts of all samples
  int team, log_team;
  bool vectors;

  DGM_HD int phases() const { return 2 + (team == 1 ? 1 : log_team); }

  DGM_HD void run(int phase, int64_t block, int thread, Shared& shared) const {
    const int lane = thread & (team - 1);
    const int64_t unit = block * (kThreads >> log_team) + (thread >> log_team);
    if (unit >= units) return;
    const int64_t each = sums.each > 1 ? sums.each : 1, n = divide(unit, each);
    if (phase == 0) {
      if (kPerSample<Sample> && team >= kWarp && lane == 0) shared.samples[thread / kWarp] = work.kernel.of(n);
    } else if (phase == 1) {
      const Sample sample =
          kPerSample<Sample> && team >= kWarp ? shared.samples[(thread - lane) / kWarp] : work.kernel.of(n);
      double sum[kSums] = {};
      const int64_t begin = n * work.inner + (unit - n * each) * sums.part, left = (n + 1) * work.inner - begin;
      add(begin, begin + (left < sums.part ? left : sums.part), lane, sample, sum);
      DGM_UNROLL
      for (int k = 0; k < kSums; ++k) shared.sums[k][thread] = sum[k];
    } else {  // by halves: an order that does not depend on anything
      const int stride = team >> (phase - 1);
      if (lane >= (stride > 1 ? stride : 1)) return;
      DGM_UNROLL
      for (int k = 0; k < kSums; ++k) {
        if (stride > 0) shared.sums[k][thread] += shared.sums[k][thread + stride];
        if (stride > 1) continue;
        if (sums.each > 1)
          sums.parts[k * sums.all + unit] = shared.sums[k][thread];
        else
          finish(sums, k, n, shared.sums[k][thread]);
      }
    }
  }

 private:
  // What a thread of the team adds up of elements begin to end: every team-th vector. The order does not depend on how
  // elements are read, nor on where the sample lies in the batch.
  DGM_HD void add(int64_t begin, int64_t end, int lane, const Sample& sample, double (&sum)[kSums]) const {
    DGM_ROLL
    for (int64_t i = begin + lane * V; i < end; i += (int64_t)team * V) {
      typename Add::template Sum<C> together[kSums] = {};
      if (vectors && i % V == 0 && i + V <= end) {
        C terms[kSums + 1][V];
        take<V>(work, i, sample, terms);
        DGM_UNROLL
        for (int k = 0; k < kSums; ++k) {
          DGM_UNROLL
          for (int j = 0; j < V; ++j) Add::add(together[k], terms[k][j]);
        }
      } else {
        DGM_ROLL
        for (int64_t j = i; j < end && j < i + V; ++j) {
          C terms[kSums + 1][1];
          take<1>(work, j, sample, terms);
          DGM_UNROLL
          for (int k = 0; k < kSums; ++k) Add::add(together[k], terms[k][0]);
        }
      }
      DGM_UNROLL
      for (int k = 0; k < kSums; ++k) sum[k] += (double)together[k];
    }
  }
};

// Finishes sums that were made in several parts.
struct FinishJob {
  struct Shared {};

  SampleSums sums;
  int count;
  int64_t samples;

  DGM_HD int phases() const { return 1; }
  DGM_HD void run(int, int64_t block, int thread, Shared&) const {
    const int64_t n = block * kThreads + thread;
    if (n < samples) finish(sums, count, n);
  }
};

// The sums over all samples, finished.
template <class Add = AddTerms, class Kernel>
static void run(const Work<Kernel>& work, const SampleSums& sums, const Range& parts) {
  // two vectors a thread, where a part has so many
  SumJob<Kernel, Add> job = {work, sums, parts.end, 1, 0, takes_vectors(work)};
  while (job.team < kThreads && (int64_t)job.team * kVector<typename Kernel::T> * 2 < sums.part) {
    job.team *= 2;
    ++job.log_team;
  }
  launch(job, divide_up(job.units, kThreads / job.team), parts.stream);
  if (sums.each > 1) {
    const int64_t samples = parts.end / sums.each;
    launch(FinishJob{sums, Kernel::kSums, samples}, divide_up(samples, kThreads), parts.stream);
  }
}

}  // namespace DGM_LEVEL
}  // namespace dgm
