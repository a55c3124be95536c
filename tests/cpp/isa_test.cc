// SPDX-License-Identifier: Apache-2.0
#include "core/isa.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "core/kernel_set.h"

using namespace fewstep;

namespace {

void scalar_kernel() {}
void wide_kernel() {}

}  // namespace

TEST_CASE("the scalar kernels run everywhere and come first") {
  CHECK(is_available(Isa::kScalar));
  CHECK(std::string(fewstep_cpu_isa_available(0)) == "scalar");
  CHECK(fewstep_cpu_isa_available(kIsaCount) == nullptr);
  CHECK(fewstep_cpu_isa_available(-1) == nullptr);
}

TEST_CASE("the ISA in use is the one that is forced, else the widest available") {
  std::vector<std::string> available;
  for (int i = 0; fewstep_cpu_isa_available(i); ++i) {
    available.emplace_back(fewstep_cpu_isa_available(i));
  }
  const char* forced = std::getenv("FEWSTEP_CPU_ISA");
  const std::string expected = forced && *forced ? forced : available.back();
  CHECK(std::string(name_of(active_isa())) == expected);
}

TEST_CASE("a kernel set picks by device, and a missing column is an error") {
  KernelSet<void()> complete = {{&scalar_kernel}, nullptr};
  for (int isa = 1; isa < kIsaCount; ++isa) complete.cpu[isa] = &wide_kernel;
  void (*const expected)() = active_isa() == Isa::kScalar ? &scalar_kernel : &wide_kernel;
  const bool picked = &complete.pick({kCpu, 0}, "f") == expected;
  CHECK(picked);
  try {
    complete.pick({kCuda, 0}, "f");
    FAIL("a set without CUDA kernels picked one");
  } catch (const Error& e) {
    CHECK(e.status() == FEWSTEP_UNSUPPORTED);
    CHECK(std::string(e.what()) ==
          "f: this build has no kernel for device type 2 (1 is CPU, 2 CUDA)");
  }
  const KernelSet<void()> none = {};
  try {
    none.pick({kCpu, 0}, "f");
    FAIL("an empty set picked a kernel");
  } catch (const Error& e) {
    CHECK(e.status() == FEWSTEP_UNSUPPORTED);
    CHECK(e.what() == "f: there is no " + std::string(name_of(active_isa())) + " kernel");
  }
}
