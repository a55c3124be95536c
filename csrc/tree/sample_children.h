// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/kernel_set.h"
#include "logits/row.h"

namespace fewstep::tree {

constexpr int kMaxDraws = 64;

enum class DrawLaw : int32_t { kIid = 0, kWithoutReplacement = 1, kStochasticBeam = 2 };

// K children drawn for each of R frontier rows.
struct SampleChildrenProblem {
  int64_t B;
  int32_t K, M;
  DrawLaw law;
  logits::Rows rows;
  logits::Filters filters;     // of requests; those of `rows` are not looked at
  const int32_t* indptr;       // [B + 1], checked
  const uint64_t* seeds;       // [B]
  const int32_t* positions;    // [R]
  const int32_t* node;         // [R]; null: the row within its request
  const float* cum_logp;       // [R]; null: 0
  const float* parent_scores;  // [R]: perturbed log-probability of the row; null: 0
  const int32_t* d2t;          // [V]; null: ids are those of the logits
  int32_t* draws;              // [R, K]
  float* logq;                 // [R, K]
  float* perturbed;            // [R, K]; null with kIid
  int32_t* beam;               // [B, M]; null: not wanted
  int32_t* status;             // [R]; null: not wanted
  int64_t indptr_stride, seeds_stride, positions_stride, node_stride;
  int64_t cum_logp_stride, parent_scores_stride, d2t_stride, status_stride;
  int64_t draws_stride, logq_stride, perturbed_stride, beam_stride;
  uint32_t stream;
  int32_t threads;
  void* cuda_stream;
};
using SampleChildrenFn = void(const SampleChildrenProblem&);
FEWSTEP_DECLARE_KERNELS(SampleChildrenFn, sample_children)

}  // namespace fewstep::tree
