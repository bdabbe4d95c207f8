// Traces of square roots of products, by pivoted Cholesky factors, and how exact they are.
#include "frechet.h"

#include <cmath>
#include <cstdio>
#include <numeric>

#include "matrices.h"

namespace dgm {
namespace {

constexpr int64_t kB = kMatrixBlock;

std::string say(const char* format, double a, double b) {
  char text[256];
  std::snprintf(text, sizeof text, format, a, b);
  return text;
}

// S + ridge I = P U^T U P^T with U [rank, D] upper trapezoidal; order says which row of S each is.
struct Factor {
  Padded u;
  std::vector<int64_t> order;
  int64_t rank = 0, empty = 0;    // rows of zeros
  double largest = 0, trace = 0;  // of the diagonal
  std::string wrong;              // with S, if anything

  Factor(const double* s, int64_t d, double rounding, double ridge = 0) : u(d, d), order(u.columns) {
    double outermost = 0, unlike = 0;
    int64_t unusual = 0;
    for (int64_t i0 = 0; i0 < d; i0 += kB)
      for (int64_t j0 = 0; j0 <= i0; j0 += kB)
        for (int64_t i = i0; i < std::min(i0 + kB, d); ++i)
          for (int64_t j = j0; j < std::min(j0 + kB, i + 1); ++j) {
            const double a = s[i * d + j], b = s[j * d + i];
            unusual += !std::isfinite(a) + (i != j && !std::isfinite(b));
            outermost = std::max({outermost, std::fabs(a), std::fabs(b)});
            unlike = std::max(unlike, std::fabs(a - b));
            u.at(j, i) = a / 2 + b / 2;
          }
    if (unusual > 0) {
      wrong = "expected finite numbers, got " + std::to_string(unusual) + " that are not";
    } else if (unlike > rounding * outermost) {
      wrong =
          say("expected a symmetric matrix, got one that differs from its transpose by %.3g (rounding explains %.3g)",
              unlike, rounding * outermost);
    } else {
      for (int64_t i = 0; i < d; ++i) {
        empty += u.at(i, i) == 0;
        u.at(i, i) += ridge;
        largest = std::max(largest, u.at(i, i));
        trace += u.at(i, i);
      }
      factor(d, rounding);
    }
  }

