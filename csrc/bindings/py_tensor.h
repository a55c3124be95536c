// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

#include "fewstep/fewstep.h"
#include "py_stream.h"

namespace fewstep::python {

constexpr uint32_t kDlpackMajor = 1;

struct ManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  fewstep_tensor dl_tensor;
};
struct ManagedTensor {
  fewstep_tensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(ManagedTensor*);
};

// An array argument, borrowed for one call: through the C exchange API where its type has one
// (about 50 ns), a plain NumPy array as it lies, others through __dlpack__, which is told the
// call's stream when the array is on CUDA. Errors name the function and the argument. The Python
// object must outlive this.
class Borrowed {
 public:
  enum Access { kRead, kWrite };

  Borrowed() = default;
  Borrowed(pybind11::handle object, const char* function, const char* name, Access access,
           CallStream* stream) {
    borrow(object, function, name, access, stream);
  }
  ~Borrowed();
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

  void borrow(pybind11::handle object, const char* function, const char* name, Access access,
              CallStream* stream);
  const fewstep_tensor* get() const { return &tensor_; }
  const fewstep_tensor& operator*() const { return tensor_; }

 private:
  // `stream` is null when the array is known to lie in host memory.
  void borrow_capsule(pybind11::handle object, const char* function, const char* name,
                      Access access, CallStream* stream);

  fewstep_tensor tensor_{};
  ManagedTensorVersioned* versioned_ = nullptr;
  ManagedTensor* legacy_ = nullptr;
};

// A tensor that may be None.
struct Optional {
  Optional(pybind11::handle object, const char* function, const char* name, Borrowed::Access access,
           CallStream* stream)
      : given(!object.is_none()) {
    if (given) tensor.borrow(object, function, name, access, stream);
  }
  const fewstep_tensor* get() const { return given ? tensor.get() : nullptr; }

  bool given;
  Borrowed tensor;
};

// A tensor of an op's arguments and where it goes.
struct Field {
  const char* name;
  const fewstep_tensor** tensor;
};

// Tensors that stay borrowed while an op runs: those of `inputs`, then those of `outputs`, in the
// order of the fields; None where there is none. An input that is an output too is one tensor: so
// ops know that they are to work in place.
template <size_t kFields>
class BorrowedFields {
 public:
  BorrowedFields(const Field (&fields)[kFields], const pybind11::tuple& inputs,
                 const pybind11::tuple& outputs, const char* function, CallStream* stream) {
    for (size_t i = 0; i < kFields; ++i) {
      const bool is_input = i < inputs.size();
      const pybind11::handle value = is_input ? inputs[i] : outputs[i - inputs.size()];
      if (value.is_none()) continue;
      const size_t input = is_input ? inputs.size() : place_of(value, inputs);
      if (input < inputs.size()) {
        *fields[i].tensor = held_[input].get();
        continue;
      }
      const bool is_read = is_input && place_of(value, outputs) == outputs.size();
      held_[i].borrow(value, function, fields[i].name, is_read ? Borrowed::kRead : Borrowed::kWrite,
                      stream);
      *fields[i].tensor = held_[i].get();
    }
  }

 private:
  // Where in the tuple this very object is; the tuple's size where it is not.
  static size_t place_of(pybind11::handle value, const pybind11::tuple& tuple) {
    size_t i = 0;
    while (i < tuple.size() && !value.is(tuple[i])) ++i;
    return i;
  }

  Borrowed held_[kFields];
};

// Throws the Python exception that stands for a status: ValueError, NotImplementedError,
// MemoryError or RuntimeError, with the text of fewstep_last_error().
[[noreturn]] void raise_status(fewstep_status status);
inline void check(fewstep_status status) {
  if (status != FEWSTEP_OK) [[unlikely]]
    raise_status(status);
}

// Runs an op without Python's lock; what it refuses is thrown.
template <class Op, class Args>
void run_op(const Op& op, const fewstep_context* ctx, const Args& args) {
  fewstep_status status;
  {
    const pybind11::gil_scoped_release release;
    status = op(ctx, &args);
  }
  check(status);
}

// One function per family, in bind_<family>.cc.
void bind_batch(pybind11::module_& m);  // trees of a generator's calls
void bind_budget(pybind11::module_& m);
void bind_decoder(pybind11::module_& m);
void bind_cascade(pybind11::module_& m);
void bind_draft(pybind11::module_& m);
void bind_kv(pybind11::module_& m);
void bind_head(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_logits(pybind11::module_& m);
void bind_noise(pybind11::module_& m);
void bind_plan(pybind11::module_& m);
void bind_solver(pybind11::module_& m);
void bind_sums(pybind11::module_& m);  // the solver family's reductions
void bind_tree(pybind11::module_& m);
void bind_attention(pybind11::module_& m);  // the tree family's attention
void bind_verify(pybind11::module_& m);     // the tree family's verification

}  // namespace fewstep::python
