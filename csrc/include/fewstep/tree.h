/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_TREE_H_
#define FEWSTEP_TREE_H_

#include "base.h"
#include "context.h"
#include "logits.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Arguments of fewstep_tree_build. Outputs but for depth may be NULL. */
typedef struct fewstep_tree_build_args {
  uint32_t size;                      /* sizeof(fewstep_tree_build_args) */
  int32_t max_depth;                  /* of a node, the root's being 0; -1: any */
  const fewstep_tensor* parent;       /* [N] i32 */
  const fewstep_tensor* indptr;       /* [B + 1] i32 */
  const fewstep_tensor* base;         /* [B] i32; NULL: 0 */
  const fewstep_tensor* depth;        /* [N] i32 */
  const fewstep_tensor* first_child;  /* [N] i32 */
  const fewstep_tensor* next_sibling; /* [N] i32 */
  const fewstep_tensor* positions;    /* [N] i32 */
  const fewstep_tensor* bits;         /* [N, W] i32 or u32 */
} fewstep_tree_build_args;

#define FEWSTEP_TREE_BUILD_ARGS_INIT \
  {sizeof(fewstep_tree_build_args), -1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/* Checks trees given by their parents and derives what attention, grammars and verification read.
 *
 *   depth[i] = 0 at the root, depth[parent[i]] + 1 elsewhere;  positions[i] = base[b] + depth[i]
 *   first_child[i], next_sibling[i]: the children of a node in the order of their indices, -1 for
 *   none, as grammar libraries walk a tree
 *   bit j of bits[i]: node j is node i or an ancestor of it
 *
 * Request b has nodes indptr[b] .. indptr[b + 1] - 1, none where it takes no part. Indices of nodes
 * count from 0 in each request; node 0 is the root, its last committed token.
 *
 * Shapes   parent [N]  indptr [B + 1]  base [B] or NULL  depth [N]  first_child, next_sibling [N]
 *          or both NULL  positions [N] or NULL  bits [N, W] or NULL;  32 W >= nodes of any request
 * Types    bits: i32 or u32, words of 32 bits, the lowest first; all others: i32
 * Layout   first dimension strided, bits' words contiguous
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads parent once to check it and once for each kind of output
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; before anything is
 *          written the first node is named whose parent is no earlier node (so cycles), that is a
 *          second root, or that lies deeper than max_depth; and an indptr that does not ascend from
 *          0 to N. On CUDA nobody reads them before: such a parent is taken for none, and max_depth
 *          is not looked at
 * Source   tree attention: Miao et al. 2023, "SpecInfer", arXiv 2305.09781, section 4; links as in
 *          XGrammar's draft trees
 */
FEWSTEP_API fewstep_status fewstep_tree_build(const fewstep_context* ctx,
                                              const fewstep_tree_build_args* args);

/* Arguments of fewstep_tree_from_template. Either table or heads is given. */
typedef struct fewstep_tree_from_template_args {
  uint32_t size;                /* sizeof(fewstep_tree_from_template_args) */
  const fewstep_tensor* parent; /* [Q] i32 */
  const fewstep_tensor* rank;   /* [Q] i32 */
  const fewstep_tensor* root;   /* [B] i32 */
  const fewstep_tensor* table;  /* [V, K] i32 */
  const fewstep_tensor* heads;  /* [B, H, K] i32 */
  const fewstep_tensor* tokens; /* [B, Q] i32 */
} fewstep_tree_from_template_args;

#define FEWSTEP_TREE_FROM_TEMPLATE_ARGS_INIT \
  {sizeof(fewstep_tree_from_template_args), NULL, NULL, NULL, NULL, NULL, NULL}

/* Fills a tree of fixed shape with tokens: of a table of successors (Token Recycling), or of each
 * head's candidates (Medusa).
 *
 *   tokens[b, 0] = root[b]
 *   tokens[b, i] = table[tokens[b, parent[i]], rank[i]]         with a table
 *   tokens[b, i] = heads[b, depth(i) - 1, rank[i]]              with heads
 *   tokens[b, i] = -1 where that is below 0 (or V or more, with a table), or where the parent's is
 *
 * A branch ends where no successor is known: its nodes stay in the tree, whose mask and positions
 * are built once, and have token -1, which verification never accepts. fewstep_tree_rerank drops
 * nodes, given -infinity for them.
 *
 * Shapes   parent, rank [Q]  root [B]  table [V, K] or NULL  heads [B, H, K] or NULL
 *          tokens [B, Q];  1 <= Q
 * Types    all i32
 * Layout   first dimension strided, others contiguous
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads one entry of table or heads per node
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; before anything is
 *          written: a template that is no tree, a rank outside [0, K) (the root's is not read), a
 *          node deeper than there are heads, a root outside [0, V). On CUDA nobody reads them
 *          before: such nodes have no token, and a parent that is no earlier node is the root
 * Source   Luo et al. 2024, "Turning trash into treasure", arXiv 2408.08696, section 3.2; Cai et
 * al. 2024, "Medusa", arXiv 2401.10774, section 2.1
 */
FEWSTEP_API fewstep_status fewstep_tree_from_template(const fewstep_context* ctx,
                                                      const fewstep_tree_from_template_args* args);

/* Arguments of fewstep_tree_expand. */
typedef struct fewstep_tree_expand_args {
  uint32_t size;                     /* sizeof(fewstep_tree_expand_args) */
  const fewstep_tensor* cum_logp;    /* [R] f32 */
  const fewstep_tensor* logits;      /* [R, V] */
  const fewstep_tensor* indptr;      /* [B + 1] i32 */
  const fewstep_tensor* d2t;         /* [V] i32; NULL: ids are those of the logits */
  const fewstep_tensor* ids;         /* [R, K] i32 */
  const fewstep_tensor* logp;        /* [R, K] f32 */
  const fewstep_tensor* beam_ids;    /* [B, M] i32 */
  const fewstep_tensor* beam_logp;   /* [B, M] f32 */
  const fewstep_tensor* beam_parent; /* [B, M] i32 */
  const fewstep_tensor* status;      /* [R] i32 */
} fewstep_tree_expand_args;

#define FEWSTEP_TREE_EXPAND_ARGS_INIT \
  {sizeof(fewstep_tree_expand_args), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/* One step of a deterministic draft tree's growth: the best children of every frontier row, and the
 * best of each request's, which are its next frontier.
 *
 *   ids[r], logp[r]: the K most likely tokens of row r, of equal ones the lower id first, and
 *                    cum_logp[r] + log softmax(logits[r])
 *   beam_ids[b], beam_logp[b], beam_parent[b]: of all K children of the rows indptr[b] ..
 *                    indptr[b + 1] - 1 the M of greatest logp, of equal ones the earlier first, and
 *                    their row, counted within the request
 *
 * Where there are fewer: id -1, logp -infinity, parent -1. A row of cum_logp -infinity or NaN has
 * no children and is not read, so a beam can be expanded as it came. status[r] is the
 * fewstep_logits_status of a row; one without a law has no children. d2t maps ids of the logits to
 * ids of the target; below 0 stands for none.
 *
 * Shapes   cum_logp [R]  logits [R, V]  indptr [B + 1]  d2t [V] or NULL  ids, logp [R, K]
 *          beam_ids, beam_logp, beam_parent [B, M] or all NULL  status [R] or NULL;
 *          1 <= K, M <= 64
 * Types    logits: f32 f16 bf16; cum_logp, logp, beam_logp: f32; others: i32; exponentials in f32,
 *          their sums, the logarithm and what follows in f64, rounded once
 * Layout   first dimension strided, others contiguous
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads logits once from memory, on CUDA again from the caches
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit; on CUDA but for the
 *          rounding of the logarithm
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; before anything is
 *          written: an indptr that does not ascend from 0 to R. On CUDA nobody reads it before: a
 *          request whose rows are not among the R has no beam
 * Source   Li et al. 2024, "EAGLE-2", arXiv 2406.16858, section 4.1
 */
FEWSTEP_API fewstep_status fewstep_tree_expand(const fewstep_context* ctx,
                                               const fewstep_tree_expand_args* args);

/* Arguments of fewstep_tree_rerank. */
typedef struct fewstep_tree_rerank_args {
  uint32_t size;                     /* sizeof(fewstep_tree_rerank_args) */
  const fewstep_tensor* cum_logp;    /* [M] f32 */
  const fewstep_tensor* parent;      /* [M] i32 */
  const fewstep_tensor* indptr;      /* [B + 1] i32 */
  const fewstep_tensor* budget;      /* [B] i32 */
  const fewstep_tensor* kept;        /* [N] i32 */
  const fewstep_tensor* kept_parent; /* [N] i32 */
  const fewstep_tensor* kept_indptr; /* [B + 1] i32 */
  const fewstep_tensor* workspace;   /* [W] i64 */
} fewstep_tree_rerank_args;

#define FEWSTEP_TREE_RERANK_ARGS_INIT \
  {sizeof(fewstep_tree_rerank_args), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/* Bytes of workspace that fewstep_tree_rerank needs. */
FEWSTEP_API int64_t fewstep_tree_rerank_workspace_bytes(int64_t M);

/* Keeps the best nodes of each request's candidate tree and renumbers their parents.
 *
 *   of request b the budget[b] nodes of greatest cum_logp, of equal ones those of lower index, the
 *   root first of all; a node counts as no better than its parent, so ancestors are kept always
 *   kept: their rows in the flat arrays, ascending; kept_parent: their parents within the request's
 *   kept nodes; request b's are kept_indptr[b] .. kept_indptr[b + 1] - 1; -1 behind the last
 *
 * Nodes of cum_logp -infinity or NaN, and all below them, are never kept.
 *
 * Shapes   cum_logp, parent [M]  indptr, kept_indptr [B + 1]  budget [B]  kept, kept_parent [N]
 *          workspace [W];  N >= the sum of min(budget, nodes)
 * Types    cum_logp: f32; workspace: i64; all others: i32
 * Layout   first dimension strided; workspace contiguous
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads cum_logp once, parent three times; workspace holds two keys per
 *          node, fewstep_tree_rerank_workspace_bytes
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; before anything is
 *          written: trees and indptr as fewstep_tree_build has them, a budget below 0. On CUDA
 *          nobody reads them before: a parent that is no earlier node is taken for none, a budget
 *          below 0 for 0, and what has no room in `kept` is left out
 * Source   Li et al. 2024, "EAGLE-2", arXiv 2406.16858, section 4.2
 */
FEWSTEP_API fewstep_status fewstep_tree_rerank(const fewstep_context* ctx,
                                               const fewstep_tree_rerank_args* args);

/* How the children of a node are drawn; verification must be told the same. */
typedef enum fewstep_draw_law {
  FEWSTEP_DRAW_IID = 0,                 /* independently, with repeats */
  FEWSTEP_DRAW_WITHOUT_REPLACEMENT = 1, /* Gumbel top-k, per node */
  FEWSTEP_DRAW_STOCHASTIC_BEAM = 2      /* Gumbel top-k of whole paths */
} fewstep_draw_law;

/* Arguments of fewstep_tree_sample_children. */
typedef struct fewstep_tree_sample_children_args {
  uint32_t size;                          /* sizeof(fewstep_tree_sample_children_args) */
  int32_t law;                            /* fewstep_draw_law */
  fewstep_logits_filters filters;         /* of the drafter's law; tensors are [B] */
  const fewstep_tensor* logits;           /* [R, V] */
  const fewstep_tensor* indptr;           /* [B + 1] i32 */
  const fewstep_tensor* seeds;            /* [B] i64 or u64 */
  const fewstep_tensor* positions;        /* [R] i32 */
  const fewstep_tensor* node;             /* [R] i32; NULL: the row within its request */
  const fewstep_tensor* cum_logp;         /* [R] f32; NULL: 0 */
  const fewstep_tensor* parent_perturbed; /* [R] f32; NULL: 0, that of a root */
  const fewstep_tensor* d2t;              /* [V] i32; NULL: ids are those of the logits */
  const fewstep_tensor* draws;            /* [R, K] i32 */
  const fewstep_tensor* logq;             /* [R, K] f32 */
  const fewstep_tensor* perturbed;        /* [R, K] f32; NULL with independent draws */
  const fewstep_tensor* beam;             /* [B, M] i32 */
  const fewstep_tensor* status;           /* [R] i32 */
} fewstep_tree_sample_children_args;

#define FEWSTEP_TREE_SAMPLE_CHILDREN_ARGS_INIT \
  {sizeof(fewstep_tree_sample_children_args),  \
   FEWSTEP_DRAW_IID,                           \
   FEWSTEP_LOGITS_FILTERS_INIT,                \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL,                                       \
   NULL}

/* Draws children of every frontier row from the drafter's law q, that of its filtered logits as
 * fewstep_logits_sample has it. fewstep_logits_renorm with the same filters gives its
 * probabilities, which a verification needs.
 *
 *   IID                   draws[r] are K independent tokens, repeats among them
 *   WITHOUT_REPLACEMENT   the K tokens of greatest perturbed = log q + Gumbel, greatest first: the
 *                         order and law of drawing one after the other without replacement (RSD-C)
 *   STOCHASTIC_BEAM       the same, perturbed being cum_logp + log q + Gumbel given that the
 *                         greatest of a row's tokens has parent_perturbed[r]: the M greatest of all
 *                         children of all frontier rows are M paths drawn without replacement
 *                         (RSD-S)
 *   logq[r, j]            log q of the draw, before mapping
 *   beam[b]               of the children of request b's rows the M of greatest perturbed, of equal
 *                         ones the earlier first, as (row within the request) * K + j
 *
 * Where there are fewer tokens of a weight: draw -1, logq and perturbed -infinity, beam -1. A row
 * of cum_logp or parent_perturbed -infinity or NaN has no draws and is not read. status[r] is the
 * fewstep_logits_status of a row; one without a law has no draws. d2t maps ids of the logits to ids
 * of the target; below 0 stands for none.
 *
 * Shapes   logits [R, V]  indptr [B + 1]  seeds [B]  positions [R]  node [R] or NULL
 *          cum_logp, parent_perturbed [R] or NULL  d2t [V] or NULL
 *          draws, logq [R, K]  perturbed [R, K]  beam [B, M] or NULL  status [R] or NULL;
 *          1 <= K, M <= 64
 * Types    logits: f32 f16 bf16; seeds: i64 or u64 (the same 64 bits); cum_logp,
 *          parent_perturbed, logq, perturbed: f32; others: i32; exponentials in f32, their sums,
 *          logarithms, Gumbels and every decision in f64
 * Layout   first dimension strided, others contiguous
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads logits once for independent draws from the whole vocabulary,
 *          once more for others, and as fewstep_logits_sample where they are filtered and on CUDA
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit; on CUDA but for the
 *          rounding of logarithms, and as fewstep_logits_filters says
 * Random   Philox4x32-10, key (seed lo, seed hi), counter (block, node, position,
 *          FEWSTEP_STREAM_DRAFT). Token v has word w = v % 4 of block v / 4 and the Gumbel
 *          -log(-log((w + 1/2) / 2^32)); independent draw j takes the 52-bit uniform of words 0 and
 *          1 of block j, by inversion. Rows of one seed and position need different nodes
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; before anything is
 *          written: an indptr that does not ascend from 0 to R, a filter's number out of its range.
 *          On CUDA nobody reads them before: a row that no request has gets no draws, a request
 *          whose rows are not among the R has no beam, filters are as fewstep_logits_filters says
 * Source   Jeon et al. 2024, "Recursive speculative decoding", arXiv 2402.14160, section 3.1; Kool,
 *          van Hoof, Welling 2019, "Stochastic beams and where to find them", arXiv 1903.06059
 */
FEWSTEP_API fewstep_status fewstep_tree_sample_children(
    const fewstep_context* ctx, const fewstep_tree_sample_children_args* args);

#ifdef __cplusplus
}
#endif

#endif
