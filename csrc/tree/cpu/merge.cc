// SPDX-License-Identifier: Apache-2.0
#include "tree/merge.h"

#include <math.h>

#include "core/cpu/exp.h"
#include "core/cpu/parallel.h"

// Requires: at least one part; nothing written overlaps anything.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

using vec::F32;
using vec::kLanes;

inline int64_t bytes_of(DType type) { return type == DType::kF32 ? 4 : 2; }

inline F32 load_as(DType type, const char* row, int64_t d) {
  if (type == DType::kF32) return vec::load((const float*)row + d);
  if (type == DType::kF16) return vec::load_f16((const uint16_t*)row + d);
  return vec::load_bf16((const uint16_t*)row + d);
}

inline void store_as(DType type, char* row, int64_t d, F32 x) {
  if (type == DType::kF32) vec::store((float*)row + d, x);
  if (type == DType::kF16) vec::store_f16((uint16_t*)row + d, x);
  if (type == DType::kBF16) vec::store_bf16((uint16_t*)row + d, x);
}

struct Weighted {
  const char* row;
  DType type;
  float weight;
};

inline F32 joined(const Weighted* parts, int count, int64_t d) {
  F32 sum = vec::set(0.0f);
  for (int i = 0; i < count; ++i) {
    sum = vec::fma(load_as(parts[i].type, parts[i].row, d), vec::set(parts[i].weight), sum);
  }
  return sum;
}

// The last elements of a row, fewer than a vector, through memory of its size.
void join_tail(const Weighted* parts, int count, const MergeProblem& p, char* to, int64_t d) {
  alignas(64) char in[kMaxMerge][64] = {};
  alignas(64) char out[64];
  Weighted copies[kMaxMerge];
  for (int i = 0; i < count; ++i) {
    const int64_t bytes = bytes_of(parts[i].type);
    memcpy(in[i], parts[i].row + d * bytes, size_t((p.D - d) * bytes));
    copies[i] = {in[i], parts[i].type, parts[i].weight};
  }
  store_as(p.out_type, out, 0, joined(copies, count, 0));
  const int64_t bytes = bytes_of(p.out_type);
  memcpy(to + d * bytes, out, size_t((p.D - d) * bytes));
}

void merge_row(const MergeProblem& p, int64_t n, int64_t h) {
  Weighted kept[kMaxMerge];
  int count = 0;
  float largest = -__builtin_inff();
  for (int i = 0; i < p.n_parts; ++i) {
    const MergeProblem::Part& part = p.parts[i];
    const float lse = part.lse[n * part.lse_row + h];
    if (lse == -__builtin_inff()) continue;
    kept[count++] = {part.data + n * part.row + h * part.head, part.type, lse};
    if (!(lse <= largest)) largest = lse;  // a NaN stays
  }
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) {
    kept[i].weight = vec::exp_of(kept[i].weight - largest);
    sum += kept[i].weight;
  }
  for (int i = 0; i < count; ++i) kept[i].weight /= sum;
  char* to = p.out + n * p.out_row + h * p.out_head;
  int64_t d = 0;
  for (; d + kLanes <= p.D; d += kLanes) store_as(p.out_type, to, d, joined(kept, count, d));
  if (d < p.D) join_tail(kept, count, p, to, d);
  if (p.lse) {
    p.lse[n * p.lse_row + h] = count ? float(double(largest) + log(double(sum))) : largest;
  }
}

void merge_rows(void* context, int64_t begin, int64_t end) {
  const MergeProblem& p = *static_cast<const MergeProblem*>(context);
  for (int64_t i = begin; i < end; ++i) merge_row(p, i / p.H, i % p.H);
}

}  // namespace

void merge(const MergeProblem& p) {
  const int64_t elements = p.D * p.n_parts + 64;
  const int64_t grain = 1 + 65536 / elements;
  parallel_for(p.threads, p.N * p.H, grain, &merge_rows, const_cast<MergeProblem*>(&p));
}

}  // namespace fewstep::tree::FEWSTEP_ISA