  // |U^-1|_F^2 of a U of full rank
  double inverse_squares() {
    const FrechetLoops& loops = pick_frechet_loops(level());
    const int64_t n = u.columns, blocks = blocks_of(n);
    for (int64_t i = rank; i < n; ++i) u.at(i, i) = std::sqrt(largest);  // padding
    std::vector<double> inverses(n * kB), sums(blocks);
    loops.invert_blocks(u.view(), n, inverses.data());
    share((blocks + 1) / 2, kB * n * n,
          [&](const Range& pairs) { loops.inverse_squares(u.view(), n, inverses.data(), sums.data(), pairs); });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

 private:
  void factor(int64_t d, double rounding) {
    const FrechetLoops& loops = pick_frechet_loops(level());
    const int64_t n = u.columns;
    std::vector<double> diagonal(n);
    for (int64_t i = 0; i < n; ++i) {
      diagonal[i] = u.at(i, i);
      order[i] = i;
    }
    const double least = d * kEps * largest;
    for (int64_t first = 0; first < n; first += kB) {
      const int64_t count = loops.factor_rows(u.view(), n, first, least, diagonal.data(), order.data());
      rank = first + count;
      if (count < std::min(kB, n - first)) {
        check_rest(first, diagonal, rounding * largest);
        break;
      }
      share((blocks_of(n - rank) + 1) / 2, kB * kB * 2 * (n - rank),
            [&](const Range& pairs) { loops.subtract_rows(u.view(), n, first, pairs); });
    }
    for (int64_t i = 0; i < u.rows; ++i)  // rows of U are whole: zeros before the diagonal and after the rank
      std::fill_n(&u.at(i, 0), i < rank ? i : n, 0.0);
  }

  // What no row explains is to be no more than rounding, or S has a negative eigenvalue. Rows from `first` on have been
  // subtracted from the diagonal alone.
  void check_rest(int64_t first, const std::vector<double>& diagonal, double allowed) {
    double lowest = 0;
    for (int64_t i = rank; i < u.columns; ++i) {
      lowest = std::min(lowest, diagonal[i]);
      for (int64_t j = i + 1; j < u.columns; ++j) {
        double x = u.at(i, j);
        for (int64_t k = first; k < rank; ++k) x -= u.at(k, i) * u.at(k, j);
        lowest = std::min(lowest, -std::fabs(x));
      }
    }
    if (lowest < -allowed)
      wrong = say(
          "expected a positive semidefinite matrix, got one with an eigenvalue of about %.3g (rounding explains %.3g)",
          lowest, -allowed);
  }
};

// |L1^T L2|_* for S = L L^T, as U1 times the columns of U2^T in the order of U1.
double trace_of(Factor& one, Factor& two) {
  if (one.rank < two.rank) return trace_of(two, one);
  if (two.rank == 0) return 0;
  const int64_t n = one.u.columns;
  std::vector<int64_t> place(n);
  for (int64_t i = 0; i < n; ++i) place[two.order[i]] = i;
  Padded product(one.rank, two.rank);
  std::vector<double> panels(n * product.columns);
  share(blocks_of(product.columns), kB * n * 4, [&](const Range& blocks) {
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t j = block * kB, width = std::min(kB, product.columns - j);
      for (int64_t c = 0; c < n; ++c)
        for (int64_t k = 0; k < width; ++k) panels[j * n + c * width + k] = two.u.at(j + k, place[one.order[c]]);
    }
  });
  const Product args = {product.rows, product.columns, n, one.u.view(), panels.data(), product.view()};
  share((blocks_of(product.rows) + 1) / 2, 2 * kB * n * product.columns,
        [&](const Range& pairs) { pick_frechet_loops(level()).triangular_product(args, pairs); });
  return nuclear_norm_of(product);
}

// A bound on |S^(1/2) - (L L^T)^(1/2)|_F for the factor L of S: the root of 2 e^2 tr (S + e I)^-1 if |S - L L^T|_2 <=
// e, as `factor` of reference/frechet.py has it. e is taken as 16 D eps times the largest variance, and the trace as
// twice what it comes to, S + e I being as inexact. What rows that were left out would have explained adds the root of
// its trace.
double error_of(const double* s, int64_t d, double rounding, const Factor& factor) {
  if (factor.largest <= 0) return 0;
  const double e = 16 * d * kEps * factor.largest;
  Factor ridged(s, d, rounding, e);
  const double left_out = (d - factor.empty - factor.rank) * 2 * d * kEps * factor.largest;
  return 2 * e * std::sqrt(ridged.inverse_squares() - factor.empty / e) + std::sqrt(left_out);
}

// Calls finish(k, first, second) with the factors of the matrices k, and raises what is wrong with any.
template <class Finish>
void each_pair(const Batch& one, const Batch& two, double rounding, const Finish& finish) {
  std::vector<std::string> wrong(one.count);
  torch::stable::parallel_for(0, one.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      Factor first(one.data + k * one.m * one.m, one.m, rounding);
      Factor second(two.data + k * one.m * one.m, one.m, rounding);
      if (!first.wrong.empty())
        wrong[k] = "sigma1: " + first.wrong;
      else if (!second.wrong.empty())
        wrong[k] = "sigma2: " + second.wrong;
      else
        finish(k, first, second);
    }
  });
  for (const std::string& message : wrong) require(message.empty(), message.c_str());
}

void check_pair(const Batch& one, const Tensor& s1, const Tensor& s2) {
  require(one.m == one.n && same_shape(s1, s2), "sigma2: expected square matrices [..., D, D], alike");
}

Tensor trace_sqrtm_product(const Tensor& s1, const Tensor& s2, double rounding) {
  const Batch one(s1, "sigma1"), two(s2, "sigma2");
  check_pair(one, s1, s2);
  Tensor result = one.numbers();
  double* const out = (double*)result.mutable_data_ptr();
  each_pair(one, two, rounding, [&](int64_t k, Factor& first, Factor& second) { out[k] = trace_of(first, second); });
  return result;
}

std::tuple<Tensor, Tensor> trace_sqrtm_product_bounded(const Tensor& s1, const Tensor& s2, double rounding) {
  const Batch one(s1, "sigma1"), two(s2, "sigma2");
  check_pair(one, s1, s2);
  Tensor traces = one.numbers(), bounds = one.numbers();
  double* const trace = (double*)traces.mutable_data_ptr();
  double* const bound = (double*)bounds.mutable_data_ptr();
  const int64_t d = one.m;
  each_pair(one, two, rounding, [&](int64_t k, Factor& first, Factor& second) {
    const double norm1 = std::sqrt(first.trace), norm2 = std::sqrt(second.trace);
    const double error1 = error_of(one.data + k * d * d, d, rounding, first);
    const double error2 = error_of(two.data + k * d * d, d, rounding, second);
    const double rounded = 16 * d * std::sqrt(d) * kEps * norm1 * norm2;  // of the product and its singular values
    trace[k] = trace_of(first, second);
    bound[k] = error1 * (norm2 + error2) + error2 * norm1 + rounded;
  });
  return {traces, bounds};
}

}  // namespace
}  // namespace dgm

STABLE_TORCH_LIBRARY_IMPL(dgmkern, CPU, m) {
  m.impl("trace_sqrtm_product", TORCH_BOX(&dgm::trace_sqrtm_product));
  m.impl("trace_sqrtm_product_bounded", TORCH_BOX(&dgm::trace_sqrtm_product_bounded));
}
