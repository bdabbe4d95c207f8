// The driver of kernels (kernels/work.h) on the CPU: takes elements in chunks, converts between the tensors' element
// type and the compute type, draws the noise, walks over the samples, sums per sample.
#pragma once
#include "../kernels/work.h"
#include "normals.h"
#include "samples.h"
#include "sums.h"

namespace dgm {
namespace DGM_LEVEL {

// Calls part(row, k) for the rows of a wider tensor that elements i ... i + m - 1 lie in: `n` elements from `at` on.
template <class Part>
static DGM_HD void for_each_run(const Operand& x, int64_t i, int m, const Part& part) {
  int64_t row = i / x.run, column = i % x.run;
  for (int done = 0; done < m; ++row, column = 0) {
    const int n = x.run - column < m - done ? (int)(x.run - column) : m - done;
    part(row / x.repeat * x.pitch + column, done, n);
    done += n;
  }
}

// Where element i of x lies, if the m elements from it on lie one after the other; else -1.
static DGM_HD int64_t position(const Operand& x, int64_t i, int m) {
  if (x.run == 0) return i;
  return i % x.run + m <= x.run ? i / x.run / x.repeat * x.pitch + i % x.run : -1;
}

// Elements i ... i + m - 1 of x in the compute type: in place, or in buffer.
template <class T>
static DGM_HD const compute_t<T>* read(const Operand& x, int64_t i, int m, compute_t<T>* buffer) {
  const T* data = (const T*)x.data;
  const int64_t at = position(x, i, m);
  if (at >= 0) return read(data + at, m, buffer);
  for_each_run(x, i, m, [&](int64_t from, int done, int n) { read_into(data + from, n, buffer + done); });
  return buffer;
}

// Where to put the results for elements i ... i + m - 1 of x, before write().
template <class T>
static DGM_HD compute_t<T>* place(const Operand& x, int64_t i, int m, compute_t<T>* buffer) {
  const int64_t at = position(x, i, m);
  return at >= 0 ? place((T*)x.data + at, buffer) : buffer;
}

template <class T>
static DGM_HD void write(const Operand& x, int64_t i, int m, const compute_t<T>* results) {
  T* data = (T*)x.data;
  const int64_t at = position(x, i, m);
  if (at >= 0) return write(data + at, m, results);
  for_each_run(x, i, m, [&](int64_t from, int done, int n) { write_from(data + from, n, results + done); });
}

// The numbers of the sample that came last, which chunks of a large sample share.
template <class Kernel>
class OfSample {
 public:
  explicit OfSample(const Kernel& kernel) : kernel_(kernel) {}

  const typename Kernel::Sample& operator()(int64_t n) {
    if (n != last_) sample_ = kernel_.of(n);
    last_ = n;
    return sample_;
  }

