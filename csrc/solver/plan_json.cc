// SPDX-License-Identifier: Apache-2.0
// A plan as JSON. Arrays are as long as the row uses them, an absent clamp is null, numbers are the
// shortest text that reads back as the same double.
#include <charconv>
#include <cmath>
#include <cstring>

#include "core/status.h"
#include "solver/json.h"
#include "solver/plan.h"

namespace fewstep::solver {
namespace {

constexpr std::string_view kFormat = "fewstep.plan";
constexpr std::string_view kVersion = "1";

// Every field of a row once, in the order of the file; `visitor` writes or reads it.
template <class Row, class Visitor>
void visit_row(Row& row, Visitor&& visitor) {
  visitor.array("input", row.input, row.n_inputs);
  visitor.array("output", row.output, row.n_outputs);
  visitor.array("role", row.role, row.n_outputs);
  visitor.array("blend", row.blend, row.n_outputs);
  visitor.array("noise_stream", row.noise_stream, row.n_noises);
  visitor.array("noise_step", row.noise_step, row.n_noises);
  visitor.scalar("evaluates", row.evaluates);
  visitor.scalar("step", row.step);
  visitor.scalar("frame", row.frame);
  visitor.scalar("variable", row.variable);
  visitor.scalar("order", row.order);
  visitor.scalar("process", row.process);
  visitor.array("gamma", row.gamma, row.n_guidance);
  visitor.scalar("p", row.p);
  visitor.scalar("q", row.q);
  visitor.clip("clip", row.clip);
  visitor.matrix("a", row.a, row.n_outputs, row.n_inputs);
  visitor.matrix("noise", row.noise, row.n_outputs, row.n_noises);
  visitor.array("known", row.known, row.n_outputs);
  visitor.matrix("known_noise", row.known_noise, row.n_outputs, row.n_noises);
  visitor.scalar("t", row.t);
  visitor.scalar("alpha", row.alpha);
  visitor.scalar("sigma", row.sigma);
  visitor.scalar("scale", row.scale);
  visitor.scalar("next_t", row.next_t);
  visitor.scalar("next_alpha", row.next_alpha);
  visitor.scalar("next_sigma", row.next_sigma);
  visitor.scalar("next_scale", row.next_scale);
  visitor.scalar("from_alpha", row.from_alpha);
  visitor.scalar("from_sigma", row.from_sigma);
  visitor.scalar("tau", row.tau);
  visitor.scalar("prior", row.prior);
  visitor.scalar("next_prior", row.next_prior);
}

class Writer {
 public:
  template <class T>
  void scalar(const char* key, T value) {
    begin(key);
    put(value);
  }
  void clip(const char* key, double value) {
    begin(key);
    if (std::isinf(value)) {
      out_ += "null";
    } else {
      put(value);
    }
  }
  template <class T>
  void array(const char* key, const T* values, int32_t n) {
    begin(key);
    list(values, n);
  }
  template <size_t width>
  void matrix(const char* key, const double (*values)[width], int32_t rows, int32_t columns) {
    begin(key);
    out_ += '[';
    for (int32_t r = 0; r < rows; ++r) {
      if (r > 0) out_ += ',';
      list(values[r], columns);
    }
    out_ += ']';
  }
  std::string finish() { return (out_.empty() ? "{" : out_) + '}'; }

 private:
  void begin(const char* key) {
    out_ += out_.empty() ? '{' : ',';
    out_ += '"';
    out_ += key;
    out_ += "\":";
  }
  template <class T>
  void put(T value) {
    char text[32];
    out_.append(text, std::to_chars(text, text + sizeof text, value).ptr);
  }
  template <class T>
  void list(const T* values, int32_t n) {
    out_ += '[';
    for (int32_t i = 0; i < n; ++i) {
      if (i > 0) out_ += ',';
      put(values[i]);
    }
    out_ += ']';
  }

