// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "draft/contexts.h"
#include "draft/proposal.h"
#include "fewstep/draft.h"

namespace fewstep::draft {

// A node that may come into the tree.
struct Candidate {
  int32_t token, parent, depth;
};
// A candidate in the heap: the likeliest on top, of equal ones the one made first.
struct Ranked {
  float chance;
  int32_t candidate;
  bool operator<(const Ranked& other) const {
    return chance != other.chance ? chance < other.chance : candidate > other.candidate;
  }
};

}  // namespace fewstep::draft

struct fewstep_recycler {
  fewstep_recycler(int32_t longest, int32_t kept, int64_t capacity)
      : order(longest), width(kept), table(kept, capacity) {}

  const int32_t order, width;
  fewstep::draft::ContextTable table;
  fewstep::draft::Calibration calibration;
  // Scratch of calls.
  std::vector<fewstep::draft::Candidate> candidates;
  std::vector<fewstep::draft::Ranked> heap;
  std::vector<fewstep::draft::Context> contexts;  // of nodes
  std::vector<int32_t> following;                 // the token that came after a row, or -1
};

namespace fewstep::draft {

// The end of a text, no longer than a recycler's contexts.
inline Context end_of(const fewstep_recycler& recycler, std::span<const int32_t> text) {
  Context end;
  for (const int32_t token : text.last(std::min(text.size(), size_t(recycler.order)))) {
    end = end.then(token, recycler.order);
  }
  return end;
}

inline void check_least(const char* function, float least) {
  if (least >= 0.0f && least <= 1.0f) return;
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("%s: 'least' must lie in [0, 1], got %s", function, number(least).c_str()));
}

inline void check_params(const char* function, const fewstep_recycler_propose_params* params) {
  not_null(function, "params", params);
  sized(function, "params", sizeof *params, "FEWSTEP_RECYCLER_PROPOSE_PARAMS_INIT", params->size);
  at_least(function, "depth", 1, params->depth);
  check_least(function, params->least);
}

// Grows the likeliest tree behind a context of at most the recycler's order: see
// fewstep_recycler_propose.
void grow(fewstep_recycler& recycler, const Context& root, int32_t depth, float least,
          Proposal* tree, float* score);

}  // namespace fewstep::draft
