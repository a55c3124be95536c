// SPDX-License-Identifier: Apache-2.0
#include "py_plan.h"
#include "py_tensor.h"

namespace py = pybind11;

namespace fewstep::python {
namespace {

constexpr const char* kFunction = "fewstep_solver_step";
constexpr int kMaxDims = 32;

// From here on other Python threads run during the op, and always on CUDA, where a launch waits
// when many are queued. Giving the GIL up and taking it back costs 40 ns; 16 k elements take a
// microsecond.
constexpr int64_t kReleaseElements = 16384;

// The arguments of one call, borrowed. Tensors are borrowed only where they are given.
struct StepCall {
  CallStream stream;
  fewstep_solver_step_args args = FEWSTEP_SOLVER_STEP_ARGS_INIT;
  int32_t slots = 0, models = 0;
  // Storage for borrowed tensors, in the order of use; slots of an arena share one.
  Borrowed held[FEWSTEP_MAX_SLOTS + FEWSTEP_MAX_GUIDANCE + 7];
  int n_held = 0;
  fewstep_tensor arena[FEWSTEP_MAX_SLOTS];
  int64_t arena_strides[kMaxDims];

  template <size_t n>
  explicit StepCall(const py::handle (&arguments)[n]) : stream(arguments) {}

  const fewstep_tensor* borrow(py::handle object, const char* name, Borrowed::Access access) {
    Borrowed& b = held[n_held++];
    b.borrow(object, kFunction, name, access, &stream);
    return b.get();
  }
  const fewstep_tensor* optional(py::handle object, const char* name,
                                 Borrowed::Access access = Borrowed::kRead) {
    return object.is_none() ? nullptr : borrow(object, name, access);
  }
};

[[noreturn]] void fail(const char* name, const std::string& must, const std::string& got) {
  throw py::value_error(std::string(kFunction) + ": '" + name + "' " + must + ", got " + got);
}

// Items of a list or tuple without a copy; the size is that of the moment.
struct Items {
  explicit Items(py::handle object)
      : sequence(object.ptr()), size(PySequence_Fast_GET_SIZE(sequence)) {}
  py::handle operator[](Py_ssize_t i) const { return PySequence_Fast_GET_ITEM(sequence, i); }
  static bool check(py::handle object) {
    return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
  }
  PyObject* sequence;
  Py_ssize_t size;
};

// [S, B, ...] as S tensors [B, ...].
void split_arena(py::handle state, StepCall* call) {
  const fewstep_tensor& t = *call->borrow(state, "state", Borrowed::kWrite);
  if (t.ndim < 2 || t.ndim > kMaxDims || t.shape[0] < 1 || t.shape[0] > FEWSTEP_MAX_SLOTS) {
    std::string shape = "[";
    for (int i = 0; i < t.ndim; ++i) shape += (i ? ", " : "") + std::to_string(t.shape[i]);
    fail("state", "must have shape [S, B, ...] with 1 to 16 slots S", shape + "]");
  }
  const int64_t* strides = t.strides;
  int64_t pitch = 1;  // elements between slots
  if (strides) {
    pitch = strides[0];
  } else {
    for (int i = 1; i < t.ndim; ++i) pitch *= t.shape[i];
  }
  const int64_t slot_bytes = pitch * (t.dtype.bits / 8);
  call->args.n_slots = int32_t(t.shape[0]);
  for (int i = 0; i < call->args.n_slots; ++i) {
    fewstep_tensor& slot = call->arena[i];
    slot = t;
    if (slot.data) slot.data = static_cast<char*>(slot.data) + i * slot_bytes;
    slot.ndim = t.ndim - 1;
    slot.shape = t.shape + 1;
    slot.strides = strides ? t.strides + 1 : nullptr;
    call->args.slots[i] = &slot;
  }
}

void borrow_state(py::handle state, StepCall* call) {
  if (!Items::check(state)) return split_arena(state, call);
  const Items items(state);
  if (items.size < 1 || items.size > FEWSTEP_MAX_SLOTS) {
    fail("state", "must hold 1 to 16 slots", std::to_string(items.size));
  }
  call->args.n_slots = int32_t(items.size);
  for (int i = 0; i < items.size; ++i) {
    call->args.slots[i] = call->optional(items[i], "state", Borrowed::kWrite);
  }
}

void borrow_models(py::handle output, StepCall* call) {
  if (output.is_none()) return;
  if (!Items::check(output)) {
    call->args.models[0] = call->borrow(output, "model_output", Borrowed::kRead);
    call->args.n_models = 1;
    return;
  }
  const Items items(output);
  if (items.size > FEWSTEP_MAX_GUIDANCE) {
    fail("model_output", "must hold at most 4 arrays", std::to_string(items.size));
  }
  call->args.n_models = int32_t(items.size);
  for (int i = 0; i < items.size; ++i) {
    call->args.models[i] = call->borrow(items[i], "model_output", Borrowed::kRead);
  }
}

void set_row(py::handle row, StepCall* call) {
  PyObject* object = row.ptr();
  const bool is_array = !PyLong_Check(object) && py::hasattr(row, "__dlpack__");
  if (is_array) {
    call->args.rows = call->borrow(row, "row", Borrowed::kRead);
    return;
  }
  const Py_ssize_t value = PyNumber_AsSsize_t(object, nullptr);  // clips, so a huge row is refused
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  call->args.row = value < -1 ? -1 : value > INT32_MAX ? INT32_MAX : int32_t(value);
}

int64_t elements(const fewstep_tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.ndim; ++i) n *= t.shape[i];
  return n;
}

// Without the GIL: the text of an error is the thread's own.
fewstep_status run(const fewstep_context* ctx, const PyPlan& plan, StepCall* call) {
  // On CUDA the table of a plan is looked up there when each sample has its own row or weights.
  if (ctx && (call->args.rows || call->args.guidance)) {
    const fewstep_status status = fewstep_plan_prepare(plan.get(), ctx);
    if (status != FEWSTEP_OK) return status;
  }
  return fewstep_solver_step(ctx, plan.get(), &call->args);
}

py::handle step(const PyPlan& plan, py::handle row, py::handle state, py::handle model_output,
                py::handle seeds, py::handle guidance, py::handle known, py::handle mask,
                py::handle model_input, py::handle clip) {
  const py::handle arguments[] = {row,   state, model_output, seeds, guidance,
                                  known, mask,  model_input,  clip};
  StepCall call(arguments);
  set_row(row, &call);
  borrow_state(state, &call);
  borrow_models(model_output, &call);
  call.args.seeds = call.optional(seeds, "seeds");
  call.args.guidance = call.optional(guidance, "guidance");
  call.args.known = call.optional(known, "known");
  call.args.mask = call.optional(mask, "mask");
  call.args.model_input = call.optional(model_input, "model_input", Borrowed::kWrite);
  call.args.clip = call.optional(clip, "clip");
  const fewstep_context* ctx = call.stream.context(call.args.slots[0], kFunction, "state");
  fewstep_status status;
  if (ctx || (call.args.slots[0] && elements(*call.args.slots[0]) >= kReleaseElements)) {
    const py::gil_scoped_release release;
    status = run(ctx, plan, &call);
  } else {
    status = run(ctx, plan, &call);
  }
  check(status);
  return state.inc_ref();
}

}  // namespace

void bind_solver(py::module_& m) {
  m.def("solver_step", &step, py::arg("plan"), py::arg("row"), py::arg("state"),
        py::arg("model_output"), py::arg("seeds"), py::arg("guidance"), py::arg("known"),
        py::arg("mask"), py::arg("model_input"), py::arg("clip"));
}

}  // namespace fewstep::python
