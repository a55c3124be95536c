// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fewstep::solver {

// A parsed JSON value. Numbers stay text until someone asks for their type; `position` is the byte
// where the value begins, for messages.
struct JsonValue {
  enum Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = kNull;
  size_t position = 0;
  std::string text;  // of a number, a string, or "true" and "false"
  std::vector<JsonValue> items;
  std::vector<std::pair<std::string, JsonValue>> members;
};

// Parses one value that fills the whole text (RFC 8259; repeated keys are refused). Throws Error
// naming the byte.
JsonValue parse_json(std::string_view text);

// "fewstep_plan_from_json: 'text' must have <wanted> at byte <position>" as an exception.
[[noreturn]] void json_error(const std::string& wanted, size_t position);

// The text as a JSON string.
std::string json_string(std::string_view text);

}  // namespace fewstep::solver
