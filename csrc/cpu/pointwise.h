// The driver of pointwise loops: takes elements in chunks, converts between the tensors' element type and the compute
// type, draws the noise, walks over the samples, sums per sample. A loop of an op is only its formula.
#pragma once
#include "normals.h"
#include "operand.h"
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
    part(row * x.pitch + column, done, n);
    done += n;
  }
}

// Where element i of x lies, if the m elements from it on lie one after the other; else -1.
static DGM_HD int64_t position(const Operand& x, int64_t i, int m) {
  if (x.run == 0) return i;
  return i % x.run + m <= x.run ? i / x.run * x.pitch + i % x.run : -1;
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

// One chunk: elements i ... i + m - 1. Calls body(in, out, from, to, sample) for each sample's part of it, from and to
// counting from i: in[k][j] and out[k][j] are numbers in the compute type; the noise, if any, is in[kIn].
template <class T, int kIn, int kOut, bool kDraws, class Body>
static DGM_HD void pointwise_chunk(const Operand (&in)[kIn], const Operand* out, NoiseReader<T>* noise, int64_t inner,
                                   int64_t i, int m, const Body& body) {
  using C = compute_t<T>;
  C buffers[kIn + kOut + kDraws][kChunk];
  const C* read_in[kIn + 1];
  C* results[kOut + 1];
  if (kDraws && noise->draws())  // memory is idle while noise is made
    for (int k = 0; k < kIn; ++k)
      if (const int64_t at = position(in[k], i, m); at >= 0) prefetch((const T*)in[k].data + at, m);
  if constexpr (kDraws) read_in[kIn] = noise->read(i, m, buffers[kIn + kOut]);
#pragma GCC unroll 8
  for (int k = 0; k < kIn; ++k) read_in[k] = read<T>(in[k], i, m, buffers[k]);
#pragma GCC unroll 8
  for (int k = 0; k < kOut; ++k) results[k] = place<T>(out[k], i, m, buffers[kIn + k]);
  for_each_sample(i, m, inner, [&](int from, int to, int64_t sample) { body(read_in, results, from, to, sample); });
#pragma GCC unroll 8
  for (int k = 0; k < kOut; ++k) write<T>(out[k], i, m, results[k]);
}

// Elements begin to end.
template <class T, int kIn, int kOut, class Body>
static void pointwise(const Operand (&in)[kIn], const Operand (&out)[kOut], int64_t inner, int64_t begin, int64_t end,
                      const Body& body) {
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    pointwise_chunk<T, kIn, kOut, false>(in, out, nullptr, inner, i, m, body);
  }
}

// The same with noise: in[kIn].
template <class T, int kIn, int kOut, class Body>
static void pointwise(const Operand (&in)[kIn], const Operand (&out)[kOut], const NoiseSource& source, int64_t inner,
                      int64_t begin, int64_t end, const Body& body) {
  NoiseReader<T> noise(source);
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    pointwise_chunk<T, kIn, kOut, true>(in, out, &noise, inner, i, m, body);
  }
}

// Sums over samples, in an order that does not depend on the threads: over parts of kPart elements of each sample.
// Calls chunk(i, m, terms) for the elements of the parts begin to end (counted over all samples); it fills
// terms[k][0 ... m - 1], and sums[k * all_parts + part] gets their sum.
template <class C, int kSums, class Chunk>
static void sum_parts(double* sums, int64_t all_parts, int64_t inner, int64_t begin, int64_t end, const Chunk& chunk) {
  const int64_t parts = (inner + kPart - 1) / kPart;  // of a sample
  C terms[kSums][kChunk + kLanes];
  // a chunk is whole samples where they fit, else a piece of one part: the order of every sum is fixed
  const int64_t together = inner <= kChunk ? kChunk / inner : 1;
  for (int64_t part = begin; part < end; part += together) {
    const int64_t samples = end - part < together ? end - part : together;
    const int64_t in_sample = part % parts * kPart, left = inner - in_sample;
    const int64_t from = part / parts * inner + in_sample;
    const int64_t to = from + (left < kPart ? left : kPart) + (samples - 1) * inner;
    double sum[kSums] = {};
    for (int64_t i = from; i < to; i += kChunk) {
      const int m = to - i < kChunk ? (int)(to - i) : kChunk;
      chunk(i, m, terms);
      for (int k = 0; k < kSums; ++k)
        if (inner <= kChunk)
          for (int64_t s = 0; s < samples; ++s)
            sums[k * all_parts + part + s] = sum_of(terms[k] + s * inner, (int)inner);
        else
          sum[k] += sum_of(terms[k], m);
    }
    for (int k = 0; k < kSums && inner > kChunk; ++k) sums[k * all_parts + part] = sum[k];
  }
}

}  // namespace DGM_LEVEL
}  // namespace dgm
