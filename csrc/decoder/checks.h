// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/check.h"
#include "decoder/pass.h"
#include "kv/checks.h"

// Checks that the family's ops share; each fills what it has checked into a pass.
namespace fewstep::decoder {

// Rows of memory as linear layers take them.
inline linear::Rows rows_of(const View& v) {
  return {v.as<char>(), v.stride * size_of(v.dtype), v.dtype};
}

// A pass reads and writes on the host what lies between its kernels.
void check_host(const ArgCheck& check);

// tokens [N], of a decoder that looks them up.
void take_tokens(ArgCheck& check, const fewstep_tensor* tokens, Pass* p);

// length [B] and indptr [B + 1]; B is bound by the first.
void take_requests(ArgCheck& check, const fewstep_tensor* length, const fewstep_tensor* indptr,
                   Pass* p);

// page_table [B, C], or NULL for caches of B pages.
kv::SlotCheck take_pages(ArgCheck& check, const fewstep_tensor* page_table, Pass* p);

// cos and sin [S, R].
void take_rope(ArgCheck& check, const fewstep_tensor* cos, const fewstep_tensor* sin, Pass* p);

// workspace [X] of so many bytes or more; its first byte that begins a cache line.
char* take_workspace(ArgCheck& check, const fewstep_tensor* workspace, int64_t bytes);

// Values of indices, each in [0, end). Null: not given.
template <class Int>
void check_index(const ArgCheck& check, const char* name, const Int* values, int64_t stride,
                 int64_t count, int64_t end) {
  for (int64_t i = 0; values && i < count; ++i) {
    const int64_t value = values[i * stride];
    if (value >= 0 && value < end) continue;
    check.fail({name, int(i)}, format("must lie in [0, %lld)", static_cast<long long>(end)),
               std::to_string(value));
  }
}

// A position in the tables of RoPE.
void check_position(const ArgCheck& check, ArgName name, const Pass& p, int64_t position);

}  // namespace fewstep::decoder
