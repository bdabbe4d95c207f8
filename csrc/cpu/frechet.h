// Pivoted Cholesky factors of fp64 matrices: parts of the algorithms in frechet.cpp.
#pragma once
#include "linalg.h"

namespace dgm {

// c = a b where a is upper triangular. b comes in panels of kMatrixBlock columns or what is left, each [inner,
// columns]: rows of 2048 numbers would be a page each.
struct Product {
  int64_t rows, columns, inner;
  Matrix a;
  const double* b;
  Matrix c;
};

struct FrechetLoops {
  // One block of rows of the factor U in S = P U^T U P^T, in place of the upper triangle of S, from row `first` on:
  // returns how many rows there are until no diagonal is over `least`.
  int64_t (*factor_rows)(const Matrix& s, int64_t n, int64_t first, double least, double* diagonal, int64_t* order);
  // Takes what the block of rows from `first` on explains from the rows after: pairs of blocks, first and last.
  void (*subtract_rows)(const Matrix& s, int64_t n, int64_t first, const Range& pairs);
  // Pairs of blocks of rows.
  void (*triangular_product)(const Product& product, const Range& pairs);
  // The inverses of the blocks on the diagonal of an upper triangular matrix, each [kMatrixBlock^2].
  void (*invert_blocks)(const Matrix& u, int64_t n, double* inverses);
  // The squares of the numbers in each block of columns of U^-1, summed.
  void (*inverse_squares)(const Matrix& u, int64_t n, const double* inverses, double* sums, const Range& pairs);
};

}  // namespace dgm

DGM_LOOPS(FrechetLoops, frechet_loops)
