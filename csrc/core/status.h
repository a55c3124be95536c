// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <new>
#include <string>

#include "fewstep/base.h"

namespace fewstep {

// What C++ code inside the library throws; guard() turns it into a status at the C boundary.
class Error : public std::exception {
 public:
  Error(fewstep_status status, std::string text) : status_(status), text_(std::move(text)) {}
  fewstep_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  fewstep_status status_;
  std::string text_;
};

// printf-style text without streams, which would pull locale code into every caller.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

// Shortest decimal text that reads back as the same number.
std::string number(double value);

// Keeps the text for fewstep_last_error and hands the status through.
fewstep_status set_last_error(fewstep_status status, const char* text) noexcept;

// Runs `body`, letting no exception cross the C boundary.
template <class Body>
fewstep_status guard(Body&& body) noexcept {
  try {
    body();
    return FEWSTEP_OK;
  } catch (const Error& e) {
    return set_last_error(e.status(), e.what());
  } catch (const std::bad_alloc&) {
    return set_last_error(FEWSTEP_OUT_OF_MEMORY, "fewstep: out of memory");
  } catch (const std::exception& e) {
    return set_last_error(FEWSTEP_INTERNAL, e.what());
  } catch (...) {
    return set_last_error(FEWSTEP_INTERNAL, "fewstep: unknown exception");
  }
}

}  // namespace fewstep
