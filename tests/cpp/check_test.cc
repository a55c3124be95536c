// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

using namespace fewstep;

namespace {

// A float32 tensor on the CPU over memory of the test.
struct Tensor {
  std::array<int64_t, 4> shape{}, strides{};
  fewstep_tensor t{};

  Tensor(void* data, std::vector<int64_t> dims, std::vector<int64_t> steps = {}) {
    for (size_t i = 0; i < dims.size(); ++i) shape[i] = dims[i];
    for (size_t i = 0; i < steps.size(); ++i) strides[i] = steps[i];
    t.data = data;
    t.device = {kCpu, 0};
    t.ndim = int32_t(dims.size());
    t.dtype = {2, 32, 1};
    t.shape = shape.data();
    t.strides = steps.empty() ? nullptr : strides.data();
  }
  Tensor(const Tensor&) = delete;
};

float memory[256];

template <class Body>
std::string message(Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("patterns are parsed at compile time") {
  using Kind = ShapePattern::Kind;
  constexpr ShapePattern kPattern("1|B mC 12 N...");
  static_assert(kPattern.count() == 4);
  static_assert(kPattern[0].kind == Kind::kOneOr && kPattern[0].letter == 'B');
  static_assert(kPattern[1].kind == Kind::kMultiple && kPattern[1].letter == 'C');
  static_assert(kPattern[2].kind == Kind::kLiteral && kPattern[2].literal == 12);
  static_assert(kPattern[3].kind == Kind::kRest && kPattern[3].letter == 'N');
  CHECK(ShapePattern("").count() == 0);
}

TEST_CASE("letters bind on first use") {
  Tensor x(memory, {2, 3, 4}), same(memory, {2, 12}), other(memory, {2, 11});
  ArgCheck check("f", nullptr);
  const View view = check.in("x", &x.t, only(DType::kF32), "B N...");
  CHECK(view.rows == 2);
  CHECK(view.stride == 12);
  CHECK(view.as<float>() == memory);
  CHECK(check.dim('B') == 2);
  CHECK(check.dim('N') == 12);
  check.in("same", &same.t, only(DType::kF32), "B N...");
  CHECK(message([&] { check.in("other", &other.t, only(DType::kF32), "B N..."); }) ==
        "f: 'other' must have shape [B=2, N...=12], got [2, 11]");
  CHECK(message([&] { check.in({"slots", 3}, &x.t, only(DType::kF32), "B"); }) ==
        "f: 'slots[3]' must have shape [B=2], got [2, 3, 4]");
}

TEST_CASE("literals, multiples and one-or-B") {
  Tensor two(memory, {2}), four(memory, {4}), five(memory, {5}), one(memory, {1}),
      none(memory, {0});
  ArgCheck check("f", nullptr);
  check.in("two", &two.t, only(DType::kF32), "B");
  check.in("four", &four.t, only(DType::kF32), "mB");
  check.in("one", &one.t, only(DType::kF32), "1|B");
  check.in("two", &two.t, only(DType::kF32), "1|B");
  check.in("four", &four.t, only(DType::kF32), "4");
  CHECK(message([&] { check.in("five", &five.t, only(DType::kF32), "mB"); }) ==
        "f: 'five' must have shape [multiple of B=2], got [5]");
  CHECK(message([&] { check.in("none", &none.t, only(DType::kF32), "mB"); }) ==
        "f: 'none' must have shape [multiple of B=2], got [0]");
  CHECK(message([&] { check.in("four", &four.t, only(DType::kF32), "1|B"); }) ==
        "f: 'four' must have shape [1 or B=2], got [4]");
  CHECK(message([&] { check.in("five", &five.t, only(DType::kF32), "4"); }) ==
        "f: 'five' must have shape [4], got [5]");
}

TEST_CASE("one more than a letter") {
  Tensor indptr(memory, {4}), base(memory, {3}), empty(memory, {0});
  ArgCheck check("f", nullptr);
  check.in("indptr", &indptr.t, only(DType::kF32), "B+1");
  CHECK(check.dim('B') == 3);
  check.in("base", &base.t, only(DType::kF32), "B");
  CHECK(message([&] { check.in("ends", &base.t, only(DType::kF32), "B+1"); }) ==
        "f: 'ends' must have shape [B+1=4], got [3]");
  ArgCheck other("f", nullptr);
  CHECK(message([&] { other.in("indptr", &empty.t, only(DType::kF32), "B+1"); }) ==
        "f: 'indptr' must have shape [B+1], got [0]");
}

TEST_CASE("wrong type, device, layout and NULL are named") {
  Tensor x(memory, {2, 4});
  ArgCheck check("f", nullptr);
  CHECK(message([&] { check.in("x", nullptr, only(DType::kF32), "B N..."); }) ==
        "f: 'x' must be given, got NULL");
  CHECK(message([&] { check.in("x", &x.t, kSeeds, "B N..."); }) ==
        "f: 'x' must have dtype int64 or uint64, got float32");
  Tensor half(memory, {2, 4});
  half.t.dtype = {4, 16, 1};
  CHECK(check.in("half", &half.t, kFloating, "B N...").dtype == DType::kBF16);
  half.t.dtype = {2, 16, 2};
  CHECK(message([&] {
          check.in("half", &half.t, kFloating, "B N...");
        }).starts_with("f: 'half' must have dtype float32 or float16 or bfloat16, got "));
  Tensor cuda(memory, {2, 4});
  cuda.t.device = {kCuda, 1};
  CHECK(message([&] { check.in("cuda", &cuda.t, only(DType::kF32), "B N..."); }) ==
        "f: 'cuda' must be on cpu, got cuda:1");
  Tensor transposed(memory, {2, 3, 4}, {12, 1, 3});
  ArgCheck fresh("f", nullptr);
  CHECK(message([&] { fresh.in("x", &transposed.t, only(DType::kF32), "B N..."); }) ==
        "f: 'x' must be contiguous after its first dimension, got a strided layout");
  Tensor empty(nullptr, {2, 4});
  CHECK(message([&] { check.in("empty", &empty.t, only(DType::kF32), "B N..."); }) ==
        "f: 'empty' must have data, got a tensor without storage");
}

TEST_CASE("a strided batch, an offset and a single row") {
  Tensor strided(memory, {3, 4}, {16, 1}), single(memory, {1, 4}, {999, 1});
  strided.t.byte_offset = 8;
  ArgCheck check("f", nullptr);
  const View view = check.in("strided", &strided.t, only(DType::kF32), "B N...");
  CHECK(view.as<float>() == memory + 2);
  CHECK(view.stride == 16);
  CHECK(ArgCheck("f", nullptr).in("single", &single.t, only(DType::kF32), "B N...").stride == 0);
  Tensor broadcast(memory, {3, 4}, {0, 1});
  CHECK(ArgCheck("f", nullptr).in("x", &broadcast.t, only(DType::kF32), "B N...").stride == 0);
  CHECK(message([&] {
          ArgCheck("f", nullptr).out("x", &broadcast.t, only(DType::kF32), "B N...");
        }).starts_with("f: 'x' must not have overlapping rows"));
}

TEST_CASE("strided tensors keep their strides, and only the last dimension is contiguous") {
  // A view [2, 3, 4] of a buffer [3, 5, 8], as a cache is of its pages.
  Tensor view(memory + 2, {2, 3, 4}, {8, 40, 1}), plain(memory, {2, 3, 4});
  Tensor split(memory, {2, 3, 4}, {24, 8, 2}), one(memory, {2, 1, 4}, {4, 777, 1});
  ArgCheck check("f", nullptr);
  const StridedView v = check.in_strided("v", &view.t, only(DType::kF32), "P G D");
  CHECK(check.dim('P') == 2);
  CHECK(check.dim('G') == 3);
  CHECK(v.as<float>() == memory + 2);
  CHECK(v.strides[0] == 8);
  CHECK(v.strides[1] == 40);
  CHECK(v.strides[2] == 1);
  const StridedView p = check.in_strided("p", &plain.t, only(DType::kF32), "P G D");
  CHECK(p.strides[0] == 12);
  CHECK(p.strides[1] == 4);
  CHECK(ArgCheck("f", nullptr).in_strided("one", &one.t, only(DType::kF32), "P G D").strides[1] ==
        0);
  CHECK(message([&] { check.in_strided("s", &split.t, only(DType::kF32), "P G D"); }) ==
        "f: 's' must be contiguous in its last dimension, got a stride of 2 elements");
  CHECK(message([&] { check.in_strided("x", &one.t, only(DType::kF32), "P G D"); }) ==
        "f: 'x' must have shape [P=2, G=3, D=4], got [2, 1, 4]");
  Tensor none(nullptr, {2, 3, 4}), empty(nullptr, {2, 0, 4});
  CHECK(message([&] { check.in_strided("n", &none.t, only(DType::kF32), "P G D"); }) ==
        "f: 'n' must have data, got a tensor without storage");
  CHECK(message([&] {
          ArgCheck("f", nullptr).in_strided("e", &empty.t, only(DType::kF32), "P G D");
        }) == "no error");
}

TEST_CASE("a strided tensor covers all from its first to its last element") {
  const auto overlaps = [](fewstep_tensor* a, fewstep_tensor* b) {
    ArgCheck check("f", nullptr);
    check.out_strided("a", a, only(DType::kF32), "A B");
    check.in_strided("b", b, only(DType::kF32), "C D");
    return message([&] { check.no_overlap(); });
  };
  // Elements 0, 1 and 10, 11: up to 12.
  Tensor a(memory, {2, 2}, {10, 1}), behind(memory + 12, {1, 4}), between(memory + 4, {1, 4});
  Tensor backwards(memory + 22, {2, 2}, {-10, 1});  // elements 12, 13 and 22, 23
  Tensor last(memory + 11, {1, 1});
  CHECK(overlaps(&a.t, &behind.t) == "no error");
  CHECK(overlaps(&a.t, &backwards.t) == "no error");
  CHECK(overlaps(&backwards.t, &behind.t) == "f: 'a' must not overlap 'b', got shared memory");
  CHECK(overlaps(&a.t, &between.t) == "f: 'a' must not overlap 'b', got shared memory");
  CHECK(overlaps(&a.t, &last.t) == "f: 'a' must not overlap 'b', got shared memory");
  Tensor expanded(memory, {3, 4}, {0, 1});
  CHECK(message([&] {
          ArgCheck("f", nullptr).out_strided("x", &expanded.t, only(DType::kF32), "A B");
        }) == "f: 'x' must not be expanded, got a stride of 0 in dimension 0");
}

TEST_CASE("written tensors overlap no other") {
  const auto overlaps = [](fewstep_tensor* a, fewstep_tensor* b) {
    ArgCheck check("f", nullptr);
    check.out("a", a, only(DType::kF32), "B N...");
    check.in("b", b, only(DType::kF32), "B N...");
    return message([&] { check.no_overlap(); });
  };
  Tensor first(memory, {2, 8}), touching(memory + 15, {2, 8}), after(memory + 16, {2, 8});
  CHECK(overlaps(&first.t, &after.t) == "no error");
  CHECK(overlaps(&first.t, &touching.t) == "f: 'a' must not overlap 'b', got shared memory");
  CHECK(overlaps(&touching.t, &first.t) == "f: 'a' must not overlap 'b', got shared memory");
  CHECK(overlaps(&first.t, &first.t) == "f: 'a' must not overlap 'b', got shared memory");
  // Two slots of one [B, 2, N] buffer lie between each other's rows.
  Tensor even(memory, {3, 8}, {16, 1}), odd(memory + 8, {3, 8}, {16, 1});
  Tensor shifted(memory + 9, {3, 8}, {16, 1}), close(memory + 7, {3, 8}, {16, 1});
  CHECK(overlaps(&even.t, &odd.t) == "no error");
  CHECK(overlaps(&odd.t, &even.t) == "no error");
  CHECK(overlaps(&even.t, &shifted.t) != "no error");
  CHECK(overlaps(&even.t, &close.t) != "no error");
  // The same rows in descending order.
  Tensor reversed(memory + 32, {3, 8}, {-16, 1});
  CHECK(overlaps(&even.t, &reversed.t) != "no error");
  CHECK(overlaps(&odd.t, &reversed.t) == "no error");
}

TEST_CASE("inputs may share memory with each other") {
  Tensor x(memory, {2, 8});
  ArgCheck check("f", nullptr);
  check.in("a", &x.t, only(DType::kF32), "B N...");
  check.in("b", &x.t, only(DType::kF32), "B N...");
  CHECK(message([&] { check.no_overlap(); }) == "no error");
}

TEST_CASE("every dtype is found by its code and bits, and no other") {
  int found = 0;
  for (int code = 0; code < 16; ++code) {
    for (int bits = 1; bits <= 128; ++bits) {
      DType dtype;
      if (!dtype_of(uint8_t(code), uint8_t(bits), 1, &dtype)) continue;
      ++found;
      CHECK(size_of(dtype) * 8 == bits);
      CHECK(std::string(name_of(dtype)).find(std::to_string(bits)) != std::string::npos);
    }
  }
  CHECK(found == 11);
}
