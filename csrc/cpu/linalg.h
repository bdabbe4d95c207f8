// Singular values of fp64 matrices: parts of the algorithms in linalg.cpp.
#pragma once
#include <stdint.h>

#include "../kernels/range.h"
#include "levels.h"

namespace dgm {

// Rows and columns come in blocks, of which one may be smaller; matrices are padded with zeros to whole units. On a Zen
// 5 one thread takes a 2048 x 2048 matrix to its band and on to a bidiagonal in 257 + 44 ms, with blocks of 16 in 318
// + 29.
constexpr int64_t kMatrixBlock = 32, kMatrixUnit = 16;

static inline int64_t blocks_of(int64_t n) { return (n + kMatrixBlock - 1) / kMatrixBlock; }

struct Matrix {
  double* data;
  int64_t row;  // elements from a row to the next

  double* at(int64_t i, int64_t j) const { return data + i * row + j; }
};

// A block of reflections: I - V T V^T.
struct Reflections {
  int64_t count, length;  // of a vector
  Matrix vectors;         // [count, length]
  double* columns;        // their transpose, kMatrixBlock numbers from row to row; so T
  double t[kMatrixBlock * kMatrixBlock];
};

struct LinalgLoops {
  // Reflections that make `vectors`, seen as columns, upper triangular: triangle [kMatrixBlock^2].
  void (*reflect)(Reflections& reflections, double* triangle);
  // Applies the transpose of the reflections from the left to a [length, columns], or the reflections from the right to
  // a [rows, length]; the range is one of blocks.
  void (*from_left)(const Reflections& reflections, const Matrix& a, int64_t columns, const Range& blocks);
  void (*from_right)(const Reflections& reflections, const Matrix& a, int64_t rows, const Range& blocks);
  // Of an upper band matrix with kMatrixBlock diagonals above its own, row i in band.at(i, i) and following, with room
  // for as many diagonals below and twice as many above: its bidiagonal.
  void (*bidiagonal)(const Matrix& band, int64_t n, double* diagonal, double* above);
  // The sum of the singular values of a bidiagonal, which is overwritten; scratch [2, n]. False without convergence.
  bool (*sum_of_singular_values)(double* diagonal, double* above, int64_t n, double* scratch, double& sum);
};

}  // namespace dgm

DGM_LOOPS(LinalgLoops, linalg_loops)
