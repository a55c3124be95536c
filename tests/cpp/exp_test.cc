// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/exp.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

// This file is compiled for the baseline: the scalar vector. Ops that use it are compared over all
// instruction sets bit by bit.
namespace {

float exp_of(float x) { return fewstep::vec::exp({x}).v; }
float exp2_of(float x) { return fewstep::vec::exp2_below_127({x}).v; }

float ulp(double value) {
  const float f = float(value);
  return std::nextafter(f, std::numeric_limits<float>::infinity()) - f;
}

}  // namespace

TEST_CASE("exp is within one unit in the last place") {
  double worst = 0.0;
  const auto look = [&](float x) {
    const double exact = std::exp(double(x));
    const double error = std::abs(double(exp_of(x)) - exact) / ulp(exact);
    if (error > worst) worst = error;
  };
  for (int i = 0; i < 2000000; ++i) look(-87.3f + float(i) * (175.6f / 2000000.0f));
  for (int e = -40; e < 7; ++e) {
    for (int i = 0; i < 1000; ++i) {
      const float x = std::ldexp(1.0f + float(i) / 1000.0f, e);
      if (x < 87.3f) look(-x);
      if (x < 88.3f) look(x);
    }
  }
  CHECK(worst < 1.0);
}

TEST_CASE("exp at the ends") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(exp_of(0.0f) == 1.0f);
  CHECK(exp_of(-0.0f) == 1.0f);
  CHECK(exp_of(-infinity) == 0.0f);
  CHECK_FALSE(std::signbit(exp_of(-infinity)));
  CHECK(exp_of(-3.4e38f) == 0.0f);
  CHECK(exp_of(-87.69f) == 0.0f);
  CHECK(exp_of(-87.6f) > 0.0f);  // a subnormal
  CHECK(exp_of(infinity) == infinity);
  CHECK(exp_of(88.4f) == infinity);
  CHECK(std::isfinite(exp_of(88.3f)));
  CHECK(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::isnan(exp_of(-std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("exp2 is within 0.8 units in the last place") {
  double worst = 0.0;
  const auto look = [&](float x) {
    const double exact = std::exp2(double(x));
    const double error = std::abs(double(exp2_of(x)) - exact) / ulp(exact);
    if (error > worst) worst = error;
  };
  for (int i = 0; i < 2000000; ++i) look(-126.0f + float(i) * (253.4f / 2000000.0f));
  for (int e = -40; e < 7; ++e) {
    for (int i = 0; i < 1000; ++i) {
      const float x = std::ldexp(1.0f + float(i) / 1000.0f, e);
      if (x < 126.0f) look(-x);
      if (x < 127.4f) look(x);
    }
  }
  CHECK(worst < 0.8);
}

TEST_CASE("exp2 at the ends") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (int n = -126; n < 128; ++n) CHECK(exp2_of(float(n)) == std::ldexp(1.0f, n));
  CHECK(exp2_of(-infinity) == 0.0f);
  CHECK_FALSE(std::signbit(exp2_of(-infinity)));
  CHECK(exp2_of(-126.5f) == 0.0f);
  CHECK(exp2_of(-126.49f) > 0.0f);  // a subnormal
  CHECK(std::isnan(exp2_of(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::isnan(exp2_of(-std::numeric_limits<float>::quiet_NaN())));
}
