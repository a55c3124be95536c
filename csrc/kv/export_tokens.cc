// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "core/execute.h"
#include "fewstep/kv.h"
#include "kv/layers.h"
#include "kv/transfer.h"

namespace fewstep::kv {
namespace {

constexpr KernelSet<TransferFn> kExportTokens = FEWSTEP_KERNELS(export_tokens);

void run_export(const fewstep_context* ctx, const fewstep_kv_export_tokens_args* args) {
  ArgCheck check("fewstep_kv_export_tokens", ctx);
  check.sized("args", args, "FEWSTEP_KV_EXPORT_TOKENS_ARGS_INIT");
  if (args->first_layer < 0) {
    check.fail("first_layer", "must be 0 or more", std::to_string(args->first_layer));
  }
  const View out = check.out("out", args->out, only(DType::kU8), "N");
  check_message(check, "out", out);
  View table;
  if (args->page_table) table = check.in("page_table", args->page_table, only(DType::kI32), "B C");
  check.no_overlap();
  Layers layers;
  read_layers(check, args->caches, false, &layers);
  TransferFn& kernel = kExportTokens.pick(check.device(), check.function());
  if (args->end < args->begin) {
    check.fail("end", format("must be begin=%d or more", int(args->begin)),
               std::to_string(args->end));
  }
  TransferProblem p = transfer_of(check, layers, table, args->row, args->begin, args->end);
  p.header = header_of(check, layers, args->first_layer, p.tokens);
  const int64_t payload = payload_of(p.header);
  if (payload < 0 || out.rows != payload + kHeaderBytes) {
    check.fail("out",
               format("must have %lld bytes", static_cast<long long>(payload + kHeaderBytes)),
               std::to_string(out.rows));
  }
  p.message = out.as<char>();
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_export_tokens(const fewstep_context* ctx,
                                                   const fewstep_kv_export_tokens_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_export(ctx, args); });
}
