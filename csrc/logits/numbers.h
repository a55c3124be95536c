// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/check.h"
#include "logits/row.h"

// Checks of per-row parameters: one number for all rows, or a tensor with one for each.
namespace fewstep::logits {

// Where a parameter may lie, and what a message says of it.
struct Range {
  const char* must;
  bool (*allows)(double);
};

// A message names the parameter, whichever way it was given. Numbers that lie on another device
// are not looked at.
template <class T>
PerRow<T> per_row(const char* name, T number_for_all, const fewstep_tensor* tensor, DType type,
                  ShapePattern rows, Range range, ArgCheck& check) {
  if (!tensor) {
    if (!range.allows(double(number_for_all))) {
      check.fail(name, range.must, number(double(number_for_all)));
    }
    return {nullptr, 0, number_for_all};
  }
  const View view = check.in(name, tensor, only(type), rows);
  const T* values = view.as<const T>();
  if (!check.can_read()) return {values, view.stride, T(0)};
  for (int64_t r = 0; r < view.rows; ++r) {
    const double value = double(values[r * view.stride]);
    if (range.allows(value)) continue;
    check.fail(name, range.must,
               number(value) + " at " + std::to_string(static_cast<long long>(r)));
  }
  return {values, view.stride, T(0)};
}

}  // namespace fewstep::logits
