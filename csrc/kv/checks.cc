// SPDX-License-Identifier: Apache-2.0
#include "kv/checks.h"

#include <algorithm>
#include <cstdlib>

namespace fewstep::kv {
namespace {

// Dimensions of a tensor with strides in bytes, largest stride first.
struct Grid {
  int n = 0;
  int64_t size[ShapePattern::kMaxTokens], stride[ShapePattern::kMaxTokens];
  uintptr_t begin;  // lowest byte
  int64_t extent;   // bytes from there to the highest
  int64_t unit;     // bytes of an element
};

Grid grid_of(const fewstep_tensor& t) {
  Grid g;
  g.unit = t.dtype.bits / 8;
  g.begin = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
  g.extent = g.unit;
  int64_t expected = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    const int64_t stride = (t.strides ? t.strides[i] : expected) * g.unit;
    expected *= t.shape[i];
    if (t.shape[i] == 0) g.extent = 0;
    if (t.shape[i] <= 1) continue;
    if (stride < 0) g.begin += uintptr_t(stride * (t.shape[i] - 1));
    g.size[g.n] = t.shape[i];
    g.stride[g.n++] = std::abs(stride);
  }
  for (int i = 1; i < g.n; ++i) {
    for (int j = i; j > 0 && g.stride[j] > g.stride[j - 1]; --j) {
      std::swap(g.stride[j], g.stride[j - 1]);
      std::swap(g.size[j], g.size[j - 1]);
    }
  }
  for (int i = 0; i < g.n && g.extent > 0; ++i) g.extent += g.stride[i] * (g.size[i] - 1);
  return g;
}

// Whether two elements of one grid are at one address: a stride below what lies within it.
bool overlaps_itself(const Grid& g) {
  int64_t within = g.unit;
  for (int i = g.n - 1; i >= 0; --i) {
    if (g.stride[i] < within) return true;
    within += g.stride[i] * (g.size[i] - 1);
  }
  return false;
}

// Whether a grid and the same grid `shift` bytes further share an element. At each dimension the
// inner ones span less than the stride, so that only the two nearest multiples can bring them
// together.
bool meets(const Grid& g, int i, int64_t shift) {
  // The second is said for GCC 12, which inlines this beyond the arrays' ends and warns of it.
  if (i == g.n || i == ShapePattern::kMaxTokens) return std::abs(shift) < g.unit;
  int64_t steps = shift / g.stride[i];
  if (shift < 0 && steps * g.stride[i] != shift) --steps;
  for (const int64_t s : {steps, steps + 1}) {
    if (std::abs(s) < g.size[i] && meets(g, i + 1, shift - s * g.stride[i])) return true;
  }
  return false;
}

bool share_memory(const Grid& a, const Grid& b) {
  if (a.extent == 0 || b.extent == 0) return false;
  if (a.begin + uintptr_t(a.extent) <= b.begin || b.begin + uintptr_t(b.extent) <= a.begin) {
    return false;
  }
  const bool same = a.n == b.n && a.unit == b.unit && std::equal(a.size, a.size + a.n, b.size) &&
                    std::equal(a.stride, a.stride + a.n, b.stride);
  if (same) return meets(a, 0, int64_t(b.begin - a.begin));
  // Of different shapes, such as scales behind their page: apart within one pitch of pages.
  if (a.n == 0 || b.n == 0 || a.stride[0] != b.stride[0]) return true;
  const int64_t pitch = a.stride[0];
  const int64_t a_row = a.extent - pitch * (a.size[0] - 1);
  const int64_t b_row = b.extent - pitch * (b.size[0] - 1);
  const int64_t shift = int64_t(b.begin - a.begin) % pitch;
  const int64_t ahead = shift < 0 ? shift + pitch : shift;
  return ahead < a_row || pitch - ahead < b_row;
}

}  // namespace

Cache cache_of(const StridedView& v) {
  const int64_t bytes = size_of(v.dtype);
  return {v.as<char>(), v.strides[0] * bytes, v.strides[1] * bytes, v.strides[2] * bytes};
}

void check_apart(const ArgCheck& check, int layer, const NamedTensor (&caches)[4]) {
  Grid grids[4];
  for (int i = 0; i < 4; ++i) {
    if (!caches[i].tensor) continue;
    grids[i] = grid_of(*caches[i].tensor);
    if (grids[i].extent > 0 && overlaps_itself(grids[i])) {
      check.fail({caches[i].name, layer}, "must not overlap itself", "strides that do");
    }
    for (int j = 0; j < i; ++j) {
      if (!caches[j].tensor || !share_memory(grids[j], grids[i])) continue;
      check.fail({caches[i].name, layer},
                 "must not overlap '" + ArgName(caches[j].name, layer).str() + "'",
                 "shared memory");
    }
  }
}

void SlotCheck::page_of(int64_t b, int64_t slot) const {
  if (!pages.table.data || !check.can_read()) return;
  const int64_t column = slot / pages.T;
  const int32_t page = pages.table.data[b * pages.table.stride + column];
  if (page >= 0 && page < P) return;
  check.fail(
      "page_table",
      format("must have a page in [0, %lld) for slot %lld of request %lld",
             static_cast<long long>(P), static_cast<long long>(slot), static_cast<long long>(b)),
      std::to_string(page));
}

void SlotCheck::range(const char* name, int64_t b, int64_t begin, int64_t end) const {
  if (end > capacity()) {
    check.fail(name,
               format("must leave request %lld within its cache of %lld slots",
                      static_cast<long long>(b), static_cast<long long>(capacity())),
               std::to_string(end));
  }
  for (int64_t s = begin; s < end; s = (s / pages.T + 1) * pages.T) page_of(b, s);
}

SlotCheck slot_check(const ArgCheck& check, const View& page_table) {
  SlotCheck out{check, {{nullptr, 0}, check.dim('T')}, check.dim('P'), 1};
  if (check.dim('C') >= 0) {
    out.pages.table = ints_of(page_table);
    out.columns = check.dim('C');
  } else if (out.P != check.dim('B')) {
    check.fail("page_table",
               format("must be given for caches of other than B=%lld pages",
                      static_cast<long long>(check.dim('B'))),
               "none with P=" + std::to_string(out.P));
  }
  return out;
}

void check_count(const ArgCheck& check, ArgName name, int64_t count, int64_t most) {
  if (count >= 0 && count <= most) return;
  check.fail(name, format("must lie in [0, M=%lld]", static_cast<long long>(most)),
             std::to_string(count));
}

void check_ascending(const ArgCheck& check, const char* name, int row, const int32_t* values,
                     int64_t count, int64_t first) {
  int64_t before = first - 1;
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] <= before) {
      check.fail({name, row}, format("must increase from %lld on", static_cast<long long>(first)),
                 format("%d at entry %lld", int(values[i]), static_cast<long long>(i)));
    }
    before = values[i];
  }
}

void check_indptr(const ArgCheck& check, const Ints& indptr, int64_t B, int64_t N) {
  if (at(indptr, 0) != 0) {
    check.fail({"indptr", 0}, "must be 0", std::to_string(at(indptr, 0)));
  }
  for (int64_t b = 0; b < B; ++b) {
    if (at(indptr, b + 1) >= at(indptr, b)) continue;
    check.fail({"indptr", int(b + 1)},
               format("must be %d, the entry before it, or more", int(at(indptr, b))),
               std::to_string(at(indptr, b + 1)));
  }
  if (at(indptr, B) != N) {
    check.fail({"indptr", int(B)}, format("must be N=%lld", static_cast<long long>(N)),
               std::to_string(at(indptr, B)));
  }
}

}  // namespace fewstep::kv
