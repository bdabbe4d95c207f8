#include "pointwise.h"
// the driver first
#include "../kernels/diffusion_kernels.h"
