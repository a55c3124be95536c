// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cpu/gumbel.h"
#include "logits/cpu/law.h"

// Tokens of a law perturbed by Gumbel variates: the k greatest x + Gumbel, x the shifted logit, are
// k draws without replacement. Included by kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

// The law's tokens where they are few and listed.
inline void perturb_few(const Law& law, const DrawKey& key, uint32_t draw, Perturbed* best) {
  for (int i = 0; i < law.count; ++i) {
    if (!(law.few.weights[i] > 0.0f)) continue;
    const int32_t id = law.few.ids[i];
    const float x = shifted_at(law, id);
    uint32_t words[4];
    draw_words(key, draw, (uint32_t)id / 4, words);
    best->offer((double)x + gumbel_of(words[id % 4]), x, id);
  }
}

inline void perturb_all(const Law& law, const DrawKey& key, uint32_t draw, Perturbed* best) {
  float buffer[kBlock], kept[kBlock];
  const vec::F32 none = vec::set(kMinusInfinity);
  for (int64_t begin = 0; begin < law.row.V; begin += kBlock) {
    const float* raw = raw_block(law.row, begin, buffer);
    for (int i = 0; i < kBlock; i += vec::kLanes) {
      const vec::F32 l = vec::load(raw + i), x = shifted(law, l);
      vec::store(kept + i, vec::select_bits(lanes_with_weight(law, l, begin + i), none, x));
    }
    for (int g = 0; g < kBlock; g += kGumbelGroup) {
      perturb_group(kept + g, begin + g, key, draw, best);
    }
  }
}

inline void perturb(const Law& law, const DrawKey& key, uint32_t draw, Perturbed* best) {
  law.count >= 0 ? perturb_few(law, key, draw, best) : perturb_all(law, key, draw, best);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
