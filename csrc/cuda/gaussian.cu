#include "pointwise.h"
// the driver first
#include "../kernels/gaussian_kernels.h"
