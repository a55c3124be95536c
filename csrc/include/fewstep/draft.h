/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_DRAFT_H_
#define FEWSTEP_DRAFT_H_

#include "base.h"
#include "context.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Puts the best successors of evaluated tokens into an adjacency table (Token Recycling).
 *
 *   table[tokens[n], k] = top_ids[n, k], n ascending: where a token occurs twice the last one stays
 *
 * Shapes   table [V, K]  tokens [N]  top_ids [N, K]
 * Types    all i32; an entry of top_ids is -1 (none) or in [0, V)
 * Layout   rows contiguous, the first dimension strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads and writes N * K numbers; checks all before the first write
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs and thread counts, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, FEWSTEP_UNSUPPORTED, FEWSTEP_BACKEND_ERROR; on CUDA nobody
 *          reads the numbers before: a token outside of the table is passed over, an entry that is
 *          none is -1
 * Source   Luo et al. 2024, "Turning Trash into Treasure: Accelerating Inference of Large Language
 *          Models with Token Recycling", arXiv 2408.08696, section 3.2
 */
FEWSTEP_API fewstep_status fewstep_draft_recycle(const fewstep_context* ctx,
                                                 const fewstep_tensor* table,
                                                 const fewstep_tensor* tokens,
                                                 const fewstep_tensor* top_ids);

/* Drafts are trees in the encoding of tree.h: token[i] and parent[i] < i of each node. Node 0 is
 * the root, the last token of the context, with parent -1. */

/* A text in which continuations of its own end, or of another text's, are looked up: the longest
 * n-gram that ends the context and occurs earlier. Source: Saxena 2023, "Prompt lookup decoding".
 * Not for use by two threads at once. */
typedef struct fewstep_ngram fewstep_ngram;

typedef struct fewstep_ngram_propose_params {
  uint32_t size;      /* sizeof(fewstep_ngram_propose_params) */
  int32_t max_tokens; /* of a continuation, 1 or more */
  int32_t branches;   /* how many different continuations to merge into a tree, 1 or more */
} fewstep_ngram_propose_params;

#define FEWSTEP_NGRAM_PROPOSE_PARAMS_INIT {sizeof(fewstep_ngram_propose_params), 10, 1}

/* n_min, n_max: lengths of the n-grams, 1 <= n_min <= n_max <= 64. */
FEWSTEP_API fewstep_status fewstep_ngram_create(int32_t n_min, int32_t n_max, fewstep_ngram** out);
FEWSTEP_API void fewstep_ngram_destroy(fewstep_ngram* ngram);

/* Adds to the end of the text. A negative token is an error, and nothing is added. */
FEWSTEP_API fewstep_status fewstep_ngram_append(fewstep_ngram* ngram, const int32_t* tokens,
                                                int64_t count);
FEWSTEP_API int64_t fewstep_ngram_size(const fewstep_ngram* ngram);

/* Looks up context[count], or the text's own end where context is NULL. Candidates are ordered by
 * the length of their n-gram, then by how recent they are. A match that runs into the end of the
 * text goes on as a repetition, as in LZ77, where the context is the text's own end. Writes up to
 * `capacity` nodes and their number, the root included: 0 where the context is empty, 1 where
 * nothing was found. */
FEWSTEP_API fewstep_status fewstep_ngram_propose(const fewstep_ngram* ngram, const int32_t* context,
                                                 int64_t count,
                                                 const fewstep_ngram_propose_params* params,
                                                 int32_t* token, int32_t* parent, int32_t capacity,
                                                 int32_t* nodes);

/* Counts of what followed two tokens, from which a tree is drafted by a search that weighs
 * likelihood against exploration (ADED). Source: Liu et al. 2024, "Adaptive Draft-Verification for
 * Efficient Large Language Model Decoding", arXiv 2407.12021; the selection is that of AlphaZero,
 * Silver et al. 2017, arXiv 1712.01815. Not for use by two threads at once. */
typedef struct fewstep_trigram fewstep_trigram;

typedef struct fewstep_trigram_propose_params {
  uint32_t size;      /* sizeof(fewstep_trigram_propose_params) */
  int32_t depth;      /* tokens below the root at most, 1 or more */
  int32_t width;      /* successors of a state that the search looks at, most frequent first */
  int32_t iterations; /* of the search, 1 or more */
  double exploration; /* E in Q + E P sqrt(N) / (1 + n), 0 or more */
} fewstep_trigram_propose_params;

#define FEWSTEP_TRIGRAM_PROPOSE_PARAMS_INIT {sizeof(fewstep_trigram_propose_params), 6, 8, 200, 1.0}

FEWSTEP_API fewstep_status fewstep_trigram_create(fewstep_trigram** out);
FEWSTEP_API void fewstep_trigram_destroy(fewstep_trigram* trigram);

