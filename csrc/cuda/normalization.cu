#include "../kernels/normalization_parameters.h"
#include "../math/normalization.h"
#include "elements.h"

namespace dgm {
namespace DGM_LEVEL {

constexpr int kLogThreads = 8;
static_assert(1 << kLogThreads == kThreads, "sums of a block go by halves");

// A block has a group of one sample. Element e of it: pixels of a channel one after the other, or in channels_last the
// channels of a pixel.
struct GroupOf {
  const NormShape& s;
  int64_t sample, group, first;  // first: its channel 0

  DGM_HD GroupOf(const NormShape& shape, int64_t block) : s(shape) {
    sample = divide(block, s.groups);
    group = block - sample * s.groups;
    first = group * s.group_channels();
  }

  DGM_HD void split(int64_t e, int64_t& channel, int64_t& pixel) const {
    const int64_t inner = s.channels_last ? s.group_channels() : s.pixels, outer = divide(e, inner);
    channel = s.channels_last ? e - outer * inner : outer;
    pixel = s.channels_last ? outer : e - outer * inner;
  }

  // Where the pixel of a channel of the group lies.
  DGM_HD int64_t at(int64_t channel, int64_t pixel) const {
    return s.channels_last ? (sample * s.pixels + pixel) * s.channels + first + channel
                           : (sample * s.channels + first + channel) * s.pixels + pixel;
  }
};

// h = a (x - mean) + b of a channel.
template <class C>
struct ChannelOf {
  C a, b;
};

constexpr int kMostChannels = 512;  // of a group, whose a and b are made once

// Calls body(at, channel, n) for the elements of a thread: n = V of them where vectors fit, else one.
template <int V, class Body>
DGM_HD void for_elements(const GroupOf& of, bool vectors, int thread, const Body& body) {
  const int64_t size = of.s.group_size();
  int64_t channel, pixel;
  if (vectors) {
    DGM_ROLL
    for (int64_t e = (int64_t)thread * V; e < size; e += (int64_t)kThreads * V) {
      of.split(e, channel, pixel);
      body(Constant<int, V>(), of.at(channel, pixel), channel);
    }
  } else {
    DGM_ROLL
    for (int64_t e = thread; e < size; e += kThreads) {
      of.split(e, channel, pixel);
      body(Constant<int, 1>(), of.at(channel, pixel), channel);
    }
  }
}

// A step of the sum of a block by halves: the step's number from 0.
DGM_HD void add_halves(double (&sums)[kThreads], int step, int thread) {
  const int stride = kThreads >> (step + 1);
  if (thread < stride) sums[thread] += sums[thread + stride];
}

// Phases: the sum; its halves; sums of deviations from the mean; their halves; a and b of the channels; y.
template <class T>
struct NormForwardJob {
  using C = compute_t<T>;
  static constexpr int V = kVector<T>, kDeviations = 1 + kLogThreads, kChannels = 2 * kDeviations;
  struct Shared {
    double sums[kThreads], squares[kThreads];
    double shift, mean, rstd;
    ChannelOf<C> channels[kMostChannels];
  };

  NormForward args;
  bool vectors;

  DGM_HD int phases() const { return kChannels + 2; }

  DGM_HD void run(int phase, int64_t block, int thread, Shared& shared) const {
    const GroupOf of(args.shape, block);
    const T* const all = (const T*)args.x;
    const double size = (double)args.shape.group_size();
    if (phase == 0) {
      double sum = 0;
      for_elements<V>(of, vectors, thread, [&](auto n, int64_t at, int64_t) {
        C x[n], together = 0;
        load(all + at, x);
        DGM_UNROLL
        for (int j = 0; j < n; ++j) together += x[j];
        sum += (double)together;
      });
      shared.sums[thread] = sum;
    } else if (phase < kDeviations) {
      add_halves(shared.sums, phase - 1, thread);
      if (phase == kDeviations - 1 && thread == 0) shared.shift = (double)(C)(shared.sums[0] / size);
    } else if (phase == kDeviations) {
      const double shift = shared.shift;
      double sum = 0, squares = 0;  // in double: squares of large numbers overflow in fp32
      for_elements<V>(of, vectors, thread, [&](auto n, int64_t at, int64_t) {
        C x[n];
        load(all + at, x);
        DGM_UNROLL
        for (int j = 0; j < n; ++j) {
          const double d = (double)x[j] - shift;
          sum += d;
          squares += d * d;
        }
      });
      shared.sums[thread] = sum;
      shared.squares[thread] = squares;
    } else if (phase < kChannels) {
      add_halves(shared.sums, phase - kDeviations - 1, thread);
      add_halves(shared.squares, phase - kDeviations - 1, thread);
      if (phase < kChannels - 1 || thread != 0) return;
      const double from_shift = shared.sums[0] / size, squares = shared.squares[0] - shared.sums[0] * from_shift;
      shared.mean = shared.shift + from_shift;
      // a NaN stays one
      shared.rstd = 1.0 / __builtin_sqrt((squares < 0 ? 0 : squares) / size + args.eps);
      ((C*)args.mean)[block] = (C)shared.mean;
      ((C*)args.rstd)[block] = (C)shared.rstd;
    } else if (phase == kChannels) {
      const int64_t count = args.shape.group_channels();
      for (int64_t c = thread; c < count && c < kMostChannels; c += kThreads)
        shared.channels[c] = channel_of(of, c, shared);
    } else {
      const C mean = (C)shared.mean;
      for_elements<V>(of, vectors, thread, [&](auto n, int64_t at, int64_t channel) {
        C x[n], y[n];
        load(all + at, x);
        DGM_UNROLL
        for (int j = 0; j < n; ++j) {
          const int64_t c = args.shape.channels_last ? channel + j : channel;
          const ChannelOf<C> h = c < kMostChannels ? shared.channels[c] : channel_of(of, c, shared);
          y[j] = silu(multiply_add(x[j] - mean, h.a, h.b));
        }
        store((T*)args.y + at, y);
      });
    }
  }

