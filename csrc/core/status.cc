// SPDX-License-Identifier: Apache-2.0
#include "core/status.h"

#include <algorithm>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace fewstep {
namespace {

// A fixed buffer: a pointer once handed out never dangles.
thread_local char last_error[512] = "";

}  // namespace

std::string format(const char* pattern, ...) {
  char text[512];
  va_list args;
  va_start(args, pattern);
  std::vsnprintf(text, sizeof text, pattern, args);
  va_end(args);
  return text;
}

std::string number(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return std::string(text, end);
}

fewstep_status set_last_error(fewstep_status status, const char* text) noexcept {
  const size_t length = std::min(std::strlen(text), sizeof last_error - 1);
  std::memcpy(last_error, text, length);
  last_error[length] = '\0';
  return status;
}

}  // namespace fewstep

extern "C" {

const char* fewstep_last_error(void) { return fewstep::last_error; }

const char* fewstep_version(void) { return FEWSTEP_VERSION; }

}  // extern "C"
