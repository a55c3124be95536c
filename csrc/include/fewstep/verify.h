/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_VERIFY_H_
#define FEWSTEP_VERIFY_H_

#include "base.h"
#include "context.h"
#include "logits.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a node's children came about. */
typedef enum fewstep_draft_law {
  FEWSTEP_LAW_DETERMINISTIC = 0,       /* chosen, such as the k best: they have no probability */
  FEWSTEP_LAW_IID = 1,                 /* drawn independently from the node's draft law */
  FEWSTEP_LAW_WITHOUT_REPLACEMENT = 2, /* drawn one after the other, each from what is left */
  FEWSTEP_LAW_EXTERNAL_WEIGHTS = 3     /* drawn in any way; draw_weight picks one, and the draft's
                                          law is that of the one picked */
} fewstep_draft_law;

#define FEWSTEP_MAX_DRAWS 256          /* of a node: those beyond are not looked at */
#define FEWSTEP_MAX_TYPICAL_NODES 1024 /* of a tree, for rule typical */

/* How drafts are accepted. p is the target's law at a node, q the draft's. All but the last two are
 * lossless: what they emit has the target's law. */
typedef enum fewstep_verify_rule {
  FEWSTEP_RULE_GREEDY = 0,      /* the child that is the target's best token. Any law */
  FEWSTEP_RULE_MATCH = 1,       /* the child that is the token that plain sampling with the same
                                   seed draws. Any law */
  FEWSTEP_RULE_TARGET_ONLY = 2, /* a child with probability p, else p without it. Any law */
  FEWSTEP_RULE_CHAIN = 3,       /* one draw a node: min(1, p / q), else max(p - q, 0). Any law */
  FEWSTEP_RULE_RRS = 4,         /* the same draw after draw, p replaced by the residual law, and
                                   without replacement q by what is left. IID or
                                   WITHOUT_REPLACEMENT */
  FEWSTEP_RULE_K_SEQ = 5,       /* each draw with min(1, p / (rho q)), rho for their number. IID */
  FEWSTEP_RULE_BLOCK = 6,       /* one draw a node: the longest prefix that passes a test of all
                                   its ratios together; never fewer than chain on average. All but
                                   EXTERNAL_WEIGHTS */
  FEWSTEP_RULE_CANONICAL = 7,   /* one draw is picked by its weight, then as chain.
                                   EXTERNAL_WEIGHTS */
  FEWSTEP_RULE_TYPICAL = 8,     /* lossy: every child with p > min(epsilon, delta exp(-entropy of
                                   p)) stands; the longest path, then the most likely, is accepted
                                   and the next token drawn from p. Any law */
  FEWSTEP_RULE_ADJUSTED_TARGET = 9 /* lossy: one draw a node: min(1, a / q), else max(p - q, p - a,
                                   0), with a ~ p exp(strength (q - p)) where q >= share max q, a ~
                                   p elsewhere. IID or WITHOUT_REPLACEMENT */
} fewstep_verify_rule;

/* Numbers of the lossy rules, from 0 up. */
typedef struct fewstep_verify_params {
  double epsilon, delta;  /* typical */
  double strength, share; /* adjusted_target; strength is 80 at most */
} fewstep_verify_params;

#define FEWSTEP_VERIFY_PARAMS_INIT {0.09, 0.3, 10.0, 0.1}