  std::string out_;
};

const JsonValue& member(const JsonValue& object, std::string_view key) {
  for (const auto& [name, value] : object.members) {
    if (name == key) return value;
  }
  json_error("a key \"" + std::string(key) + "\" in the object", object.position);
}

void expect_kind(const JsonValue& value, JsonValue::Kind kind, const char* what) {
  if (value.kind != kind) json_error(what, value.position);
}

template <class T>
T read_number(const JsonValue& value) {
  T number{};
  const char* end = value.text.data() + value.text.size();
  const auto [at, error] = std::from_chars(value.text.data(), end, number);
  if (value.kind != JsonValue::kNumber || error != std::errc() || at != end) {
    json_error(std::is_floating_point_v<T> ? "a finite number" : "a 32-bit integer",
               value.position);
  }
  return number;
}

// Fills the row and its counts. The counts follow the arrays that come first in visit_row; later
// arrays must agree.
class Reader {
 public:
  explicit Reader(const JsonValue& object) : object_(object) {
    expect_kind(object, JsonValue::kObject, "an object");
  }

  template <class T>
  void scalar(const char* key, T& value) {
    value = read_number<T>(take(key));
  }
  void clip(const char* key, double& value) {
    const JsonValue& json = take(key);
    value = json.kind == JsonValue::kNull ? INFINITY : read_number<double>(json);
  }
  template <class T, size_t size>
  void array(const char* key, T (&values)[size], int32_t& n) {
    const JsonValue& json = take(key);
    const std::string_view name = key;
    const bool sets =
        name == "input" || name == "output" || name == "noise_stream" || name == "gamma";
    if (sets) n = static_cast<int32_t>(std::min(json.items.size(), size + 1));
    list(json, values, size, n);
  }
  template <size_t height, size_t width>
  void matrix(const char* key, double (&values)[height][width], int32_t rows, int32_t columns) {
    const JsonValue& json = take(key);
    expect_kind(json, JsonValue::kArray, "an array");
    if (json.items.size() != static_cast<size_t>(rows)) {
      json_error(format("an array of %d entries", rows), json.position);
    }
    for (size_t r = 0; r < json.items.size(); ++r) list(json.items[r], values[r], width, columns);
  }
  void finish() const {
    for (const auto& [key, value] : object_.members) {
      bool known = false;
      for (const std::string_view name : taken_) known |= name == key;
      if (!known) json_error("no key " + json_string(key), value.position);
    }
  }

 private:
  const JsonValue& take(const char* key) {
    taken_.push_back(key);
    return member(object_, key);
  }
  template <class T>
  void list(const JsonValue& json, T* values, size_t size, int32_t n) {
    expect_kind(json, JsonValue::kArray, "an array");
    if (json.items.size() > size) {
      json_error(format("an array of at most %zu entries", size), json.position);
    }
    if (json.items.size() != static_cast<size_t>(n)) {
      json_error(format("an array of %d entries", n), json.position);
    }
    for (size_t i = 0; i < json.items.size(); ++i) values[i] = read_number<T>(json.items[i]);
  }

  const JsonValue& object_;
  std::vector<std::string_view> taken_;
};

}  // namespace

std::string to_json(const Plan& plan) {
  std::string out = "{\"format\":\"" + std::string(kFormat) + "\",\"version\":";
  out += kVersion;
  out += ",\"name\":" + json_string(plan.name()) + ",\"rows\":[";
  for (size_t i = 0; i < plan.rows().size(); ++i) {
    if (i > 0) out += ',';
    Writer writer;
    visit_row(plan.rows()[i], writer);
    out += writer.finish();
  }
  return out + "]}";
}

Plan from_json(std::string_view text) {
  const JsonValue document = parse_json(text);
  expect_kind(document, JsonValue::kObject, "an object");
  for (const auto& [key, value] : document.members) {
    if (key != "format" && key != "version" && key != "name" && key != "rows") {
      json_error("no key " + json_string(key), value.position);
    }
  }
  const JsonValue& tag = member(document, "format");
  if (tag.kind != JsonValue::kString || tag.text != kFormat) {
    json_error("\"fewstep.plan\"", tag.position);
  }
  const JsonValue& version = member(document, "version");
  if (version.kind != JsonValue::kNumber || version.text != kVersion) {
    json_error("version 1", version.position);
  }
  const JsonValue& name = member(document, "name");
  expect_kind(name, JsonValue::kString, "a string");
  const JsonValue& list = member(document, "rows");
  expect_kind(list, JsonValue::kArray, "an array");
  std::vector<fewstep_plan_row> rows;
  for (const JsonValue& item : list.items) {
    fewstep_plan_row row{};
    Reader reader(item);
    visit_row(row, reader);
    reader.finish();
    rows.push_back(row);
  }
  return Plan("fewstep_plan_from_json", name.text, std::move(rows));
}

}  // namespace fewstep::solver
