// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <memory>

#include "core/check.h"
#include "decoder/decoder.h"
#include "fewstep/decoder.h"
#include "kv/checks.h"
#include "linear/checks.h"

namespace fewstep::decoder {
namespace {

constexpr const char* kFunction = "fewstep_decoder_create";

using Args = fewstep_decoder_create_args;

std::string text_of(int64_t value) { return std::to_string(value); }

// Checks the tensors of a layer, or of what stands before and behind the layers (index -1).
struct Reader {
  ArgCheck& check;
  int index;

  // A tensor of octets, whose count no other has to have.
  char* octets(const char* name, const fewstep_tensor* t, int32_t kind, int32_t group, int64_t O,
               int64_t I) {
    check.set_dim('Z', -1);
    check.set_dim('O', O);
    check.set_dim('I', I);
    const View v = check.in({name, index}, t, only(DType::kU8), "Z");
    return linear::packed_memory(check, {name, index}, v, kind, group);
  }

  linear::Rows vector(const char* name, const fewstep_tensor* t, int64_t count) {
    check.set_dim('Z', count);
    const View v = check.in({name, index}, t, kFloating, "Z");
    linear::check_contiguous(check, {name, index}, v);
    return {v.as<char>(), 0, v.dtype};
  }

  void norm(const char* name, const fewstep_decoder_norm& n, int64_t count, linear::Rows* weight,
            float* eps) {
    if (!(n.eps >= 0.0 && std::isfinite(n.eps))) {
      check.fail({name, index}, "must have an eps that is finite and 0 or more", number(n.eps));
    }
    *weight = vector(name, n.weight, count);
    *eps = float(n.eps);
  }

  kv::HeadNorm head_norm(const char* name, const fewstep_decoder_norm& n, int64_t D) {
    if (!n.weight) return {};
    linear::Rows weight;
    float eps;
    norm(name, n, D, &weight, &eps);
    return {weight.data, weight.type, eps};
  }

  void kind(const char* name, const fewstep_decoder_weight& w) {
    if (!linear::is_kind(w.kind)) {
      check.fail({name, index}, "must have a kind in [0, 4]", text_of(w.kind));
    }
    if (!linear::is_group(w.kind, w.group)) {
      check.fail({name, index}, "must have a group of 32 or 64 for int4", text_of(w.group));
    }
  }

