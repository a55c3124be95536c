// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

#include "core/philox.h"
#include "fewstep/plan.h"

// A plan's row as a kernel wants it: every output a short sum of physical operands with float32
// coefficients. Host and device code; no memory of its own.
namespace fewstep::solver {

// Operands of a resolved row: a slot, a raw model output, the known image, the clamped conversion
// (FEWSTEP_CONVERTED), and the noises.
constexpr int kNoise = FEWSTEP_OPERANDS;  // kNoise + z: noise z of ResolvedRow
constexpr int kOperands = kNoise + FEWSTEP_MAX_NOISES;
// 8 inputs, of which the guided and the converted one spread over slot 0 and 4 model outputs, with
// equal operands merged: at most 6 + 1 + 4; and 3 noises.
constexpr int kMaxTerms = 16;

// Sums over operands for up to 4 outputs. A coefficient of zero is no term: its operand is not
// looked at, so that 0 * inf of something unused cannot appear.
struct TermList {
  int32_t count;
  int32_t operand[kMaxTerms];
  uint32_t outputs[kMaxTerms];  // bit r: the term is part of output r
  float a[kMaxTerms][FEWSTEP_MAX_OUTPUTS];
};

struct ResolvedRow {
  uint32_t needed;  // bit i: operand i is read or written; bit kNoise: noise is drawn
  int32_t n_outputs;
  int32_t output[FEWSTEP_MAX_OUTPUTS];  // a slot or FEWSTEP_MODEL_INPUT
  TermList terms;
  int32_t clamped;  // 1: FEWSTEP_CONVERTED is a term, to be clamped to [-clip, clip]
  float clip;
  TermList converted;  // one output: the conversion before the clamp; empty without one
  uint32_t blended;    // bit r: output r is mask * u + (1 - mask) * kept
  TermList kept;
  int32_t n_noises;
  uint32_t noise_stream[FEWSTEP_MAX_NOISES], noise_step[FEWSTEP_MAX_NOISES];
};

struct ResolveOptions {
  const float* gamma;  // guidance weights in place of the row's, or null
  int32_t n_gamma;
  bool has_mask, has_model_input;
};

// Collects terms in float64, keyed by operand, in order of first appearance.
struct TermSums {
  int8_t position[kOperands];
  int32_t count;
  int32_t operand[kMaxTerms];
  double a[kMaxTerms][FEWSTEP_MAX_OUTPUTS];
};

FEWSTEP_HOST_DEVICE static inline void start_terms(TermSums* sums) {
  for (int i = 0; i < kOperands; ++i) sums->position[i] = -1;
  sums->count = 0;
}

FEWSTEP_HOST_DEVICE static inline void add_term(TermSums* sums, int operand, int r, double a) {
  if (a == 0.0) return;
  int k = sums->position[operand];
  if (k < 0) {
    k = sums->count++;
    sums->position[operand] = (int8_t)k;
    sums->operand[k] = operand;
    for (int i = 0; i < FEWSTEP_MAX_OUTPUTS; ++i) sums->a[k][i] = 0.0;
  }
  sums->a[k][r] += a;
}

// Rounds each coefficient once.
FEWSTEP_HOST_DEVICE static inline void finish_terms(const TermSums& sums, TermList* out) {
  int n = 0;
  for (int k = 0; k < sums.count; ++k) {
    uint32_t outputs = 0;
    for (int r = 0; r < FEWSTEP_MAX_OUTPUTS; ++r) {
      out->a[n][r] = (float)sums.a[k][r];
      if (out->a[n][r] != 0.0f) outputs |= 1u << r;
    }
    if (outputs == 0) continue;  // the sum cancelled
    out->operand[n] = sums.operand[k];
    out->outputs[n] = outputs;
    ++n;
  }
  out->count = n;
}

FEWSTEP_HOST_DEVICE static inline void add_guided(const fewstep_plan_row& row,
                                                  const ResolveOptions& options, int r, double a,
                                                  TermSums* sums) {
  const int n = options.gamma ? options.n_gamma : row.n_guidance;
  for (int j = 0; j < n; ++j) {
    const double gamma = options.gamma ? (double)options.gamma[j] : row.gamma[j];
    add_term(sums, FEWSTEP_MODEL + j, r, a * gamma);
  }
}

FEWSTEP_HOST_DEVICE static inline void add_converted(const fewstep_plan_row& row,
                                                     const ResolveOptions& options, int r, double a,
                                                     TermSums* sums) {
  add_term(sums, FEWSTEP_SLOT, r, a * row.p);
  add_guided(row, options, r, a * row.q, sums);
}

// The number in `out` of the row's noise z.
FEWSTEP_HOST_DEVICE static inline int use_noise(const fewstep_plan_row& row, int z, int8_t* number,
                                                ResolvedRow* out) {
  if (number[z] < 0) {
    number[z] = (int8_t)out->n_noises;
    out->noise_stream[out->n_noises] = row.noise_stream[z];
    out->noise_step[out->n_noises] = row.noise_step[z];
    ++out->n_noises;
  }
  return kNoise + number[z];
}

// The known side of the outputs that a mask blends. Output o of `out` is the row's source[o].
FEWSTEP_HOST_DEVICE static inline void resolve_kept(const fewstep_plan_row& row, const int* source,
                                                    int8_t* number, ResolvedRow* out) {
  TermSums kept;
  start_terms(&kept);
  for (int o = 0; o < out->n_outputs; ++o) {
    const int r = source[o];
    if (!row.blend[r]) continue;
    out->blended |= 1u << o;
    add_term(&kept, FEWSTEP_KNOWN, o, row.known[r]);
    for (int z = 0; z < row.n_noises; ++z) {
      const double a = row.known_noise[r][z];
      if (a != 0.0) add_term(&kept, use_noise(row, z, number, out), o, a);
    }
  }
  if (out->blended) finish_terms(kept, &out->kept);
}

FEWSTEP_HOST_DEVICE static inline uint32_t operands_of(const ResolvedRow& row) {
  uint32_t needed = 0;
  for (int r = 0; r < row.n_outputs; ++r) needed |= 1u << row.output[r];
  const TermList* const lists[] = {&row.terms, &row.converted, &row.kept};
  for (const TermList* list : lists) {
    for (int k = 0; k < list->count; ++k) {
      const int operand = list->operand[k];
      if (operand != FEWSTEP_CONVERTED) needed |= 1u << (operand < kNoise ? operand : kNoise);
    }
  }
  return needed;
}

// Folds guidance and, where nothing clamps, the prediction's conversion into the coefficients, in
// float64; drops what no output uses. A plan's rows satisfy every bound used here.
FEWSTEP_HOST_DEVICE static inline void resolve(const fewstep_plan_row& row,
                                               const ResolveOptions& options, ResolvedRow* out) {
  TermSums sums;
  start_terms(&sums);
  out->n_outputs = out->n_noises = 0;
  out->blended = 0;
  out->clamped = 0;
  out->converted.count = out->kept.count = 0;
  const bool clips = row.clip < HUGE_VAL;
  int8_t number[FEWSTEP_MAX_NOISES] = {-1, -1, -1};
  int source[FEWSTEP_MAX_OUTPUTS];  // the row's number of each output kept
  for (int r = 0; r < row.n_outputs; ++r) {
    if (row.output[r] == FEWSTEP_MODEL_INPUT && !options.has_model_input) continue;
    const int o = out->n_outputs++;
    out->output[o] = row.output[r];
    source[o] = r;
  }
  for (int k = 0; k < row.n_inputs; ++k) {
    const int operand = row.input[k];
    for (int o = 0; o < out->n_outputs; ++o) {
      const double a = row.a[source[o]][k];
      if (a == 0.0) continue;
      if (operand == FEWSTEP_GUIDED) {
        add_guided(row, options, o, a, &sums);
      } else if (operand == FEWSTEP_CONVERTED && !clips) {
        add_converted(row, options, o, a, &sums);
      } else {
        if (operand == FEWSTEP_CONVERTED) out->clamped = 1;
        add_term(&sums, operand, o, a);
      }
    }
  }
  for (int z = 0; z < row.n_noises; ++z) {
    for (int o = 0; o < out->n_outputs; ++o) {
      const double a = row.noise[source[o]][z];
      if (a != 0.0) add_term(&sums, use_noise(row, z, number, out), o, a);
    }
  }
  finish_terms(sums, &out->terms);
  if (out->clamped) {
    TermSums conversion;
    start_terms(&conversion);
    add_converted(row, options, 0, 1.0, &conversion);
    finish_terms(conversion, &out->converted);
    out->clip = (float)row.clip;
  }
  if (options.has_mask) resolve_kept(row, source, number, out);
  out->needed = operands_of(*out);
}

}  // namespace fewstep::solver