 private:
  DGM_HD ChannelOf<C> channel_of(const GroupOf& of, int64_t channel, const Shared& shared) const {
    double w, b;
    modulated(args, of.sample, of.first + channel, w, b);
    const NormCoefficients h = norm_coefficients(shared.mean, (double)(C)shared.mean, shared.rstd, w, b);
    return {(C)h.a, (C)h.b};
  }
};

// Whether vectors of neighbours fit: they are of one channel, or in channels_last of one pixel.
template <class T>
bool takes_vectors(const NormShape& s, std::initializer_list<const void*> pointers) {
  bool all = (s.channels_last ? s.group_channels() : s.pixels) % kVector<T> == 0;
  for (const void* data : pointers) all = all && (uint64_t)data % 16 == 0;
  return all;
}

template <class T>
static void forward_as(const NormForward& args, void* stream) {
  launch(NormForwardJob<T>{args, takes_vectors<T>(args.shape, {args.x, args.y})},
         args.shape.samples * args.shape.groups, stream);
}

static void forward(const NormForward& args, void* stream) {
  DGM_DISPATCH(args.shape.dtype, forward_as<T>(args, stream));
}

// A block goes over the channels of its group, `teams` at a time, each a team's; then sums over the group; then dx.
// Phases: of each round, sums and their halves; the channels' part in the group's sums; their halves; dx.
template <class T>
struct NormBackwardJob {
  using C = compute_t<T>;
  static constexpr int V = kVector<T>;
  struct Shared {
    double dh[kThreads], dh_x[kThreads];
    NormGradient dx;
    ChannelOf<C> channels[kMostChannels];
  };

  NormBackward args;
  int team, log_team;
  bool vectors;

  DGM_HD int64_t rounds() const { return divide_up(args.shape.group_channels(), kThreads / team); }
  DGM_HD int of_channels() const { return (int)rounds() * (1 + log_team); }
  DGM_HD int phases() const { return of_channels() + 2 + kLogThreads; }

  DGM_HD void run(int phase, int64_t block, int thread, Shared& shared) const {
    const GroupOf of(args.shape, block);
    const C mean = ((const C*)args.mean)[block];
    const double rstd = (double)((const C*)args.rstd)[block];
    if (phase < of_channels()) return sum_channels(phase, of, mean, rstd, thread, shared);
    phase -= of_channels();
    if (phase == 0) {
      sum_group(of, rstd, thread, shared);
    } else if (phase <= kLogThreads) {
      add_halves(shared.dh, phase - 1, thread);
      add_halves(shared.dh_x, phase - 1, thread);
      const double n = (double)args.shape.group_size();
      if (phase == kLogThreads && thread == 0) shared.dx = norm_gradient(rstd, shared.dh[0] / n, shared.dh_x[0] / n);
    } else {
      give_dx(of, mean, rstd, thread, shared);
    }
  }

 private:
  DGM_HD ChannelOf<C> channel_of(const GroupOf& of, double rstd, int64_t channel) const {
    double w, b;
    modulated(args, of.sample, of.first + channel, w, b);
    return {(C)(rstd * w), (C)b};
  }

  static DGM_HD C dh_of(C grad, C d, const ChannelOf<C>& h) { return grad * silu_gradient(multiply_add(d, h.a, h.b)); }

