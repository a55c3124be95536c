// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/launch.h"
#include "core/cuda/pack.h"
#include "solver/step.h"

// Mapping: a block works on one sample, each of its threads on packs of 8 elements. A thread reads
// all of its pack's inputs before it writes, so that outputs may be inputs. Sums run over the terms
// in their order, with explicit fma, like the CPU's: the bits are the same.
//
// Two kernels: SumKernel where all samples share a row that only adds up tensors, with all it needs
// in its parameters; RowKernel for everything else, the row of a block's sample in shared memory.
// Requires: N contiguous; no tensor overlaps another.
namespace fewstep::solver::FEWSTEP_ISA {
namespace {

using gpu::kPack;
using gpu::RawPack;

// Terms whose loads are under way before the first is used: 8 accesses of 16 bytes per thread in
// float32, which with 4 blocks per multiprocessor keeps 64 KiB in flight there. Little's law asks
// for 28 KiB on an H200 (4.8 TB/s, 132 multiprocessors, about 800 ns).
constexpr int kTermsInFlight = 4;
// Their packs start as zeros: without, ptxas has to keep what a path did not load alive from the
// kernel's start on, which costs RowKernel 35 registers.

struct Tensor {
  char* data;
  int64_t stride;  // bytes
  DType dtype;
  bool wide;  // every sample's quads can be accessed whole
};

FEWSTEP_HOST_DEVICE inline Tensor tensor(const StepTensor& t) {
  return {t.data, t.stride, t.dtype, gpu::is_wide(t.data, t.stride, t.dtype)};
}

FEWSTEP_HOST_DEVICE inline char* at(const Tensor& t, int64_t b, int64_t n) {
  return t.data + b * t.stride + n * gpu::element_bytes(t.dtype);
}

FEWSTEP_HOST_DEVICE inline void load(const Tensor& t, int64_t b, int64_t n, int count, RawPack* x) {
  gpu::load_raw(at(t, b, n), t.dtype, t.wide, count, x);
}

// Copy c of sample b is row c * B + b.
FEWSTEP_HOST_DEVICE inline void store(const Tensor& t, int32_t copies, int64_t copy_stride,
                                      int64_t b, int64_t n, int count, const float x[kPack]) {
  const RawPack raw = gpu::narrow(t.dtype, x);
  char* p = at(t, b, n);
  FEWSTEP_NO_UNROLL
  for (int32_t c = 0; c < copies; ++c, p += copy_stride) {
    gpu::store_raw(p, t.dtype, t.wide, count, raw);
  }
}

template <int R>
FEWSTEP_HOST_DEVICE inline void add(const float* a, uint32_t outputs, const float x[kPack],
                                    float sum[R][kPack]) {
  for (int r = 0; r < R; ++r) {
    if (!(outputs >> r & 1u)) continue;
    for (int i = 0; i < kPack; ++i) sum[r][i] = fmaf(a[r], x[i], sum[r][i]);
  }
}

template <int R>
struct SumKernel {
  static constexpr int kThreads = 128, kBlocks = 4;
  static constexpr bool kPrepares = false;
  struct Shared {};

  struct Term {
    Tensor in;
    uint32_t outputs;
    float a[FEWSTEP_MAX_OUTPUTS];
  };
  struct Output {
    Tensor out;
    int32_t copies;
    int64_t copy_stride;
  };
  gpu::SampleGrid grid;
  int32_t K;
  Term term[kMaxTerms];
  Output output[R];

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread, Shared*) const {}

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared&) const {
    gpu::for_packs(grid, thread, kThreads, [this](int64_t b, int64_t n, int count) {
      float sum[R][kPack] = {};
      for (int32_t first = 0; first < K; first += kTermsInFlight) {
        RawPack raw[kTermsInFlight] = {};
        for (int j = 0; j < kTermsInFlight; ++j) {
          if (first + j < K) load(term[first + j].in, b, n, count, &raw[j]);
        }
        for (int j = 0; j < kTermsInFlight; ++j) {
          if (first + j >= K) break;
          const Term& t = term[first + j];
          float x[kPack];
          gpu::widen(raw[j], t.in.dtype, x);
          add<R>(t.a, t.outputs, x, sum);
        }
      }
      FEWSTEP_UNROLL
      for (int r = 0; r < R; ++r) {
        const Output& o = output[r];
        store(o.out, o.copies, o.copy_stride, b, n, count, sum[r]);
      }
    });
  }
};

constexpr int kMaxR = FEWSTEP_MAX_OUTPUTS;

// kGuided: weights of guidance come with the call.
template <bool kGuided>
struct RowKernel {
  static constexpr int kThreads = 128, kBlocks = 4;
  static constexpr bool kPrepares = true;
  struct Shared {
    bool active;
    ResolvedRow row;
    float clip, gain;  // of the block's sample, where the row clamps
  };

