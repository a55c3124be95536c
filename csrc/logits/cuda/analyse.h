// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits/cuda/filters.h"

// From a row and its filters to its law, and draws from it. Included by CUDA kernel files only.
namespace fewstep::logits::FEWSTEP_ISA {
namespace {

// Of the row that is put there.
FEWSTEP_HOST_DEVICE inline RowStatus analyse_row(const Block& block, LawShared* s) {
  const Row& row = s->law.row;
  const bool alone = row.temperature < kLeastTemperature;
  const float scale = alone ? 1.0f : 1.0f / row.temperature;
  if (!alone && !has_filters(row)) {
    begin_law(block, 0.0f, scale, s);
    return analyse_all(block, s);
  }
  Block::Per<uint64_t> best;
  const uint64_t top = best_of(block, s, &best);
  const float max = max_of(row, top);
  const RowStatus status = status_of(max, block.get(s->nan) != 0);
  if (status != kRowFine) return status;
  begin_law(block, max, scale, s);
  if (alone) {
    block.each([&](int t) {
      if (t == 0) s->work.list.keys[0] = top;
    });
    list_few(block, 1, s);
  } else if (filter(block, max, best, s)) {
    list_few(block, filter_few(block, block.get(s->law.count), s), s);
  } else {
    sum_pieces(block, s, &s->law.mass, [&](int32_t round) {
      sum_blocks(block, row, round, &s->pieces.sums, [&](int64_t v, float l, int, int) {
        return weights_of(s->law.w, vec::set(l), v).v;
      });
    });
  }
  return kRowFine;
}

// Of the block's own row.
FEWSTEP_HOST_DEVICE inline RowStatus analyse(const Block& block, const Rows& rows, LawShared* s) {
  block.each([&](int t) {
    if (t == 0) put_row(rows, block.index, &s->law.row);
  });
  return analyse_row(block, s);
}

// The weight of a token that is there.
FEWSTEP_HOST_DEVICE inline float weight_at(const Law& law, int64_t v) {
  return weights_of(law.w, vec::set(logit_at(law.row, v)), v).v;
}

// What a draw at u in (0, 1) of the cumulative law asks for. One thread's part.
FEWSTEP_HOST_DEVICE inline Target target_at(const LawShared& s, double u) {
  if (s.law.count >= 0) return {u * s.law.mass, -1};
  return target_in(s.pieces.mass, pieces_of(s.law.row), s.law.mass, u);
}

FEWSTEP_HOST_DEVICE inline void begin_walk(const Block& block, LawShared* s) {
  block.each([&](int t) {
    if (t != 0) return;
    s->walk.sum = 0.0;
    s->walk.last = -1;
  });
}

// What f(v, weight) gives for a block's tokens, in the order of ids; returns how many there are.
template <class F>
FEWSTEP_HOST_DEVICE inline int weigh_block(const Block& block, int64_t begin, LawShared* s,
                                           const F& f) {
  const Row& row = s->law.row;
  const int count = row.V - begin < kBlock ? (int)(row.V - begin) : kBlock;
  block.each([&](int t) {
    for (int i = t; i < count; i += kThreads) {
      const int64_t v = begin + i;
      s->work.list.weights[i] = f(v, is_allowed(row, v) ? weight_at(s->law, v) : 0.0f);
    }
  });
  return count;
}

// The token that a draw from a piece asks for, by what f gives as above; -1 where it gives nothing.
// A law without a list loses its pieces' masses.
template <class F>
FEWSTEP_HOST_DEVICE inline int64_t find_in_piece(const Block& block, Target target, LawShared* s,
                                                 const F& f) {
  const Row& row = s->law.row;
  List* const list = &s->work.list;
  const int64_t begin = target.piece * piece_of(row.V);
  int64_t token = -1;
  for (int64_t b = begin; b < begin + piece_of(row.V) && b < row.V; b += kBlock) {
    block.each([&](int t) {
      if (t == 0) s->walk.last = -1;
    });
    const int count = weigh_block(block, b, s, f);
    const bool met = find_listed<Meets::kAbove>(block, count, target.sum, list, &s->walk) >= 0;
    const int last = block.get(s->walk.last);
    if (last >= 0) token = b + last;
    if (met) break;
  }
  return token;
}

struct Drawn {
  int64_t token;
  float weight;
};

// The token that a draw asks for. A law without a list loses its pieces' masses.
FEWSTEP_HOST_DEVICE inline Drawn draw(const Block& block, Target target, LawShared* s) {
  const Row& row = s->law.row;
  List* const list = &s->work.list;
  begin_walk(block, s);
  if (s->law.count >= 0) {
    find_listed<Meets::kAbove>(block, s->law.count, target.sum, list, &s->walk);
    const int at = block.get(s->walk.last);
    return {id_of(row, list->keys[at]), list->weights[at]};
  }
  const int64_t token =
      find_in_piece(block, target, s, [](int64_t, float weight) { return weight; });
  return {token, token < 0 ? 0.0f : weight_at(s->law, token)};
}
FEWSTEP_HOST_DEVICE inline Drawn draw(const Block& block, double u, LawShared* s) {
  block.each([&](int t) {
    if (t == 0) s->target = target_at(*s, u);
  });
  return draw(block, block.get(s->target), s);
}

}  // namespace
}  // namespace fewstep::logits::FEWSTEP_ISA