typedef struct fewstep_tree_verify_args {
  uint32_t size;                  /* sizeof(fewstep_tree_verify_args) */
  int32_t rule;                   /* fewstep_verify_rule */
  int32_t law;                    /* fewstep_draft_law */
  fewstep_logits_filters filters; /* of the target's law; tensors are [B] */
  fewstep_verify_params params;
  const fewstep_tensor* parent;
  const fewstep_tensor* indptr;
  const fewstep_tensor* token;
  const fewstep_tensor* logits;       /* or NULL with target_token */
  const fewstep_tensor* target_token; /* or NULL; rules greedy and match */
  const fewstep_tensor* bitmask;      /* or NULL */
  const fewstep_tensor* draft;        /* or NULL where the rule needs none */
  const fewstep_tensor* draft_ids;    /* or NULL: column s is token s */
  const fewstep_tensor* draft_row;    /* or NULL: row i is that of node i */
  const fewstep_tensor* draw_indptr;  /* or NULL: each child was drawn once, in order */
  const fewstep_tensor* draw_node;
  const fewstep_tensor* draw_weight; /* or NULL; needed by canonical, with the list of draws */
  const fewstep_tensor* seeds;
  const fewstep_tensor* positions;
  const fewstep_tensor* path;
  const fewstep_tensor* accepted;
  const fewstep_tensor* next_token;
  const fewstep_tensor* logprobs; /* or NULL */
  const fewstep_tensor* status;   /* or NULL */
} fewstep_tree_verify_args;

#define FEWSTEP_TREE_VERIFY_ARGS_INIT \
  {sizeof(fewstep_tree_verify_args),  \
   FEWSTEP_RULE_TARGET_ONLY,          \
   FEWSTEP_LAW_DETERMINISTIC,         \
   FEWSTEP_LOGITS_FILTERS_INIT,       \
   FEWSTEP_VERIFY_PARAMS_INIT,        \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL,                              \
   NULL}

/* Verifies draft trees against the target's logits: which path is accepted, which token follows.
 *
 * From the root on, the rule accepts one of a node's children, which is then the node, or none:
 * then the next token is drawn from the residual law, after a node without children from the
 * target's. Block and typical decide about whole paths. A node whose token is negative is never
 * accepted and no draw. Request b has nodes
 * indptr[b] .. indptr[b + 1] - 1 (tree.h), row i of logits is the target's after node i; only rows
 * of the path are read. For greedy and match the target's token after each node may be given in
 * place of its logits, as a head with a top-k or a sampler has it: below 0 it has none.
 *
 * Shapes   parent, token, target_token [N]  indptr [B + 1]  logits [N, V]
 *          bitmask [N, ceil(V / 32)]  draft [M, S]  draft_ids [M, S] or [1, S]  draft_row [N]
 *          draw_indptr [N + 1]  draw_node, draw_weight [K]  seeds, positions [B]  path [B, D], D at
 *          least the trees' depth  accepted, next_token, status [B]  logprobs [B, D + 1]
 * Types    logits: f32 f16 bf16; draft: f32 probabilities, the law really drawn from; draft_ids:
 *          i32, ascending in a row; draw_weight: f32, from 0 up, not all 0 at a node; seeds: i64
 *          or u64; logprobs: f32; bitmask: i32 or u32; all others: i32. Weights in f32, their sums
 *          and all decisions in f64
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads the visited rows of logits once from memory, and those of draft
 *          up to once for each rejected draw (k_seq: some 50 times)
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit; on CUDA but for the
 *          rounding of logarithms and exponentials in f64, and as fewstep_logits_filters says
 * Random   52-bit uniform numbers, as in fewstep_logits_sample, of the request's seed at the
 *          position of the token that is decided, positions[b] + depth: stream ACCEPT, draw =
 *          number among the node's draws (block: 0; canonical: 0 picks, 1 accepts); BONUS, draw 0;
 *          match: SAMPLE, draw 0. A residual law of target_only, chain, rrs and canonical is first
 *          drawn from by rejection: RESIDUAL, draws 2 j + 1 (a token of the target's law) and
 *          2 j + 2 (whether it stands) for j = 0 .. 7; where none stands, and of other rules, draw
 *          0
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; a pair of law and
 *          rule that is not listed is refused, and with target_token logits, bitmask and logprobs.
 *          A row without a law ends the path: next_token -1, its status. On CUDA nobody reads
 *          indices before: a child is a later node of its request with a token below V, and what
 *          is none is no draw; a request whose nodes are not among the N has none; a path ends
 *          where `path` does; a draft_row that draft has not gives no token a probability; typical
 *          sees the first FEWSTEP_MAX_TYPICAL_NODES nodes, block and adjusted_target the first draw
 *          of a node, and canonical without a weight above 0 picks none
 * Source   chain: Chen et al. 2023, arXiv 2302.01318, and Leviathan et al. 2023, arXiv
 *          2211.17192; target_only: Li et al. 2024, EAGLE, arXiv 2401.15077; rrs: Miao et al.
 *          2023, SpecInfer, arXiv 2305.09781, and Jeon et al. 2024, RSD, arXiv 2402.14160;
 *          k_seq: Sun et al. 2023, SpecTr, arXiv 2310.15141, algorithm 2; block: Sun et al. 2024,
 *          arXiv 2403.10444, algorithm 2; canonical: Khisti et al. 2024, arXiv 2410.18234; typical:
 *          Cai et al. 2024, Medusa, arXiv 2401.10774, section 2.3.1; adjusted_target: Chen et al.
 *          2025, RAPID, arXiv 2502.20330, and its residual as the authors' code has it
 */
