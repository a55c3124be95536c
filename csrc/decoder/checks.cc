// SPDX-License-Identifier: Apache-2.0
#include "decoder/checks.h"

#include "linear/checks.h"

namespace fewstep::decoder {

void check_host(const ArgCheck& check) {
  linear::run_kernel(check.device(), check.function());
  if (check.can_read()) return;
  throw Error(FEWSTEP_UNSUPPORTED, format("%s: there is no decoder for device type %d (1 is CPU)",
                                          check.function(), int(check.device().type)));
}

void take_tokens(ArgCheck& check, const fewstep_tensor* tokens, Pass* p) {
  if (p->d.embedding.n_tokens == 0) {
    check.fail("tokens", "must be left out for a decoder without embedding", "some");
  }
  const View v = check.in("tokens", tokens, only(DType::kI64), "N");
  p->tokens = v.as<const int64_t>();
  p->tokens_stride = v.stride;
}

void take_requests(ArgCheck& check, const fewstep_tensor* length, const fewstep_tensor* indptr,
                   Pass* p) {
  p->length = kv::ints_of(check.in("length", length, only(DType::kI32), "B"));
  p->indptr = kv::ints_of(check.in("indptr", indptr, only(DType::kI32), "B+1"));
  p->B = check.dim('B');
}

kv::SlotCheck take_pages(ArgCheck& check, const fewstep_tensor* page_table, Pass* p) {
  View table;
  if (page_table) table = check.in("page_table", page_table, only(DType::kI32), "B C");
  check.set_dim('P', p->d.P);
  check.set_dim('T', p->d.T);
  const kv::SlotCheck slots = kv::slot_check(check, table);
  p->pages = slots.pages;
  p->C = slots.columns;
  return slots;
}

void take_rope(ArgCheck& check, const fewstep_tensor* cos_tensor, const fewstep_tensor* sin_tensor,
               Pass* p) {
  const View cos = check.in("cos", cos_tensor, only(DType::kF32), "S R");
  const View sin = check.in("sin", sin_tensor, only(DType::kF32), "S R");
  p->S = check.dim('S');
  p->pairs = check.dim('R');
  if (2 * p->pairs > p->d.D) {
    check.fail("cos",
               format("must have at most D/2=%lld columns", static_cast<long long>(p->d.D / 2)),
               std::to_string(p->pairs));
  }
  p->cos = cos.as<const float>();
  p->sin = sin.as<const float>();
  p->cos_stride = cos.stride;
  p->sin_stride = sin.stride;
}

char* take_workspace(ArgCheck& check, const fewstep_tensor* workspace, int64_t bytes) {
  const View w = check.out("workspace", workspace, only(DType::kI64), "X");
  linear::check_contiguous(check, "workspace", w);
  const int64_t needed = (bytes + 7) / 8;
  if (w.rows < needed) {
    check.fail("workspace",
               format("must have %lld elements or more", static_cast<long long>(needed)),
               std::to_string(w.rows));
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(w.data);
  return w.as<char>() + ((64 - begin % 64) % 64);
}

void check_position(const ArgCheck& check, ArgName name, const Pass& p, int64_t position) {
  if (position >= 0 && position < p.S) return;
  check.fail(name,
             format("must give each row a position in [0, S=%lld)", static_cast<long long>(p.S)),
             std::to_string(position));
}

}  // namespace fewstep::decoder
