// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"

#include <cstdlib>

namespace fewstep {
namespace {

std::string device_text(int32_t type, int32_t id) {
  if (type == kCpu) return "cpu";
  if (type == kCuda) return format("cuda:%d", int(id));
  return format("device type %d", int(type));
}

std::string shape_text(const fewstep_tensor& t) {
  std::string text = "[";
  for (int i = 0; i < t.ndim; ++i) {
    text += (i ? ", " : "") + std::to_string(t.shape[i]);
  }
  return text + "]";
}

// Elements of dimensions [first, ndim); -1 when they are not laid out in row-major order.
int64_t contiguous_elements(const fewstep_tensor& t, int first) {
  int64_t elements = 1;
  for (int i = first; i < t.ndim; ++i) elements *= t.shape[i];
  // NumPy gives an array without elements strides of zero.
  const bool empty = elements == 0 || (t.ndim > 0 && t.shape[0] == 0);
  if (empty || !t.strides) return elements;
  int64_t expected = 1;
  for (int i = t.ndim - 1; i >= first; --i) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return -1;
    expected *= t.shape[i];
  }
  return elements;
}

}  // namespace

std::string ArgName::str() const {
  return index < 0 ? std::string(text) : format("%s[%d]", text, index);
}

void ArgCheck::fail(ArgName name, const std::string& must, const std::string& got,
                    fewstep_status status) const {
  throw Error(status, std::string(function_) + ": '" + name.str() + "' " + must + ", got " + got);
}

void ArgCheck::fail_size(ArgName name, const char* init, uint32_t size) const {
  fail(name, std::string("must have its size set by ") + init, std::to_string(size));
}

bool ArgCheck::bind(char letter, int64_t size) {
  int64_t& bound = dims_[letter - 'A'];
  if (bound < 0) bound = size;
  return bound == size;
}

void ArgCheck::fail_shape(ArgName name, const fewstep_tensor& t, const ShapePattern& shape) const {
  std::string text = "must have shape [";
  for (int i = 0; i < shape.count(); ++i) {
    const ShapePattern::Token& token = shape[i];
    if (i) text += ", ";
    if (token.kind == ShapePattern::Kind::kLiteral) {
      text += std::to_string(token.literal);
      continue;
    }
    if (token.kind == ShapePattern::Kind::kMultiple) text += "multiple of ";
    if (token.kind == ShapePattern::Kind::kOneOr) text += "1 or ";
    text += token.letter;
    if (token.kind == ShapePattern::Kind::kRest) text += "...";
    const int64_t more = token.kind == ShapePattern::Kind::kPlusOne ? 1 : 0;
    if (more) text += "+1";
    if (dim(token.letter) >= 0) text += "=" + std::to_string(dim(token.letter) + more);
  }
  fail(name, text + "]", shape_text(t));
}

DType ArgCheck::check_dtype(ArgName name, const fewstep_tensor& t, DTypeSet types) const {
  DType dtype;
  if (dtype_of(t.dtype.code, t.dtype.bits, t.dtype.lanes, &dtype) && contains(types, dtype)) {
    return dtype;
  }
  std::string must = "must have dtype ";
  bool first = true;
#define FEWSTEP_X(id, text, code, bits) \
  if (contains(types, DType::id)) {     \
    must += first ? text : " or " text; \
    first = false;                      \
  }
  FEWSTEP_DTYPES(FEWSTEP_X)
#undef FEWSTEP_X
  std::string got = format("DLPack type code %d with %d bits", t.dtype.code, t.dtype.bits);
  if (t.dtype.code == 2) got = format("float%d", t.dtype.bits);
  if (t.dtype.code == 0) got = format("int%d", t.dtype.bits);
  if (t.dtype.code == 1) got = format("uint%d", t.dtype.bits);
  if (t.dtype.code == 4) got = format("bfloat%d", t.dtype.bits);
  if (t.dtype.code == 5) got = format("complex%d", t.dtype.bits);
  if (t.dtype.code == 6) got = "bool";
  if (t.dtype.code == 10) got = name_of(DType::kE4M3);
  fail(name, must, got);
}