  linear::RunProblem linear(const char* name, const fewstep_decoder_weight& w, int64_t O,
                            int64_t I) {
    kind(name, w);
    linear::RunProblem p{};
    p.in.I = I;
    p.in.kind = linear::Kind(w.kind);
    p.in.group = p.in.kind == linear::Kind::kInt4 ? w.group : 0;
    p.O = O;
    p.packed = octets(name, w.packed, w.kind, w.group, O, I);
    if (w.bias) p.bias = vector(name, w.bias, O);
    return p;
  }
};

void read_cache(const fewstep_decoder_layer& a, int l, ArgCheck& check, fewstep_decoder* d,
                Layer* layer) {
  const DTypeSet types = l == 0 ? only(d->type) | kScaledBytes : only(d->cache_type);
  const StridedView k = check.out_strided({"k_cache", l}, a.k_cache, types, "P T G D");
  const StridedView v = check.out_strided({"v_cache", l}, a.v_cache, only(k.dtype), "P T G D");
  d->cache_type = k.dtype;
  layer->k = kv::cache_of(k);
  layer->v = kv::cache_of(v);
  if (contains(kScaledBytes, k.dtype)) {
    const DTypeSet f32 = only(DType::kF32);
    layer->k_scale = kv::cache_of(check.out_strided({"k_scale", l}, a.k_scale, f32, "P T G"));
    layer->v_scale = kv::cache_of(check.out_strided({"v_scale", l}, a.v_scale, f32, "P T G"));
  } else if (a.k_scale || a.v_scale) {
    check.fail({a.k_scale ? "k_scale" : "v_scale", l}, kv::kNoScale, "one");
  }
  kv::check_apart(check, l,
                  {{"k_cache", a.k_cache},
                   {"v_cache", a.v_cache},
                   {"k_scale", a.k_scale},
                   {"v_scale", a.v_scale}});
}

void check_heads(const ArgCheck& check, int64_t heads, fewstep_decoder* d) {
  d->P = check.dim('P');
  d->T = check.dim('T');
  d->G = check.dim('G');
  d->D = check.dim('D');
  d->H = heads;
  if (d->T < 1) check.fail({"k_cache", 0}, "must have pages of 1 token or more", text_of(d->T));
  if (d->D < 16 || d->D > tree::kMaxHeadDim || d->D % 16 != 0) {
    check.fail({"k_cache", 0}, "must have a head dim that is a multiple of 16 from 16 to 256",
               text_of(d->D));
  }
  if (d->G < 1 || heads < d->G || heads % d->G != 0 || heads > tree::kMaxRatio * d->G) {
    check.fail("heads",
               format("must be 1 to 16 times the cache's heads, of which there are %lld",
                      static_cast<long long>(d->G)),
               text_of(heads));
  }
}

Layer read_layer(const fewstep_decoder_layer& a, int l, ArgCheck& check, fewstep_decoder* d) {
  Reader read{check, l};
  Layer layer{};
  const bool joined = !a.k.packed && !a.v.packed;
  layer.n_projections = joined ? 1 : 3;
  const int64_t q = d->H * d->D, kv = d->G * d->D;
  layer.projections[0] = read.linear("q", a.q, joined ? d->qkv() : q, d->E);
  if (!joined) {
    layer.projections[1] = read.linear("k", a.k, kv, d->E);
    layer.projections[2] = read.linear("v", a.v, kv, d->E);
  }
  for (int i = 0; i < layer.n_projections; ++i) {
    linear::ActivationsProblem& in = layer.projections[i].in;
    read.norm("norm", a.norm, d->E, &in.norm, &in.norm_eps);
  }
  layer.o = read.linear("o", a.o, d->E, q);
  layer.gate = read.linear("gate", a.gate, d->I, d->E);
  layer.gate.up = read.octets("up", a.up, a.gate.kind, a.gate.group, d->I, d->E);
  read.norm("mlp_norm", a.mlp_norm, d->E, &layer.gate.in.norm, &layer.gate.in.norm_eps);
  layer.down = read.linear("down", a.down, d->E, d->I);
  layer.q_norm = read.head_norm("q_norm", a.q_norm, d->D);
  layer.k_norm = read.head_norm("k_norm", a.k_norm, d->D);
  if (a.window < 0) check.fail({"window", l}, "must be 0 or more", text_of(a.window));
  layer.window = a.window;
  return layer;
}

void read_embedding(const Args& args, ArgCheck& check, fewstep_decoder* d) {
  const fewstep_decoder_weight& w = args.embedding;
  Embedding& e = d->embedding;
  if (!w.packed) return;
  if (args.n_tokens < 1) check.fail("n_tokens", "must be 1 or more", text_of(args.n_tokens));
  e.n_tokens = args.n_tokens;
  if (w.packed->ndim == 2) {
    check.set_dim('V', args.n_tokens);
    check.set_dim('E', d->E);
    const View v = check.in("embedding", w.packed, only(d->type), "V E");
    e.dense = v.as<char>();
    e.stride_bytes = v.stride * size_of(v.dtype);
    return;
  }
  Reader read{check, -1};
  read.kind("embedding", w);
  const linear::Kind kind = linear::Kind(w.kind);
  if (!contains(linear::unpacked_types(kind), d->type)) {
    check.fail("embedding",
               format("must unpack to %s, the type of layers[0].norm", name_of(d->type)),
               name_of(linear::dtype_of(kind)));
  }
  e.packed.I = d->E;
  e.packed.kind = kind;
  e.packed.group = kind == linear::Kind::kInt4 ? w.group : 0;
  e.packed.type = d->type;
  e.packed.packed = read.octets("embedding", w.packed, w.kind, w.group, args.n_tokens, d->E);
}

void check_args(const Args* args, ArgCheck& check) {
  check.sized("args", args, "FEWSTEP_DECODER_CREATE_ARGS_INIT");
  if (args->n_layers < 1) check.fail("n_layers", "must be 1 or more", text_of(args->n_layers));
  if (!args->layers) check.fail("layers", "must be given", "NULL");
  if (args->inner < 1) check.fail("inner", "must be 1 or more", text_of(args->inner));
  if (!(args->scale >= 0.0 && std::isfinite(args->scale))) {
    check.fail("scale", "must be finite and 0 or more", number(args->scale));
  }
}

std::unique_ptr<fewstep_decoder> create(const Args* args) {
  ArgCheck check(kFunction, nullptr);
  check_args(args, check);
  auto d = std::make_unique<fewstep_decoder>();
  const View norm = check.in({"norm", 0}, args->layers[0].norm.weight, kFloating, "E");
  d->type = norm.dtype;
  d->E = check.dim('E');
  d->I = args->inner;
  if (d->E < 1) check.fail({"norm", 0}, "must have 1 element or more", text_of(d->E));
  for (int l = 0; l < args->n_layers; ++l) {
    Layer cached{};
    check.forget(0);
    read_cache(args->layers[l], l, check, d.get(), &cached);
    if (l == 0) check_heads(check, args->heads, d.get());
    Layer layer = read_layer(args->layers[l], l, check, d.get());
    check.no_overlap_with_inputs();
    layer.k = cached.k;
    layer.v = cached.v;
    layer.k_scale = cached.k_scale;
    layer.v_scale = cached.v_scale;
    d->layers.push_back(layer);
  }
  check.forget(0);
  d->device = check.device();
  d->deterministic = args->deterministic != 0;
  d->scale = float(args->scale > 0.0 ? args->scale : 1.0 / std::sqrt(double(d->D)));
  read_embedding(*args, check, d.get());
  if (args->head.packed) {
    if (args->vocabulary < 1) {
      check.fail("vocabulary", "must be 1 or more with a head", text_of(args->vocabulary));
    }
    Reader read{check, -1};
    d->V = args->vocabulary;
    d->head = read.linear("head", args->head, d->V, d->E);
    read.norm("norm", args->norm, d->E, &d->head.in.norm, &d->head.in.norm_eps);
  }
  return d;
}

}  // namespace
}  // namespace fewstep::decoder

extern "C" fewstep_status fewstep_decoder_create(const fewstep_decoder_create_args* args,
                                                 fewstep_decoder** out) {
  return fewstep::guard([&] {
    if (!out) {
      throw fewstep::Error(FEWSTEP_INVALID_ARGUMENT,
                           "fewstep_decoder_create: 'out' must be given, got NULL");
    }
    *out = fewstep::decoder::create(args).release();
  });
}

extern "C" void fewstep_decoder_destroy(fewstep_decoder* decoder) { delete decoder; }