  StepProblem p;
  ResolvedRow shared_row;  // of every sample, where p.shared is given
  gpu::SampleGrid grid;

  FEWSTEP_HOST_DEVICE void prepare(gpu::Thread thread, Shared* s) const {
    const int64_t b = gpu::sample_of(grid, thread);
    const int32_t i = p.rows ? p.rows[b * p.row_stride] : p.row;
    const bool exists = i >= 0 && i < p.n_rows;
    if (thread.index == 0) s->active = exists;
    if (!exists) return;
    if constexpr (kGuided) {
      // Weights are known on the device alone, and one thread folds them into the coefficients.
      if (thread.index != 0) return;
      const float* gamma = p.guidance + b * p.guidance_stride;
      resolve(p.plan[i], {gamma, p.n_guidance, p.has_mask, p.has_model_input}, &s->row);
      s->active = (s->row.needed & ~p.given) == 0;
      set_clip(s->row.clip, b, s);
      return;
    }
    const ResolvedRow& row = p.shared ? shared_row : p.table[i];
    if (thread.index == 0) {
      s->active = (row.needed & ~p.given) == 0;
      set_clip(row.clip, b, s);
    }
    static_assert(sizeof(ResolvedRow) % 4 == 0);
    const gpu::Word* from = (const gpu::Word*)&row;
    gpu::Word* to = (gpu::Word*)&s->row;
    for (int k = thread.index; k < (int)(sizeof(ResolvedRow) / 4); k += kThreads) to[k] = from[k];
  }

  FEWSTEP_HOST_DEVICE void set_clip(float clip, int64_t b, Shared* s) const {
    s->clip = p.clip ? p.clip[b * p.clip_stride] : clip;
    s->gain = p.clip ? p.clip[b * p.clip_stride + 1] : 1.0f;
  }

  // What a pack's terms read that is not in memory.
  struct Made {
    float noise[FEWSTEP_MAX_NOISES][kPack];
    float converted[kPack];
  };

  FEWSTEP_HOST_DEVICE bool in_memory(int32_t operand) const {
    return operand < kNoise && operand != FEWSTEP_CONVERTED;
  }

  FEWSTEP_HOST_DEVICE Tensor find(int32_t operand) const {
    if (operand < FEWSTEP_GUIDED) return tensor(p.slots[operand]);
    if (operand == FEWSTEP_KNOWN) return tensor(p.known);
    return tensor(p.models[operand - FEWSTEP_MODEL]);
  }

  // Sums for outputs [r, r + R) of a list; kInFlight terms are read at a time.
  template <int R, int kInFlight>
  FEWSTEP_HOST_DEVICE void add_terms(const TermList& terms, int r, const Made& made, int64_t b,
                                     int64_t n, int count, float sum[R][kPack]) const {
    for (int32_t first = 0; first < terms.count; first += kInFlight) {
      RawPack raw[kInFlight] = {};
      for (int j = 0; j < kInFlight; ++j) {
        if (first + j >= terms.count) break;
        const int32_t operand = terms.operand[first + j];
        if (in_memory(operand)) load(find(operand), b, n, count, &raw[j]);
      }
      for (int j = 0; j < kInFlight; ++j) {
        if (first + j >= terms.count) break;
        const int32_t operand = terms.operand[first + j];
        float x[kPack];
        if (in_memory(operand)) {
          gpu::widen(raw[j], find(operand).dtype, x);
        } else {
          for (int i = 0; i < kPack; ++i) {  // by name: an index would put `made` into local memory
            x[i] = operand == FEWSTEP_CONVERTED ? made.converted[i]
                   : operand == kNoise          ? made.noise[0][i]
                   : operand == kNoise + 1      ? made.noise[1][i]
                                                : made.noise[2][i];
          }
        }
        add<R>(terms.a[first + j] + r, terms.outputs[first + j] >> r, x, sum);
      }
    }
  }

  FEWSTEP_HOST_DEVICE void make(const Shared& shared, int64_t b, int64_t n, int count,
                                Made* made) const {
    const ResolvedRow& row = shared.row;
    FEWSTEP_UNROLL
    for (int z = 0; z < FEWSTEP_MAX_NOISES; ++z) {
      if (z >= row.n_noises) break;
      const uint64_t seed = p.seeds[b * p.seed_stride];
      gpu::normals(seed, row.noise_step[z], row.noise_stream[z], n, made->noise[z]);
    }
    if (!row.clamped) return;
    float sum[1][kPack] = {};
    add_terms<1, kTermsInFlight>(row.converted, 0, *made, b, n, count, sum);
    for (int i = 0; i < kPack; ++i) {  // as the CPU: a NaN stays
      const float low = shared.clip < sum[0][i] ? shared.clip : sum[0][i];
      made->converted[i] = shared.gain * (-shared.clip > low ? -shared.clip : low);
    }
  }

