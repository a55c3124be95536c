/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_TREE_H_
#define FEWSTEP_TREE_H_

#include "base.h"
#include "context.h"
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
 * Order    CPU: done on return; no CUDA kernel yet
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED; before anything is written the first node
 *          is named whose parent is no earlier node (so cycles), that is a second root, or that
 *          lies deeper than max_depth; and an indptr that does not ascend from 0 to N
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
 * Order    CPU: done on return; no CUDA kernel yet
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED; before anything is written: a template
 *          that is no tree, a rank outside [0, K) (the root's is not read), a node deeper than
 *          there are heads, a root outside [0, V)
 * Source   Luo et al. 2024, "Turning trash into treasure", arXiv 2408.08696, section 3.2; Cai et
 * al. 2024, "Medusa", arXiv 2401.10774, section 2.1
 */
FEWSTEP_API fewstep_status fewstep_tree_from_template(const fewstep_context* ctx,
                                                      const fewstep_tree_from_template_args* args);

#ifdef __cplusplus
}
#endif

#endif
