// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "core/execute.h"
#include "fewstep/kv.h"
#include "kv/layers.h"
#include "kv/transfer.h"

namespace fewstep::kv {
namespace {

constexpr KernelSet<TransferFn> kImportTokens = FEWSTEP_KERNELS(import_tokens);

void same_field(const ArgCheck& check, const char* field, uint64_t wanted, uint64_t got) {
  if (wanted == got) return;
  check.fail("data",
             format("must have a header with %s %llu, as the caches", field,
                    static_cast<unsigned long long>(wanted)),
             std::to_string(got));
}

// What a message's header tells of the caches is so; returns its tokens.
int64_t check_header(const ArgCheck& check, const Header& h, const Header& wanted,
                     const View& data) {
  same_field(check, "dtype code", wanted.dtype_code, h.dtype_code);
  same_field(check, "dtype bits", wanted.dtype_bits, h.dtype_bits);
  same_field(check, "layers", wanted.layers, h.layers);
  if (wanted.first_layer != h.first_layer) {
    check.fail("data", format("must have a header with first_layer %u", wanted.first_layer),
               std::to_string(h.first_layer));
  }
  same_field(check, "heads", wanted.heads, h.heads);
  same_field(check, "head_dim", wanted.head_dim, h.head_dim);
  const int64_t bytes = int64_t(h.payload_bytes) + kHeaderBytes;
  if (data.rows != bytes) {
    check.fail(
        "data",
        format("must have the %lld bytes that its header tells", static_cast<long long>(bytes)),
        std::to_string(data.rows));
  }
  return int64_t(h.tokens);
}

// What a message of this size must have, whose header the host cannot read.
int64_t tokens_of(const ArgCheck& check, const Header& one_token, const View& data) {
  const int64_t payload = data.rows - kHeaderBytes, each = payload_of(one_token);
  if (payload < 0 || (each > 0 ? payload % each : payload) != 0) {
    check.fail("data",
               format("must have the %lld bytes of a header, and %lld for each token",
                      static_cast<long long>(kHeaderBytes), static_cast<long long>(each)),
               std::to_string(data.rows));
  }
  return each > 0 ? payload / each : 0;
}

void run_import(const fewstep_context* ctx, const fewstep_kv_import_tokens_args* args) {
  ArgCheck check("fewstep_kv_import_tokens", ctx);
  check.sized("args", args, "FEWSTEP_KV_IMPORT_TOKENS_ARGS_INIT");
  if (args->first_layer < 0) {
    check.fail("first_layer", "must be 0 or more", std::to_string(args->first_layer));
  }
  const View data = check.in("data", args->data, only(DType::kU8), "N");
  check_message(check, "data", data);
  View table, status;
  if (args->page_table) table = check.in("page_table", args->page_table, only(DType::kI32), "B C");
  if (args->status) status = check.out("status", args->status, only(DType::kI64), "2");
  check.no_overlap();
  Layers layers;
  read_layers(check, args->caches, true, &layers);
  TransferFn& kernel = kImportTokens.pick(check.device(), check.function());
  if (!check.can_read() && !args->status) check.fail("status", "must be given on CUDA", "NULL");
  Header h = header_of(check, layers, args->first_layer, 1);
  int64_t tokens;
  if (check.can_read()) {
    const Header told = read_header(check, "data", data.data, uint64_t(data.rows),
                                    check.is_for_cuda() ? kVersion : 1);
    tokens = check_header(check, told, h, data);
    h = told;
  } else {
    tokens = tokens_of(check, h, data);
  }
  TransferProblem p =
      transfer_of(check, layers, table, args->row, args->begin, args->begin + tokens);
  if (check.can_read() && checksum_of(data.data, h) != h.checksum) {
    check.fail("data", "must have the checksum that its header tells", "another");
  }
  p.header = header_of(check, layers, args->first_layer, tokens);
  p.message = data.as<char>();
  int64_t own[2] = {0, 0};
  p.status = args->status ? status.as<int64_t>() : own;
  if (check.can_read()) p.status[0] = p.status[1] = 0;
  execute(ctx, check, kernel, &p);
}

}  // namespace
}  // namespace fewstep::kv

extern "C" fewstep_status fewstep_kv_import_tokens(const fewstep_context* ctx,
                                                   const fewstep_kv_import_tokens_args* args) {
  return fewstep::guard([&] { fewstep::kv::run_import(ctx, args); });
}
