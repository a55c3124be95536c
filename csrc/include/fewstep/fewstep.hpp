// SPDX-License-Identifier: Apache-2.0
#ifndef FEWSTEP_HPP_
#define FEWSTEP_HPP_

// The C++20 face of fewstep.h: owners instead of create and destroy pairs, exceptions instead of
// statuses. Header only; links nothing but libfewstep.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "fewstep.h"

namespace fewstep {

// A failed call: what() is the library's message, status() its kind.
class error : public std::runtime_error {
 public:
  error(fewstep_status status, const char* text) : std::runtime_error(text), status_(status) {}
  fewstep_status status() const noexcept { return status_; }

 private:
  fewstep_status status_;
};

inline void check(fewstep_status status) {
  if (status != FEWSTEP_OK) [[unlikely]] {
    throw error(status, fewstep_last_error());
  }
}

inline const char* version() { return fewstep_version(); }
inline int num_threads() { return fewstep_num_threads(); }
inline void set_num_threads(int threads) { check(fewstep_set_num_threads(threads)); }
inline std::string cpu_isa() {
  const char* name = nullptr;
  check(fewstep_cpu_isa(&name));
  return name;
}

// Where ops run. Calls without one use the CPU with the process-wide thread count.
class Context {
 public:
  static Context cpu(int threads = 0) {
    Context context(1, 0);
    context.set_num_threads(threads);
    return context;
  }
  static Context cuda(int device, void* stream = nullptr) {
    Context context(2, device);
    context.set_stream(stream);
    return context;
  }

  void set_stream(void* stream) { check(fewstep_context_set_stream(get(), stream)); }
  void set_num_threads(int threads) { check(fewstep_context_set_num_threads(get(), threads)); }
  fewstep_context* get() const noexcept { return owner_.get(); }

 private:
  Context(int32_t device_type, int32_t device_id) {
    fewstep_context* made = nullptr;
    check(fewstep_context_create(device_type, device_id, &made));
    owner_.reset(made);
  }
  struct Destroy {
    void operator()(fewstep_context* c) const noexcept { fewstep_context_destroy(c); }
  };
  std::unique_ptr<fewstep_context, Destroy> owner_;
};

// Element types that C++20 has no built-in for; converting the bits is the host's affair.
struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};
struct float8_e4m3fn {
  uint8_t bits;
};

namespace detail {

struct ElementType {
  uint8_t code, bits;  // as in DLPack; no bits: not an element type
};

template <class T>
consteval ElementType element_type() {
  if (std::is_same_v<T, float>) return {2, 32};
  if (std::is_same_v<T, float16>) return {2, 16};
  if (std::is_same_v<T, bfloat16>) return {4, 16};
  if (std::is_same_v<T, float8_e4m3fn>) return {10, 8};
  if (std::is_same_v<T, int8_t>) return {0, 8};
  if (std::is_same_v<T, uint8_t>) return {1, 8};
  if (std::is_same_v<T, int32_t>) return {0, 32};
  if (std::is_same_v<T, int64_t>) return {0, 64};
  if (std::is_same_v<T, uint64_t>) return {1, 64};
  return {0, 0};
}

}  // namespace detail

// A type a tensor may hold; const where the call only reads it.
template <class T>
concept Element = detail::element_type<std::remove_const_t<T>>().bits != 0;

// A borrowed tensor: a pointer with a shape and, where rows are apart, strides in elements. It owns
// the shape and not the data, and can be copied. A call's contract says which tensors it writes.
class TensorRef {
 public:
  static constexpr size_t kMaxDims = 8;

  template <Element T>
  TensorRef(T* data, std::initializer_list<int64_t> shape,
            std::initializer_list<int64_t> strides = {})
      : data_(const_cast<std::remove_const_t<T>*>(data)),
        type_(detail::element_type<std::remove_const_t<T>>()),
        ndim_(int32_t(shape.size())),
        has_strides_(strides.size() > 0) {
    if (shape.size() > kMaxDims || (has_strides_ && strides.size() != shape.size())) {
      throw error(
          FEWSTEP_INVALID_ARGUMENT,
          "fewstep::TensorRef: 'shape' must have at most 8 dimensions and 'strides' none or "
          "as many");
    }
    size_t i = 0;
    for (int64_t size : shape) shape_[i++] = size;
    i = 0;
    for (int64_t stride : strides) strides_[i++] = stride;
  }

  // A contiguous container as [size].
  template <Element T>
  TensorRef(std::span<T> values) : TensorRef(values.data(), {int64_t(values.size())}) {}
  template <Element T>
  TensorRef(const std::vector<T>& values) : TensorRef(values.data(), {int64_t(values.size())}) {}

  TensorRef& on(int32_t device_type, int32_t device_id) {
    device_type_ = device_type;
    device_id_ = device_id;
    return *this;
  }

