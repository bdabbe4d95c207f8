#include "gaussian_loops.h"

#include "../math/gaussian.h"
#include "normals.h"
#include "samples.h"
#include "sums.h"

namespace dgm {
namespace DGM_LEVEL {

// One chunk of a forward pass: elements i ... i + m - 1. kl gets the KL per element, in the compute type.
template <class T, bool sample, bool kl_wanted>
static DGM_HD void forward_chunk(const GaussianForward& args, NoiseReader<T>& noise, int64_t i, int m,
                                 compute_t<T>* __restrict kl) {
  using C = compute_t<T>;
  const Gaussian& in = args.in;
  C a[kChunk], b[kChunk], c[kChunk], d[kChunk];
  const C* __restrict eps = sample ? noise.read(i, m, c) : nullptr;
  const C* __restrict mu = read((const T*)in.mu + i, m, a);
  const C* __restrict logvar = read((const T*)in.logvar + i, m, b);
  if (kl_wanted && in.mu_p != nullptr) {
    const C* __restrict mu_p = read((const T*)in.mu_p + i, m, c);
    const C* __restrict logvar_p = read((const T*)in.logvar_p + i, m, d);
    DGM_INDEPENDENT
    for (int j = 0; j < m; ++j) kl[j] = kl_between(mu[j], logvar[j], mu_p[j], logvar_p[j]);
    return;
  }
  T* const memory = sample ? (T*)args.z + i : nullptr;
  C* __restrict z = place(memory, d);
  DGM_INDEPENDENT
  for (int j = 0; j < m; ++j) {
    const C sigma = exp_of(logvar[j] * (C)0.5);
    if (sample) z[j] = mu[j] + sigma * eps[j];
    if (kl_wanted) kl[j] = kl_standard(mu[j], logvar[j], sigma);
  }
  if (sample) write(memory, m, z);
}

template <class T, bool sample, bool kl_wanted>
static void forward_loop(const GaussianForward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const int64_t inner = args.in.inner, parts = (inner + kPart - 1) / kPart;
  const bool summed = kl_wanted && args.kl_sums != nullptr;
  NoiseReader<T> noise(args.in.noise);
  C kl_buffer[kChunk + kLanes];
  // a chunk is whole samples where they fit, else a piece of one part: the order of every sum is fixed
  const int64_t together = inner <= kChunk ? kChunk / inner : 1;
  for (int64_t part = begin; part < end; part += together) {
    const int64_t samples = end - part < together ? end - part : together;
    const int64_t in_sample = part % parts * kPart, left = inner - in_sample;
    const int64_t from = part / parts * inner + in_sample;
    const int64_t to = from + (left < kPart ? left : kPart) + (samples - 1) * inner;
    double sum = 0;
    for (int64_t i = from; i < to; i += kChunk) {
      const int m = to - i < kChunk ? (int)(to - i) : kChunk;
      T* const memory = args.kl == nullptr ? nullptr : (T*)args.kl + i;
      C* const kl = memory == nullptr ? kl_buffer : place(memory, kl_buffer);
      forward_chunk<T, sample, kl_wanted>(args, noise, i, m, kl);
      if (memory != nullptr) write(memory, m, kl);
      if (summed && inner <= kChunk)
        for (int64_t s = 0; s < samples; ++s) args.kl_sums[part + s] = sum_of(kl + s * inner, (int)inner);
      else if (summed)
        sum += sum_of(kl, m);
    }
    if (summed && inner > kChunk) args.kl_sums[part] = sum;
  }
}

static void forward(const GaussianForward& args, int64_t begin, int64_t end) {
  const bool kl_wanted = args.kl != nullptr || args.kl_sums != nullptr;
  DGM_DISPATCH(args.in.dtype, if (args.z == nullptr) forward_loop<T, false, true>(args, begin, end);
               else if (kl_wanted) forward_loop<T, true, true>(args, begin, end);
               else forward_loop<T, true, false>(args, begin, end));
}

// grad_kl of the elements i ... i + m - 1, one number each
template <class T>
static DGM_HD const compute_t<T>* read_grad_kl(const GaussianBackward& args, int64_t i, int m, compute_t<T>* buffer) {
  using C = compute_t<T>;
  if (!args.grad_kl_per_sample) return read((const T*)args.grad_kl + i, m, buffer);
  for_each_sample(i, m, args.in.inner, [&](int from, int to, int64_t sample) {
    DGM_INDEPENDENT
    for (int j = from; j < to; ++j) buffer[j] = ((const C*)args.grad_kl)[sample];
  });
  return buffer;
}

template <class T, bool sampled, bool kl>
static void backward_loop(const GaussianBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const Gaussian& in = args.in;
  NoiseReader<T> noise(in.noise);
  C a[kChunk], b[kChunk], c[kChunk], d[kChunk], e[kChunk], f[kChunk], g[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    const C* __restrict logvar = read((const T*)in.logvar + i, m, a);
    const C* __restrict eps = sampled ? noise.read(i, m, b) : nullptr;
    const C* __restrict grad_z = sampled ? read((const T*)args.grad_z + i, m, c) : nullptr;
    const C* __restrict mu = kl ? read((const T*)in.mu + i, m, d) : nullptr;
    const C* __restrict grad_kl = kl ? read_grad_kl<T>(args, i, m, e) : nullptr;
    T* const dmu_memory = args.dmu == nullptr ? nullptr : (T*)args.dmu + i;
    T* const dlogvar_memory = (T*)args.dlogvar + i;
    C* __restrict dmu = args.dmu == nullptr ? f : place(dmu_memory, f);
    C* __restrict dlogvar = place(dlogvar_memory, g);
    DGM_INDEPENDENT
    for (int j = 0; j < m; ++j) {
      const C sigma = exp_of(logvar[j] * (C)0.5);
      C by_mu = 0, by_logvar = 0;
      if (sampled) {
        by_mu = grad_z[j];
        by_logvar = grad_z[j] * eps[j] * sigma;
      }
      if (kl) {
        by_mu += grad_kl[j] * mu[j];
        by_logvar += grad_kl[j] * exp_minus_1(logvar[j], sigma * sigma);
      }
      dmu[j] = by_mu;
      dlogvar[j] = (C)0.5 * by_logvar;
    }
    if (args.dmu != nullptr) write(dmu_memory, m, dmu);
    write(dlogvar_memory, m, dlogvar);
  }
}

template <class T>
static void between_backward_loop(const GaussianBackward& args, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const Gaussian& in = args.in;
  C a[kChunk], b[kChunk], c[kChunk], d[kChunk], e[kChunk], f[kChunk], g[kChunk], h[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int m = end - i < kChunk ? (int)(end - i) : kChunk;
    const C* __restrict mu = read((const T*)in.mu + i, m, a);
    const C* __restrict logvar = read((const T*)in.logvar + i, m, b);
    const C* __restrict mu_p = read((const T*)in.mu_p + i, m, c);
    const C* __restrict logvar_p = read((const T*)in.logvar_p + i, m, d);
    const C* __restrict grad = read_grad_kl<T>(args, i, m, e);
    T *const dmu_memory = (T*)args.dmu + i, *const dlogvar_memory = (T*)args.dlogvar + i;
    T* const dlogvar_p_memory = (T*)args.dlogvar_p + i;
    C* __restrict dmu = place(dmu_memory, f);
    C* __restrict dlogvar = place(dlogvar_memory, g);
    C* __restrict dlogvar_p = place(dlogvar_p_memory, h);
    DGM_INDEPENDENT
    for (int j = 0; j < m; ++j) {
      const C diff = mu[j] - mu_p[j], ratio = logvar[j] - logvar_p[j];
      const C by_mu = grad[j] * diff * exp_of(-logvar_p[j]);
      const C by_logvar = (C)0.5 * grad[j] * exp_minus_1(ratio, exp_of(ratio));
      dmu[j] = by_mu;
      dlogvar[j] = by_logvar;
      dlogvar_p[j] = (C)-0.5 * by_mu * diff - by_logvar;
    }
    write(dmu_memory, m, dmu);
    write(dlogvar_memory, m, dlogvar);
    write(dlogvar_p_memory, m, dlogvar_p);
  }
}

static void backward(const GaussianBackward& args, int64_t begin, int64_t end) {
  DGM_DISPATCH(args.in.dtype, if (args.in.mu_p != nullptr) between_backward_loop<T>(args, begin, end);
               else if (args.grad_kl == nullptr) backward_loop<T, true, false>(args, begin, end);
               else if (args.grad_z == nullptr) backward_loop<T, false, true>(args, begin, end);
               else backward_loop<T, true, true>(args, begin, end));
}

extern const GaussianLoops gaussian_loops;
const GaussianLoops gaussian_loops = {forward, backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
