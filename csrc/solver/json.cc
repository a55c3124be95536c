// SPDX-License-Identifier: Apache-2.0
#include "solver/json.h"

#include "core/status.h"

namespace fewstep::solver {
namespace {

constexpr int kMaxDepth = 16;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  JsonValue document() {
    JsonValue value = parse(0);
    skip_space();
    if (at_ < text_.size()) json_error("nothing more", at_);
    return value;
  }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++at_;
  }

  void expect(char c) {
    skip_space();
    if (peek() != c || at_ >= text_.size()) json_error(std::string("'") + c + "'", at_);
    ++at_;
  }

  JsonValue parse(int depth) {
    skip_space();
    if (depth > kMaxDepth) json_error("at most 16 nested values", at_);
    JsonValue value;
    value.position = at_;
    switch (peek()) {
      case '{':
        object(depth, &value);
        break;
      case '[':
        array(depth, &value);
        break;
      case '"':
        value.kind = JsonValue::kString;
        value.text = string();
        break;
      default:
        if (peek() == '-' || is_digit(peek())) {
          value.kind = JsonValue::kNumber;
          value.text = number_text();
        } else {
          word(&value);
        }
    }
    return value;
  }

  void word(JsonValue* value) {
    for (const std::string_view w : {"null", "true", "false"}) {
      if (text_.substr(at_, w.size()) == w) {
        value->kind = w == "null" ? JsonValue::kNull : JsonValue::kBool;
        value->text = w;
        at_ += w.size();
        return;
      }
    }
    json_error("a value", at_);
  }

  void array(int depth, JsonValue* value) {
    value->kind = JsonValue::kArray;
    expect('[');
    skip_space();
    if (peek() == ']') {
      ++at_;
      return;
    }
    for (;;) {
      value->items.push_back(parse(depth + 1));
      skip_space();
      if (peek() != ',') break;
      ++at_;
    }
    expect(']');
  }

  void object(int depth, JsonValue* value) {
    value->kind = JsonValue::kObject;
    expect('{');
    skip_space();
    if (peek() == '}') {
      ++at_;
      return;
    }
    for (;;) {
      skip_space();
      const size_t key_at = at_;
      if (peek() != '"') json_error("a key", at_);
      std::string key = string();
      for (const auto& member : value->members) {
        if (member.first == key) json_error("no second \"" + key + "\"", key_at);
      }
      expect(':');
      value->members.emplace_back(std::move(key), parse(depth + 1));
      skip_space();
      if (peek() != ',') break;
      ++at_;
    }
    expect('}');
  }

  void digits() {
    if (!is_digit(peek())) json_error("a digit", at_);
    while (is_digit(peek())) ++at_;
  }

  std::string number_text() {
    const size_t begin = at_;
    if (peek() == '-') ++at_;
    if (peek() == '0') {
      ++at_;
    } else {
      digits();
    }
    if (peek() == '.') {
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    return std::string(text_.substr(begin, at_ - begin));
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      const int digit = is_digit(c)              ? c - '0'
                        : (c >= 'a' && c <= 'f') ? c - 'a' + 10
                        : (c >= 'A' && c <= 'F') ? c - 'A' + 10
                                                 : -1;
      if (digit < 0) json_error("a hexadecimal digit", at_);
      code = code * 16 + static_cast<unsigned>(digit);
      ++at_;
    }
    return code;
  }

  static void append_utf8(unsigned code, std::string* out) {
    const auto byte = [&](unsigned value) { out->push_back(static_cast<char>(value)); };
    if (code < 0x80) {
      byte(code);
    } else if (code < 0x800) {
      byte(0xc0 | code >> 6);
      byte(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      byte(0xe0 | code >> 12);
      byte(0x80 | (code >> 6 & 0x3f));
      byte(0x80 | (code & 0x3f));
    } else {
      byte(0xf0 | code >> 18);
      byte(0x80 | (code >> 12 & 0x3f));
      byte(0x80 | (code >> 6 & 0x3f));
      byte(0x80 | (code & 0x3f));
    }
  }

  void escape(std::string* out) {
    constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const size_t simple = kFrom.find(peek());
    if (at_ < text_.size() && simple != std::string_view::npos) {
      out->push_back(kTo[simple]);
      ++at_;
      return;
    }
    if (peek() != 'u') json_error("an escape", at_);
    ++at_;
    unsigned code = hex4();
    if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_, 2) == "\\u") {
      at_ += 2;
      const unsigned low = hex4();
      if (low < 0xdc00 || low > 0xdfff) json_error("a low surrogate", at_ - 4);
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xd800 && code < 0xe000) {
      json_error("a pair of surrogates", at_ - 4);
    }
    append_utf8(code, out);
  }

  std::string string() {
    std::string out;
    ++at_;
    while (at_ < text_.size() && text_[at_] != '"') {
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) json_error("no control character", at_);
      ++at_;
      if (c == '\\') {
        escape(&out);
      } else {
        out.push_back(c);
      }
    }
    if (at_ >= text_.size()) json_error("'\"'", at_);
    ++at_;
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

void json_error(const std::string& wanted, size_t position) {
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("fewstep_plan_from_json: 'text' must have %s at byte "
                     "%zu",
                     wanted.c_str(), position));
}

JsonValue parse_json(std::string_view text) { return Parser(text).document(); }

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += format("\\u%04x", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace fewstep::solver
