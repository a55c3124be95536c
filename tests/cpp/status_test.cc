// SPDX-License-Identifier: Apache-2.0
#include "core/status.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>

using namespace fewstep;

TEST_CASE("guard turns every exception into a status and its text") {
  CHECK(guard([] {}) == FEWSTEP_OK);
  CHECK(guard([] { throw Error(FEWSTEP_UNSUPPORTED, "f: 'x' must be y, got z"); }) ==
        FEWSTEP_UNSUPPORTED);
  CHECK(std::string(fewstep_last_error()) == "f: 'x' must be y, got z");
  CHECK(guard([] { throw std::bad_alloc(); }) == FEWSTEP_OUT_OF_MEMORY);
  CHECK(guard([] { throw std::out_of_range("far"); }) == FEWSTEP_INTERNAL);
  CHECK(std::string(fewstep_last_error()) == "far");
  CHECK(guard([] { throw 7; }) == FEWSTEP_INTERNAL);
}

TEST_CASE("a success leaves the last text as it was") {
  guard([] { throw Error(FEWSTEP_INTERNAL, "kept"); });
  guard([] {});
  CHECK(std::string(fewstep_last_error()) == "kept");
}

TEST_CASE("a text longer than the buffer is cut, and the pointer never moves") {
  const char* const before = fewstep_last_error();
  const std::string long_text(5000, 'x');
  set_last_error(FEWSTEP_INTERNAL, long_text.c_str());
  CHECK(fewstep_last_error() == before);
  CHECK(std::string(before) == std::string(511, 'x'));
}

TEST_CASE("each thread has a text of its own") {
  set_last_error(FEWSTEP_INTERNAL, "mine");
  std::string other = "unset";
  std::thread([&] { other = fewstep_last_error(); }).join();
  CHECK(other == "");
  CHECK(std::string(fewstep_last_error()) == "mine");
}

TEST_CASE("format cuts what does not fit, and takes text that looks like a pattern") {
  CHECK(format("%s: '%s' got %d", "f", "%s%n", 3) == "f: '%s%n' got 3");
  CHECK(format("%s", std::string(2000, 'y').c_str()) == std::string(511, 'y'));
}

TEST_CASE("numbers are written shortest and read back the same") {
  CHECK(number(0.1) == "0.1");
  CHECK(number(-0.0) == "-0");
  CHECK(number(INFINITY) == "inf");
  for (double value : {1.0 / 3.0, 5e-324, 1.7976931348623157e308, 123456789.123456789}) {
    CHECK(std::strtod(number(value).c_str(), nullptr) == value);
  }
}