  // Valid while this object lives and does not move.
  fewstep_tensor view() const noexcept {
    fewstep_tensor t{};
    t.data = data_;
    t.device.device_type = static_cast<decltype(t.device.device_type)>(device_type_);
    t.device.device_id = device_id_;
    t.ndim = ndim_;
    t.dtype.code = type_.code;
    t.dtype.bits = type_.bits;
    t.dtype.lanes = 1;
    t.shape = const_cast<int64_t*>(shape_.data());
    t.strides = has_strides_ ? const_cast<int64_t*>(strides_.data()) : nullptr;
    return t;
  }

 private:
  void* data_;
  detail::ElementType type_;
  int32_t device_type_ = 1;
  int32_t device_id_ = 0;
  int32_t ndim_;
  bool has_strides_;
  std::array<int64_t, kMaxDims> shape_{};
  std::array<int64_t, kMaxDims> strides_{};
};

// The library's defaults, to be changed field by field.
inline fewstep_schedule_params schedule_params() { return FEWSTEP_SCHEDULE_PARAMS_INIT; }
inline fewstep_plan_params plan_params() { return FEWSTEP_PLAN_PARAMS_INIT; }

// Nodes from noise to data; immutable.
class Schedule {
 public:
  Schedule(const char* name, int steps, const fewstep_schedule_params& params = schedule_params()) {
    fewstep_schedule* made = nullptr;
    check(fewstep_schedule_create(name, steps, &params, &made));
    owner_.reset(made);
  }
  int steps() const { return fewstep_schedule_steps(get()); }
  int process() const { return fewstep_schedule_process(get()); }
  fewstep_node node(int i) const {
    fewstep_node out{};
    check(fewstep_schedule_node(get(), i, &out));
    return out;
  }
  const fewstep_schedule* get() const noexcept { return owner_.get(); }

 private:
  struct Destroy {
    void operator()(fewstep_schedule* s) const noexcept { fewstep_schedule_destroy(s); }
  };
  std::unique_ptr<fewstep_schedule, Destroy> owner_;
};

// An immutable table of rows. Copies share it.
class Plan {
 public:
  Plan(const char* solver, const Schedule& schedule,
       const fewstep_plan_params& params = plan_params())
      : Plan([&](fewstep_plan** out) {
          return fewstep_plan_create(solver, schedule.get(), &params, out);
        }) {}

  static Plan from_rows(std::span<const fewstep_plan_row> rows, const char* name) {
    return Plan([&](fewstep_plan** out) {
      return fewstep_plan_from_rows(rows.data(), int32_t(rows.size()), name, out);
    });
  }
  // a is [stages, stages], strictly lower triangular; b is [stages].
  static Plan from_tableau(std::span<const double> a, std::span<const double> b, int order,
                           fewstep_frame frame, const Schedule& schedule,
                           const fewstep_plan_params& params = plan_params()) {
    if (a.size() != b.size() * b.size()) {
      throw error(FEWSTEP_INVALID_ARGUMENT,
                  "fewstep::Plan::from_tableau: 'a' must have as many rows and columns as 'b'");
    }
    return Plan([&](fewstep_plan** out) {
      return fewstep_plan_from_tableau(a.data(), b.data(), int32_t(b.size()), order, frame,
                                       schedule.get(), &params, out);
    });
  }
  static Plan concat(std::span<const Plan> plans) {
    std::vector<const fewstep_plan*> handles;
    for (const Plan& plan : plans) handles.push_back(plan.get());
    return Plan([&](fewstep_plan** out) {
      return fewstep_plan_concat(handles.data(), int32_t(handles.size()), out);
    });
  }
  static Plan from_json(std::string_view text) {
    return Plan(
        [&](fewstep_plan** out) { return fewstep_plan_from_json(text.data(), text.size(), out); });
  }

  // The one row that places a sample at the model call of `row`.
  Plan start(int row = 0, bool with_known = false) const {
    return Plan([&](fewstep_plan** out) {
      return fewstep_plan_start(get(), row, with_known ? 1 : 0, out);
    });
  }
  // weights is [rows() or 1, n_guidance], over the raw model outputs.
  Plan with_guidance(std::span<const double> weights, int n_guidance) const {
    const int32_t n_rows = n_guidance > 0 ? int32_t(weights.size()) / n_guidance : 0;
    return Plan([&](fewstep_plan** out) {
      return fewstep_plan_with_guidance(get(), weights.data(), n_rows, n_guidance, out);
    });
  }

