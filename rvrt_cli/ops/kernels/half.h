// SPDX-License-Identifier: Apache-2.0
// Rounding rows to bfloat16. Include after simd.h, once per instruction set, inside its namespace.

typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef uint16_t vh_unaligned __attribute__((vector_size(2 * W), aligned(2), may_alias));

// To the nearest bfloat16, ties to even, as `to_bfloat16`.
inline void round_to_half(const float* from, int64_t count, uint16_t* to) {
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    const vf x = load(from + i);
    const vu bits = (vu)x, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vu chosen = x == x ? rounded : vu{} + 0x7fc0u;
    *reinterpret_cast<vh_unaligned*>(to + i) = __builtin_convertvector(chosen, vh);
  }
  for (; i < count; ++i) to[i] = to_bfloat16(from[i]);
}
