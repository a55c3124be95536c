// SPDX-License-Identifier: Apache-2.0
#include "tree/attention.h"

#include "core/cpu/parallel.h"
#include "tree/cpu/attention_packed.h"

// Requires: checked lengths, pages and shapes; the partial results' memory where a request has
// several parts.
//
// A task is a block of one KV head's rows (query rows times the heads that share it) against one
// part of the keys. It walks over tiles of keys: each is packed once and multiplied with all rows.
// Few rows are not worth packing, nor heads of their own: see attention_stream.h.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

// Where in `partial` request b starts, in rows.
struct Walk {
  int64_t b = 0, index = 0, partial_row = 0;
};

// Rows of a task, and how many tasks have rows of one head.
inline int64_t rows_in_task(const AttentionProblem& p, int64_t b) {
  const int64_t all = tokens_of(p, b) * p.ratio, tasks = blocks_of(p, b) * p.pieces;
  return all > 0 ? (all + tasks - 1) / tasks : 1;
}
inline int64_t tasks_of_head(const AttentionProblem& p, int64_t b) {
  const int64_t rows = rows_in_task(p, b);
  return (tokens_of(p, b) * p.ratio + rows - 1) / rows;
}

inline int64_t tasks_in(const AttentionProblem& p, int64_t b) {
  return parts_of(p, b) * p.G * tasks_of_head(p, b);
}

inline void next_request(const AttentionProblem& p, Walk* walk) {
  const int64_t parts = parts_of(p, walk->b);
  if (parts > 1) walk->partial_row += parts * tokens_of(p, walk->b) * p.H;
  ++walk->b;
}

// How many KV heads a task takes: of a stream those that lie side by side.
inline int heads_of(const AttentionProblem& p, int64_t rows) {
  const int64_t bytes = p.D * bytes_of(p.kv_type);
  if (!is_stream(p, rows) || p.k.head != bytes || p.v.head != bytes) return 1;
  if (p.draft == Draft::kSeparate && (p.draft_k.head != bytes || p.draft_v.head != bytes)) return 1;
  // Rows of halves take four times as much when they are spread.
  const int held = p.D > kMaxHeadDim / 2 && has_halves(p) ? kStreamRows / 2 : kStreamRows;
  return min_of(kStreamBlocks / blocks_in(int(rows)), held / int(max_of(rows, int64_t(1))));
}

// The task of index `index` of request b, joined with those behind it up to `end` that go well
// with it. Blocks of a head are neighbours, so that they find its keys in the cache, then heads.
inline Task task_at(const AttentionProblem& p, int64_t b, int64_t index, int64_t end) {
  const int64_t blocks = tasks_of_head(p, b), all = tokens_of(p, b) * p.ratio;
  const int64_t block = index % blocks, per_block = rows_in_task(p, b);
  Task task;
  task.b = b;
  task.part = index / blocks / p.G;
  task.g = int(index / blocks % p.G);
  const int heads = blocks > 1 ? 1 : min_of(heads_of(p, all), p.G - task.g);
  task.heads = int(min_of(int64_t(heads), end - index));
  task.first = int(block * per_block);
  task.rows = int(min_of(per_block, all - task.first));
  task.begin = task.part * p.part;
  task.end = min_of(task.begin + p.part, keys_of(p, b));
  return task;
}

// The first position that leaves the window of some row, and of every row, of a task.
struct Window {
  int64_t some = -1, every = -1;
};

Window window_of(const AttentionProblem& p, const Task& task) {
  Window w;
  if (p.window == 0) return w;
  const int64_t first = task.first / p.ratio, last = (task.first + task.rows - 1) / p.ratio;
  for (int64_t t = first; t <= last; ++t) {
    const int64_t left = prefix_of(p, task.b) + depth_of(p, task.b, t) - p.window;
    if (t == first || left > w.some) w.some = left;
    if (t == first || left < w.every) w.every = left;
  }
  return w;
}

