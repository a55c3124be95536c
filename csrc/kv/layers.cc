// SPDX-License-Identifier: Apache-2.0
#include "kv/layers.h"

#include "core/execute.h"

namespace fewstep::kv {
namespace {

const char* const kNames[] = {"k_cache", "v_cache", "k_scale", "v_scale"};

struct Lists {
  const fewstep_tensor* part[4];
};

StridedView read(ArgCheck& check, ArgName name, const fewstep_tensor* t, DTypeSet types,
                 const ShapePattern& shape, bool written) {
  return written ? check.out_strided(name, t, types, shape)
                 : check.in_strided(name, t, types, shape);
}

// One tensor that holds the layers of a part.
void read_stacked(ArgCheck& check, const Lists& lists, bool written, Layers* out) {
  for (int i = 0; i < out->parts; ++i) {
    const bool rows = i < 2;
    const ShapePattern shape = rows ? ShapePattern("L P T G D") : ShapePattern("L P T G");
    const DTypeSet types = i == 0 ? kCacheTypes : only(rows ? out->dtype : DType::kF32);
    const StridedView v = read(check, kNames[i], lists.part[i], types, shape, written);
    out->L = check.dim('L');  // a stacked tensor binds it, or an index that has one row a layer
    if (out->L > kMaxLayers) {
      check.fail(kNames[i], "must have at most 256 layers", std::to_string(out->L));
    }
    const int64_t bytes = size_of(v.dtype);
    for (int64_t layer = 0; layer < out->L; ++layer) {
      out->layer[layer].part[i] = {v.as<char>() + layer * v.strides[0] * bytes,
                                   v.strides[1] * bytes, v.strides[2] * bytes,
                                   v.strides[3] * bytes};
    }
  }
}

void read_layer(ArgCheck& check, const Lists& lists, int layer, bool written, Layers* out) {
  for (int i = 0; i < out->parts; ++i) {
    const bool rows = i < 2;
    const ShapePattern shape = rows ? ShapePattern("P T G D") : ShapePattern("P T G");
    const DTypeSet types =
        i == 0 && layer == 0 ? kCacheTypes : only(rows ? out->dtype : DType::kF32);
    out->layer[layer].part[i] =
        cache_of(read(check, {kNames[i], layer}, lists.part[i] + layer, types, shape, written));
  }
}

void check_starts(const ArgCheck& check, const Layers& layers) {
  for (int64_t i = 1; i < layers.L; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      for (int part = 0; part < 2; ++part) {
        for (int other = 0; other < 2; ++other) {
          if (layers.layer[i].part[part].data != layers.layer[j].part[other].data) continue;
          check.fail({kNames[part], int(i)},
                     "must not be '" + ArgName(kNames[other], int(j)).str() + "'",
                     "the same memory");
        }
      }
    }
  }
}

}  // namespace

void read_layers(ArgCheck& check, const fewstep_kv_caches& caches, bool written, Layers* out) {
  const Lists lists{{caches.k_cache, caches.v_cache, caches.k_scale, caches.v_scale}};
  if (caches.n < 1 || caches.n > kMaxLayers) {
    check.fail("k_cache", "must hold 1 to 256 layers", std::to_string(caches.n));
  }
  for (int i = 0; i < 2; ++i) {
    if (!lists.part[i]) check.fail(kNames[i], "must be given", "NULL");
  }
  DType type = DType::kF32;
  const fewstep_tensor& t = lists.part[0][0];
  if (dtype_of(t.dtype.code, t.dtype.bits, t.dtype.lanes, &type) && contains(kScaledBytes, type)) {
    out->parts = 4;
  }
  out->dtype = type;
  for (int i = 2; i < 4; ++i) {
    if (out->parts == 4 && !lists.part[i]) check.fail(kNames[i], "must be given", "NULL");
    if (out->parts == 2 && lists.part[i]) {
      check.fail(kNames[i], kNoScale, "one");
    }
  }
  const bool stacked = caches.n == 1 && t.ndim == 5;
  const int mark = check.count();
  for (int i = 0; i < caches.n; ++i) {
    if (stacked) {
      read_stacked(check, lists, written, out);
    } else {
      read_layer(check, lists, i, written, out);
    }
    check.no_overlap_with_inputs();
    check.forget(mark);
    if (!written) continue;
    NamedTensor named[4];
    for (int part = 0; part < 4; ++part) {
      named[part] = {kNames[part], lists.part[part] ? lists.part[part] + i : nullptr};
    }
    check_apart(check, stacked ? -1 : i, named);
  }
  if (stacked) return;
  out->L = caches.n;
  const bool empty = check.dim('P') * check.dim('T') * check.dim('G') * check.dim('D') == 0;
  if (written && !empty) check_starts(check, *out);
}

void set_rows(const ArgCheck& check, const Layers& layers, MoveProblem* p) {
  p->L = layers.L;
  p->B = check.dim('B');
  p->G = check.dim('G');
  p->parts = layers.parts;
  p->layers = layers.layer;
  row_bytes(check, layers, p->bytes);
}

void run_moves(const fewstep_context* ctx, const ArgCheck& check, CommitFn& kernel,
               MoveProblem* p) {
  p->function = check.function();
  if (p->B > 0) execute(ctx, check, kernel, p);
}

void row_bytes(const ArgCheck& check, const Layers& layers, int64_t (&bytes)[4]) {
  bytes[0] = bytes[1] = check.dim('D') * size_of(layers.dtype);
  bytes[2] = bytes[3] = int64_t(sizeof(float));
}

}  // namespace fewstep::kv
