// SPDX-License-Identifier: Apache-2.0
// Compiles the file named by RVRT_KERNEL once per instruction set; see kernel.h. No include guard: every kernel file
// includes it once. Include standard headers first: they do not belong in these namespaces.
//
// With RVRT_HALF_KERNEL, the file is for bfloat16 operands: it is compiled as portable code, which emulates their products,
// and for AVX512-BF16; RVRT_HALF_DISPATCH picks one of the two.

#define RVRT_ISA
namespace rvrt {

namespace portable {  // SSE2 on x86-64, NEON on aarch64, or what -march= says
namespace {           // two files may use the same names
#define RVRT_LANES 4
#ifdef __aarch64__
#define RVRT_REGISTERS 32
#else
#define RVRT_REGISTERS 16
#endif
#include RVRT_KERNEL
#undef RVRT_LANES
#undef RVRT_REGISTERS
}  // namespace
}  // namespace portable

#if defined(__x86_64__) && !defined(RVRT_PORTABLE_ONLY) && !defined(RVRT_HALF_KERNEL)

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
namespace avx2 {
namespace {
#define RVRT_LANES 8
#define RVRT_REGISTERS 16
#include RVRT_KERNEL
#undef RVRT_LANES
#undef RVRT_REGISTERS
}  // namespace
}  // namespace avx2
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi,bmi2,prefer-vector-width=512")
#endif
namespace avx512 {
namespace {
#define RVRT_LANES 16
#define RVRT_REGISTERS 32
#include RVRT_KERNEL
#undef RVRT_LANES
#undef RVRT_REGISTERS
}  // namespace
}  // namespace avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

#if defined(RVRT_X86_BFLOAT16) && defined(RVRT_HALF_KERNEL)
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma,bmi,bmi2,prefer-vector-width=512")
#endif
namespace avx512_bf16 {
namespace {
#define RVRT_LANES 16
#define RVRT_REGISTERS 32
#define RVRT_HALF_PRODUCTS
#include RVRT_KERNEL
#undef RVRT_LANES
#undef RVRT_REGISTERS
#undef RVRT_HALF_PRODUCTS
}  // namespace
}  // namespace avx512_bf16
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

}  // namespace rvrt
#undef RVRT_ISA

#ifndef RVRT_HALF_KERNEL
namespace rvrt {
namespace {
// `n` floats, up to whole vectors.
[[maybe_unused]] int64_t padded_floats(int64_t n) { return round_up(n, RVRT_DISPATCH(W)); }
}  // namespace
}  // namespace rvrt
#elif defined(RVRT_X86_BFLOAT16)
#define RVRT_HALF_DISPATCH(function) \
  (rvrt::operands() == rvrt::kAvx512Bf16 ? rvrt::avx512_bf16::function : rvrt::portable::function)
#else
#define RVRT_HALF_DISPATCH(function) rvrt::portable::function
#endif
