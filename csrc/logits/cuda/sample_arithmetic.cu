// SPDX-License-Identifier: Apache-2.0
#include "logits/cpu/codes.h"
#include "logits/cuda/analyse.h"
#include "logits/sample_arithmetic.h"

// Mapping: a cluster has a row. Requires: V >= 1, contiguous rows. Once weights are there, every
// sum is one of integers: the CPU's.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

struct SampleArithmeticKernel {
  static constexpr int kThreads = 512, kBlocks = 1;
  struct Shared {
    LawShared law;
    uint64_t of_thread[kThreads], own[kGroups], pieces[kMaxPieces];
    uint64_t runs[gpu::kMostOfCluster * kGroups];  // of kBlock tokens each, of a round
    uint64_t left;                                 // of what a code stands for
    Place place;
  };

  SampleArithmeticProblem p;

  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    const int64_t r = block.index;
    const uint64_t code = p.codes[r * p.codes_stride];  // before another block may write over it
    const RowStatus status = analyse(block, p.rows, &s.law);
    block.each([&](int t) {
      if (t == 0) s.place = {-1, 0, 0};
    });
    float weight = 0.0f;
    uint64_t fraction = 0;
    if (status == kRowFine) {
      const float unit = unit_of(p.rows.V);
      const bool few = s.law.law.count >= 0;
      const Code at = place_of(code, few ? sum_listed(block, unit, &s) : sum_all(block, unit, &s));
      fraction = at.fraction;
      block.each([&](int t) {
        if (t == 0) s.left = at.whole;
      });
      weight = few ? find_listed(block, unit, &s) : find_in_row(block, unit, &s);
    }
    block.each_alone([&](int t) {
      if (t != 0) return;
      p.out[r * p.out_stride] = (int32_t)s.place.token;
      p.next_codes[r * p.next_codes_stride] =
          status == kRowFine ? code_within(s.place, fraction) : code;
      if (p.status) p.status[r * p.status_stride] = status;
      if (!p.logprobs) return;
      p.logprobs[r * p.logprobs_stride] =
          status == kRowFine ? (float)log((double)weight / s.law.law.mass) : __builtin_nanf("");
    });
  }

  FEWSTEP_HOST_DEVICE uint64_t sum_listed(const Block& block, float unit, Shared* s) const {
    block.each([&](int t) {
      if (t != 0) return;
      s->left = 0;
      const List& list = s->law.work.list;
      for (int i = 0; i < s->law.law.count; ++i) s->left += units(list.weights[i], unit);
    });
    return block.get(s->left);
  }

  // Adds up the pieces, then all.
  FEWSTEP_HOST_DEVICE uint64_t sum_all(const Block& block, float unit, Shared* s) const {
    const Row& row = s->law.law.row;
    const int64_t of_piece = piece_of(row.V) / kBlock;
    for (int32_t round = 0; has_round(block, row, round); ++round) {
      block.each([&](int t) {
        uint64_t sum = 0;
        for_tokens_of_tile(row, t, tile_of(block, round), [&](int64_t v, float l, int) {
          sum += units(weights_of(s->law.law.w, vec::set(l), v).v, unit);
        });
        s->of_thread[t] = sum;
      });
      block.each([&](int t) {
        if (t >= kGroups) return;
        uint64_t sum = 0;
        for (int i = 0; i < kGroup; ++i) sum += s->of_thread[t * kGroup + i];
        s->own[t] = sum;
      });
      block.gather(s->own, kGroups, s->runs);
      const Runs runs = runs_of(block, row, round);
      block.each([&](int t) {
        for (int g = 0; t == 0 && g < runs.count; ++g) {
          const int64_t b = runs.before + g, at = b / of_piece;
          s->pieces[at] = (b % of_piece == 0 ? 0 : s->pieces[at]) + s->runs[g];
        }
      });
    }
    block.each([&](int t) {
      if (t != 0) return;
      s->left = 0;
      for (int i = 0; i < pieces_of(row); ++i) s->left += s->pieces[i];
    });
    return block.get(s->left);
  }

  // Finds where `left` lies among listed weights, or takes their sum from it; returns the index, -1
  // for none.
  FEWSTEP_HOST_DEVICE int find_weight(const Block& block, int count, float unit, Shared* s) const {
    List* const list = &s->law.work.list;
    block.each([&](int t) {
      const int begin = t * kSegment, end = begin + kSegment < count ? begin + kSegment : count;
      if (begin >= count) return;
      uint64_t sum = 0;
      for (int i = begin; i < end; ++i) sum += units(list->weights[i], unit);
      list->units[t] = sum;
    });
    block.each([&](int t) {
      if (t != 0) return;
      s->law.walk.at = -1;
      int at = 0;
      for (; at * kSegment < count && s->left >= list->units[at]; ++at) s->left -= list->units[at];
      for (int i = at * kSegment; i < count; ++i) {
        const uint64_t width = units(list->weights[i], unit);
        if (s->left < width) {
          s->place = {-1, s->left, width};
          s->law.walk.at = i;
          return;
        }
        s->left -= width;
      }
    });
    return block.get(s->law.walk.at);
  }

  FEWSTEP_HOST_DEVICE float find_listed(const Block& block, float unit, Shared* s) const {
    const List& list = s->law.work.list;
    const int at = find_weight(block, s->law.law.count, unit, s);
    put_token(block, id_of(s->law.law.row, list.keys[at]), s);
    return list.weights[at];
  }

  FEWSTEP_HOST_DEVICE float find_in_row(const Block& block, float unit, Shared* s) const {
    const Row& row = s->law.law.row;
    block.each([&](int t) {
      if (t != 0) return;
      int at = 0;
      for (; s->left >= s->pieces[at]; ++at) s->left -= s->pieces[at];
      s->law.walk.count = at;
    });
    const auto as_it_is = [](int64_t, float weight) { return weight; };
    int64_t begin = block.get(s->law.walk.count) * piece_of(row.V);
    for (;; begin += kBlock) {
      const int at = find_weight(block, weigh_block(block, begin, &s->law, as_it_is), unit, s);
      if (at < 0) continue;
      put_token(block, begin + at, s);
      return s->law.work.list.weights[at];
    }
  }

  FEWSTEP_HOST_DEVICE void put_token(const Block& block, int64_t token, Shared* s) const {
    block.each([&](int t) {
      if (t == 0) s->place.token = token;
    });
  }
};

}  // namespace

void sample_arithmetic(const SampleArithmeticProblem& p) {
  launch_rows("fewstep_logits_sample_arithmetic", SampleArithmeticKernel{p}, p.rows.R, p.rows.V,
              p.cuda_stream);
}

}  // namespace fewstep::logits::FEWSTEP_ISA
