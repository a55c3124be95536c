// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/math.h"
#include "core/cuda/pack.h"
#include "tree/attention.h"

// What the CUDA kernels of attention share: which rows and keys a block has, what a row sees, and
// what becomes of its sums. Nobody looked at indices and lengths before: a request that they do not
// fit has no rows, and a key on a page that there is not is not seen.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

FEWSTEP_HOST_DEVICE inline float minus_infinity() { return -__builtin_inff(); }
FEWSTEP_HOST_DEVICE inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
FEWSTEP_HOST_DEVICE inline int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
FEWSTEP_HOST_DEVICE inline float larger_of(float a, float b) { return a > b ? a : b; }
FEWSTEP_HOST_DEVICE inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A block's share: rows of one request and KV head, and a part of the keys. Row r is of token
// (first + r) / ratio of the request.
struct AttentionTask {
  int64_t b, n, tokens;          // the request, the first of its rows, and how many
  int64_t earlier;               // tokens of its draft block before them
  int64_t prefix, begin, end;    // keys before the block; those of the part
  int64_t first;                 // row
  int32_t rows, g, part, parts;  // rows: 0 where there is nothing to do
};

// Requests' rows in blocks of kRows: b's are first_block(b) .. first_block(b + 1) - 1, of which the
// last may be empty. So the host knows their number without indptr.
FEWSTEP_HOST_DEVICE inline int64_t first_block(const AttentionProblem& p, int64_t first, int64_t b,
                                               int rows) {
  return first * p.ratio / rows + b;
}

FEWSTEP_HOST_DEVICE inline bool is_request(const AttentionProblem& p, int64_t b) {
  const int64_t first = first_of(p, b), tokens = tokens_of(p, b), block = block_of(p, b);
  const int64_t cached = p.kv_len[b * p.kv_len_stride];
  if (first < 0 || tokens <= 0 || first + tokens > p.N) return false;
  if (cached < 0 || cached > p.capacity || block < tokens) return false;
  return (p.draft != Draft::kInCache || block <= cached) && (!p.bits || block <= 32 * p.bit_words);
}

FEWSTEP_HOST_DEVICE inline int64_t cuda_part(const AttentionProblem& p, int64_t keys) {
  if (p.deterministic) return kFixedPart;
  const int64_t tiles = quotient_up(quotient_up(keys, p.cuda_parts), kTileKeys);
  return larger_of(tiles * kTileKeys, kSmallestCudaPart);
}

// Finds what request b has of block `block` of rows; task->rows stays where it is not b's.
FEWSTEP_HOST_DEVICE inline void find_task(const AttentionProblem& p, int64_t block, int32_t g,
                                          int32_t part, int64_t b, int rows, AttentionTask* task) {
  const int64_t first = first_of(p, b), before = first_block(p, first, b, rows);
  if (block < before || block >= first_block(p, first_of(p, b + 1), b + 1, rows)) return;
  if (!is_request(p, b)) return;
  const int64_t all = tokens_of(p, b) * p.ratio, row = (block - before) * rows;
  const int64_t keys = keys_of(p, b), size = cuda_part(p, keys);
  const int64_t parts = larger_of(quotient_up(keys, size), int64_t(1));
  if (row >= all || part >= parts) return;
  task->b = b;
  task->n = first;
  task->tokens = tokens_of(p, b);
  task->earlier = block_of(p, b) - task->tokens;
  task->prefix = prefix_of(p, b);
  task->begin = part * size;
  task->end = smaller_of(task->begin + size, keys);
  task->first = row;
  task->rows = (int32_t)smaller_of(rows, all - row);
  task->g = g;
  task->part = part;
  task->parts = (int32_t)parts;
}

