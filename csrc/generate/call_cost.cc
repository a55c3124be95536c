// SPDX-License-Identifier: Apache-2.0
#include "generate/call_cost.h"

#include <algorithm>
#include <cmath>

#include "core/arguments.h"
#include "fewstep/budget.h"

namespace fewstep::generate {
namespace {

constexpr size_t kRecent = 8;    // calls of one size that count
constexpr size_t kFew = 3;       // of a size after which the curve is drawn every so many calls
constexpr int64_t kStale = 400;  // calls after which a size is forgotten

// Beyond what was measured a row takes this share of what it took there, at least: sizes that are
// close to each other say little of others.
constexpr double kLeastSlope = 0.1;

double slope(const Point& from, const Point& to) {
  return (to.seconds - from.seconds) / (to.rows - from.rows);
}

}  // namespace

void CallCost::add(int32_t rows, double seconds) {
  ++calls_;
  Size& size = sizes_[rows];
  if (calls_ % int64_t(kRecent) == 0 || size.recent.size() < kFew) curve_.clear();
  if (size.recent.size() < kRecent) {
    size.recent.push_back(seconds);
  } else {
    size.recent[size.next] = seconds;
    size.next = (size.next + 1) % kRecent;
  }
  size.last = calls_;
  if (calls_ % kStale == 0) {
    std::erase_if(sizes_, [this](const auto& one) { return one.second.last <= calls_ - kStale; });
  }
}

int32_t CallCost::count(int32_t rows) const {
  const auto found = sizes_.find(rows);
  return found == sizes_.end() ? 0 : int32_t(found->second.recent.size());
}

const std::vector<double>& CallCost::curve(int32_t most) {
  if (curve_.size() <= size_t(most)) {
    curve_.clear();
    if (sizes_.size() > 1) draw(std::max(most, 2 * sizes_.rbegin()->first));
  }
  return curve_;
}

// The seconds of the sizes that were measured. The only call of a size may have been one of the
// slow ones: between sizes that are known better it is left out, and a row of a larger one takes no
// longer than a row of the largest of those.
std::vector<Point> CallCost::points() const {
  const auto is_sure = [](const auto& one) { return one.second.recent.size() > 1; };
  const auto high = std::find_if(sizes_.rbegin(), sizes_.rend(), is_sure);
  Point sure = {0, 0.0};
  std::vector<Point> points;
  for (const auto& one : sizes_) {
    const int32_t rows = one.first;
    std::vector<double> recent = one.second.recent;
    std::sort(recent.begin(), recent.end());
    double seconds = recent[recent.size() / 4];
    if (is_sure(one)) {
      sure = {rows, seconds};
    } else if (sure.rows > 0) {
      if (rows < high->first) continue;
      seconds = std::min(seconds, sure.seconds * rows / sure.rows);
    }
    points.push_back({rows, seconds});
  }
  // What took less with more rows was not slow for its rows.
  for (size_t p = points.size() - 1; p > 0; --p) {
    points[p - 1].seconds = std::min(points[p - 1].seconds, points[p].seconds);
  }
  return points;
}

void CallCost::draw(int32_t most) {
  std::vector<Point> points = this->points();
  const Point first = points[0], last = points.back();
  const double all = slope(first, last);
  if (most > last.rows) {  // as steep as on the way to the largest one
    const double each = last.seconds / last.rows;
    const double steepest =
        std::max({all, slope(points[points.size() - 2], last), kLeastSlope * each});
    points.push_back({most, last.seconds + steepest * (most - last.rows)});
  }
  // Requests end one by one: fewer rows than were ever run take less, as steeply, than the fewest.
  const double falls = std::min(all, first.seconds / first.rows);
  points.insert(points.begin(), {0, first.seconds - falls * first.rows});
  curve_.resize(size_t(most) + 1);
  for (size_t p = 0; p + 1 < points.size(); ++p) {
    const double each = slope(points[p], points[p + 1]);
    for (int32_t rows = points[p].rows; rows < points[p + 1].rows; ++rows) {
      curve_[size_t(rows)] = each * (rows - points[p].rows) + points[p].seconds;
    }
  }
  curve_[size_t(points.back().rows)] = points.back().seconds;
}

}  // namespace fewstep::generate

using namespace fewstep;
using fewstep::generate::kMostRows;

extern "C" {

fewstep_status fewstep_call_cost_create(fewstep_call_cost** out) {
  return guard([&] {
    not_null("fewstep_call_cost_create", "out", out);
    *out = new fewstep_call_cost;
  });
}

void fewstep_call_cost_destroy(fewstep_call_cost* cost) { delete cost; }

fewstep_status fewstep_call_cost_add(fewstep_call_cost* cost, int32_t rows, double seconds) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_call_cost_add";
    not_null(kFunction, "cost", cost);
    within(kFunction, "rows", 1, kMostRows, rows);
    if (!std::isfinite(seconds)) {
      throw Error(FEWSTEP_INVALID_ARGUMENT, format("%s: 'seconds' must be finite, got %s",
                                                   kFunction, number(seconds).c_str()));
    }
    cost->measured.add(rows, seconds);
  });
}

int32_t fewstep_call_cost_count(const fewstep_call_cost* cost, int32_t rows) {
  return cost ? cost->measured.count(rows) : 0;
}

fewstep_status fewstep_call_cost_curve(fewstep_call_cost* cost, int32_t most, double* seconds,
                                       int32_t* known) {
  return guard([&] {
    constexpr char kFunction[] = "fewstep_call_cost_curve";
    not_null(kFunction, "cost", cost);
    within(kFunction, "most", 0, kMostRows, most);
    not_null(kFunction, "seconds", seconds);
    not_null(kFunction, "known", known);
    const std::vector<double>& curve = cost->measured.curve(most);
    *known = curve.empty() ? 0 : 1;
    if (*known) std::copy_n(curve.begin(), size_t(most) + 1, seconds);
  });
}

}  // extern "C"
