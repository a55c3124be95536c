// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fewstep {

// CPU kernel variants, narrowest first. The order is the order of preference.
// kCudaOnHost runs the CUDA kernels' code on the CPU, for tests: it is never a default, and chosen
// by its name alone.
enum class Isa {
  kScalar = 0,
  kAvx2 = 1,
  kAvx512 = 2,
  kAvx512Vnni = 3,
  kAvx512Bf16 = 4,  // and VNNI, which every machine with it has
  kCudaOnHost = 5
};
inline constexpr int kIsaCount = 6;

const char* name_of(Isa isa);

// True when this build has the variant and this machine runs it; kCudaOnHost is not counted.
bool is_available(Isa isa);

// The variant in use: the widest available, or FEWSTEP_CPU_ISA. Throws FEWSTEP_UNSUPPORTED when
// that names one which is not available.
Isa active_isa();

}  // namespace fewstep
