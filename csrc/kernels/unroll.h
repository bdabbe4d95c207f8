// What compilers are told about loops.
//
// DGM_INDEPENDENT: iterations touch different numbers. DGM_IN_TURN: nothing on a CPU. On a GPU all loops over elements
// are unrolled, so that the elements stay in registers.
#pragma once

// With many pointers GCC gives up proving that iterations are independent (7 in a backward pass: 9.0 ms instead
// of 1.0).
#if defined(__CUDA_ARCH__)
#define DGM_INDEPENDENT _Pragma("unroll")
#define DGM_UNROLL_8 _Pragma("unroll")
#define DGM_IN_TURN _Pragma("unroll")
#elif defined(__CUDACC__)
#define DGM_INDEPENDENT
#define DGM_UNROLL_8
#elif defined(__clang__)
#define DGM_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define DGM_UNROLL_8 _Pragma("unroll 8")
#else
#define DGM_INDEPENDENT _Pragma("GCC ivdep")
#define DGM_UNROLL_8 _Pragma("GCC unroll 8")
#endif
#if !defined(DGM_IN_TURN)
#define DGM_IN_TURN
#endif
