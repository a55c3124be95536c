// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/cuda/async_copy.h"
#include "tree/cuda/attention_bytes.h"

// How a tile's rows come from memory into the shared memory that ldmatrix reads, as bfloat16 or
// float16.
//
// Halves are copied. Bytes are in registers on their way, and become halves as they are stored: an
// asynchronous copy would write and read them in shared memory once more, of which few rows have
// no time to spare. To make halves of each fragment instead would need no such tile, but four warps
// of rows would each do it anew, and behind the cache's tokens a tile may have drafted ones, whose
// elements are halves.
namespace fewstep::tree::FEWSTEP_ISA {
namespace {

constexpr int kPad = 8;  // of a row: 16 bytes of each of eight rows are in all 32 banks

struct __attribute__((may_alias, aligned(16))) Words {
  uint32_t w[4];
};

// Begins to copy the rows of halves from `first` on, a share of it per thread; rows that there are
// not are zero, as weights of keys that nobody sees are multiplied with them.
template <int kThreads, int kCount, int kPitch>
FEWSTEP_HOST_DEVICE inline void copy_halves(const char* const (&rows)[kCount], int first, int D,
                                            bool is_wide, uint16_t (&to)[kCount][kPitch], int t) {
  constexpr int kChunks = (kPitch - kPad) / 8;
  for (int c = first * kChunks + t; c < kCount * kChunks; c += kThreads) {
    const int row = c / kChunks, d = c % kChunks * 8;
    if (d >= D) continue;
    const char* from = rows[row];
    if (from && is_wide) {
      gpu::copy16_async(&to[row][d], from + 2 * d);
      continue;
    }
    Words words{};
    for (int i = 0; from && i < 4; ++i) {
      const gpu::HalfWord* halves = (const gpu::HalfWord*)from + d + 2 * i;
      words.w[i] = halves[0] | (uint32_t)halves[1] << 16;
    }
    *(Words*)&to[row][d] = words;
  }
}

// A thread's share of a tile, of which the first `bytes` rows are of bytes and others of halves.
// What begin() reads is in the tile after end(), a wait for copies and a barrier.
template <bool kIsBytes, bool kIsBf16, int kCount, int kWidth, int kThreads>
struct TileRead {
  static constexpr int kPitch = kWidth + kPad, kChunks = kWidth / 8;
  static constexpr int kRowStep = kThreads / kChunks;  // from one row of a thread to its next
  static constexpr int kOwn = kIsBytes ? kCount / kRowStep : 1;
  static_assert(kThreads % kChunks == 0 && kCount % kRowStep == 0);
  using Rows = const char* const[kCount];
  using Tile = uint16_t[kCount][kPitch];

  uint32_t w[kOwn][2];  // of each of its rows eight elements, on their way

  FEWSTEP_HOST_DEVICE void begin(const Rows& rows, int bytes, DType type, int D, bool is_wide,
                                 Tile& to, int t) {
    if constexpr (kIsBytes) {
      FEWSTEP_UNROLL
      for (int i = 0; i < kOwn; ++i) w[i][0] = w[i][1] = 0;
      if (is_wide) {
        load(rows, bytes, D, t);
      } else {
        copy_bytes(rows, bytes, type, D, to, t);
      }
    }
    copy_halves<kThreads>(rows, bytes, D, is_wide, to, t);
  }

  FEWSTEP_HOST_DEVICE void end(int bytes, DType type, int D, bool is_wide, Tile& to, int t) const {
    if (!kIsBytes || !is_wide || t % kChunks * 8 >= D) return;
    if (type == DType::kI8) {
      store_all<DType::kI8>(bytes, to, t);
    } else {
      store_all<DType::kE4M3>(bytes, to, t);
    }
  }

 private:
  FEWSTEP_HOST_DEVICE void load(const Rows& rows, int bytes, int D, int t) {
    const int d = t % kChunks * 8;
    if (d >= D) return;
    FEWSTEP_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int row = t / kChunks + i * kRowStep;
      const char* from = row < bytes ? rows[row] : nullptr;
      if (from) gpu::load8(from + d, w[i]);
    }
  }

  template <DType kType>
  FEWSTEP_HOST_DEVICE void store_all(int bytes, Tile& to, int t) const {
    FEWSTEP_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int row = t / kChunks + i * kRowStep;
      if (row < bytes) store<kType>(w[i], &to[row][t % kChunks * 8]);
    }
  }

  // From any address. The same code for tiles of any number of rows, and so are the arguments: when
  // compilers join such functions, they take one's array for the other's and warn.
  FEWSTEP_HOST_DEVICE static void copy_bytes(const char* const* rows, int bytes, DType type, int D,
                                             uint16_t (*to)[kPitch], int t) {
    const int d = t % kChunks * 8;
    FEWSTEP_NO_UNROLL
    for (int row = t / kChunks; row < bytes && d < D; row += kRowStep) {
      uint32_t words[2] = {};
      FEWSTEP_UNROLL
      for (int i = 0; rows[row] && i < 8; ++i) {
        words[i / 4] |= (uint32_t)(uint8_t)rows[row][d + i] << i % 4 * 8;
      }
      if (type == DType::kI8) {
        store<DType::kI8>(words, &to[row][d]);
      } else {
        store<DType::kE4M3>(words, &to[row][d]);
      }
    }
  }

  template <DType kType>
  FEWSTEP_HOST_DEVICE static void store(const uint32_t bytes[2], uint16_t* to) {
    Words words;
    FEWSTEP_UNROLL
    for (int h = 0; h < 2; ++h) {
      words.w[2 * h] = halves_of<kType, kIsBf16>(spread<false>(bytes[h]));
      words.w[2 * h + 1] = halves_of<kType, kIsBf16>(spread<true>(bytes[h]));
    }
    *(Words*)to = words;
  }
};

}  // namespace
}  // namespace fewstep::tree::FEWSTEP_ISA