void ArgCheck::check_device(ArgName name, const fewstep_tensor& t) {
  Device device{int32_t(t.device.device_type), t.device.device_id};
  if (device.type == kCudaHost) device = {kCpu, 0};
  if (device.type == kCudaManaged) device.type = kCuda;
  if (device_.type == 0) device_ = device;
  if (device != device_) {
    fail(name, "must be on " + device_text(device_.type, device_.id),
         device_text(device.type, device.id));
  }
}

namespace {

bool ends_in_rest(const ShapePattern& shape) {
  return shape.count() > 0 && shape[shape.count() - 1].kind == ShapePattern::Kind::kRest;
}

}  // namespace

// Binds the letters of the dimensions before the rest.
void ArgCheck::check_sizes(ArgName name, const fewstep_tensor& t, const ShapePattern& shape) {
  using Kind = ShapePattern::Kind;
  const bool has_rest = ends_in_rest(shape);
  const int fixed = shape.count() - (has_rest ? 1 : 0);
  if (t.ndim < fixed || (!has_rest && t.ndim != fixed)) fail_shape(name, t, shape);
  for (int i = 0; i < fixed; ++i) {
    const ShapePattern::Token& token = shape[i];
    const int64_t size = t.shape[i];
    bool fits = false;
    if (token.kind == Kind::kLiteral) fits = size == token.literal;
    if (token.kind == Kind::kLetter) fits = bind(token.letter, size);
    if (token.kind == Kind::kOneOr) fits = size == 1 || bind(token.letter, size);
    if (token.kind == Kind::kPlusOne) fits = size > 0 && bind(token.letter, size - 1);
    if (token.kind == Kind::kMultiple) {
      const int64_t unit = dim(token.letter);
      fits = unit == 0 ? size == 0 : size > 0 && size % unit == 0;
    }
    if (!fits) fail_shape(name, t, shape);
  }
}

// Binds the letters; returns the elements of one row.
int64_t ArgCheck::check_shape(ArgName name, const fewstep_tensor& t, const ShapePattern& shape) {
  check_sizes(name, t, shape);
  const int64_t elements = contiguous_elements(t, 1 < t.ndim ? 1 : t.ndim);
  if (elements < 0) {
    fail(name, "must be contiguous after its first dimension", "a strided layout");
  }
  // Dimensions between the first and the rest do not occur in any pattern of this library.
  if (ends_in_rest(shape) && !bind(shape[shape.count() - 1].letter, elements)) {
    fail_shape(name, t, shape);
  }
  return elements;
}

void ArgCheck::remember(ArgName name, const Range& range) {
  if (count_ == kMaxTensors) {
    throw Error(FEWSTEP_INTERNAL, std::string(function_) + ": too many tensors to check");
  }
  ranges_[count_++] = range;
  ranges_[count_ - 1].name = name.text;
  ranges_[count_ - 1].index = name.index;
}

View ArgCheck::check(ArgName name, const fewstep_tensor* t, DTypeSet types,
                     const ShapePattern& shape, bool written) {
  if (!t) fail(name, "must be given", "NULL");
  View view;
  view.dtype = check_dtype(name, *t, types);
  check_device(name, *t);
  const int64_t elements = check_shape(name, *t, shape);
  view.rows = t->ndim > 0 ? t->shape[0] : 1;
  view.data = static_cast<char*>(t->data) + t->byte_offset;
  view.stride = view.rows <= 1 ? 0 : t->strides ? t->strides[0] : elements;
  const bool has_elements = view.rows > 0 && elements > 0;
  if (has_elements && !t->data) fail(name, "must have data", "a tensor without storage");
  if (written && view.rows > 1 && std::abs(view.stride) < elements) {
    fail(name, "must not have overlapping rows",
         format("a row stride of %lld elements for rows of %lld",
                static_cast<long long>(view.stride), static_cast<long long>(elements)));
  }
  if (!has_elements) return view;
  const int64_t bytes = size_of(view.dtype);
  Range range = {name.text,        name.index,          reinterpret_cast<uintptr_t>(view.data),
                 elements * bytes, view.stride * bytes, view.rows,
                 written};
  if (range.pitch_bytes < 0) {  // the same rows, counted from the lowest address
    range.begin += uintptr_t(range.pitch_bytes * (range.rows - 1));
    range.pitch_bytes = -range.pitch_bytes;
  }
  remember(name, range);
  return view;
}

