// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/context.h"
#include "core/dtype.h"
#include "kv/append.h"
#include "linear/run.h"
#include "linear/unpack.h"
#include "tree/attention.h"

namespace fewstep::decoder {

// What is the same in all calls: of a linear layer all but rows and scratch, of a cache all but
// pages.
struct Layer {
  linear::RunProblem projections[3];  // of q, k and v; one of all three, or one each
  int32_t n_projections;
  linear::RunProblem o, gate, down;
  kv::HeadNorm q_norm, k_norm;
  kv::Cache k, v, k_scale, v_scale;  // no data of scales where there are none
  int64_t window;
};

struct Embedding {
  const char* dense;  // [n_tokens, E]; null: packed, or none
  int64_t stride_bytes;
  linear::UnpackProblem packed;  // of no data: dense, or none
  int64_t n_tokens;              // 0: none
};

}  // namespace fewstep::decoder

// Named without a namespace because it is the C type behind the public pointer.
struct fewstep_decoder {
  fewstep::Device device;
  int64_t E, I, H, G, D, P, T, V;  // V 0: no head
  fewstep::DType type, cache_type;
  bool deterministic;
  float scale;
  std::vector<fewstep::decoder::Layer> layers;
  fewstep::linear::RunProblem head;
  fewstep::decoder::Embedding embedding;

  int64_t qkv() const { return (H + 2 * G) * D; }
  int64_t weights() const { return int64_t(layers.size()) * E * (qkv() + H * D + 3 * I) + E * V; }
};
