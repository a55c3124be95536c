// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"
#include "fewstep/logits.h"
#include "logits/row.h"

namespace fewstep::logits {

// Checks the numbers, and tensors of the given shape with one number for each row.
Filters check_filters(const fewstep_logits_filters& filters, ShapePattern rows, ArgCheck& check);

// Checks that rows of a mask have a bit for each of V tokens.
void check_words(const fewstep_tensor* bitmask, int64_t V, const ArgCheck& check);

// Checks the length of the lists `ids` [R, K].
void check_listed(int64_t K, const ArgCheck& check);

// Checked rows of logits; `bitmask`, the view of `bitmask_tensor`, where that is given.
Rows rows_of(const View& logits, const fewstep_tensor* bitmask_tensor, const View& bitmask,
             const Filters& filters, const ArgCheck& check);

}  // namespace fewstep::logits
