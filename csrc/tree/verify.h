// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/host_device.h"
#include "core/kernel_set.h"
#include "fewstep/verify.h"
#include "logits/row.h"

namespace fewstep::tree {

enum class Law : int32_t { kDeterministic = 0, kIid, kWithoutReplacement, kExternalWeights };
enum class Rule : int32_t {
  kGreedy = 0,
  kMatch,
  kTargetOnly,
  kChain,
  kRrs,
  kKSeq,
  kBlock,
  kCanonical,
  kTypical,
  kAdjustedTarget
};

struct VerifyParams {
  double epsilon, delta;
  float strength, share;
};

// A strided vector of the problem.
template <class T>
struct Vector {
  T* data = nullptr;
  int64_t stride = 1;
};
template <class T>
FEWSTEP_HOST_DEVICE static inline T at(const Vector<T>& v, int64_t i) {
  return v.data[i * v.stride];
}
template <class T>
FEWSTEP_HOST_DEVICE static inline void set(const Vector<T>& v, int64_t i, T value) {
  if (v.data) v.data[i * v.stride] = value;
}

struct VerifyProblem {
  int64_t B, N, V, D, S;
  int64_t M;  // rows of draft
  int64_t K;  // draws in the list
  Rule rule;
  Law law;
  logits::Filters filters;  // rows are requests
  Vector<const int32_t> parent, indptr, token;
  Vector<const int32_t> target_token;  // in place of logits, or null
  const char* logits;                  // [N, V] dtype
  int64_t logits_pitch;                // bytes between rows
  DType dtype;
  const uint32_t* bitmask;  // [N, ceil(V / 32)] or null
  int64_t bitmask_stride;
  const float* draft;  // [M, S] or null
  int64_t draft_stride;
  const int32_t* draft_ids;  // [M or 1, S] or null
  int64_t draft_ids_stride;  // 0: one row for all
  Vector<const int32_t> draft_row, draw_indptr, draw_node;
  Vector<const float> draw_weight;
  VerifyParams params;
  Vector<const uint64_t> seeds;
  Vector<const int32_t> positions;
  int32_t* path;  // [B, D]
  int64_t path_stride;
  Vector<int32_t> accepted, next_token, status;
  float* logprobs;  // [B, D + 1] or null
  int64_t logprobs_stride;
  int32_t threads;
  void* cuda_stream;
};
using VerifyFn = void(const VerifyProblem&);
FEWSTEP_DECLARE_KERNELS(VerifyFn, verify)

}  // namespace fewstep::tree