// The task of block `index` of a launch of blocks_of_rows x G x parts. All threads of the block
// call it with memory that they share, and look at it behind a barrier.
template <int kThreads>
FEWSTEP_HOST_DEVICE inline AttentionTask shared_task(const gpu::Block<kThreads>& block,
                                                     const AttentionProblem& p, int64_t index,
                                                     int rows, AttentionTask* shared) {
  const int64_t count = first_block(p, p.N, p.B, rows);
  const int32_t g = (int32_t)(index / count % p.G), part = (int32_t)(index / count / p.G);
  block.each([&](int t) {
    if (t == 0) shared->rows = 0;
  });
  block.each([&](int t) {
    for (int64_t b = t; b < p.B; b += kThreads) {
      find_task(p, index % count, g, part, b, rows, shared);
    }
  });
  return *shared;
}

FEWSTEP_HOST_DEVICE inline int64_t token_of(const AttentionProblem& p, const AttentionTask& task,
                                            int row) {
  return (task.first + row) / p.ratio;
}
FEWSTEP_HOST_DEVICE inline int32_t head_of(const AttentionProblem& p, const AttentionTask& task,
                                           int row) {
  return task.g * p.ratio + (int32_t)((task.first + row) % p.ratio);
}

FEWSTEP_HOST_DEVICE inline const char* query_of(const AttentionProblem& p,
                                                const AttentionTask& task, int row) {
  return p.q.data + (task.n + token_of(p, task, row)) * p.q.row + head_of(p, task, row) * p.q.head;
}

// Where key i lies and its value; null where there is none.
struct KeyRow {
  const char *k, *v;
  float k_scale, v_scale;  // of a cache of scaled bytes
  bool is_draft;           // in memory of its own
};

// Where a key of the cache lies; on page -1: nowhere.
struct CachePlace {
  int64_t page, token;
};
FEWSTEP_HOST_DEVICE inline CachePlace cache_place(const AttentionProblem& p,
                                                  const AttentionTask& task, int64_t i) {
  if (!p.page_table) return {task.b, i};
  const uint32_t size = (uint32_t)smaller_of(p.page_tokens, 0x7fffffff);  // i has 31 bits
  const int64_t page = p.page_table[task.b * p.table_stride + (uint32_t)i / size];
  return {page < 0 || page >= p.pages ? -1 : page, (int64_t)((uint32_t)i % size)};
}

FEWSTEP_HOST_DEVICE inline KeyRow key_row(const AttentionProblem& p, const AttentionTask& task,
                                          int64_t i) {
  KeyRow row{nullptr, nullptr, 1.0f, 1.0f, false};
  if (i >= task.end) return row;
  if (p.draft == Draft::kSeparate && i >= task.prefix) {
    const int64_t n = task.n + i - task.prefix;
    row.is_draft = true;
    row.k = p.draft_k.data + n * p.draft_k.token + task.g * p.draft_k.head;
    row.v = p.draft_v.data + n * p.draft_v.token + task.g * p.draft_v.head;
    return row;
  }
  const auto [page, token] = cache_place(p, task, i);
  if (page < 0) return row;
  row.k = p.k.data + page * p.k.page + token * p.k.token + task.g * p.k.head;
  row.v = p.v.data + page * p.v.page + token * p.v.token + task.g * p.v.head;
  if (p.k_scale.data) {
    const Scales &k = p.k_scale, &v = p.v_scale;
    row.k_scale = k.data[page * k.page + token * k.token + task.g * k.head];
    row.v_scale = v.data[page * v.page + token * v.token + task.g * v.head];
  }
  return row;
}

// Tokens of its block, from `first` on, that token t of the rows sees.
FEWSTEP_HOST_DEVICE inline int64_t seen_from(const AttentionProblem& p, const AttentionTask& task,
                                             int64_t t, int64_t first) {
  if (!p.bits) return task.earlier + t + 1 - first;
  const uint32_t* words = p.bits + (task.n + t) * p.bits_stride;
  const int64_t tokens = task.earlier + task.tokens;
  int64_t count = 0;
  FEWSTEP_NO_UNROLL
  for (int64_t i = first; i < tokens;) {
    const int64_t behind = smaller_of(tokens, i / 32 * 32 + 32);
    const uint32_t mask = 0xffffffffu >> (32 - (behind - i));
    count += gpu::ones_of(words[i / 32] >> (i % 32) & mask);
    i = behind;
  }
  return count;
}

