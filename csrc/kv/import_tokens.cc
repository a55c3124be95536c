// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "fewstep/kv.h"
#include "kv/layers.h"
#include "kv/transfer.h"

namespace fewstep::kv {
namespace {

void same_field(const ArgCheck& check, const char* field, uint64_t wanted, uint64_t got) {
  if (wanted == got) return;
  check.fail("data",
             format("must have a header with %s %llu, as the caches", field,
                    static_cast<unsigned long long>(wanted)),
             std::to_string(got));
}

void run_import(const fewstep_context* ctx, const fewstep_kv_import_tokens_args* args) {
  ArgCheck check("fewstep_kv_import_tokens", ctx);
  check.sized("args", args, "FEWSTEP_KV_IMPORT_TOKENS_ARGS_INIT");
  if (args->first_layer < 0) {
    check.fail("first_layer", "must be 0 or more", std::to_string(args->first_layer));
  }
  const View data = check.in("data", args->data, only(DType::kU8), "N");
  if (data.rows > 1 && data.stride != 1) {
    check.fail("data", "must be contiguous", "a strided layout");
  }
  View table;
  if (args->page_table) table = check.in("page_table", args->page_table, only(DType::kI32), "B C");
  Layers layers;
  read_layers(check, args->caches, true, &layers);
  check_on_cpu(check);
  const Header h = read_header(check, "data", data.data, uint64_t(data.rows));
  const Header wanted = header_of(check, layers, args->first_layer, int64_t(h.tokens));
  same_field(check, "dtype code", wanted.dtype_code, h.dtype_code);
  same_field(check, "dtype bits", wanted.dtype_bits, h.dtype_bits);
  same_field(check, "layers", wanted.layers, h.layers);
  if (wanted.first_layer != h.first_layer) {
    check.fail("data", format("must have a header with first_layer %u", wanted.first_layer),
               std::to_string(h.first_layer));
  }
  same_field(check, "heads", wanted.heads, h.heads);
  same_field(check, "head_dim", wanted.head_dim, h.head_dim);
  const int64_t payload = int64_t(h.payload_bytes);
  if (data.rows != payload + kHeaderBytes) {
    check.fail("data",
               format("must have the %lld bytes that its header tells",
                      static_cast<long long>(payload + kHeaderBytes)),
               std::to_string(data.rows));
  }
  const int64_t end = args->begin + int64_t(h.tokens);
  const SlotCheck slots = check_row(check, table, args->row, args->begin, end);
  if (checksum_of(data.data, payload) != h.checksum) {
    check.fail("data", "must have the checksum that its header tells", "another");
  }
  from_payload(check, layers, slots.pages, args->row, args->begin, end,
               data.as<const char>() + kHeaderBytes);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_import_tokens(const fewstep_context* ctx,
                                                   const fewstep_kv_import_tokens_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_import(ctx, args); });
}
