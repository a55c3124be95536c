// SPDX-License-Identifier: Apache-2.0
#include "solver/step.h"

#include "core/cpu/normal.h"
#include "core/cpu/samples.h"
#include "solver/cpu/mix.h"

// Requires: N contiguous; no tensor overlaps another; rows within the plan; every operand of the
// rows in use present.
//
// A sample's elements go through `mix` in one sweep. What is not in memory (noise, the clamped
// conversion, the known side of a masked blend) is made a tile at a time in L1 and mixed from
// there.
namespace fewstep::solver::FEWSTEP_ISA {
namespace {

// Elements made at a time: up to 8 scratch arrays of 2 KiB stay in L1 beside the tensors' lines.
// DPM++ 2M SDE over 64 k elements takes 44 us with 256, 38.6 with 512, 38.1 with 1024.
constexpr int64_t kTile = 512;
static_assert(kTile % vec::kNormalTile == 0 && kPiece % kTile == 0);

struct Scratch {
  alignas(64) float noise[FEWSTEP_MAX_NOISES][kTile];
  alignas(64) float converted[kTile];
  alignas(64) float kept[FEWSTEP_MAX_OUTPUTS][kTile];
};

Source source(const StepTensor& t, int64_t b, int64_t n) {
  return {t.data + b * t.stride + n * element_bytes(t.dtype), t.dtype};
}

// Where operand `operand` of sample b stands at element n, whose tile of scratch is `s`.
Source find(const StepProblem& p, const Scratch* s, int32_t operand, int64_t b, int64_t n) {
  if (operand < FEWSTEP_GUIDED) return source(p.slots[operand], b, n);
  if (operand == FEWSTEP_CONVERTED) return {(const char*)s->converted, DType::kF32};
  if (operand == FEWSTEP_KNOWN) return source(p.known, b, n);
  if (operand >= kNoise) return {(const char*)s->noise[operand - kNoise], DType::kF32};
  return source(p.models[operand - FEWSTEP_MODEL], b, n);
}

void set_terms(const StepProblem& p, const Scratch* s, const TermList& terms, int64_t b, int64_t n,
               Mix* m) {
  m->K = terms.count;
  m->outputs = terms.outputs;
  m->a = terms.a;
  for (int32_t k = 0; k < terms.count; ++k) m->in[k] = find(p, s, terms.operand[k], b, n);
}

bool reads(const TermList& terms, int32_t operand) {
  for (int32_t k = 0; k < terms.count; ++k) {
    if (terms.operand[k] == operand) return true;
  }
  return false;
}

void set_outputs(const StepProblem& p, const ResolvedRow& row, bool stream, int64_t b, int64_t n,
                 Mix* m) {
  m->R = row.n_outputs;
  for (int32_t r = 0; r < row.n_outputs; ++r) {
    const int32_t output = row.output[r];
    const bool is_input = output == FEWSTEP_MODEL_INPUT;
    const StepTensor& t = is_input ? p.model_input : p.slots[output];
    Sink& out = m->out[r];
    out.data = t.data + b * t.stride + n * element_bytes(t.dtype);
    out.dtype = t.dtype;
    out.copies = is_input ? p.input_copies : 1;
    out.copy_stride = p.B * t.stride;
    const uintptr_t vector = (uintptr_t)(kLanes * element_bytes(t.dtype));
    out.stream = stream &&
                 ((uintptr_t)out.data | (uintptr_t)out.copy_stride * is_input) % vector == 0 &&
                 (is_input || !(reads(row.terms, output) || reads(row.converted, output)));
  }
}

// Elements [n, n + count) of sample b, count <= kTile, where some operand is made in scratch.
void step_tile(const StepProblem& p, const ResolvedRow& row, bool stream, int64_t b, int64_t n,
               int64_t count, Scratch* s) {
  Mix m;
  m.from_memory = false;  // what is made here comes from the L1
  m.clip = __builtin_inff();
  m.gain = 1.0f;
  m.mask = {nullptr, DType::kF32};
  for (int32_t z = 0; z < row.n_noises; ++z) {
    const uint64_t seed = p.seeds[b * p.seed_stride];
    for (int64_t i = 0; i < count; i += vec::kNormalTile) {
      F32 x[4];
      vec::normal_tile((uint64_t)(n + i) / 4, seed, row.noise_step[z], row.noise_stream[z], x);
      for (int j = 0; j < 4; ++j) vec::store(s->noise[z] + i + j * kLanes, x[j]);
    }
  }
  if (row.clamped) {
    set_terms(p, s, row.converted, b, n, &m);
    m.R = 1;
    m.out[0] = {(char*)s->converted, DType::kF32, false, 1, 0};
    m.clip = p.clip ? p.clip[b * p.clip_stride] : row.clip;
    m.gain = p.clip ? p.clip[b * p.clip_stride + 1] : 1.0f;
    mix(m, count);
    m.clip = __builtin_inff();
    m.gain = 1.0f;
  }
  if (row.blended) {
    set_terms(p, s, row.kept, b, n, &m);
    m.R = row.n_outputs;
    for (int32_t r = 0; r < m.R; ++r) m.out[r] = {(char*)s->kept[r], DType::kF32, false, 1, 0};
    mix(m, count);
    m.mask = source(p.mask, b, n);
    for (int32_t r = 0; r < m.R; ++r) {
      m.kept[r] = {row.blended >> r & 1u ? (const char*)s->kept[r] : nullptr, DType::kF32};
    }
  }
  set_terms(p, s, row.terms, b, n, &m);
  set_outputs(p, row, stream, b, n, &m);
  mix(m, count);
}

void step_range(const StepProblem& p, const ResolvedRow& row, bool stream, int64_t b, int64_t begin,
                int64_t end) {
  if (!row.clamped && !row.blended && row.n_noises == 0) {
    Mix m;
    m.from_memory = stream;
    m.clip = __builtin_inff();
    m.gain = 1.0f;
    m.mask = {nullptr, DType::kF32};
    set_terms(p, nullptr, row.terms, b, begin, &m);
    set_outputs(p, row, stream, b, begin, &m);
    return mix(m, end - begin);
  }
  Scratch scratch;
  for (int64_t n = begin; n < end; n += kTile) {
    step_tile(p, row, stream, b, n, end - n < kTile ? end - n : kTile, &scratch);
  }
}

// Bytes that one element of the row moves.
int64_t bytes_per_element(const StepProblem& p, const ResolvedRow& row) {
  int64_t bytes = row.blended ? 4 : 0;
  for (int32_t k = 0; k < row.terms.count; ++k) {
    const int32_t operand = row.terms.operand[k];
    const bool is_model = operand >= FEWSTEP_MODEL && operand < FEWSTEP_CONVERTED;
    bytes += is_model ? element_bytes(p.models[operand - FEWSTEP_MODEL].dtype) : 4;
  }
  for (int32_t r = 0; r < row.n_outputs; ++r) {
    bytes += row.output[r] == FEWSTEP_MODEL_INPUT
                 ? p.input_copies * element_bytes(p.model_input.dtype)
                 : 4;
  }
  return bytes;
}

// What for_samples calls; each thread has a copy, which keeps the row that it resolved last.
struct Stepper {
  explicit Stepper(const StepProblem& problem) : p(problem) {}
  Stepper(const Stepper& other) : p(other.p) {}

  void operator()(int64_t b, int64_t begin, int64_t end) {
    const ResolvedRow* row = p.shared;
    if (!row) {
      const int32_t i = p.rows ? p.rows[b * p.row_stride] : p.row;
      if (i < 0) return;
      if (i != index || p.guidance) {
        const float* gamma = p.guidance ? p.guidance + b * p.guidance_stride : nullptr;
        resolve(p.plan[i], {gamma, p.n_guidance, p.has_mask, p.has_model_input}, &own);
        index = i;
      }
      row = &own;
    }
    const bool stream = p.B * p.N * bytes_per_element(p, *row) > p.cache_bytes;
    step_range(p, *row, stream, b, begin, end);
    if (stream) vec::stream_fence();
  }

  const StepProblem& p;
  int32_t index = -1;
  ResolvedRow own;  // of row `index`
};

}  // namespace

void step(const StepProblem& p) {
  // Rows that differ between samples are looked at one by one: any of them may have noise.
  const bool is_sum = p.shared && p.shared->n_noises == 0;
  for_samples(p.threads, p.B, p.N, is_sum ? kSumGrain : kNormalGrain, Stepper(p));
}

}  // namespace fewstep::solver::FEWSTEP_ISA
