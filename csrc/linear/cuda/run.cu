// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/math.h"
#include "linear/cuda/panel_fma.h"
#include "linear/cuda/panel_mma.h"
#include "linear/run.h"

// Mapping: a block has a panel of 32 outputs, with `up` two of them one after the other, and up to
// 32 rows. More rows are blocks of their own, which find the panel in the second cache.
//
// Requires: sizes as the layout says; packed and up at multiples of 16 bytes; rows of x, residual
// and out contiguous; bias and norm contiguous; nothing that is written overlaps, but out may be
// residual.
//
// Launches: one where x can be read as it is, else one more before it that prepares x.
namespace fewstep::linear::FEWSTEP_ISA {
namespace {

constexpr const char* kFunction = "fewstep_linear_run";

struct Layer {
  RunProblem p;
  Operand x;
  Weights gate, up;
};

FEWSTEP_HOST_DEVICE inline float silu(float x) { return x / (1.0f + vec::exp({0.0f - x}).v); }

// What follows the sums: bias, gate, residual, one rounding.
FEWSTEP_HOST_DEVICE inline void finish(const RunProblem& p, int64_t row, int64_t o, float sum,
                                       float up) {
  float value = sum;
  if (p.bias.data) value += gpu::load_one(at(p.bias, 0, o), p.bias.type);
  if (p.up) value = silu(value) * up;
  if (p.residual.data) value += gpu::load_one(at(p.residual, row, o), p.residual.type);
  gpu::store_one(at(p.out, row, o), p.out.type, value);
}

template <class Panel>
FEWSTEP_HOST_DEVICE inline void run_panel(const Layer& layer, const Block& block,
                                          Sums<Panel::kRows>& s) {
  constexpr int kRows = Panel::kRows;
  const RunProblem& p = layer.p;
  FEWSTEP_NO_UNROLL
  for (int i = 0; i < (p.up ? 2 : 1); ++i) {
    const Weights& weights = i == 0 ? layer.gate : layer.up;
    Panel::multiply(block, weights, layer.x, task_of<kRows>(weights, p.in.M, block.index), i, s);
  }
  const Task task = task_of<kRows>(layer.gate, p.in.M, block.index);
  const int64_t first = block.index / ceil_div(p.in.M, kRows) * kPanel;
  block.each_alone([&](int t) {
    for_own<kRows>(task, t, [&](int row, int o) {
      if (first + o >= p.O) return;
      finish(p, task.row + row, first + o, s.x[0][row][o], s.x[1][row][o]);
    });
  });
}

template <int kKind, int kTiles>
struct MmaKernel {
  static constexpr int kThreads = 256, kBlocks = 2;
  using Panel = MmaPanel<kKind, kTiles>;
  using Shared = Sums<Panel::kRows>;
  Layer layer;
  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    run_panel<Panel>(layer, block, s);
  }
};

template <int kKind>
struct FmaKernel {
  static constexpr int kThreads = 256, kBlocks = 2;
  using Panel = FmaPanel<kKind>;
  using Shared = Sums<Panel::kRows>;
  Layer layer;
  FEWSTEP_HOST_DEVICE void run(const Block& block, Shared& s) const {
    run_panel<Panel>(layer, block, s);
  }
};

struct Launch {
  const Layer& layer;

  template <class Kernel>
  void kernel() const {
    const RunProblem& p = layer.p;
    const int64_t blocks = ceil_div(p.O, kPanel) * ceil_div(p.in.M, Kernel::Panel::kRows);
    gpu::launch(kFunction, Kernel{layer}, blocks, p.cuda_stream);
  }
  template <int kKind>
  void mma() const {
    if (layer.p.in.M <= 8) return kernel<MmaKernel<kKind, 1>>();
    kernel<MmaKernel<kKind, kKind == 1 || kKind == 2 ? 4 : 2>>();  // as registers allow
  }
  template <int kKind>
  void fma() const {
    kernel<FmaKernel<kKind>>();
  }
};

}  // namespace

void run(const RunProblem& p) {
  const ActivationsProblem& in = p.in;
  const int64_t bytes = panel_bytes(in.kind, in.I, in.group);
  const Layer layer{p,
                    operand_of(kFunction, in, p.cuda_stream),
                    {in.I, in.group, bytes, p.packed},
                    {in.I, in.group, bytes, p.up}};
  with_products(in, Launch{layer});
}

}  // namespace fewstep::linear::FEWSTEP_ISA
