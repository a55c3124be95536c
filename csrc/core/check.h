// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/context.h"
#include "core/dtype.h"
#include "core/isa.h"
#include "core/status.h"
#include "fewstep/tensor.h"

namespace fewstep {

// A shape such as "B N...": a capital letter binds on first use, digits are literal, "mB" is a
// multiple of B, "1|B" is 1 or B, "B+1" one more than B, and a letter followed by "..." stands for
// all remaining dimensions flattened (contiguous; after the first dimension only). Parsed at
// compile time: a wrong pattern does not compile.
class ShapePattern {
 public:
  enum class Kind : uint8_t { kLetter, kLiteral, kMultiple, kOneOr, kPlusOne, kRest };
  struct Token {
    Kind kind;
    char letter;
    int64_t literal;
  };
  static constexpr int kMaxTokens = 6;

  consteval ShapePattern(const char* text) : count_(0), tokens_{} {
    while (*text) {
      if (*text == ' ') {
        ++text;
        continue;
      }
      if (count_ == kMaxTokens) throw "too many dimensions";
      if (count_ > 0 && tokens_[count_ - 1].kind == Kind::kRest) throw "'...' must be last";
      tokens_[count_++] = parse(text);
    }
  }

  constexpr int count() const { return count_; }
  constexpr const Token& operator[](int i) const { return tokens_[i]; }

 private:
  static consteval bool is_capital(char c) { return c >= 'A' && c <= 'Z'; }

  static consteval Token parse(const char*& text) {
    if (text[0] == '1' && text[1] == '|' && is_capital(text[2])) {
      const char letter = text[2];
      text += 3;
      return {Kind::kOneOr, letter, 1};
    }
    if (*text >= '0' && *text <= '9') {
      int64_t value = 0;
      while (*text >= '0' && *text <= '9') value = value * 10 + (*text++ - '0');
      return {Kind::kLiteral, 0, value};
    }
    if (*text == 'm' && is_capital(text[1])) {
      const char letter = text[1];
      text += 2;
      return {Kind::kMultiple, letter, 0};
    }
    if (!is_capital(*text)) {
      throw "a dimension is a capital letter, digits, 'mX', '1|X', 'X+1' or 'X...'";
    }
    const char letter = *text++;
    if (text[0] == '+' && text[1] == '1') {
      text += 2;
      return {Kind::kPlusOne, letter, 1};
    }
    if (text[0] == '.' && text[1] == '.' && text[2] == '.') {
      text += 3;
      return {Kind::kRest, letter, 0};
    }
    return {Kind::kLetter, letter, 0};
  }

  int count_;
  Token tokens_[kMaxTokens];
};

// An argument's name in messages: "slots[2]" for {"slots", 2}.
struct ArgName {
  const char* text;
  int index = -1;
  ArgName(const char* name, int position = -1) : text(name), index(position) {}
  std::string str() const;
};

// A checked tensor, unpacked: rows of contiguous elements.
struct View {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;    // size of the first dimension
  int64_t stride = 0;  // elements between rows; 0 where a single row serves all

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// A checked tensor whose last dimension is contiguous and whose others have strides of their own.
struct StridedView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t strides[ShapePattern::kMaxTokens] = {};  // elements; 0 where a dimension has size 1

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Checks the arguments of one call. Each tensor is named once, so a message cannot name another.
class ArgCheck {
 public:
  ArgCheck(const char* function, const fewstep_context* ctx) : function_(function) {
    if (ctx) device_ = {ctx->device_type, ctx->device_id};
  }

  View in(ArgName name, const fewstep_tensor* t, DTypeSet types, ShapePattern shape) {
    return check(name, t, types, shape, false);
  }
  // Outputs, and inputs updated in place: they may overlap no other tensor.
  View out(ArgName name, const fewstep_tensor* t, DTypeSet types, ShapePattern shape) {
    return check(name, t, types, shape, true);
  }

  // The same for tensors in which only the last dimension need be contiguous, such as views of a
  // larger buffer. For overlaps such a tensor covers all from its first to its last element.
  StridedView in_strided(ArgName name, const fewstep_tensor* t, DTypeSet types,
                         ShapePattern shape) {
    return check_strided(name, t, types, shape, false);
  }
  StridedView out_strided(ArgName name, const fewstep_tensor* t, DTypeSet types,
                          ShapePattern shape) {
    return check_strided(name, t, types, shape, true);
  }

  // A call's struct of arguments: given, and no smaller than this library's, which `init` sizes.
  template <class Args>
  void sized(ArgName name, const Args* args, const char* init) const {
    if (!args) fail(name, "must be given", "NULL");
    if (args->size < sizeof(*args)) fail_size(name, init, args->size);
  }

  // Throws "<function>: '<name>' <must>, got <got>".
  [[noreturn]] void fail(ArgName name, const std::string& must, const std::string& got,
                         fewstep_status status = FEWSTEP_INVALID_ARGUMENT) const;

  // Call after the last tensor: no written tensor may share memory with another.
  void no_overlap() const { compare(false); }
  // The same but for pairs of written tensors, which the op compares itself.
  void no_overlap_with_inputs() const { compare(true); }

  // For ops with lists of tensors: count() after those that stay, and forget(that count) after each
  // of the list was compared.
  int count() const { return count_; }
  void forget(int count) { count_ = count; }

  // A size that an argument gives, before the tensors that must have it.
  void set_dim(char letter, int64_t size) { dims_[letter - 'A'] = size; }
  int64_t dim(char letter) const { return dims_[letter - 'A']; }
  Device device() const { return device_; }
  // Whether the host can read what the tensors hold; after the first of them.
  bool can_read() const { return device_.type == kCpu; }
  // Whether the code of CUDA kernels runs, on a GPU or on the host.
  bool is_for_cuda() const { return !can_read() || active_isa() == Isa::kCudaOnHost; }
  const char* function() const { return function_; }

 private:
  struct Range {  // left uninitialised until used: clearing all would cost more than a check
    const char* name;
    int index;
    uintptr_t begin;      // first byte
    int64_t row_bytes;    // bytes of one row
    int64_t pitch_bytes;  // bytes between rows
    int64_t rows;
    bool written;
  };
  static constexpr int kMaxTensors = 32;

  View check(ArgName name, const fewstep_tensor* t, DTypeSet types, const ShapePattern& shape,
             bool written);
  StridedView check_strided(ArgName name, const fewstep_tensor* t, DTypeSet types,
                            const ShapePattern& shape, bool written);
  void remember(ArgName name, const Range& range);
  DType check_dtype(ArgName name, const fewstep_tensor& t, DTypeSet types) const;
  void check_device(ArgName name, const fewstep_tensor& t);
  void check_sizes(ArgName name, const fewstep_tensor& t, const ShapePattern& shape);
  int64_t check_shape(ArgName name, const fewstep_tensor& t, const ShapePattern& shape);
  bool bind(char letter, int64_t size);
  [[noreturn]] void fail_size(ArgName name, const char* init, uint32_t size) const;
  [[noreturn]] void fail_shape(ArgName name, const fewstep_tensor& t,
                               const ShapePattern& shape) const;
  static bool overlap(const Range& a, const Range& b);
  void compare(bool skip_written_pairs) const;

  const char* function_;
  Device device_;
  int64_t dims_[26] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  Range ranges_[kMaxTensors];
  int count_ = 0;
};

}  // namespace fewstep
