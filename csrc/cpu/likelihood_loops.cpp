#include "pointwise.h"
// the driver first
#include "../kernels/likelihood_kernels.h"