FEWSTEP_HOST_DEVICE inline int64_t depth_of(const AttentionProblem& p, const AttentionTask& task,
                                            int64_t t) {
  if (p.depth) return p.depth[(task.n + t) * p.depth_stride];
  return seen_from(p, task, t, 0) - 1;
}

// Keys at or before this position have left token t's window.
FEWSTEP_HOST_DEVICE inline int64_t left_by(const AttentionProblem& p, const AttentionTask& task,
                                           int64_t t) {
  return p.window > 0 ? task.prefix + depth_of(p, task, t) - p.window : -1;
}

// Whether token t, which key positions up to `left` have left, sees key i of the part.
FEWSTEP_HOST_DEVICE inline bool sees(const AttentionProblem& p, const AttentionTask& task,
                                     int64_t t, int64_t left, int64_t i) {
  if (i < task.prefix) return i > left;
  const int64_t j = i - task.prefix;
  if (p.bits) {
    const uint32_t* words = p.bits + (task.n + t) * p.bits_stride;
    if ((words[j / 32] >> (j % 32) & 1u) == 0) return false;
  } else if (j > task.earlier + t) {
    return false;
  }
  if (p.window == 0) return true;
  // A token of the block before the rows is an ancestor.
  const int64_t own = j < task.earlier ? depth_of(p, task, t) - seen_from(p, task, t, j + 1)
                                       : depth_of(p, task, j - task.earlier);
  return task.prefix + own > left;
}

// The positions that have left the window of some row, and of every row, of a task.
struct LeftWindow {
  int64_t some, every;
};

// left: of each of the block's rows. For one thread.
FEWSTEP_HOST_DEVICE inline LeftWindow window_of(const AttentionTask& task, const int64_t* left) {
  LeftWindow w{left[0], left[0]};
  FEWSTEP_NO_UNROLL
  for (int r = 1; r < task.rows; ++r) {
    w.some = larger_of(w.some, left[r]);
    w.every = smaller_of(w.every, left[r]);
  }
  return w;
}

// The first key of the part's first tile that some row sees. Tiles keep their places: a row's bits
// do not depend on what the rows beside it skip.
FEWSTEP_HOST_DEVICE inline int64_t first_tile(const AttentionTask& task, int64_t every, int tile) {
  const int64_t gone = smaller_of(every + 1, task.prefix) - task.begin;
  return gone > 0 ? task.begin + smaller_of(gone, task.end - task.begin) / tile * tile : task.begin;
}

// tanh(x) as the CPU's kernel has it.
FEWSTEP_HOST_DEVICE inline float tanh_of(float x) {
  const float size = larger_of(x, -x);
  if (size < 0.625f) {
    const float z = x * x;
    float q = fmaf(-5.70498872745e-3f, z, 2.06390887954e-2f);
    q = fmaf(q, z, -5.37397155531e-2f);
    q = fmaf(q, z, 1.33314422036e-1f);
    q = fmaf(q, z, -3.33332819422e-1f);
    return fmaf(q * z, x, x);
  }
  const float large = 1.0f - 2.0f / (vec::exp(vec::set(size + size)).v + 1.0f);
  return vec::flip_sign({large}, vec::bits({x})).v;
}

FEWSTEP_HOST_DEVICE inline float exp_of(float x) { return vec::exp_below_88({x}).v; }