  // One output at a time: 4 more sums per element would spill.
  FEWSTEP_HOST_DEVICE void blend(const ResolvedRow& row, const Made& made, int64_t b, int64_t n,
                                 int count, float sum[kMaxR][kPack]) const {
    RawPack raw{};  // the compiler cannot know that masks are float32
    float mask[kPack];
    load(tensor(p.mask), b, n, count, &raw);
    gpu::widen(raw, DType::kF32, mask);
    FEWSTEP_UNROLL
    for (int r = 0; r < kMaxR; ++r) {
      if (!(row.blended >> r & 1u)) continue;
      float kept[1][kPack] = {};
      add_terms<1, 2>(row.kept, r, made, b, n, count, kept);
      for (int i = 0; i < kPack; ++i) {
        const float rest = (1.0f - mask[i]) * kept[0][i];
        sum[r][i] = fmaf(mask[i], sum[r][i], rest);
      }
    }
  }

  FEWSTEP_HOST_DEVICE void run(gpu::Thread thread, const Shared& shared) const {
    if (!shared.active) return;
    const ResolvedRow& row = shared.row;
    gpu::for_packs(grid, thread, kThreads, [this, &row, &shared](int64_t b, int64_t n, int count) {
      Made made;
      make(shared, b, n, count, &made);
      float sum[kMaxR][kPack] = {};
      add_terms<kMaxR, kTermsInFlight>(row.terms, 0, made, b, n, count, sum);
      if (row.blended) blend(row, made, b, n, count, sum);
      FEWSTEP_UNROLL
      for (int r = 0; r < kMaxR; ++r) {
        if (r >= row.n_outputs) break;
        const bool is_input = row.output[r] == FEWSTEP_MODEL_INPUT;
        const Tensor out = is_input ? tensor(p.model_input) : find(row.output[r]);
        store(out, is_input ? p.input_copies : 1, p.B * p.model_input.stride, b, n, count, sum[r]);
      }
    });
  }
};

constexpr const char* kFunction = "fewstep_solver_step";

Tensor operand_tensor(const StepProblem& p, int32_t operand) {
  if (operand < FEWSTEP_GUIDED) return tensor(p.slots[operand]);
  if (operand == FEWSTEP_KNOWN) return tensor(p.known);
  if (operand == FEWSTEP_MODEL_INPUT) return tensor(p.model_input);
  return tensor(p.models[operand - FEWSTEP_MODEL]);
}

template <int R>
void launch_sum(const StepProblem& p) {
  const ResolvedRow& row = *p.shared;
  SumKernel<R> kernel;
  kernel.grid = gpu::sample_grid(p.B, p.N, SumKernel<R>::kThreads);
  kernel.K = row.terms.count;
  for (int32_t k = 0; k < kernel.K; ++k) {
    typename SumKernel<R>::Term& term = kernel.term[k];
    term.in = operand_tensor(p, row.terms.operand[k]);
    term.outputs = row.terms.outputs[k];
    for (int r = 0; r < FEWSTEP_MAX_OUTPUTS; ++r) term.a[r] = row.terms.a[k][r];
  }
  for (int r = 0; r < R; ++r) {
    const bool is_input = row.output[r] == FEWSTEP_MODEL_INPUT;
    kernel.output[r] = {operand_tensor(p, row.output[r]), is_input ? p.input_copies : 1,
                        p.B * p.model_input.stride};
  }
  gpu::launch(kFunction, kernel, kernel.grid.blocks, p.cuda_stream);
}

template <bool kGuided>
void launch_row(const StepProblem& p) {
  RowKernel<kGuided> kernel;
  kernel.p = p;
  if (p.shared) kernel.shared_row = *p.shared;
  kernel.grid = gpu::sample_grid(p.B, p.N, RowKernel<kGuided>::kThreads);
  gpu::launch(kFunction, kernel, kernel.grid.blocks, p.cuda_stream);
}

}  // namespace

void step(const StepProblem& p) {
  if (p.guidance) return launch_row<true>(p);
  if (!p.shared || p.shared->clamped || p.shared->blended || p.shared->n_noises > 0) {
    return launch_row<false>(p);
  }
  if (p.shared->n_outputs == 1) return launch_sum<1>(p);
  if (p.shared->n_outputs == 2) return launch_sum<2>(p);
  if (p.shared->n_outputs == 3) return launch_sum<3>(p);
  if (p.shared->n_outputs == 4) return launch_sum<4>(p);
}

}  // namespace fewstep::solver::FEWSTEP_ISA