  DGM_HD void sum_channels(int phase, const GroupOf& of, C mean, double rstd, int thread, Shared& shared) const {
    // neighbouring threads read neighbours: of a channel, or in channels_last of a pixel
    const int teams = kThreads / team, step = phase % (1 + log_team);
    const int number = args.shape.channels_last ? thread % teams : thread >> log_team;
    const int lane = args.shape.channels_last ? thread / teams : thread & (team - 1);
    const int to_next = args.shape.channels_last ? teams : 1;  // lane, in threads
    const int64_t channel = (int64_t)(phase / (1 + log_team)) * teams + number;
    if (channel >= args.shape.group_channels()) return;
    if (step == 0) {
      const ChannelOf<C> h = channel_of(of, rstd, channel);
      double dh = 0, dh_x = 0;
      for (int64_t pixel = lane; pixel < args.shape.pixels; pixel += team) {
        const int64_t at = of.at(channel, pixel);
        const C d = in_compute(((const T*)args.x)[at]) - mean, g = dh_of(in_compute(((const T*)args.grad)[at]), d, h);
        dh += (double)g;
        dh_x += (double)g * (double)d;
      }
      shared.dh[thread] = dh;
      shared.dh_x[thread] = dh_x;
    } else {
      const int stride = team >> step;
      if (lane < stride) {
        shared.dh[thread] += shared.dh[thread + stride * to_next];
        shared.dh_x[thread] += shared.dh_x[thread + stride * to_next];
      }
    }
    if (step == log_team && lane == 0)
      args.totals[of.sample * args.shape.channels + of.first + channel] = {shared.dh[thread],
                                                                           shared.dh_x[thread] * rstd};
  }

  DGM_HD void sum_group(const GroupOf& of, double rstd, int thread, Shared& shared) const {
    double dxhat = 0, dxhat_xhat = 0;
    for (int64_t c = thread; c < args.shape.group_channels(); c += kThreads) {
      const int64_t channel = of.first + c, row = of.sample * args.shape.channels + channel;
      const NormSums total = args.totals[row];
      double w, b;
      modulated(args, of.sample, channel, w, b);
      dxhat += w * total.dh;
      dxhat_xhat += w * total.dh_x;
      put(args.dscale, row,
          value_or(args.weight, 0, channel, 1.0) * total.dh_x + value_or(args.bias, 0, channel, 0.0) * total.dh);
      put(args.dshift, row, total.dh);
      if (c < kMostChannels) shared.channels[c] = {(C)(rstd * w), (C)b};
    }
    shared.dh[thread] = dxhat;
    shared.dh_x[thread] = dxhat_xhat;
  }

  DGM_HD void give_dx(const GroupOf& of, C mean, double rstd, int thread, const Shared& shared) const {
    const C slope = (C)shared.dx.slope, offset = (C)shared.dx.offset;
    for_elements<V>(of, vectors, thread, [&](auto n, int64_t at, int64_t channel) {
      C x[n], grad[n], dx[n];
      load((const T*)args.x + at, x);
      load((const T*)args.grad + at, grad);
      DGM_UNROLL
      for (int j = 0; j < n; ++j) {
        const int64_t c = args.shape.channels_last ? channel + j : channel;
        const ChannelOf<C> h = c < kMostChannels ? shared.channels[c] : channel_of(of, rstd, c);
        const C d = x[j] - mean;
        dx[j] = multiply_add(h.a, dh_of(grad[j], d, h), multiply_add(slope, d, offset));
      }
      store((T*)args.dx + at, dx);
    });
  }
};

// dweight and dbias: a thread has a channel.
struct NormParametersJob {
  struct Shared {};

  NormBackward args;

  DGM_HD int phases() const { return 1; }
  DGM_HD void run(int, int64_t block, int thread, Shared&) const {
    const int64_t c = block * kThreads + thread;
    if (c >= args.shape.channels) return;
    double dweight = 0, dbias = 0;
    for (int64_t n = 0; n < args.shape.samples; ++n) {
      const NormSums total = args.totals[n * args.shape.channels + c];
      const double factor = 1.0 + value_or(args.scale, n, c, 0.0);
      dweight += factor * total.dh_x;
      dbias += factor * total.dh;
    }
    put(args.dweight, c, dweight);
    put(args.dbias, c, dbias);
  }
};

template <class T>
static void backward_as(const NormBackward& args, void* stream) {
  NormBackwardJob<T> job = {args, 1, 0, takes_vectors<T>(args.shape, {args.x, args.grad, args.dx})};
  while (job.team < kThreads && job.team * 8 < args.shape.pixels) {
    job.team *= 2;
    ++job.log_team;
  }
  launch(job, args.shape.samples * args.shape.groups, stream);
  if (args.dweight.data != nullptr || args.dbias.data != nullptr)
    launch(NormParametersJob{args}, divide_up(args.shape.channels, kThreads), stream);
}

static void backward(const NormBackward& args, void* stream) {
  DGM_DISPATCH(args.shape.dtype, backward_as<T>(args, stream));
}

extern const NormLaunches norm_launches;
const NormLaunches norm_launches = {forward, backward};

}  // namespace DGM_LEVEL
}  // namespace dgm
