// SPDX-License-Identifier: Apache-2.0
#include "linear/run.h"

#include "core/cpu/exp.h"
#include "core/cpu/parallel.h"
#include "linear/cpu/prepare.h"

// A thread takes panels of 32 outputs times up to 70 rows. It reads a panel's weights from memory
// once, a block of inputs at a time, while they are multiplied with the rows tile by tile. More
// than 70 rows are done one part after the other: what a part needs of x stays in the second cache,
// and reading the weights again takes a tenth of the products' time. With `up`, a block of its
// panel follows that of the gate's.
//
// Requires: sizes as the layout says; rows of x, residual and out contiguous; bias and norm
// contiguous; nothing that is written overlaps, but out may be residual.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

struct Work {
  const RunProblem* p;
  Weights gate, up;
  Activations x;
  Tiles tiles;
  int64_t panels, held;  // held: tiles of a part of the rows
};

inline vec::F32 silu(vec::F32 x) {
  return vec::div(x, vec::add(vec::set(1.0f), vec::exp(vec::sub(vec::set(0.0f), x))));
}

// n values of `rows` at `row`, output `first`, into a run of a panel.
inline void read_outputs(const Rows& rows, int64_t row, int64_t first, int64_t n, float* out) {
  widen(rows.type, rows.data + row * rows.stride_bytes + first * bytes_of(rows.type), n, out);
}

// What follows the sums: bias, gate, residual, one rounding.
inline void finish(const Work& work, int64_t panel, int64_t row, int64_t rows, float* sums,
                   const float* up) {
  const RunProblem& p = *work.p;
  const int64_t first = panel * kPanel;
  const int64_t n = p.O - first < kPanel ? p.O - first : kPanel;
  float bias[kPanel] = {}, residual[kPanel] = {};
  if (p.bias.data) read_outputs(p.bias, 0, first, n, bias);
  for (int64_t r = 0; r < rows; ++r) {
    float* y = sums + r * kPanel;
    if (p.residual.data) read_outputs(p.residual, row + r, first, n, residual);
    for (int o = 0; o < kPanel; o += vec::kLanes) {
      vec::F32 value = vec::load(y + o);
      if (p.bias.data) value = vec::add(value, vec::load(bias + o));
      if (up) value = vec::mul(silu(value), vec::load(up + r * kPanel + o));
      if (p.residual.data) value = vec::add(value, vec::load(residual + o));
      vec::store(y + o, value);
    }
    narrow(p.out.type, y, n,
           p.out.data + (row + r) * p.out.stride_bytes + first * bytes_of(p.out.type));
  }
}

// As panel_sums twice, block by block in turn: two streams of weights and one of activations.
void gated_sums(const Work& work, int64_t panel, int64_t begin, int64_t end, float* sums,
                float* up_sums) {
  if (work.tiles.count == 1 && work.x.rows <= light_rows(work.gate.kind)) {
    panel_sums(work.gate, panel, work.x, work.tiles, begin, end, sums);
    return panel_sums(work.up, panel, work.x, work.tiles, begin, end, up_sums);
  }
  const int64_t bytes = panel_bytes(work.gate.kind, work.gate.inputs, work.gate.group);
  const char* gate = work.gate.data + panel * bytes;
  const char* up = work.up.data + panel * bytes;
  const int64_t rows = work.tiles.begin(end) - work.tiles.begin(begin);
  memset(sums, 0, (size_t)(rows * kPanel) * sizeof(float));
  memset(up_sums, 0, (size_t)(rows * kPanel) * sizeof(float));
  int64_t here = input_offset(work.gate.kind, 0, work.gate.group);
  for (int64_t n = 0; n * kBlock < work.gate.inputs; ++n) {
    const int64_t next = block_end(work.gate, n);
    add_block(work.gate, gate, n, work.x, work.tiles, begin, end, up + here, sums);
    add_block(work.up, up, n, work.x, work.tiles, begin, end, gate + next, up_sums);
    here = next;
  }
  scale_sums(work.gate, gate, rows, sums);
  scale_sums(work.up, up, rows, up_sums);
}

// Item i is panel i % panels with the i / panels-th part of the rows.
void run_items(void* context, int64_t begin, int64_t end) {
  const Work& work = *static_cast<const Work*>(context);
  const bool gated = work.p->up != nullptr;
  alignas(64) float sums[kHeldRows * kPanel];
  alignas(64) float up_sums[kHeldRows * kPanel];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t panel = item % work.panels, t = item / work.panels * work.held;
    const int64_t stop = t + work.held < work.tiles.count ? t + work.held : work.tiles.count;
    const int64_t row = work.tiles.begin(t), rows = work.tiles.begin(stop) - row;
    if (gated) {
      gated_sums(work, panel, t, stop, sums, up_sums);
    } else {
      panel_sums(work.gate, panel, work.x, work.tiles, t, stop, sums);
    }
    finish(work, panel, row, rows, sums, gated ? up_sums : nullptr);
  }
}

}  // namespace

void run(const RunProblem& p) {
  const ActivationsProblem& in = p.in;
  const Tiles tiles = tiles_of(in.M, in.kind);
  Work work{&p,
            {in.kind, in.group, in.I, p.packed},
            {in.kind, in.group, in.I, p.up},
            prepare(in, tiles, p.threads),
            tiles,
            ceil_div(p.O, kPanel),
            0};
  const int64_t parts = ceil_div(tiles.count, held_tiles(in.kind));
  work.held = ceil_div(tiles.count, parts);
  // A thread's share takes 10 us or more: 256 KiB of weights with one row, less with more.
  const int64_t cost =
      panel_bytes(in.kind, in.I, in.group) * (p.up ? 2 : 1) * (4 + in.M / parts) / 5;
  parallel_for(p.threads, work.panels * parts, 1 + (1 << 18) / cost, &run_items, &work);
}

}  // namespace fewstep::linear::FEWSTEP_ISA
