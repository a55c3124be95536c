// SPDX-License-Identifier: Apache-2.0
#ifndef FEWSTEP_OPS_HPP_
#define FEWSTEP_OPS_HPP_

// The C++20 face of the ops on tokens: tree.h, attention.h, verify.h, logits.h, logits_head.h,
// kv.h, linear.h and decoder.h. An op takes its C struct, whose contract stands there: <op>_args()
// has the defaults, to be changed field by field, and a Tensor goes into a field as it is. None of
// them allocates.
//
//   const fewstep::Tensor logits(data, {B, V}), seeds(seed_of), positions(position_of), out(token);
//   fewstep_logits_sample_args args = fewstep::logits::sample_args();
//   args.filters.top_p = 0.9f;
//   args.logits = logits; ...
//   fewstep::logits::sample(args);

#include "fewstep.hpp"

namespace fewstep {

// A tensor for the fields of C structs, which hold pointers: it stays where it is until the call is
// over.
class Tensor {
 public:
  template <Element T>
  Tensor(T* data, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides = {})
      : Tensor(TensorRef(data, shape, strides)) {}
  explicit Tensor(const TensorRef& ref) : ref_(ref), view_(ref_.view()) {}
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  operator const fewstep_tensor*() const noexcept { return &view_; }

 private:
  TensorRef ref_;
  fewstep_tensor view_;
};

// Tensors in a row, one for each layer, for fewstep_kv_caches. Valid while `refs` live and do not
// move.
inline std::vector<fewstep_tensor> views_of(std::span<const TensorRef> refs) {
  std::vector<fewstep_tensor> views;
  for (const TensorRef& ref : refs) views.push_back(ref.view());
  return views;
}

namespace detail {

template <auto kOp, class Args>
void run(const Args& args, const Context* context) {
  check(kOp(context ? context->get() : nullptr, &args));
}

}  // namespace detail

namespace tree {

inline fewstep_tree_build_args build_args() { return FEWSTEP_TREE_BUILD_ARGS_INIT; }
inline void build(const fewstep_tree_build_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_build>(args, context);
}

inline fewstep_tree_from_template_args from_template_args() {
  return FEWSTEP_TREE_FROM_TEMPLATE_ARGS_INIT;
}
inline void from_template(const fewstep_tree_from_template_args& args,
                          const Context* context = nullptr) {
  detail::run<fewstep_tree_from_template>(args, context);
}

inline fewstep_tree_expand_args expand_args() { return FEWSTEP_TREE_EXPAND_ARGS_INIT; }
inline void expand(const fewstep_tree_expand_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_expand>(args, context);
}

inline fewstep_tree_rerank_args rerank_args() { return FEWSTEP_TREE_RERANK_ARGS_INIT; }
inline void rerank(const fewstep_tree_rerank_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_rerank>(args, context);
}

inline fewstep_tree_sample_children_args sample_children_args() {
  return FEWSTEP_TREE_SAMPLE_CHILDREN_ARGS_INIT;
}
inline void sample_children(const fewstep_tree_sample_children_args& args,
                            const Context* context = nullptr) {
  detail::run<fewstep_tree_sample_children>(args, context);
}

inline fewstep_tree_attention_args attention_args() { return FEWSTEP_TREE_ATTENTION_ARGS_INIT; }
inline void attention(const fewstep_tree_attention_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_attention>(args, context);
}

inline fewstep_tree_merge_args merge_args() { return FEWSTEP_TREE_MERGE_ARGS_INIT; }
inline void merge(const fewstep_tree_merge_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_merge>(args, context);
}

inline fewstep_tree_k_seq_rho_args k_seq_rho_args() { return FEWSTEP_TREE_K_SEQ_RHO_ARGS_INIT; }
inline void k_seq_rho(const fewstep_tree_k_seq_rho_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_k_seq_rho>(args, context);
}

inline fewstep_tree_verify_args verify_args() { return FEWSTEP_TREE_VERIFY_ARGS_INIT; }
inline void verify(const fewstep_tree_verify_args& args, const Context* context = nullptr) {
  detail::run<fewstep_tree_verify>(args, context);
}

}  // namespace tree

namespace logits {

inline fewstep_logits_sample_args sample_args() { return FEWSTEP_LOGITS_SAMPLE_ARGS_INIT; }
inline void sample(const fewstep_logits_sample_args& args, const Context* context = nullptr) {
  detail::run<fewstep_logits_sample>(args, context);
}

inline fewstep_logits_top_k_args top_k_args() { return FEWSTEP_LOGITS_TOP_K_ARGS_INIT; }
inline void top_k(const fewstep_logits_top_k_args& args, const Context* context = nullptr) {
  detail::run<fewstep_logits_top_k>(args, context);
}

inline fewstep_logits_gumbel_top_k_args gumbel_top_k_args() {
  return FEWSTEP_LOGITS_GUMBEL_TOP_K_ARGS_INIT;
}
inline void gumbel_top_k(const fewstep_logits_gumbel_top_k_args& args,
                         const Context* context = nullptr) {
  detail::run<fewstep_logits_gumbel_top_k>(args, context);
}

inline fewstep_logits_renorm_args renorm_args() { return FEWSTEP_LOGITS_RENORM_ARGS_INIT; }
inline void renorm(const fewstep_logits_renorm_args& args, const Context* context = nullptr) {
  detail::run<fewstep_logits_renorm>(args, context);
}

inline fewstep_logits_penalise_args penalise_args() { return FEWSTEP_LOGITS_PENALISE_ARGS_INIT; }
inline void penalise(const fewstep_logits_penalise_args& args, const Context* context = nullptr) {
  detail::run<fewstep_logits_penalise>(args, context);
}

inline fewstep_logits_sample_arithmetic_args sample_arithmetic_args() {
  return FEWSTEP_LOGITS_SAMPLE_ARITHMETIC_ARGS_INIT;
}
inline void sample_arithmetic(const fewstep_logits_sample_arithmetic_args& args,
                              const Context* context = nullptr) {
  detail::run<fewstep_logits_sample_arithmetic>(args, context);
}

inline fewstep_logits_head_top_k_args head_top_k_args() {
  return FEWSTEP_LOGITS_HEAD_TOP_K_ARGS_INIT;
}
inline void head_top_k(const fewstep_logits_head_top_k_args& args,
                       const Context* context = nullptr) {
  detail::run<fewstep_logits_head_top_k>(args, context);
}

}  // namespace logits

namespace kv {

inline fewstep_kv_append_args append_args() { return FEWSTEP_KV_APPEND_ARGS_INIT; }
inline void append(const fewstep_kv_append_args& args, const Context* context = nullptr) {
  detail::run<fewstep_kv_append>(args, context);
}

inline fewstep_kv_commit_args commit_args() { return FEWSTEP_KV_COMMIT_ARGS_INIT; }
inline void commit(const fewstep_kv_commit_args& args, const Context* context = nullptr) {
  detail::run<fewstep_kv_commit>(args, context);
}

inline void truncate(const Tensor& length, const Tensor& kept, const Context* context = nullptr) {
  check(fewstep_kv_truncate(context ? context->get() : nullptr, length, kept));
}

inline fewstep_kv_gather_args gather_args() { return FEWSTEP_KV_GATHER_ARGS_INIT; }
inline void gather(const fewstep_kv_gather_args& args, const Context* context = nullptr) {
  detail::run<fewstep_kv_gather>(args, context);
}

inline fewstep_kv_copy_pages_args copy_pages_args() { return FEWSTEP_KV_COPY_PAGES_ARGS_INIT; }
inline void copy_pages(const fewstep_kv_copy_pages_args& args, const Context* context = nullptr) {
  detail::run<fewstep_kv_copy_pages>(args, context);
}

inline fewstep_kv_export_tokens_args export_tokens_args() {
  return FEWSTEP_KV_EXPORT_TOKENS_ARGS_INIT;
}
inline void export_tokens(const fewstep_kv_export_tokens_args& args,
                          const Context* context = nullptr) {
  detail::run<fewstep_kv_export_tokens>(args, context);
}

inline fewstep_kv_import_tokens_args import_tokens_args() {
  return FEWSTEP_KV_IMPORT_TOKENS_ARGS_INIT;
}
inline void import_tokens(const fewstep_kv_import_tokens_args& args,
                          const Context* context = nullptr) {
  detail::run<fewstep_kv_import_tokens>(args, context);
}

}  // namespace kv

namespace decoder {

inline fewstep_decoder_create_args create_args() { return FEWSTEP_DECODER_CREATE_ARGS_INIT; }
inline fewstep_decoder_run_args run_args() { return FEWSTEP_DECODER_RUN_ARGS_INIT; }
inline fewstep_decoder_chain_args chain_args() { return FEWSTEP_DECODER_CHAIN_ARGS_INIT; }

// Weights and caches of a model, whose memory has to outlive it. Moves, and is not copied.
class Decoder {
 public:
  explicit Decoder(const fewstep_decoder_create_args& args) {
    fewstep_decoder* made = nullptr;
    check(fewstep_decoder_create(&args, &made));
    owner_.reset(made);
  }
  int64_t workspace_bytes(int64_t N, int64_t B, int64_t M, int64_t C) const {
    return fewstep_decoder_run_workspace_bytes(owner_.get(), N, B, M, C);
  }
  void run(const fewstep_decoder_run_args& args, const Context* context = nullptr) const {
    check(fewstep_decoder_run(context ? context->get() : nullptr, owner_.get(), &args));
  }
  int64_t chain_workspace_bytes(int64_t N, int64_t B, int64_t C) const {
    return fewstep_decoder_chain_workspace_bytes(owner_.get(), N, B, C);
  }
  void chain(const fewstep_decoder_chain_args& args, const Context* context = nullptr) const {
    check(fewstep_decoder_chain(context ? context->get() : nullptr, owner_.get(), &args));
  }

 private:
  struct Destroy {
    void operator()(fewstep_decoder* decoder) const noexcept { fewstep_decoder_destroy(decoder); }
  };
  std::unique_ptr<fewstep_decoder, Destroy> owner_;
};

}  // namespace decoder

namespace linear {

inline fewstep_linear_pack_args pack_args() { return FEWSTEP_LINEAR_PACK_ARGS_INIT; }
inline void pack(const fewstep_linear_pack_args& args, const Context* context = nullptr) {
  detail::run<fewstep_linear_pack>(args, context);
}

inline fewstep_linear_unpack_args unpack_args() { return FEWSTEP_LINEAR_UNPACK_ARGS_INIT; }
inline void unpack(const fewstep_linear_unpack_args& args, const Context* context = nullptr) {
  detail::run<fewstep_linear_unpack>(args, context);
}

inline fewstep_linear_run_args run_args() { return FEWSTEP_LINEAR_RUN_ARGS_INIT; }
inline void run(const fewstep_linear_run_args& args, const Context* context = nullptr) {
  detail::run<fewstep_linear_run>(args, context);
}

}  // namespace linear

}  // namespace fewstep

#endif
