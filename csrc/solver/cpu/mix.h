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

// out[r][i] = blend(clamp(sum_k a[k][r] in[k][i])), and every data pointer moves along.
struct Mix {
  int32_t K, R;
  Source in[kMaxTerms];
  const uint32_t* outputs;                // [K], as in TermList
  const float (*a)[FEWSTEP_MAX_OUTPUTS];  // [K]
  float clip;                             // infinite for none
  Source mask;                            // f32; null data for none
  Source kept[FEWSTEP_MAX_OUTPUTS];       // f32; null data where the output is not blended
  Sink out[FEWSTEP_MAX_OUTPUTS];
};

inline int64_t element_bytes(DType t) { return t == DType::kF32 ? 4 : 2; }

// Cursors instead of base + index: with an index GCC keeps one address per vector and element size,
// more than there are registers.
template <int U>
inline void load(Source& s, F32 x[U]) {
  const char* p = s.data;
  if (s.dtype == DType::kF32) {
    for (int u = 0; u < U; ++u) x[u] = vec::load((const float*)p + u * kLanes);
    s.data = p + U * kLanes * 4;
    return;
  }
  if (s.dtype == DType::kF16) {
    for (int u = 0; u < U; ++u) x[u] = vec::load_f16((const uint16_t*)p + u * kLanes);
  } else {
    for (int u = 0; u < U; ++u) x[u] = vec::load_bf16((const uint16_t*)p + u * kLanes);
  }
  s.data = p + U * kLanes * 2;
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
inline void store(Sink& s, const F32 x[U]) {
  char* p = s.data;
  s.data = p + U * kLanes * element_bytes(s.dtype);
  store_at<U>(p, s.dtype, s.stream, x);
  for (int32_t c = 1; c < s.copies; ++c) {
    p += s.copy_stride;
    store_at<U>(p, s.dtype, s.stream, x);
  }
}

// The next U * kLanes elements of all outputs. Everything is read before anything is written, so an
// output may be one of the inputs.
// kPlain: as is_plain() says of m.
template <int R, int U, bool kPlain>
inline void mix_block(Mix& m) {
  F32 sum[R][U];
  for (int r = 0; r < R; ++r) {
    for (int u = 0; u < U; ++u) sum[r][u] = vec::set(0.0f);
  }
  for (int32_t k = 0; k < m.K; ++k) {
    F32 x[U];
    if (kPlain) {
      const char* p = m.in[k].data;
      for (int u = 0; u < U; ++u) x[u] = vec::load((const float*)p + u * kLanes);
      m.in[k].data = p + U * kLanes * 4;
    } else {
      load<U>(m.in[k], x);
    }
    const uint32_t outputs = m.outputs[k];
    for (int r = 0; r < R; ++r) {
      if (!(outputs >> r & 1u)) continue;
      const F32 a = vec::set(m.a[k][r]);
      for (int u = 0; u < U; ++u) sum[r][u] = vec::fma(a, x[u], sum[r][u]);
    }
  }
  if (kPlain) {
    for (int r = 0; r < R; ++r) {
      char* p = m.out[r].data;
      store_at<U>(p, DType::kF32, m.out[r].stream, sum[r]);
      m.out[r].data = p + U * kLanes * 4;
    }
    return;
  }
  if (m.clip < __builtin_inff()) {
    const F32 high = vec::set(m.clip), low = vec::set(-m.clip);
    for (int r = 0; r < R; ++r) {
      for (int u = 0; u < U; ++u) sum[r][u] = vec::max(low, vec::min(high, sum[r][u]));
    }
  }
  if (m.mask.data) {
    F32 mask[U];
    load<U>(m.mask, mask);
    for (int r = 0; r < R; ++r) {
      if (!m.kept[r].data) continue;
      F32 kept[U];
      load<U>(m.kept[r], kept);
      for (int u = 0; u < U; ++u) {
        const F32 rest = vec::mul(vec::sub(vec::set(1.0f), mask[u]), kept[u]);
        sum[r][u] = vec::fma(mask[u], sum[r][u], rest);
      }
    }
  }
  for (int r = 0; r < R; ++r) store<U>(m.out[r], sum[r]);
}

// The last n < kLanes elements, through copies that have room for a whole vector.
template <int R>
inline void mix_rest(const Mix& m, int64_t n) {
  float in[kMaxTerms][kLanes], out[R][kLanes], mask[kLanes], kept[R][kLanes];
  Mix padded = m;
  const auto copy_in = [n](float* to, Source* s) {
    memset(to, 0, sizeof(float) * kLanes);
    memcpy(to, s->data, (size_t)(n * element_bytes(s->dtype)));
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
  mix_block<R, 1, false>(padded);
  for (int r = 0; r < R; ++r) {
    const Sink& s = m.out[r];
    for (int32_t c = 0; c < s.copies; ++c) {
      memcpy(s.data + c * s.copy_stride, out[r], (size_t)(n * element_bytes(s.dtype)));
    }
  }
}

// Vectors per input and turn. The sums and one input stay in registers, of which AVX-512 has 32 and
// AVX2 16. More than 256 bytes of each array per turn is slower from memory: with 512 bytes the
// AVX-512 loop over 5 arrays of 64 MB fell from 60 to 36 GB/s on Zen 5.
constexpr int unroll(int R) {
  if (kLanes == 16) return 4;
  return R <= 2 ? 4 : R == 3 ? 3 : 2;
}

template <int R>
void mix_outputs(Mix& m, int64_t n, bool plain) {
  constexpr int U = unroll(R);
  if (plain)
    for (; n >= U * kLanes; n -= U * kLanes) mix_block<R, U, true>(m);
  for (; n >= U * kLanes; n -= U * kLanes) mix_block<R, U, false>(m);
  for (; n >= kLanes; n -= kLanes) mix_block<R, 1, false>(m);
  if (n > 0) mix_rest<R>(m, n);
}

// True when nothing but sums of f32 arrays is wanted, which the loop then need not ask per input.
inline bool is_plain(const Mix& m) {
  if (m.clip < __builtin_inff() || m.mask.data) return false;
  for (int32_t k = 0; k < m.K; ++k) {
    if (m.in[k].dtype != DType::kF32) return false;
  }
  for (int32_t r = 0; r < m.R; ++r) {
    if (m.out[r].dtype != DType::kF32 || m.out[r].copies != 1) return false;
  }
  return true;
}

// n elements of all outputs.
inline void mix(Mix& m, int64_t n) {
  const bool plain = is_plain(m);
  if (m.R == 1) return mix_outputs<1>(m, n, plain);
  if (m.R == 2) return mix_outputs<2>(m, n, plain);
  if (m.R == 3) return mix_outputs<3>(m, n, plain);
  if (m.R == 4) return mix_outputs<4>(m, n, plain);
}

}  // namespace
}  // namespace fewstep::solver
