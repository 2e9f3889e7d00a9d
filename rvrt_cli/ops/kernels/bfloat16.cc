// SPDX-License-Identifier: Apache-2.0
// Products of bfloat16 operands: see bfloat16.h. The instruction sets here go beyond those of each_isa.h, so that every
// function names its own.
#include "bfloat16.h"

#include <atomic>
#include <memory>

#ifdef RVRT_X86_BFLOAT16
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rvrt {
namespace {

std::atomic<int> chosen_operands{kFloat32};

float from_bfloat16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void emulated_product(const HalfProduct& p) {
  for (int64_t i = 0; i < p.rows; ++i) {
    float sums[kHalfColumns];
    std::memcpy(sums, p.start, sizeof(sums));
    const uint16_t* b = p.b;
    for (int64_t t = 0; t < p.taps; ++t)
      for (int64_t k = 0; k < p.depth; k += kHalfDepth, b += 2 * kHalfTile)
        for (int64_t r = 0; r < kHalfDepth; ++r) {
          const float left = from_bfloat16(p.tap(t)[i * p.lda + k + r]);
          for (int64_t j = 0; j < kHalfColumns; ++j)
            sums[j] += left * from_bfloat16(b[j / 16 * kHalfTile + r / 2 * 32 + j % 16 * 2 + r % 2]);
        }
    std::memcpy(p.c + i * p.ldc, sums, sizeof(sums));
  }
}

#ifdef RVRT_X86_BFLOAT16

#define RVRT_TARGET_BF16 __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")))
#define RVRT_TARGET_AMX __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,amx-tile,amx-bf16")))

template <int kRows>
RVRT_TARGET_BF16 void avx512_rows(const HalfProduct& p, int64_t row) {
  __m512 sums[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) sums[i][0] = _mm512_loadu_ps(p.start), sums[i][1] = _mm512_loadu_ps(p.start + 16);
  const uint16_t* b = p.b;
  for (int64_t t = 0; t < p.taps; ++t) {
    const uint16_t* a = p.tap(t) + row * p.lda;
    for (int64_t k = 0; k < p.depth; k += kHalfDepth, b += 2 * kHalfTile)
      for (int64_t pair = 0; pair < kHalfDepth / 2; ++pair) {
        const __m512bh first = (__m512bh)_mm512_loadu_si512(b + pair * 32);
        const __m512bh second = (__m512bh)_mm512_loadu_si512(b + kHalfTile + pair * 32);
#pragma GCC unroll 12
        for (int i = 0; i < kRows; ++i) {
          int32_t both;
          std::memcpy(&both, a + i * p.lda + k + 2 * pair, sizeof(both));
          const __m512bh left = (__m512bh)_mm512_set1_epi32(both);
          sums[i][0] = _mm512_dpbf16_ps(sums[i][0], left, first);
          sums[i][1] = _mm512_dpbf16_ps(sums[i][1], left, second);
        }
      }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_ps(p.c + (row + i) * p.ldc, sums[i][0]);
    _mm512_storeu_ps(p.c + (row + i) * p.ldc + 16, sums[i][1]);
  }
}

void avx512_product(const HalfProduct& p) {
  int64_t row = 0;
  for (; row + 12 <= p.rows; row += 12) avx512_rows<12>(p, row);
  for (; row + 4 <= p.rows; row += 4) avx512_rows<4>(p, row);
  for (; row < p.rows; ++row) avx512_rows<1>(p, row);
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tiles 0 to 3 hold 32x32 sums, 4 and 5 rows of a, 6 and 7 columns of b.
RVRT_TARGET_AMX void amx_product(const HalfProduct& p) {
  static const TileConfig config;
  _tile_loadconfig(&config);
  for (int64_t row = 0; row < p.rows; row += 32) {
    const bool both = p.rows - row > 16;
    const uint16_t* b = p.b;
    float* c = p.c + row * p.ldc;
    _tile_loadd(0, p.start, 0);  // the same row sixteen times
    _tile_loadd(1, p.start + 16, 0);
    if (both) {
      _tile_loadd(2, p.start, 0);
      _tile_loadd(3, p.start + 16, 0);
    }
    for (int64_t t = 0; t < p.taps; ++t) {
      const uint16_t* a = p.tap(t) + row * p.lda;
      for (int64_t k = 0; k < p.depth; k += kHalfDepth, b += 2 * kHalfTile) {
        _tile_loadd(4, a + k, p.lda * 2);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + kHalfTile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (both) {
          _tile_loadd(5, a + 16 * p.lda + k, p.lda * 2);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
    _tile_stored(0, c, p.ldc * 4);
    _tile_stored(1, c + 16, p.ldc * 4);
    if (both) {
      _tile_stored(2, c + 16 * p.ldc, p.ldc * 4);
      _tile_stored(3, c + 16 * p.ldc + 16, p.ldc * 4);
    }
  }
  _tile_release();
}

RVRT_TARGET_BF16 void round_in_hardware(const float* from, int64_t count, uint16_t* to) {
  int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    _mm512_storeu_si512(to + i,
                        (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)));
  for (; i < count; i += 16) {
    const __mmask16 mask = count - i < 16 ? (1 << (count - i)) - 1 : 0xffff;
    _mm256_mask_storeu_epi16(to + i, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i)));
  }
}

RVRT_TARGET_BF16 void round_pixels_in_hardware(const float* from, int64_t pixels, int64_t channels, float scale,
                                               uint16_t* to, int64_t stride) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < pixels; ++i, from += channels, to += stride) {
    int64_t c = 0;
    for (; c + 32 <= channels; c += 32)
      _mm512_storeu_si512(to + c, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_loadu_ps(from + c + 16), factor),
                                                               _mm512_mul_ps(_mm512_loadu_ps(from + c), factor)));
    for (; c < channels; c += 16) {
      const __mmask16 mask = channels - c < 16 ? (1 << (channels - c)) - 1 : 0xffff;
      const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from + c), factor);
      _mm256_mask_storeu_epi16(to + c, mask, (__m256i)_mm512_cvtneps_pbh(scaled));
    }
  }
}

