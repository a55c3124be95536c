// SPDX-License-Identifier: Apache-2.0
#include "kv/transfer.h"

#include <cstring>

#include "core/dtype.h"

namespace fewstep::kv {
namespace {

[[noreturn]] void wrong(const ArgCheck& check, const char* name, const char* field,
                        const std::string& wanted, const std::string& got) {
  check.fail(name, std::string("must have a header with ") + field + " " + wanted, got);
}

// Slots of one request.
SlotCheck check_row(const ArgCheck& check, const View& page_table, int64_t row, int64_t begin,
                    int64_t end) {
  SlotCheck slots{check, {{nullptr, 0}, check.dim('T')}, check.dim('P'), 1};
  int64_t rows = slots.P;
  if (check.dim('C') >= 0) {
    slots.pages.table = ints_of(page_table);
    slots.columns = check.dim('C');
    rows = check.dim('B');
  }
  if (row < 0 || row >= rows) {
    check.fail("row", format("must lie in [0, B=%lld)", static_cast<long long>(rows)),
               std::to_string(row));
  }
  if (begin < 0) check.fail("begin", "must be 0 or more", std::to_string(begin));
  slots.range("begin", row, begin, end);
  return slots;
}

}  // namespace

Header header_of(const ArgCheck& check, const Layers& layers, int64_t first_layer, int64_t tokens) {
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof h.magic);
  h.version = kVersion;
  h.header_bytes = uint32_t(kHeaderBytes);
  h.lanes = 1;
  switch (layers.dtype) {
#define FEWSTEP_X(id, text, code, bits) \
  case DType::id:                       \
    h.dtype_code = code;                \
    h.dtype_bits = bits;                \
    break;
    FEWSTEP_DTYPES(FEWSTEP_X)
#undef FEWSTEP_X
  }
  h.layers = uint32_t(layers.L);
  h.first_layer = uint32_t(first_layer);
  h.heads = uint32_t(check.dim('G'));
  h.head_dim = uint32_t(check.dim('D'));
  h.scales = layers.parts == 4 ? 1 : 0;
  h.tokens = uint64_t(tokens);
  h.payload_bytes = uint64_t(payload_of(h));
  h.checksum = mix(0, reinterpret_cast<const char*>(&h), kSummedHeader);
  return h;
}

int64_t payload_of(const Header& h) {
  const int64_t bytes =
      fewstep_kv_export_bytes(h.layers, int64_t(h.tokens), h.heads, h.head_dim, h.dtype_bits);
  return bytes ? bytes - kHeaderBytes : -1;
}

Header read_header(const ArgCheck& check, const char* name, const void* data, uint64_t bytes,
                   uint32_t oldest) {
  if (bytes < uint64_t(kHeaderBytes)) {
    check.fail(name, "must have the 64 bytes of a header or more", std::to_string(bytes));
  }
  Header h;
  std::memcpy(&h, data, sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof h.magic) != 0) {
    wrong(check, name, "magic", "'FSTEPKV'", "other bytes");
  }
  const auto field = [&](const char* text, uint64_t wanted, uint64_t got) {
    if (wanted != got) wrong(check, name, text, std::to_string(wanted), std::to_string(got));
  };
  if (h.version < oldest) field("version", kVersion, h.version);
  if (h.version > kVersion) field("version", kVersion, h.version);
  field("header_bytes", uint64_t(kHeaderBytes), h.header_bytes);
  DType type;
  if (!dtype_of(h.dtype_code, h.dtype_bits, 1, &type) || !contains(kCacheTypes, type)) {
    wrong(check, name, "dtype", "of a cache",
          format("code %d with %d bits", int(h.dtype_code), int(h.dtype_bits)));
  }
  field("lanes", 1, h.lanes);
  field("scales", contains(kScaledBytes, type) ? 1 : 0, h.scales);
  if (h.tokens > uint64_t(INT32_MAX) || payload_of(h) < 0) {
    wrong(check, name, "tokens", "that a cache can hold", std::to_string(h.tokens));
  }
  field("payload_bytes", uint64_t(payload_of(h)), h.payload_bytes);
  return h;
}

uint64_t checksum_of(const void* message, const Header& header) {
  const char* data = static_cast<const char*>(message);
  const uint64_t own = mix(0, data, kSummedHeader);
  const int64_t bytes = int64_t(header.payload_bytes);
  if (header.version == 1) return mix(own, data + kHeaderBytes, bytes);
  return own + payload_sum(data + kHeaderBytes, bytes);
}

void check_message(const ArgCheck& check, const char* name, const View& message) {
  if (message.rows > 1 && message.stride != 1) {
    check.fail(name, "must be contiguous", "a strided layout");
  }
  const uintptr_t past = reinterpret_cast<uintptr_t>(message.data) % sizeof(uint64_t);
  if (!check.is_for_cuda() || past == 0) return;
  check.fail(name, "must begin at a multiple of 8 bytes on CUDA",
             format("%d bytes behind one", int(past)));
}

TransferProblem transfer_of(const ArgCheck& check, const Layers& layers, const View& page_table,
                            int64_t row, int64_t begin, int64_t end) {
  const SlotCheck slots = check_row(check, page_table, row, begin, end);
  TransferProblem p{};
  p.L = layers.L;
  p.G = check.dim('G');
  p.parts = layers.parts;
  row_bytes(check, layers, p.bytes);
  p.layers = layers.layer;
  p.pages = slots.pages;
  p.room = slots.room();
  p.row = row;
  p.begin = begin;
  p.tokens = end - begin;
  p.function = check.function();
  return p;
}

}  // namespace fewstep::kv

extern "C" int64_t fewstep_kv_export_bytes(int64_t layers, int64_t tokens, int64_t heads,
                                           int64_t head_dim, int32_t dtype_bits) {
  if (layers < 0 || tokens < 0 || heads < 0 || head_dim < 0) return 0;
  if (dtype_bits != 8 && dtype_bits != 16 && dtype_bits != 32) return 0;
  if (head_dim > INT32_MAX) return 0;
  const int64_t row = head_dim * (dtype_bits / 8) + (dtype_bits == 8 ? int64_t(sizeof(float)) : 0);
  int64_t bytes = 2;
  for (const int64_t factor : {row, heads, tokens, layers}) {
    if (__builtin_mul_overflow(bytes, factor, &bytes)) return 0;
  }
  if (__builtin_add_overflow(bytes, fewstep::kv::kHeaderBytes, &bytes)) return 0;
  return bytes;
}

extern "C" fewstep_status fewstep_kv_read_header(const void* data, uint64_t bytes,
                                                 fewstep_kv_header* out) {
  return fewstep::guard([&] {
    using namespace fewstep::kv;
    const fewstep::ArgCheck check("fewstep_kv_read_header", nullptr);
    if (!data) check.fail("data", "must be given", "NULL");
    if (!out) check.fail("out", "must be given", "NULL");
    const Header h = read_header(check, "data", data, bytes, 1);
    *out = {h.version, h.layers,     h.first_layer, h.heads,  h.head_dim,
            h.scales,  h.dtype_code, h.dtype_bits,  h.tokens, h.payload_bytes};
  });
}
