// SPDX-License-Identifier: Apache-2.0
// Clusters of blocks, as the CPU plays them.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "core/cuda/launch.h"
#include "core/status.h"

using namespace fewstep;

namespace {

constexpr int kWidth = 3;

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};

// Each block has a share of a cluster's numbers: index, index + 1, ... in the order of ranks.
struct ShareKernel {
  static constexpr int kThreads = 32, kBlocks = 1;
  using Block = gpu::Block<kThreads>;
  struct Shared {
    int64_t own[kWidth], all[gpu::kMostOfCluster * kWidth], slot;
  };

  std::vector<int64_t>* gathered;
  std::vector<int64_t>* sums;

  void run(const Block& block, Shared& s) const {
    const int size = block.cluster.size();
    for (int round = 0; round < 3; ++round) {
      block.each([&](int t) {
        if (t < kWidth) s.own[t] = block.index + round + block.cluster.rank() * kWidth + t;
      });
      block.gather(s.own, kWidth, s.all);
      for (int i = 0; i < size * kWidth; ++i) REQUIRE(s.all[i] == block.index + round + i);
      const int64_t sum = block.reduce_blocks(s.own[0], &s.slot, Sum{});
      if (block.cluster.rank() == size - 1) {
        gathered->push_back(s.all[size * kWidth - 1]);
        sums->push_back(sum);
      }
    }
  }
};

enum class Fault { kNotAll, kMore, kThrows };

struct FaultyKernel {
  static constexpr int kThreads = 32, kBlocks = 1;
  struct Shared {
    int nothing;
  };

  Fault fault;

  void run(const gpu::Block<kThreads>& block, Shared&) const {
    const int rank = block.cluster.rank();
    if (fault == Fault::kNotAll && rank == 1) return;
    block.cluster.barrier();
    if (fault == Fault::kMore && rank == 0) block.cluster.barrier();
    if (fault == Fault::kThrows && rank == 2) throw Error(FEWSTEP_INTERNAL, "a block fails");
    block.cluster.barrier();
  }
};

std::string message_of(Fault fault, int64_t clusters) {
  try {
    gpu::launch_clusters("f", FaultyKernel{fault}, clusters, 4, nullptr);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("clusters are as large as work and multiprocessors allow") {
  CHECK(gpu::cluster_size(1, 1, 132) == 1);
  CHECK(gpu::cluster_size(1, 2, 132) == 2);
  CHECK(gpu::cluster_size(1, 5, 132) == 8);
  CHECK(gpu::cluster_size(1, 100, 132) == 8);
  CHECK(gpu::cluster_size(16, 100, 132) == 8);
  CHECK(gpu::cluster_size(17, 100, 132) == 4);
  CHECK(gpu::cluster_size(66, 100, 132) == 2);
  CHECK(gpu::cluster_size(67, 100, 132) == 1);
  CHECK(gpu::cluster_size(1, 100, 7) == 4);
  CHECK(gpu::cluster_size(0, 0, 132) == 1);
}

TEST_CASE("blocks of a cluster know what each has found") {
  for (int size : {1, 2, 4, 8}) {
    std::vector<int64_t> gathered, sums;
    gpu::launch_clusters("f", ShareKernel{&gathered, &sums}, 3, size, nullptr);
    REQUIRE(sums.size() == 9);
    for (int i = 0; i < 9; ++i) {
      const int64_t first = i / 3 + i % 3;
      CHECK(gathered[size_t(i)] == first + size * kWidth - 1);
      CHECK(sums[size_t(i)] == size * first + kWidth * size * (size - 1) / 2);
    }
  }
}

TEST_CASE("a block that does not meet the others is an error, and so is what one throws") {
  const std::string apart = "blocks of a CUDA kernel's cluster do not all meet";
  for (int64_t clusters : {1, 2}) {  // of which the second runs backwards
    CHECK(message_of(Fault::kNotAll, clusters) == apart);
    CHECK(message_of(Fault::kMore, clusters) == apart);
    CHECK(message_of(Fault::kThrows, clusters) == "a block fails");
  }
}
