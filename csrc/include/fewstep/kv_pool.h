/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_KV_POOL_H_
#define FEWSTEP_KV_POOL_H_

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which sequence has which pages of a paged KV cache: host bookkeeping, no tensors. A page serves
 * all layers and belongs to as many sequences as share it; with none left it is free, or, when its
 * tokens were published, cached until its memory is wanted, the page unused for longest first.
 *
 * Sequences have numbers that are never used again: an unknown one, such as one that was freed
 * twice, is FEWSTEP_INVALID_ARGUMENT. A call that fails changes nothing. A pool may be used by one
 * thread at a time. */
typedef struct fewstep_kv_pool fewstep_kv_pool;

/* pages >= 1, page_tokens >= 1. */
FEWSTEP_API fewstep_status fewstep_kv_pool_create(int32_t pages, int32_t page_tokens,
                                                  fewstep_kv_pool** out);
FEWSTEP_API void fewstep_kv_pool_destroy(fewstep_kv_pool* pool);

/* A sequence that begins with the longest run of published pages that holds these tokens from
 * their start; *cached tells their number, a multiple of page_tokens, whose rows are in the cache
 * and are the sequence's length. tokens may be NULL with n_tokens = 0. To have something to
 * compute, leave out the last token. */
FEWSTEP_API fewstep_status fewstep_kv_pool_add(fewstep_kv_pool* pool, const int32_t* tokens,
                                               int64_t n_tokens, int64_t* sequence,
                                               int64_t* cached);

/* Room for n more tokens. Where the last page is part full and shared, the sequence gets a page of
 * its own in its place, and copy[0], copy[1] are that page and the one to fill from it: the caller
 * copies the rows (fewstep_kv_copy_pages) before anything is appended; else both are -1.
 * FEWSTEP_OUT_OF_MEMORY when free and cached pages do not suffice. */
FEWSTEP_API fewstep_status fewstep_kv_pool_extend(fewstep_kv_pool* pool, int64_t sequence,
                                                  int64_t n_tokens, int32_t copy[2]);

/* Gives up the tokens from `length` on, as after a rejected draft. */
FEWSTEP_API fewstep_status fewstep_kv_pool_truncate(fewstep_kv_pool* pool, int64_t sequence,
                                                    int64_t length);

/* A sequence that shares the first `length` tokens of another. */
FEWSTEP_API fewstep_status fewstep_kv_pool_fork(fewstep_kv_pool* pool, int64_t sequence,
                                                int64_t length, int64_t* forked);

/* Lets later sequences share the full pages among the first n_tokens, whose rows are in the cache:
 * tokens are all of the sequence's from its start. Pages published before must repeat theirs. */
FEWSTEP_API fewstep_status fewstep_kv_pool_publish(fewstep_kv_pool* pool, int64_t sequence,
                                                   const int32_t* tokens, int64_t n_tokens);

/* Ends a sequence. */
FEWSTEP_API fewstep_status fewstep_kv_pool_free(fewstep_kv_pool* pool, int64_t sequence);

FEWSTEP_API fewstep_status fewstep_kv_pool_length(const fewstep_kv_pool* pool, int64_t sequence,
                                                  int64_t* length);

/* Row i of table [n, columns] becomes the pages of sequences[i], -1 behind them. */
FEWSTEP_API fewstep_status fewstep_kv_pool_page_table(const fewstep_kv_pool* pool,
                                                      const int64_t* sequences, int64_t n,
                                                      int32_t* table, int64_t columns);

typedef struct fewstep_kv_pool_stats {
  uint32_t size; /* sizeof(fewstep_kv_pool_stats) */
  int32_t pages, page_tokens;
  int32_t used;   /* pages of one or more sequences */
  int32_t shared; /* of these, of two or more */
  int32_t cached; /* of none, with published tokens */
  int32_t free;   /* of none, without */
  int64_t sequences;
  int64_t looked_up, found; /* tokens given to add, and those found in the cache */
  int64_t copies;           /* pages that extend had copied */
  int64_t evictions;        /* cached pages whose memory was used */
} fewstep_kv_pool_stats;

FEWSTEP_API fewstep_status fewstep_kv_pool_get_stats(const fewstep_kv_pool* pool,
                                                     fewstep_kv_pool_stats* out);

/* Number of sequences that have a page. */
FEWSTEP_API fewstep_status fewstep_kv_pool_references(const fewstep_kv_pool* pool, int32_t page,
                                                      int32_t* count);

#ifdef __cplusplus
}
#endif

#endif