// The kernel lets a process use AMX only after it has asked (arch_prctl, ARCH_REQ_XCOMP_PERM for tile data).
bool may_use_amx() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

bool has_feature(int leaf, int subleaf, int output, int bit) {
  unsigned int found[4];
  __asm__ volatile("cpuid" : "=a"(found[0]), "=b"(found[1]), "=c"(found[2]), "=d"(found[3]) : "a"(leaf), "c"(subleaf));
  return found[output] >> bit & 1;
}

Operands best_operands() {
  if (isa() != kAvx512 || !has_feature(7, 1, 0, 5)) return kFloat32;      // AVX512-BF16
  const bool amx = has_feature(7, 0, 3, 22) && has_feature(7, 0, 3, 24);  // AMX-BF16, AMX-TILE
  return amx && may_use_amx() ? kAmx : kAvx512Bf16;
}

#else

Operands best_operands() { return kFloat32; }

#endif

#ifdef RVRT_X86_BFLOAT16
bool in_hardware() { return operands() == kAvx512Bf16 || operands() == kAmx; }
#endif

}  // namespace

Operands operands() { return static_cast<Operands>(chosen_operands.load(std::memory_order_relaxed)); }

void half_product(const HalfProduct& p) {
#ifdef RVRT_X86_BFLOAT16
  if (operands() == kAmx) return amx_product(p);
  if (operands() == kAvx512Bf16) return avx512_product(p);
#endif
  emulated_product(p);
}

void round_to_half(const float* from, int64_t count, uint16_t* to) {
#ifdef RVRT_X86_BFLOAT16
  if (in_hardware()) return round_in_hardware(from, count, to);
#endif
  for (int64_t i = 0; i < count; ++i) to[i] = to_bfloat16(from[i]);
}

void round_pixels(const float* from, int64_t pixels, int64_t channels, float scale, uint16_t* to, int64_t stride) {
#ifdef RVRT_X86_BFLOAT16
  if (in_hardware()) return round_pixels_in_hardware(from, pixels, channels, scale, to, stride);
#endif
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < channels; ++c) to[i * stride + c] = to_bfloat16(scale * from[i * channels + c]);
}

namespace {

// Tasks are taps of panels.
void pack_half_taps(const void* pointer, Span span) {
  const HalfPackJob& job = *static_cast<const HalfPackJob*>(pointer);
  const int64_t taps = job.kh * job.kw, depth = job.depth(), used = job.kw * job.inputs;
  for (int64_t task = span.begin; task < span.end; ++task) {
    const int64_t first = task / job.kh * kHalfColumns, ky = task % job.kh;
    uint16_t* to = job.packed + task * depth * kHalfColumns;
    for (int64_t k = 0; k < depth; ++k) {
      const float* source = job.weight + k % job.inputs * taps + ky * job.kw + k / job.inputs;
      uint16_t* row = to + k / kHalfDepth * 2 * kHalfTile + k % kHalfDepth / 2 * 32 + k % 2;
      for (int64_t j = 0; j < kHalfColumns; ++j)
        row[j / 16 * kHalfTile + j % 16 * 2] =
            k < used && first + j < job.outputs ? to_bfloat16(source[(first + j) * job.inputs * taps]) : 0;
    }
  }
}

}  // namespace

void pack_half(const HalfPackJob& job) { parallel(job.panels() * job.kh, pack_half_taps, &job); }

float* half_scratch(int64_t floats) {
  thread_local std::unique_ptr<Scratch> kept;
  thread_local int64_t size = 0;
  if (floats > size) {
    kept = std::make_unique<Scratch>(floats, true);
    size = kept->ok() ? floats : 0;
  }
  return kept->data();
}

}  // namespace rvrt

// Choose the operands of products in inference: 0 float32, 1 bfloat16 in plain code as by AMX, 2 by AVX512-BF16, 3 by AMX,
// 4 in plain code as by AVX512-BF16, -1 the best bfloat16 of this processor. Returns what is in use: at most what the
// processor has, 0 if it has no bfloat16.
extern "C" RVRT_EXPORT int rvrt_kernels_bfloat16(int level) {
  const int best = rvrt::best_operands();
  const bool available = level == rvrt::kEmulated || level == rvrt::kEmulatedPairs || level <= best;
  rvrt::chosen_operands = level >= 0 && available ? level : best;
  return rvrt::operands();
}
