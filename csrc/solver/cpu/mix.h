// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/vec.h"
#include "core/dtype.h"
#include "solver/row.h"

// The inner loop of a solver step: up to 4 sums over arrays, each array read once. Included by
// kernel files only.
namespace fewstep::solver {
namespace {

using vec::F32;
using vec::kLanes;

struct Source {
  const char* data;
  DType dtype;
};

struct Sink {
  char* data;
  DType dtype;
  bool stream;  // past the caches; data is aligned to a vector's size in this dtype
  int32_t copies;
  int64_t copy_stride;  // bytes
};

// out[r][i] = blend(gain * clamp(sum_k a[k][r] in[k][i]))
struct Mix {
  int32_t K, R;
  bool from_memory;  // the arrays are too large for the caches
  Source in[kMaxTerms];
  const uint32_t* outputs;                // [K], as in TermList
  const float (*a)[FEWSTEP_MAX_OUTPUTS];  // [K]
  float clip;                             // infinite for none
  float gain;                             // 1 without a clamp
  Source mask;                            // f32; null data for none
  Source kept[FEWSTEP_MAX_OUTPUTS];       // f32; null data where the output is not blended
  Sink out[FEWSTEP_MAX_OUTPUTS];
};

inline int64_t element_bytes(DType t) { return t == DType::kF32 ? 4 : 2; }

// Address of element i. Opaque to the optimiser, which would otherwise keep one address per vector
// and element size in registers, more than there are.
template <class Byte>
inline Byte* at(Byte* base, DType dtype, int64_t i) {
  Byte* p = base + (dtype == DType::kF32 ? i * 4 : i * 2);
  asm("" : "+r"(p));
  return p;
}

template <int U>
inline void load(const Source& s, int64_t i, F32 x[U]) {
  const char* p = at(s.data, s.dtype, i);
  if (s.dtype == DType::kF32) {
    for (int u = 0; u < U; ++u) x[u] = vec::load((const float*)p + u * kLanes);
  } else if (s.dtype == DType::kF16) {
    for (int u = 0; u < U; ++u) x[u] = vec::load_f16((const uint16_t*)p + u * kLanes);
  } else {
    for (int u = 0; u < U; ++u) x[u] = vec::load_bf16((const uint16_t*)p + u * kLanes);
  }
}

template <int U>
inline void store_at(char* data, DType dtype, bool stream, const F32 x[U]) {
  if (dtype == DType::kF32) {
    float* p = (float*)data;
    if (stream) {
      for (int u = 0; u < U; ++u) vec::stream(p + u * kLanes, x[u]);
    } else {
      for (int u = 0; u < U; ++u) vec::store(p + u * kLanes, x[u]);
    }
    return;
  }
  uint16_t* p = (uint16_t*)data;
  if (dtype == DType::kF16) {
    for (int u = 0; u < U; ++u) {
      if (stream)
        vec::stream_f16(p + u * kLanes, x[u]);
      else
        vec::store_f16(p + u * kLanes, x[u]);
    }
  } else {
    for (int u = 0; u < U; ++u) {
      if (stream)
        vec::stream_bf16(p + u * kLanes, x[u]);
      else
        vec::store_bf16(p + u * kLanes, x[u]);
    }
  }
}

template <int U>
inline void store(const Sink& s, int64_t i, const F32 x[U]) {
  char* p = at(s.data, s.dtype, i);
  store_at<U>(p, s.dtype, s.stream, x);
  for (int32_t c = 1; c < s.copies; ++c) {
    p += s.copy_stride;
    store_at<U>(p, s.dtype, s.stream, x);
  }
}

// Inputs that have load instructions of their own. The prefetchers of the L1 follow the addresses
// of one instruction: a loop in which one load serves several arrays in turn defeats them (two f32
// arrays of 64 MB on Zen 5: 42 instead of 58 GB/s with AVX-512, 22 instead of 57 with AVX2;
// software prefetches recover half of that, and on top of this nothing).
constexpr int32_t kTermsApart = 8;

// Elements [i, i + U * kLanes) of all outputs. Everything is read before anything is written, so an
// output may be one of the inputs. kPlain: as is_plain() says of m.
template <int R, int U, bool kPlain>
inline void mix_block(const Mix& m, int64_t i) {
  F32 sum[R][U];
  for (int r = 0; r < R; ++r) {
    for (int u = 0; u < U; ++u) sum[r][u] = vec::set(0.0f);
  }
  for (int32_t first = 0; first < m.K; first += kTermsApart) {
#pragma GCC unroll 8
    for (int32_t j = 0; j < kTermsApart; ++j) {
      const int32_t k = first + j;
      if (k >= m.K) break;
      F32 x[U];
      load<U>({m.in[k].data, kPlain ? DType::kF32 : m.in[k].dtype}, i, x);
      const uint32_t outputs = m.outputs[k];
      for (int r = 0; r < R; ++r) {
        if (!(outputs >> r & 1u)) continue;
        const F32 a = vec::set(m.a[k][r]);
        for (int u = 0; u < U; ++u) sum[r][u] = vec::fma(a, x[u], sum[r][u]);
      }
    }
  }
  if (kPlain) {
    for (int r = 0; r < R; ++r) {
      store_at<U>(at(m.out[r].data, DType::kF32, i), DType::kF32, m.out[r].stream, sum[r]);
    }
    return;
  }
  if (m.clip < __builtin_inff() || m.gain != 1.0f) {
    const F32 gain = vec::set(m.gain);
    const F32 high = vec::set(m.clip), low = vec::set(-m.clip);
    for (int r = 0; r < R; ++r) {
      for (int u = 0; u < U; ++u) {
        sum[r][u] = vec::mul(gain, vec::max(low, vec::min(high, sum[r][u])));
      }
    }
  }
  if (m.mask.data) {
    F32 mask[U];
    load<U>(m.mask, i, mask);
    for (int r = 0; r < R; ++r) {
      if (!m.kept[r].data) continue;
      F32 kept[U];
      load<U>(m.kept[r], i, kept);
      for (int u = 0; u < U; ++u) {
        const F32 rest = vec::mul(vec::sub(vec::set(1.0f), mask[u]), kept[u]);
        sum[r][u] = vec::fma(mask[u], sum[r][u], rest);
      }
    }
  }
  for (int r = 0; r < R; ++r) store<U>(m.out[r], i, sum[r]);
}

// The last n < kLanes elements, through copies that have room for a whole vector.
template <int R>
inline void mix_rest(const Mix& m, int64_t i, int64_t n) {
  float in[kMaxTerms][kLanes], out[R][kLanes], mask[kLanes], kept[R][kLanes];
  Mix padded = m;
  const auto copy_in = [i, n](float* to, Source* s) {
    memset(to, 0, sizeof(float) * kLanes);
    memcpy(to, at(s->data, s->dtype, i), (size_t)(n * element_bytes(s->dtype)));
    s->data = (const char*)to;
  };
  for (int32_t k = 0; k < m.K; ++k) copy_in(in[k], &padded.in[k]);
  if (m.mask.data) {
    copy_in(mask, &padded.mask);
    for (int r = 0; r < R; ++r) {
      if (m.kept[r].data) copy_in(kept[r], &padded.kept[r]);
    }
  }
  for (int r = 0; r < R; ++r) padded.out[r] = {(char*)out[r], m.out[r].dtype, false, 1, 0};
  mix_block<R, 1, false>(padded, 0);
  for (int r = 0; r < R; ++r) {
    const Sink& s = m.out[r];
    char* to = at(s.data, s.dtype, i);
    for (int32_t c = 0; c < s.copies; ++c) {
      memcpy(to + c * s.copy_stride, out[r], (size_t)(n * element_bytes(s.dtype)));
    }
  }
}

// True when nothing but sums of f32 arrays is wanted, which the loop then need not ask per input.
inline bool is_plain(const Mix& m) {
  if (m.clip < __builtin_inff() || m.gain != 1.0f || m.mask.data) return false;
  for (int32_t k = 0; k < m.K; ++k) {
    if (m.in[k].dtype != DType::kF32) return false;
  }
  for (int32_t r = 0; r < m.R; ++r) {
    if (m.out[r].dtype != DType::kF32 || m.out[r].copies != 1) return false;
  }
  return true;
}

// Vectors per input and turn: as many as leave the sums and one input in registers, of which
// AVX-512 has 32 and AVX2 16, because that spreads the look-up of an input over more elements.
constexpr int unroll(int R) {
  if (kLanes == 16) return 4;
  return R <= 2 ? 4 : R == 3 ? 3 : 2;
}
// From memory, 128 bytes of each array per turn come closest to a loop of 32-byte vectors (share of
// its bandwidth for 2 and 3 arrays of 64 MB on Zen 5: 96 and 92 % with AVX-512; 256 bytes 90 and
// 89 %; 512 bytes 60 % of two outputs).
constexpr int unroll_from_memory(int R) {
  return unroll(R) < 32 / kLanes ? unroll(R) : 32 / kLanes;
}

template <int R>
void mix_outputs(const Mix& m, int64_t n) {
  constexpr int U = unroll(R);
  int64_t i = 0;
  if (is_plain(m) && m.from_memory) {
    constexpr int V = unroll_from_memory(R);
    for (; i + V * kLanes <= n; i += V * kLanes) mix_block<R, V, true>(m, i);
  } else if (is_plain(m)) {
    for (; i + U * kLanes <= n; i += U * kLanes) mix_block<R, U, true>(m, i);
  } else {
    for (; i + U * kLanes <= n; i += U * kLanes) mix_block<R, U, false>(m, i);
  }
  for (; i + kLanes <= n; i += kLanes) mix_block<R, 1, false>(m, i);
  if (i < n) mix_rest<R>(m, i, n - i);
}

// n elements of all outputs.
inline void mix(const Mix& m, int64_t n) {
  if (m.R == 1) return mix_outputs<1>(m, n);
  if (m.R == 2) return mix_outputs<2>(m, n);
  if (m.R == 3) return mix_outputs<3>(m, n);
  if (m.R == 4) return mix_outputs<4>(m, n);
}

}  // namespace
}  // namespace fewstep::solver