  int rows() const { return fewstep_plan_rows(get()); }
  int slots() const { return fewstep_plan_slots(get()); }
  int calls() const { return fewstep_plan_calls(get()); }
  std::string name() const { return fewstep_plan_name(get()); }
  fewstep_plan_row row(int i) const {
    fewstep_plan_row out{};
    check(fewstep_plan_row_at(get(), i, &out));
    return out;
  }
  // The largest relative residual of the moment conditions; throws when a row breaks one.
  // Before a step whose rows or weights are on the context's device; see fewstep_plan_prepare.
  void prepare(const Context& context) const { check(fewstep_plan_prepare(get(), context.get())); }
  double validate() const {
    double residual = 0;
    check(fewstep_plan_validate(get(), &residual));
    return residual;
  }
  std::string to_json() const {
    size_t needed = 0;
    check(fewstep_plan_to_json(get(), nullptr, 0, &needed));
    std::string text(needed, '\0');
    check(fewstep_plan_to_json(get(), text.data(), text.size(), &needed));
    text.resize(needed > 0 ? needed - 1 : 0);
    return text;
  }
  uint64_t hash() const { return fewstep_plan_hash(get()); }
  friend bool operator==(const Plan& a, const Plan& b) {
    return fewstep_plan_equal(a.get(), b.get()) != 0;
  }
  const fewstep_plan* get() const noexcept { return owner_.get(); }

 private:
  template <class Make>
    requires std::is_invocable_r_v<fewstep_status, Make, fewstep_plan**>
  explicit Plan(Make&& make) {
    fewstep_plan* made = nullptr;
    check(make(&made));
    owner_.reset(made, fewstep_plan_destroy);
  }
  std::shared_ptr<const fewstep_plan> owner_;
};

namespace noise {

struct NormalParams {
  uint32_t step = 0;
  uint32_t stream = FEWSTEP_STREAM_STEP;
  float scale = 1.0f;
};

// out[b] = scale times the normals of seeds[b]; seeds [B], out [B, N...].
inline void normal(const TensorRef& seeds, const TensorRef& out, const NormalParams& params = {},
                   const Context* context = nullptr) {
  const fewstep_tensor seeds_view = seeds.view();
  const fewstep_tensor out_view = out.view();
  const fewstep_noise_normal_params c_params = {sizeof c_params, params.step, params.stream,
                                                params.scale};
  check(
      fewstep_noise_normal(context ? context->get() : nullptr, &seeds_view, &c_params, &out_view));
}

// Increments from params.start to params.stop for every sample; fewstep_noise_brownian takes times
// of each sample.
inline fewstep_noise_brownian_params brownian_params() {
  return FEWSTEP_NOISE_BROWNIAN_PARAMS_INIT;
}
inline void brownian(const TensorRef& seeds, const TensorRef& out,
                     const fewstep_noise_brownian_params& params,
                     const Context* context = nullptr) {
  const fewstep_tensor seeds_view = seeds.view();
  const fewstep_tensor out_view = out.view();
  check(fewstep_noise_brownian(context ? context->get() : nullptr, &seeds_view, nullptr, nullptr,
                               &params, &out_view));
}

}  // namespace noise

namespace solver {

// Tensors of a step, as in fewstep_solver_step_args; null where the rows need none.
struct StepArgs {
  int row = 0;
  std::span<const TensorRef> slots;
  std::span<const TensorRef> models = {};
  const TensorRef* rows = nullptr;
  const TensorRef* seeds = nullptr;
  const TensorRef* guidance = nullptr;
  const TensorRef* known = nullptr;
  const TensorRef* mask = nullptr;
  const TensorRef* model_input = nullptr;
  const TensorRef* clip = nullptr;
};

// Advances every sample by one row of the plan, in place. Allocates nothing.
inline void step(const Plan& plan, const StepArgs& args, const Context* context = nullptr) {
  if (args.slots.size() > FEWSTEP_MAX_SLOTS || args.models.size() > FEWSTEP_MAX_GUIDANCE) {
    throw error(FEWSTEP_INVALID_ARGUMENT,
                "fewstep::solver::step: 'slots' must be at most 16 and 'models' at most 4");
  }
  constexpr size_t kOptional = 7;
  std::array<fewstep_tensor, FEWSTEP_MAX_SLOTS + FEWSTEP_MAX_GUIDANCE + kOptional> views;
  size_t count = 0;
  const auto keep = [&](const TensorRef* t) -> const fewstep_tensor* {
    if (!t) return nullptr;
    views[count] = t->view();
    return &views[count++];
  };
  fewstep_solver_step_args c_args = FEWSTEP_SOLVER_STEP_ARGS_INIT;
  c_args.row = args.row;
  c_args.n_slots = int32_t(args.slots.size());
  c_args.n_models = int32_t(args.models.size());
  for (size_t i = 0; i < args.slots.size(); ++i) c_args.slots[i] = keep(&args.slots[i]);
  for (size_t i = 0; i < args.models.size(); ++i) c_args.models[i] = keep(&args.models[i]);
  c_args.rows = keep(args.rows);
  c_args.seeds = keep(args.seeds);
  c_args.guidance = keep(args.guidance);
  c_args.known = keep(args.known);
  c_args.mask = keep(args.mask);
  c_args.model_input = keep(args.model_input);
  c_args.clip = keep(args.clip);
  check(fewstep_solver_step(context ? context->get() : nullptr, plan.get(), &c_args));
}

}  // namespace solver
}  // namespace fewstep

template <>
struct std::hash<fewstep::Plan> {
  size_t operator()(const fewstep::Plan& plan) const noexcept { return size_t(plan.hash()); }
};

#endif