FEWSTEP_API fewstep_status fewstep_tree_verify(const fewstep_context* ctx,
                                               const fewstep_tree_verify_args* args);

/* Arguments of fewstep_tree_k_seq_rho. */
typedef struct fewstep_tree_k_seq_rho_args {
  uint32_t size;                  /* sizeof(fewstep_tree_k_seq_rho_args) */
  int32_t k;                      /* draws from each row's draft law, 1 to FEWSTEP_MAX_DRAWS */
  fewstep_logits_filters filters; /* of the target's law; tensors are [R] */
  const fewstep_tensor* logits;
  const fewstep_tensor* bitmask; /* or NULL */
  const fewstep_tensor* draft;
  const fewstep_tensor* draft_ids; /* or NULL: column s is token s */
  const fewstep_tensor* rho;
  const fewstep_tensor* accept; /* or NULL */
  const fewstep_tensor* status; /* or NULL */
} fewstep_tree_k_seq_rho_args;

#define FEWSTEP_TREE_K_SEQ_RHO_ARGS_INIT \
  {sizeof(fewstep_tree_k_seq_rho_args),  \
   1,                                    \
   FEWSTEP_LOGITS_FILTERS_INIT,          \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL,                                 \
   NULL}

/* What FEWSTEP_RULE_K_SEQ divides by: the least rho >= 1 at which k independent draws from q, each
 * accepted with min(1, p / (rho q)), leave a law to draw the next token from; and the chance that
 * one draw is accepted, sum(min(q, p / rho)). Least as far as weights in f32 tell: where the chance
 * that one of k is accepted hardly depends on rho, a larger one may be found, which is as exact.
 *
 * Shapes   logits [R, V]  bitmask [R, ceil(V / 32)]  draft, draft_ids [R, S] or [1, S]
 *          rho, accept, status [R]
 * Types    logits: f32 f16 bf16; draft: f32 probabilities; draft_ids: i32, ascending in a row;
 *          bitmask: i32 or u32; rho, accept: f64; status: i32
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads rows of logits and draft some 50 times, k = 1: once or twice
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit, on CUDA but for what
 *          fewstep_logits_filters says; the numbers that fewstep_tree_verify uses
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR. A row without a
 *          law: NaN, its status. On CUDA nobody reads draft_ids before: a token that is not found
 *          in them, as if they ascended, has no probability
 * Source   Sun et al. 2023, SpecTr, arXiv 2310.15141, equation 5
 */
FEWSTEP_API fewstep_status fewstep_tree_k_seq_rho(const fewstep_context* ctx,
                                                  const fewstep_tree_k_seq_rho_args* args);

#ifdef __cplusplus
}
#endif

#endif