/* Adds 1 to the count of every three tokens in a row. To go on with a text, begin with its last two
 * tokens again. A negative token is an error, and nothing is counted. */
FEWSTEP_API fewstep_status fewstep_trigram_observe(fewstep_trigram* trigram, const int32_t* tokens,
                                                   int64_t count);
/* How often `third` followed `first`, `second`; and how many different pairs are known. */
FEWSTEP_API int64_t fewstep_trigram_count(const fewstep_trigram* trigram, int32_t first,
                                          int32_t second, int32_t third);
FEWSTEP_API int64_t fewstep_trigram_states(const fewstep_trigram* trigram);

/* Drafts from the context's last two tokens. A node's chance P is the share of its token among the
 * successors of the two before it; the search prefers nodes with more accepted tokens to expect,
 * and the tree keeps the `capacity` nodes that it visited most. Writes as fewstep_ngram_propose. */
FEWSTEP_API fewstep_status fewstep_trigram_propose(const fewstep_trigram* trigram,
                                                   const int32_t* context, int64_t count,
                                                   const fewstep_trigram_propose_params* params,
                                                   int32_t* token, int32_t* parent,
                                                   int32_t capacity, int32_t* nodes);

/* What a model held likely after contexts of the last 1 to `order` tokens, and what followed them
 * in texts; trees of it grow best first by probabilities that are calibrated by what came true.
 * Token Recycling with longer contexts: the longest one that is known counts, as in back-off
 * language models. Sources: Luo et al. 2024, arXiv 2408.08696 (the table of what a model held
 * likely); Katz 1987 (back-off); Li et al. 2024, EAGLE-2, arXiv 2406.16858 (the likeliest tree);
 * Saxena 2023, "Prompt lookup decoding" (reading); that they are one is new here. Memory is
 * bounded: a new context takes the place of the one known longest where there are `capacity`. Not
 * for use by two threads at once. */
typedef struct fewstep_recycler fewstep_recycler;

/* B trees of N evaluated nodes, as given to fewstep_tree_verify, and its verdict. */
typedef struct fewstep_recycler_rows {
  uint32_t size;             /* sizeof(fewstep_recycler_rows) */
  int32_t trees;             /* B, 0 or more */
  int32_t rows;              /* N, 0 or more */
  int32_t depth;             /* D, columns of path, 0 or more */
  const int32_t* token;      /* [N], 0 or more */
  const int32_t* parent;     /* [N], of its tree's nodes; -1 for a root */
  const int32_t* indptr;     /* [B + 1] */
  const int32_t* context;    /* [B, order - 1] tokens before each root, oldest first; -1 where there
                                is none; may be NULL where order is 1 */
  const int32_t* ids;        /* [N, width] different tokens held likely after each, likeliest first;
                                -1 for none */
  const float* logits;       /* [N, width] theirs, finite */
  const int32_t* path;       /* [B, D] accepted nodes, the root not among them */
  int64_t path_stride;       /* numbers between rows of path */
  const int32_t* accepted;   /* [B], how many of path */
  const int32_t* next_token; /* [B], the token after the path; -1 where it is not known */
} fewstep_recycler_rows;

#define FEWSTEP_RECYCLER_ROWS_INIT \
  {sizeof(fewstep_recycler_rows), 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL}

typedef struct fewstep_recycler_propose_params {
  uint32_t size; /* sizeof(fewstep_recycler_propose_params) */
  int32_t depth; /* tokens below the root at most, 1 or more */
  float least;   /* a node's chance at least, in [0, 1] */
} fewstep_recycler_propose_params;

#define FEWSTEP_RECYCLER_PROPOSE_PARAMS_INIT {sizeof(fewstep_recycler_propose_params), 16, 0.02f}

/* order: tokens of the longest contexts, 1 to 4; width: successors kept of each, 1 to 16; capacity:
 * contexts at most, 1 to 2^31 - 1. A context that is known takes some 40 bytes and 8 for each of
 * `width`. */
FEWSTEP_API fewstep_status fewstep_recycler_create(int32_t order, int32_t width, int64_t capacity,
                                                   fewstep_recycler** out);
FEWSTEP_API void fewstep_recycler_destroy(fewstep_recycler* recycler);
/* How many contexts are known. */
FEWSTEP_API int64_t fewstep_recycler_contexts(const fewstep_recycler* recycler);

/* Reads a text: the contexts that end before each of its tokens are followed by that token, with
 * probability 1, unless a model said what follows them. What is read later replaces what was read
 * earlier. A negative token is an error, and nothing is read. */
FEWSTEP_API fewstep_status fewstep_recycler_read(fewstep_recycler* recycler, const int32_t* tokens,
                                                 int64_t count);

