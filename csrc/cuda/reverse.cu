#include "pointwise.h"
// the driver first
#include "../kernels/reverse_kernels.h"

namespace dgm {
namespace DGM_LEVEL {

// A block finds the quantile of a sample's |x0|, digit by digit of the bits from the top: how many numbers have which
// digit after those found so far (counts of integers, so that no order of additions matters). x0 is made again each
// time.
template <class T>
struct BoundJob {
  using C = compute_t<T>;
  using B = bits_t<C>;
  using Kernel = X0Magnitudes<T>;
  static constexpr int kBits = 8, kDigits = 1 << kBits, kPasses = 8 * (int)sizeof(B) / kBits;
  struct Shared {
    typename Kernel::Sample sample;
    uint32_t counts[kDigits];
    B above[kThreads];  // the smallest number above the one found, of each thread
    B found;            // the digits found, the rest 0
    int64_t rank;       // of the number looked for, among those that begin with them
    int not_a_number;
  };

  Work<Kernel> work;
  double quantile;
  double* bounds;

  DGM_HD int phases() const { return 3 * kPasses + 2; }

  DGM_HD void run(int phase, int64_t n, int thread, Shared& shared) const {
    const double position = quantile * (double)(work.inner - 1);
    const int pass = phase / 3, shift = 8 * (int)sizeof(B) - (pass + 1) * kBits;
    if (pass == kPasses) return phase % 3 == 0 ? find_above(n, thread, shared) : give(n, thread, position, shared);
    if (phase % 3 == 0) {
      static_assert(kDigits == kThreads, "one count a thread");
      shared.counts[thread] = 0;
      if (thread != 0 || pass != 0) return;
      shared.sample = work.kernel.of(n);
      shared.found = 0;
      shared.rank = (int64_t)position;
      shared.not_a_number = 0;
    } else if (phase % 3 == 1) {
      const B found = shared.found;
      for_each(n, thread, shared, [&](B x) {
        if (pass == 0 && x > Bits<C>::infinity) shared.not_a_number = 1;
        if (pass == 0 || (x ^ found) >> (shift + kBits) == 0) count(shared.counts[(x >> shift) & (kDigits - 1)]);
      });
    } else if (thread == 0) {
      int digit = 0;
      for (; digit < kDigits - 1 && shared.rank >= (int64_t)shared.counts[digit]; ++digit)
        shared.rank -= (int64_t)shared.counts[digit];
      shared.found |= (B)digit << shift;
    }
  }

 private:
  template <class Body>
  DGM_HD void for_each(int64_t n, int thread, const Shared& shared, const Body& body) const {
    for (int64_t i = thread; i < work.inner; i += kThreads) {
      C terms[2][1];
      take<1>(work, n * work.inner + i, shared.sample, terms);
      body(bits_as<B>(terms[0][0]));
    }
  }

  static DGM_HD void count(uint32_t& counter) {
#if defined(__CUDA_ARCH__)
    atomicAdd(&counter, 1u);
#else
    ++counter;
#endif
  }

  DGM_HD void find_above(int64_t n, int thread, Shared& shared) const {
    B above = ~(B)0;
    for_each(n, thread, shared, [&](B x) {
      if (x > shared.found && x < above) above = x;
    });
    shared.above[thread] = above;
  }

  DGM_HD void give(int64_t n, int thread, double position, const Shared& shared) const {
    if (thread != 0) return;
    B upper = shared.found;
    // equal numbers take the ranks up to the count of the last digit
    if (shared.rank + 1 >= (int64_t)shared.counts[shared.found & (kDigits - 1)]) {
      B above = ~(B)0;
      for (int j = 0; j < kThreads; ++j) above = shared.above[j] < above ? shared.above[j] : above;
      if (above != ~(B)0) upper = above;
    }
    const double a = (double)bits_as<C>(shared.found), b = (double)bits_as<C>(upper);
    const double fraction = position - (double)(int64_t)position;
    const double bound = a + (a < b && fraction > 0 ? fraction * (b - a) : 0);
    bounds[n] = shared.not_a_number ? __builtin_nan("") : (bound < 1 ? 1 : bound);
  }
};

template <class T>
static void bound_of(const DynamicBound& args, const Range& samples) {
  launch(BoundJob<T>{{{{{}, args.steps}}, args.inner, {args.out, args.x}, {}}, args.quantile, args.bounds}, samples.end,
         samples.stream);
}

static void dynamic_bound(const DynamicBound& args, const Range& samples) {
  DGM_DISPATCH(args.dtype, bound_of<T>(args, samples));
}

}  // namespace DGM_LEVEL
}  // namespace dgm
