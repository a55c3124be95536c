// SPDX-License-Identifier: Apache-2.0
#include "solver/expr.h"

#include "core/status.h"

namespace fewstep::solver {
namespace {

void check_limit(const char* what, int count, int limit) {
  if (count > limit) {
    throw Error(
        FEWSTEP_UNSUPPORTED,
        format("fewstep_plan_create: a row needs %d %s; the limit is %d", count, what, limit));
  }
}

// The column of a noise, appended when new.
int noise_column(fewstep_plan_row* row, Noise noise) {
  for (int z = 0; z < row->n_noises; ++z) {
    if (row->noise_stream[z] == noise.stream && row->noise_step[z] == noise.step) return z;
  }
  check_limit("noises", row->n_noises + 1, FEWSTEP_MAX_NOISES);
  row->noise_stream[row->n_noises] = noise.stream;
  row->noise_step[row->n_noises] = noise.step;
  return row->n_noises++;
}

}  // namespace

void assemble(const std::vector<Output>& outputs, fewstep_plan_row* row) {
  check_limit("outputs", static_cast<int>(outputs.size()), FEWSTEP_MAX_OUTPUTS);
  row->n_outputs = static_cast<int32_t>(outputs.size());
  for (int32_t code = 0; code < FEWSTEP_OPERANDS; ++code) {
    bool read = false;
    for (const Output& output : outputs) read |= output.value.factor(code) != 0;
    if (!read) continue;
    check_limit("inputs", row->n_inputs + 1, FEWSTEP_MAX_INPUTS);
    row->input[row->n_inputs++] = code;
  }
  for (size_t r = 0; r < outputs.size(); ++r) {
    const Output& output = outputs[r];
    row->output[r] = output.operand;
    row->role[r] = output.role;
    row->blend[r] = output.blend;
    row->known[r] = output.known;
    for (int k = 0; k < row->n_inputs; ++k) row->a[r][k] = output.value.factor(row->input[k]);
    for (const auto& term : output.value.noises()) {
      if (term.factor != 0) row->noise[r][noise_column(row, term.noise)] = term.factor;
    }
  }
  // The noise of the known image comes last: without a mask its columns are not drawn.
  for (size_t r = 0; r < outputs.size(); ++r) {
    for (const auto& term : outputs[r].known_noise.noises()) {
      if (term.factor != 0) row->known_noise[r][noise_column(row, term.noise)] = term.factor;
    }
  }
}

}  // namespace fewstep::solver