 private:
  const Kernel& kernel_;
  int64_t last_ = -1;
  typename Kernel::Sample sample_;
};

// One chunk: elements i ... i + m - 1. The terms of the sums go to terms[k].
template <class Kernel>
static DGM_HD void chunk(const Work<Kernel>& work, NoiseReader<typename Kernel::T>* noise, OfSample<Kernel>& of,
                         int64_t i, int m, compute_t<typename Kernel::T> (*terms)[kChunk + kLanes]) {
  using T = typename Kernel::T;
  using C = compute_t<T>;
  constexpr int kIn = Kernel::kIn, kOut = Kernel::kOut, kSums = Kernel::kSums;
  C buffers[kIn + kOut + 1][kChunk];
  const C* read_in[kIn + 1];
  C* results[kOut + kSums];
  if (Kernel::kDraws && noise->draws())  // memory is idle while noise is made
    for (int k = 0; k < kIn; ++k)
      if (const int64_t at = position(work.in[k], i, m); at >= 0) prefetch((const T*)work.in[k].data + at, m);
  if constexpr (Kernel::kDraws) read_in[kIn] = noise->read(i, m, buffers[kIn + kOut]);
#pragma GCC unroll 8
  for (int k = 0; k < kIn; ++k) read_in[k] = read<T>(work.in[k], i, m, buffers[k]);
#pragma GCC unroll 8
  for (int k = 0; k < kOut; ++k) results[k] = place<T>(work.out[k], i, m, buffers[kIn + k]);
  for (int k = 0; k < kSums; ++k) results[kOut + k] = terms[k];
  for_each_sample(i, m, work.inner, [&](int from, int to, int64_t sample) {
    const typename Kernel::Sample s = of(sample);  // a copy: results might overlap it for all the compiler knows
    Call<Kernel>::template of<C>(work.kernel, s, read_in, results, from, to, i);
  });
#pragma GCC unroll 8
  for (int k = 0; k < kOut; ++k) write<T>(work.out[k], i, m, results[k]);
}

// The noise of a work; nothing where it takes none.
template <class Kernel, bool draws = Kernel::kDraws>
struct Noise {
  NoiseReader<typename Kernel::T> reader;
  explicit Noise(const Work<Kernel>& work) : reader(work.noise) {}
  NoiseReader<typename Kernel::T>* get() { return &reader; }
};
template <class Kernel>
struct Noise<Kernel, false> {
  explicit Noise(const Work<Kernel>&) {}
  NoiseReader<typename Kernel::T>* get() { return nullptr; }
};

// Elements begin to end.
template <class Kernel>
static void run(const Work<Kernel>& work, const Range& range) {
  static_assert(Kernel::kSums == 0, "sums go by samples");
  Noise<Kernel> noise(work);
  OfSample<Kernel> of(work.kernel);
  for (int64_t i = range.begin; i < range.end; i += kChunk) {
    const int m = range.end - i < kChunk ? (int)(range.end - i) : kChunk;
    chunk(work, noise.get(), of, i, m, nullptr);
  }
}

// Sums over the parts begin to end of the samples (counted over all of them), in an order that does not depend on the
// threads: chunk(i, m, terms) fills terms[k][0 ... m - 1] for elements i ... i + m - 1, and sums.parts[k * all + part]
// gets the sum of part.
template <class C, int kSums, class Chunk>
static void sum_parts(const SampleSums& sums, int64_t inner, const Range& range, const Chunk& chunk) {
  C terms[kSums][kChunk + kLanes];
  // a chunk is whole samples where they fit, else a piece of one part: the order of every sum is fixed
  const int64_t together = inner <= kChunk ? kChunk / inner : 1;
  for (int64_t part = range.begin; part < range.end; part += together) {
    const int64_t samples = range.end - part < together ? range.end - part : together;
    const int64_t in_sample = part % sums.each * sums.part, left = inner - in_sample;
    const int64_t from = part / sums.each * inner + in_sample;
    const int64_t to = from + (left < sums.part ? left : sums.part) + (samples - 1) * inner;
    double sum[kSums] = {};
    for (int64_t i = from; i < to; i += kChunk) {
      const int m = to - i < kChunk ? (int)(to - i) : kChunk;
      chunk(i, m, terms);
      for (int k = 0; k < kSums; ++k)
        if (inner <= kChunk)
          for (int64_t s = 0; s < samples; ++s)
            sums.parts[k * sums.all + part + s] = sum_of(terms[k] + s * inner, (int)inner);
        else
          sum[k] += sum_of(terms[k], m);
    }
    for (int k = 0; k < kSums && inner > kChunk; ++k) sums.parts[k * sums.all + part] = sum[k];
  }
}

template <class Kernel>
static void run(const Work<Kernel>& work, const SampleSums& sums, const Range& range) {
  using C = compute_t<typename Kernel::T>;
  Noise<Kernel> noise(work);
  OfSample<Kernel> of(work.kernel);
  sum_parts<C, Kernel::kSums>(sums, work.inner, range,
                              [&](int64_t i, int m, auto terms) { chunk(work, noise.get(), of, i, m, terms); });
}

}  // namespace DGM_LEVEL
}  // namespace dgm
