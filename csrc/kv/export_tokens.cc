// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "core/check.h"
#include "fewstep/kv.h"
#include "kv/layers.h"
#include "kv/transfer.h"

namespace fewstep::kv {
namespace {

void run_export(const fewstep_context* ctx, const fewstep_kv_export_tokens_args* args) {
  ArgCheck check("fewstep_kv_export_tokens", ctx);
  check.sized("args", args, "FEWSTEP_KV_EXPORT_TOKENS_ARGS_INIT");
  if (args->first_layer < 0) {
    check.fail("first_layer", "must be 0 or more", std::to_string(args->first_layer));
  }
  const View out = check.out("out", args->out, only(DType::kU8), "N");
  if (out.rows > 1 && out.stride != 1) check.fail("out", "must be contiguous", "a strided layout");
  View table;
  if (args->page_table) table = check.in("page_table", args->page_table, only(DType::kI32), "B C");
  check.no_overlap();
  Layers layers;
  read_layers(check, args->caches, false, &layers);
  check_on_cpu(check);
  if (args->end < args->begin) {
    check.fail("end", format("must be begin=%d or more", int(args->begin)),
               std::to_string(args->end));
  }
  const SlotCheck slots = check_row(check, table, args->row, args->begin, args->end);
  Header h = header_of(check, layers, args->first_layer, int64_t(args->end) - args->begin);
  const int64_t payload = payload_of(h);
  if (payload < 0 || out.rows != payload + kHeaderBytes) {
    check.fail("out",
               format("must have %lld bytes", static_cast<long long>(payload + kHeaderBytes)),
               std::to_string(out.rows));
  }
  char* message = out.as<char>();
  std::memcpy(message, &h, sizeof h);
  to_payload(check, layers, slots.pages, args->row, args->begin, args->end, message + kHeaderBytes);
  h.checksum = checksum_of(message, payload);
  std::memcpy(message, &h, sizeof h);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_export_tokens(const fewstep_context* ctx,
                                                   const fewstep_kv_export_tokens_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_export(ctx, args); });
}
