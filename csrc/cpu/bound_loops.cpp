#include "pointwise.h"
// the driver first
#include "../kernels/bound_kernels.h"