/* Keeps what a model held likely after each node, accepted or not: its contexts of 1 to `order`
 * tokens are followed by the row's successors, whose probabilities are their shares among
 * themselves, exp(logit) / sum; a row without successors changes nothing. Nodes of the accepted
 * path first say which successors of the context that a proposal would use came true: counted by
 * length of the context, source (read or model), rank up to 3 and tenth of the probability, and
 * halved at 512 trials. Rows in order. What is not as described is an error, and nothing is kept.
 */
FEWSTEP_API fewstep_status fewstep_recycler_observe(fewstep_recycler* recycler,
                                                    const fewstep_recycler_rows* rows);

/* Drafts from the context's last tokens. A node's children are the successors of its longest known
 * context; a child's chance is its parent's times (hits + 1.4 p) / (trials + 2) of those that are
 * counted like it. Writes the likeliest `capacity` nodes that have a chance of `least` or more, the
 * likeliest first (of equal ones that found first), so parents before children, and their chances
 * to score[capacity]; the root's is 1. Otherwise writes as fewstep_ngram_propose. */
FEWSTEP_API fewstep_status fewstep_recycler_propose(fewstep_recycler* recycler,
                                                    const int32_t* context, int64_t count,
                                                    const fewstep_recycler_propose_params* params,
                                                    int32_t* token, int32_t* parent, float* score,
                                                    int32_t capacity, int32_t* nodes);

/* A tree that a recycler grows for nothing, and a draft model where the recycler does not know how
 * the text goes on. A node's rest is the chance that the text gets to it and then leaves the tree:
 * its score less those of its children. The model is asked at the nodes of greatest rest; each of
 * its likeliest tokens gets its share of the rest, and what the recycler knows behind it grows on.
 * Sources: Chen et al. 2023, "Cascade Speculative Drafting", arXiv 2312.11462, section 3.1 (a
 * statistical draft below a draft model); Hu et al. 2024, "SAM Decoding", arXiv 2411.10666 (the
 * model drafts where retrieval finds little); the rule of the rest is ours. Not for use by two
 * threads at once. */
typedef struct fewstep_cascade fewstep_cascade;

/* Nodes to run a draft model on; valid until the cascade is used again. */
typedef struct fewstep_cascade_question {
  uint32_t size;         /* sizeof(fewstep_cascade_question) */
  int32_t runs, asks;    /* how many */
  const int32_t* run;    /* [runs] ascending: those that are asked, also where they ran as others'
                            ancestors, and ancestors that did not run yet */
  const int32_t* token;  /* [runs] of the tree's nodes to run */
  const int32_t* parent; /* [runs] their parents; -1 of the root */
  const int32_t* asked;  /* [asks] nodes whose logits are wanted, ascending */
  float chance;          /* the sum of their rests */
} fewstep_cascade_question;

#define FEWSTEP_CASCADE_QUESTION_INIT \
  {sizeof(fewstep_cascade_question), 0, 0, NULL, NULL, NULL, NULL, 0.0f}

/* The recycler must live longer. room: nodes of the growing tree at most, 1 or more; what comes
 * when it is full is left out. */
FEWSTEP_API fewstep_status fewstep_cascade_create(fewstep_recycler* recycler, int32_t room,
                                                  fewstep_cascade** out);
FEWSTEP_API void fewstep_cascade_destroy(fewstep_cascade* cascade);

/* Begins anew with what the recycler proposes from the context's last tokens; no node has run. An
 * empty context has no tree. depth and least of `params` hold for all that grows. */
FEWSTEP_API fewstep_status fewstep_cascade_begin(fewstep_cascade* cascade, const int32_t* context,
                                                 int64_t count,
                                                 const fewstep_recycler_propose_params* params);

/* Chooses up to `most` nodes, 1 or more, that were not asked, lie above the greatest depth, and
 * have a rest of more than `least`, in [0, 1]: of greatest rest, of equal ones the earlier. They
 * count as asked, and all of `run` as run. */
FEWSTEP_API fewstep_status fewstep_cascade_ask(fewstep_cascade* cascade, int32_t most, float least,
                                               fewstep_cascade_question* out);

/* Adds what the model answered at a node that was asked: different tokens ids[width], likeliest
 * first, -1 for none, and their log-probabilities logp[width], not above 0. A token that is no
 * child yet gets the rest times its probability among such tokens, p / (1 - those of children),
 * where that is `least` or more; below it grows what the recycler proposes. *gained: the scores of
 * all new nodes, the accepted tokens to expect of them. */
FEWSTEP_API fewstep_status fewstep_cascade_answer(fewstep_cascade* cascade, int32_t node,
                                                  const int32_t* ids, const float* logp,
                                                  int32_t width, float* gained);

/* Writes the likeliest `capacity` nodes as fewstep_recycler_propose does. */
FEWSTEP_API fewstep_status fewstep_cascade_take(fewstep_cascade* cascade, int32_t* token,
                                                int32_t* parent, float* score, int32_t capacity,
                                                int32_t* nodes);

#ifdef __cplusplus
}
#endif

#endif