FEWSTEP_HOST_DEVICE inline float capped(const AttentionProblem& p, float logit) {
  return p.softcap > 0.0f ? p.softcap * tanh_of(logit * (p.scale / p.softcap)) : logit;
}
// What a capped logit is still multiplied by.
FEWSTEP_HOST_DEVICE inline float scale_of(const AttentionProblem& p) {
  return p.softcap > 0.0f ? 1.0f : p.scale;
}

constexpr float kLog2E = 0x1.715476p+0f, kLn2 = 0x1.62e430p-1f;

// The running softmax of a row, or of some keys of it.
struct RunningSoftmax {
  float largest, sum;

  // Takes in a tile whose largest scaled logit is `top`. Returns what weights are relative to, and
  // in *factor what the sums so far are multiplied by.
  FEWSTEP_HOST_DEVICE float raise(float top, float* factor) {
    return raise(top, factor, [](float x) { return exp_of(x); });
  }

  // The same of logits to the base 2, `largest` too, for weights that become 16-bit.
  FEWSTEP_HOST_DEVICE float raise2(float top, float* factor) {
    return raise(top, factor, [](float x) { return gpu::about_exp2(x); });
  }

  FEWSTEP_HOST_DEVICE RunningSoftmax to_base_e() const { return {largest * kLn2, sum}; }

 private:
  template <class Exp>
  FEWSTEP_HOST_DEVICE float raise(float top, float* factor, const Exp& exp) {
    const float before = largest;
    largest = larger_of(before, top);
    const float base = largest == minus_infinity() ? 0.0f : largest;
    *factor = exp(before - base);
    sum *= *factor;
    return base;
  }
};

// Divides row n of head h by its sum of weights; a sink is one more weight, with a value of zero.
// A warp's work: `value(i)` is element lane + 32 i.
template <int kCount, class Value>
FEWSTEP_HOST_DEVICE inline void finish_row(const AttentionProblem& p, int64_t n, int32_t h,
                                           int lane, float largest, float sum, const Value& value) {
  float factor = 1.0f;
  if (p.sinks) {
    const float sink = p.sinks[h * p.sinks_stride], most = larger_of(largest, sink);
    const float base = most == minus_infinity() ? 0.0f : most;
    factor = exp_of(largest - base);
    sum = sum * factor + exp_of(sink - base);
    largest = most;
  }
  factor = sum == 0.0f ? 0.0f : factor / sum;
  char* to = p.out.data + n * p.out.row + h * p.out.head;
  const int bytes = gpu::element_bytes(p.out_type);
  FEWSTEP_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const int d = lane + 32 * i;
    if (d < p.D) gpu::store_one(to + d * bytes, p.out_type, value(i) * factor);
  }
  if (p.lse && lane == 0) {
    p.lse[n * p.lse_stride + h] =
        sum == 0.0f ? minus_infinity() : (float)((double)largest + gpu::log_of(sum));
  }
}

FEWSTEP_HOST_DEVICE inline float* partial_row(const AttentionProblem& p, int32_t part, int64_t n,
                                              int32_t h) {
  return p.partial + ((part * p.N + n) * p.H + h) * partial_floats(p);
}

// Stores a row of a task, whose other parts may be other blocks'. A warp's work like finish_row.
template <int kCount, class Value>
FEWSTEP_HOST_DEVICE inline void end_row(const AttentionProblem& p, const AttentionTask& task,
                                        int row, int lane, const RunningSoftmax& softmax,
                                        const Value& value) {
  const int64_t n = task.n + token_of(p, task, row);
  const int32_t h = head_of(p, task, row);
  if (task.parts == 1) {
    finish_row<kCount>(p, n, h, lane, softmax.largest, softmax.sum, value);
    return;
  }
  float* to = partial_row(p, task.part, n, h);
  FEWSTEP_UNROLL
  for (int i = 0; i < kCount; ++i) {
    if (lane + 32 * i < p.D) to[lane + 32 * i] = value(i);
  }
  if (lane == 0) {
    to[p.D] = softmax.largest;
    to[p.D + 1] = softmax.sum;
  }
}

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