void finish_task(const AttentionProblem& p, const Task& task, int64_t partial_row,
                 const Scratch& s) {
  const int64_t tokens = tokens_of(p, task.b);
  const bool whole = parts_of(p, task.b) == 1;
  for (int i = 0; i < task.heads * task.rows; ++i) {
    const int row = task.first + i % task.rows;
    const int64_t t = row / p.ratio;
    const int h = (task.g + i / task.rows) * p.ratio + row % p.ratio;
    const float* values = s.out + int64_t(i) * p.D;
    const float sum = total_of(s.sums[i]);
    if (whole) {
      finish_row(p, first_of(p, task.b) + t, h, values, s.largest[i], sum);
      continue;
    }
    const int64_t part_row = partial_row + (task.part * tokens + t) * p.H + h;
    float* to = p.partial + part_row * partial_floats(p);
    memcpy(to, values, sizeof(float) * size_t(p.D));
    to[p.D] = s.largest[i];
    to[p.D + 1] = sum;
  }
}

void begin_rows(const AttentionProblem& p, int rows, Scratch& s) {
  for (int64_t i = 0; i < int64_t(rows) * p.D; ++i) s.out[i] = 0.0f;
  for (int r = 0; r < rows; ++r) {
    s.largest[r] = minus_infinity();
    for (int i = 0; i < kStrands; ++i) s.sums[r][i] = 0.0f;
  }
  s.run.scale = p.scale;
  s.run.softcap = p.softcap;
}

// Finds the rows that are asked for while the tile that ends at `behind` is worked on: those of the
// tile behind it; after a task's last tile, what the next task begins with, maybe at `first` too.
void find_next(const AttentionProblem& p, const Task& task, int64_t first, int64_t behind,
               TileRows* next) {
  int g = task.g;
  if (behind == task.end) {
    const bool is_last = task.first + task.rows == tokens_of(p, task.b) * p.ratio;
    if (is_last) g = (g + task.heads) % p.G;
    if (!is_last || g > 0) behind = first;
  }
  next->count = int(min_of(int64_t(kTileKeys), keys_of(p, task.b) - behind));
  if (next->count > 0) find_rows(p, task.b, g, behind, next);
}

void do_task(const AttentionProblem& p, const Task& task, int64_t partial_row, Scratch& s) {
  begin_rows(p, task.heads * task.rows, s);
  find_queries(p, task, s);
  const int64_t drafted = p.draft == Draft::kNone ? task.end : prefix_of(p, task.b);
  const Window window = window_of(p, task);
  const bool stream = is_stream(p, task.rows);
  if (stream) find_blocks(p, task, s);
#if defined(__AVX512BF16__)
  const bool columns = has_columns(p, task.rows);
  if (columns) begin_columns(p, task, s);
#else
  constexpr bool columns = false;
#endif
  const int blocks = (task.rows + kRegisterRows - 1) / kRegisterRows;
  const int units = p.prefetched ? blocks * int(rounded_up(p.D, kPanel) / kPanel) : 0;
  int64_t begin = task.begin;
  // Tiles keep their places, so a row's bits do not depend on which rows skip one.
  while (begin < task.end && begin + kTileKeys - 1 <= min_of(window.every, drafted - 1)) {
    begin += kTileKeys;
  }
  const int64_t first = begin;
  TileRows *tile = &s.rows[0], *next = &s.rows[1];
  tile->count = int(min_of(int64_t(kTileKeys), max_of(task.end - begin, int64_t(0))));
  if (tile->count > 0) find_rows(p, task.b, task.g, begin, tile);
  for (; begin < task.end; begin += kTileKeys) {
    const int64_t behind = begin + tile->count;
    find_next(p, task, first, behind, next);
    s.run.masked = behind > drafted || begin <= window.some;
    if (stream || columns) append_rows(tile, *next);
    if (stream) {
      do_any_stream(p, task, *tile, begin, s);
    } else {
      s.ahead = {next->k, next->v, next->count, p.D * bytes_of(p.kv_type), units};
      do_any_tile(p, task, *tile, begin, s);
      s.ahead.finish();
    }
    TileRows* done = tile;
    tile = next;
    next = done;
  }
  if (columns || (stream && (takes_pairs(p) || has_halves(p)))) {
    for (int i = 0; i < task.heads * task.rows; ++i) reorder_row(s.out + int64_t(i) * p.D, p.D);
  }
#if defined(__AVX512BF16__)
  if (columns) end_columns(task, s);
#endif
  finish_task(p, task, partial_row, s);
}

