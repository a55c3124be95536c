// SPDX-License-Identifier: Apache-2.0
#include "solver/plan_table.h"

#include <cstring>
#include <memory>
#include <vector>

#include "core/cuda/device.h"

namespace fewstep::solver {
namespace {

constexpr int kVariants = 4;  // with and without a mask, a model input

size_t resolved_offset(size_t n_rows) {
  constexpr size_t kAlign = 16;
  return (n_rows * sizeof(fewstep_plan_row) + kAlign - 1) / kAlign * kAlign;
}

// The rows, and behind them every variant of the resolved rows.
std::vector<char> table_bytes(std::span<const fewstep_plan_row> rows) {
  const size_t offset = resolved_offset(rows.size());
  std::vector<char> bytes(offset + kVariants * rows.size() * sizeof(ResolvedRow));
  std::memcpy(bytes.data(), rows.data(), rows.size_bytes());
  char* to = bytes.data() + offset;
  for (int variant = 0; variant < kVariants; ++variant) {
    for (const fewstep_plan_row& row : rows) {
      ResolvedRow resolved{};
      resolve(row, {nullptr, 0, (variant & 1) != 0, (variant & 2) != 0}, &resolved);
      std::memcpy(to, &resolved, sizeof resolved);
      to += sizeof resolved;
    }
  }
  return bytes;
}

}  // namespace

struct PlanTables::Entry {
  Device device;
  std::vector<char> on_host;  // the memory, on the CPU
  void* on_device = nullptr;  // the memory, on CUDA
  PlanTable table{};
  Entry* next = nullptr;
};

PlanTables::~PlanTables() {
  for (Entry* entry = first_.load(); entry;) {
    const std::unique_ptr<Entry> done(entry);
    entry = done->next;
    if (done->on_device) gpu::release(done->device, done->on_device);
  }
}

const PlanTable* PlanTables::find(Device device) const {
  for (const Entry* e = first_.load(std::memory_order_acquire); e; e = e->next) {
    if (e->device == device) return &e->table;
  }
  return nullptr;
}

const PlanTable& PlanTables::prepare(const char* function, std::span<const fewstep_plan_row> rows,
                                     Device device) {
  if (const PlanTable* table = find(device)) return *table;
  const std::lock_guard lock(mutex_);
  if (const PlanTable* table = find(device)) return *table;
  auto entry = std::make_unique<Entry>();
  entry->device = device;
  entry->on_host = table_bytes(rows);
  const char* memory = entry->on_host.data();
  if (device.type == kCuda) {
    entry->on_device = gpu::upload(function, memory, entry->on_host.size());
    entry->on_host = {};
    memory = static_cast<const char*>(entry->on_device);
  }
  entry->table.rows = reinterpret_cast<const fewstep_plan_row*>(memory);
  entry->table.resolved =
      reinterpret_cast<const ResolvedRow*>(memory + resolved_offset(rows.size()));
  entry->next = first_.load();
  first_.store(entry.get(), std::memory_order_release);
  return entry.release()->table;
}

}  // namespace fewstep::solver
