// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/processor.h"

#include <unistd.h>

namespace fewstep {
namespace {

int64_t size_of_cache(int name, int64_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? int64_t(bytes) : otherwise;
}

}  // namespace

int64_t first_level_cache_bytes() {
  static const int64_t kBytes = size_of_cache(_SC_LEVEL1_DCACHE_SIZE, int64_t(32) << 10);
  return kBytes;
}

int64_t last_level_cache_bytes() {
  static const int64_t kBytes = size_of_cache(_SC_LEVEL3_CACHE_SIZE, int64_t(32) << 20);
  return kBytes;
}

bool wants_streams_prefetched() {
#if defined(FEWSTEP_X86_KERNELS)
  static const bool kIntel = __builtin_cpu_is("intel");
  return kIntel;
#else
  return false;
#endif
}

}  // namespace fewstep