StridedView ArgCheck::check_strided(ArgName name, const fewstep_tensor* t, DTypeSet types,
                                    const ShapePattern& shape, bool written) {
  if (!t) fail(name, "must be given", "NULL");
  StridedView view;
  view.dtype = check_dtype(name, *t, types);
  check_device(name, *t);
  check_sizes(name, *t, shape);
  view.data = static_cast<char*>(t->data) + t->byte_offset;
  int64_t expected = 1, first = 0, last = 0;  // elements before and behind that of index 0
  for (int i = 0; i < t->ndim; ++i) {
    if (t->shape[i] == 0) return view;  // NumPy gives an array without elements strides of zero
  }
  for (int i = t->ndim - 1; i >= 0; --i) {
    const int64_t size = t->shape[i], stride = t->strides ? t->strides[i] : expected;
    expected *= size;
    if (size <= 1) continue;
    if (i == t->ndim - 1 && stride != 1) {
      fail(name, "must be contiguous in its last dimension",
           format("a stride of %lld elements", static_cast<long long>(stride)));
    }
    if (written && stride == 0) {
      fail(name, "must not be expanded", format("a stride of 0 in dimension %d", i));
    }
    view.strides[i] = stride;
    (stride < 0 ? first : last) += stride * (size - 1);
  }
  if (!t->data) fail(name, "must have data", "a tensor without storage");
  const int64_t bytes = size_of(view.dtype);
  const int64_t extent = (last - first + 1) * bytes;
  remember(name, {name.text, name.index, reinterpret_cast<uintptr_t>(view.data) + first * bytes,
                  extent, extent, 1, written});
  return view;
}

bool ArgCheck::overlap(const Range& a, const Range& b) {
  const uintptr_t a_end = a.begin + uintptr_t(a.pitch_bytes * (a.rows - 1) + a.row_bytes);
  const uintptr_t b_end = b.begin + uintptr_t(b.pitch_bytes * (b.rows - 1) + b.row_bytes);
  if (a_end <= b.begin || b_end <= a.begin) return false;
  // Interleaved rows of one pitch, such as the slots of a [B, S, N] buffer, need not touch.
  if (a.pitch_bytes != b.pitch_bytes || a.pitch_bytes == 0) return true;
  const Range& low = a.begin <= b.begin ? a : b;
  const Range& high = a.begin <= b.begin ? b : a;
  const int64_t shift = int64_t(high.begin - low.begin) % low.pitch_bytes;
  return shift < low.row_bytes || low.pitch_bytes - shift < high.row_bytes;
}

void ArgCheck::compare(bool skip_written_pairs) const {
  for (int i = 0; i < count_; ++i) {
    for (int j = i + 1; j < count_; ++j) {
      const int written_ones = int(ranges_[i].written) + int(ranges_[j].written);
      if (written_ones == 0 || (skip_written_pairs && written_ones == 2)) continue;
      if (!overlap(ranges_[i], ranges_[j])) continue;
      const Range& written = ranges_[i].written ? ranges_[i] : ranges_[j];
      const Range& other = ranges_[i].written ? ranges_[j] : ranges_[i];
      fail({written.name, written.index},
           "must not overlap '" + ArgName(other.name, other.index).str() + "'", "shared memory");
    }
  }
}

}  // namespace fewstep
