// SPDX-License-Identifier: Apache-2.0
#include "logits/filters.h"

#include <cmath>

#include "logits/numbers.h"

namespace fewstep::logits {
namespace {

constexpr Range kTemperature = {"must be 0 or more and finite",
                                [](double v) { return v >= 0.0 && std::isfinite(v); }};
constexpr Range kCount = {"must be 0 or more", [](double v) { return v >= 0.0; }};
constexpr Range kShare = {"must lie in (0, 1]", [](double v) { return v > 0.0 && v <= 1.0; }};
constexpr Range kPart = {"must lie in [0, 1]", [](double v) { return v >= 0.0 && v <= 1.0; }};
constexpr Range kBelowOne = {"must lie in [0, 1)", [](double v) { return v >= 0.0 && v < 1.0; }};

}  // namespace

Filters check_filters(const fewstep_logits_filters& f, ShapePattern rows, ArgCheck& check) {
  constexpr DType kF = DType::kF32;
  Filters out{};
  out.temperature =
      per_row("temperature", f.temperature, f.temperatures, kF, rows, kTemperature, check);
  out.top_k = per_row("top_k", f.top_k, f.top_ks, DType::kI32, rows, kCount, check);
  out.top_p = per_row("top_p", f.top_p, f.top_ps, kF, rows, kShare, check);
  out.min_p = per_row("min_p", f.min_p, f.min_ps, kF, rows, kPart, check);
  out.typical = per_row("typical", f.typical, f.typicals, kF, rows, kShare, check);
  out.eta = per_row("eta", f.eta, f.etas, kF, rows, kBelowOne, check);
  return out;
}

void check_words(const fewstep_tensor* bitmask, int64_t V, const ArgCheck& check) {
  const int64_t words = (V + 31) / 32;
  if (!bitmask || bitmask->shape[1] == words) return;
  check.fail("bitmask",
             format("must have %lld words in a row, one bit for each token",
                    static_cast<long long>(words)),
             std::to_string(static_cast<long long>(bitmask->shape[1])));
}

void check_listed(int64_t K, const ArgCheck& check) {
  if (K >= 1 && K <= kMaxCandidates) return;
  check.fail("ids", format("must have 1 to %d tokens in a row", kMaxCandidates),
             std::to_string(static_cast<long long>(K)));
}

Rows rows_of(const View& logits, const fewstep_tensor* bitmask_tensor, const View& bitmask,
             const Filters& filters, const ArgCheck& check) {
  const int64_t R = check.dim('R'), V = check.dim('V');
  if (V < 1 && R > 0) check.fail("logits", "must have a token", "V=0");
  if (V > INT32_MAX) {
    check.fail("logits", "must have less than 2^31 per row",
               std::to_string(static_cast<long long>(V)));
  }
  check_words(bitmask_tensor, V, check);
  return {R,
          V,
          logits.as<const char>(),
          logits.stride * size_of(logits.dtype),
          logits.dtype,
          bitmask.as<const uint32_t>(),
          bitmask.stride,
          filters};
}

}  // namespace fewstep::logits
