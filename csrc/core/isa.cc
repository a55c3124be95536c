// SPDX-License-Identifier: Apache-2.0
#include "core/isa.h"

#include <cstdlib>
#include <cstring>

#include "core/status.h"
#include "fewstep/context.h"

namespace fewstep {
namespace {

constexpr const char* kNames[kIsaCount] = {"scalar",      "avx2",        "avx512",
                                           "avx512_vnni", "avx512_bf16", "cuda_on_host"};

struct Choice {
  Isa isa = Isa::kScalar;
  bool valid = true;
  std::string requested;
};

std::string available_names() {
  std::string names;
  for (int i = 0; i < kIsaCount; ++i) {
    if (!is_available(Isa(i))) continue;
    if (!names.empty()) names += ", ";
    names += kNames[i];
  }
  return names;
}

Choice choose() {
  Choice choice;
  for (int i = 0; i < kIsaCount; ++i) {
    if (is_available(Isa(i))) choice.isa = Isa(i);
  }
  const char* forced = std::getenv("FEWSTEP_CPU_ISA");
  if (!forced || !*forced) return choice;
  choice.valid = false;
  choice.requested = forced;
  for (int i = 0; i < kIsaCount; ++i) {
    const bool exists = is_available(Isa(i)) || Isa(i) == Isa::kCudaOnHost;
    if (exists && std::strcmp(forced, kNames[i]) == 0) {
      choice.isa = Isa(i);
      choice.valid = true;
    }
  }
  return choice;
}

}  // namespace

const char* name_of(Isa isa) { return kNames[int(isa)]; }

bool is_available(Isa isa) {
  if (isa == Isa::kScalar) return true;
  if (isa == Isa::kCudaOnHost) return false;
#if defined(FEWSTEP_X86_KERNELS)
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }
  if (isa == Isa::kAvx512) {
    return is_available(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
  }
  if (isa == Isa::kAvx512Vnni) {
    return is_available(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
  }
  return is_available(Isa::kAvx512Vnni) && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

Isa active_isa() {
  static const Choice choice = choose();
  if (!choice.valid) {
    throw Error(FEWSTEP_UNSUPPORTED,
                format("FEWSTEP_CPU_ISA must be one of %s on this machine, got '%s'",
                       available_names().c_str(), choice.requested.c_str()));
  }
  return choice.isa;
}

}  // namespace fewstep

extern "C" {

fewstep_status fewstep_cpu_isa(const char** name) {
  return fewstep::guard([&] {
    if (!name) {
      throw fewstep::Error(FEWSTEP_INVALID_ARGUMENT, "fewstep_cpu_isa: 'name' must not be NULL");
    }
    *name = fewstep::name_of(fewstep::active_isa());
  });
}

const char* fewstep_cpu_isa_available(int32_t i) {
  for (int k = 0; k < fewstep::kIsaCount; ++k) {
    if (fewstep::is_available(fewstep::Isa(k)) && i-- == 0) {
      return fewstep::name_of(fewstep::Isa(k));
    }
  }
  return nullptr;
}

}  // extern "C"
