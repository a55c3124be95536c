/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_BUDGET_H_
#define FEWSTEP_BUDGET_H_

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a call of a model takes, by its rows: seconds by the better ones of late of each size, since
 * a machine that others use makes some calls many times as long. Between sizes that were measured
 * the curve is straight: what a few rows cost says little of many, where products take the time and
 * no longer memory. Give it seconds without those of drafting: calls with more rows are those that
 * were drafted for, and what a row costs would be too much by it. Not for use by two threads at
 * once. */
typedef struct fewstep_call_cost fewstep_call_cost;

FEWSTEP_API fewstep_status fewstep_call_cost_create(fewstep_call_cost** out);
FEWSTEP_API void fewstep_call_cost_destroy(fewstep_call_cost* cost);

/* Takes a measurement: rows in 1 to 2^24, seconds finite. */
FEWSTEP_API fewstep_status fewstep_call_cost_add(fewstep_call_cost* cost, int32_t rows,
                                                 double seconds);
/* How many calls of so many rows were measured of late, up to 8. */
FEWSTEP_API int32_t fewstep_call_cost_count(const fewstep_call_cost* cost, int32_t rows);
/* *seconds of 0, 1, .. `most` rows; *known is 0, and nothing written, where fewer than two sizes
 * were measured, else 1. */
FEWSTEP_API fewstep_status fewstep_call_cost_curve(fewstep_call_cost* cost, int32_t most,
                                                   double* seconds, int32_t* known);

/* How many nodes of drafts are worth verifying, by what calls cost and what drafts brought so far.
 *
 * A node's chance is its score to a power with which scores sum up to what is accepted (a drafter
 * that thinks too well of a token does so of each on the way to a node), or else the share of its
 * verifications in which it was on the accepted path, counted by its number; a child's is never
 * above its parent's. The nodes that are kept, most likely first, make the expected tokens per
 * second the most; now and then more or none, so that estimates stay alive. Counts fade. Not for
 * use by two threads at once. */
typedef struct fewstep_budget fewstep_budget;

/* A draft, in the encoding of tree.h, of which nodes may be left out. */
typedef struct fewstep_budget_draft {
  uint32_t size;         /* sizeof(fewstep_budget_draft) */
  int32_t nodes;         /* 1 or more */
  const int32_t* parent; /* [nodes] */
  const float* score;    /* [nodes] how likely each is thought to be accepted, or NULL */
  const int32_t* index;  /* [nodes] the numbers that nodes are counted by, or NULL: 0, 1, .. */
  uint8_t* kept;         /* [nodes] 1 for nodes to verify, written by fewstep_budget_cut */
  const int32_t* path;   /* [accepted] nodes, read by fewstep_budget_learn */
  int32_t accepted;
} fewstep_budget_draft;

#define FEWSTEP_BUDGET_DRAFT_INIT {sizeof(fewstep_budget_draft), 0, NULL, NULL, NULL, NULL, NULL, 0}

typedef struct fewstep_budget_cut_params {
  uint32_t size;   /* sizeof(fewstep_budget_cut_params) */
  int32_t batch;   /* requests of the call, 1 or more */
  int32_t rows;    /* that run in any case, roots included: 1 or more */
  int32_t trial;   /* 1: drafts are on trial, so some are verified in any case */
  double drafting; /* seconds that these drafts took */
} fewstep_budget_cut_params;

#define FEWSTEP_BUDGET_CUT_PARAMS_INIT {sizeof(fewstep_budget_cut_params), 1, 1, 0, 0.0}

FEWSTEP_API fewstep_status fewstep_budget_create(fewstep_budget** out);
FEWSTEP_API void fewstep_budget_destroy(fewstep_budget* budget);

/* Says which nodes of a call's drafts to verify; the root always, a child never without its parent,
 * of equally likely ones those that come first. *wanted is their number, roots not counted. Without
 * drafts the call is one of which nothing is expected. */
FEWSTEP_API fewstep_status fewstep_budget_cut(fewstep_budget* budget, fewstep_call_cost* cost,
                                              const fewstep_budget_draft* drafts, int32_t count,
                                              const fewstep_budget_cut_params* params,
                                              int32_t* wanted);

/* Counts which nodes of the drafts that were verified, in a call of `batch` requests, were on the
 * accepted paths. *tokens and *seconds are what that call would have brought and taken, drafting
 * included, with as many nodes as pay the most; 0 where that was not known. */
FEWSTEP_API fewstep_status fewstep_budget_learn(fewstep_budget* budget,
                                                const fewstep_budget_draft* drafts, int32_t count,
                                                int32_t batch, double* tokens, double* seconds);

/* Lets what drafts show from now on count more than what they showed before. */
FEWSTEP_API fewstep_status fewstep_budget_doubt(fewstep_budget* budget);

#ifdef __cplusplus
}
#endif

#endif