void do_tasks(void* context, int64_t begin, int64_t end) {
  const AttentionProblem& p = *static_cast<const AttentionProblem*>(context);
  Scratch s;
  Walk walk;
  for (int64_t i = begin; i < end;) {
    while (i - walk.index >= tasks_in(p, walk.b)) {
      walk.index += tasks_in(p, walk.b);
      next_request(p, &walk);
    }
    const Task task = task_at(p, walk.b, i - walk.index, end - walk.index);
    do_task(p, task, walk.partial_row, s);
    i += task.heads;
  }
}

// Joins the parts of one row in their order.
void join_row(const AttentionProblem& p, int64_t b, int64_t t, int h, int64_t partial_row) {
  const int64_t parts = parts_of(p, b), pitch = tokens_of(p, b) * p.H * partial_floats(p);
  const float* first = p.partial + (partial_row + t * p.H + h) * partial_floats(p);
  float largest = minus_infinity();
  for (int64_t i = 0; i < parts; ++i) {
    const float top = first[i * pitch + p.D];
    if (!(top <= largest)) largest = top;
  }
  const float base = largest == minus_infinity() ? 0.0f : largest;
  alignas(64) float values[kMaxHeadDim];
  for (int d = 0; d < p.D; ++d) values[d] = 0.0f;
  float sum = 0.0f;
  for (int64_t i = 0; i < parts; ++i) {
    const float* part = first + i * pitch;
    const float weight = vec::exp_of(part[p.D] - base);
    sum += weight * part[p.D + 1];
    for (int d = 0; d < p.D; d += kLanes) {
      vec::store(values + d,
                 vec::fma(vec::load(part + d), vec::set(weight), vec::load(values + d)));
    }
  }
  finish_row(p, first_of(p, b) + t, h, values, largest, sum);
}

// Over all rows [N * H]; those of requests in one part are done already.
void join_parts(void* context, int64_t begin, int64_t end) {
  const AttentionProblem& p = *static_cast<const AttentionProblem*>(context);
  Walk walk;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / p.H;
    while (n >= first_of(p, walk.b + 1)) next_request(p, &walk);
    if (parts_of(p, walk.b) == 1) continue;
    join_row(p, walk.b, n - first_of(p, walk.b), int(i % p.H), walk.partial_row);
  }
}

}  // namespace

void attention(const AttentionProblem& problem) {
  AttentionProblem p = problem;
  p.pieces = 1;
  int64_t tasks = 0;
  bool split = false, streams = false;
  double work = 0.0;  // nanoseconds, roughly
  for (int64_t b = 0; b < p.B; ++b) {
    tasks += tasks_in(p, b);
    split = split || (parts_of(p, b) > 1 && tokens_of(p, b) > 0);
    const int64_t rows = tokens_of(p, b) * p.ratio;
    if (rows == 0) continue;
    streams = streams || is_stream(p, rows);
    work += double(keys_of(p, b) * p.G * p.D) * (0.2 + 0.04 * double(rows));
  }
  if (tasks == 0) return;
  const int64_t threads = threads_for(p.threads);
  if (tasks < threads) {
    p.pieces = int32_t((threads + tasks - 1) / tasks);
    tasks = 0;
    for (int64_t b = 0; b < p.B; ++b) tasks += tasks_in(p, b);
  }
  constexpr double kShare = 2e4;  // what is worth a thread
  const int64_t grain = max_of(1, int64_t(kShare / (work + 1.0) * double(tasks)));
  // A stream joins a range's heads. The last part's tasks are short: with one task a range the
  // threads still end together.
  parallel_for(p.threads, tasks, grain, &do_tasks, &p, streams ? kFewRanges : kRangeEach);
  if (split) parallel_for(p.threads, p.N * p.H, 256, &join_parts, &p);
}

}  // namespace fewstep::tree::FEWSTEP_ISA
