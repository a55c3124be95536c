/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_KV_H_
#define FEWSTEP_KV_H_

#include "base.h"
#include "context.h"
#include "kv_pool.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A cache of keys or values is a tensor [P, T, G, D]: P pages of T slots for G heads of D elements,
 * with strides of any kind but for the last dimension, which is contiguous. Slot s of request b is
 * slot s % T of page page_table[b, s / T]. Without a page table request b has page b to itself
 * (P = B): a contiguous cache [B, S, G, D], or the transposed view of one that is [B, G, S, D].
 *
 * An int8 or float8_e4m3fn cache has scales [P, T, G]: an element is worth scale * number, with
 * scale = max|x| / 127, or max|x| / 448, over a token's head. A row that holds a NaN or an infinity
 * gets zeros and the scale NaN; one of which no element is above 2^-100, zeros and the scale 0.
 * float8_e4m3fn is E4M3 of the OCP 8-bit floating point specification, DLPack's code 10: no
 * infinities, 448 the largest number, 0x7f and 0xff NaN.
 *
 * What one call moves for two requests must not lie in the same slots: pages that requests share
 * are for reading. Caches must not share memory; between the layers of one call only equal starts
 * are found. */

/* How pairs of elements turn with the position. */
typedef enum fewstep_rope {
  FEWSTEP_ROPE_NONE = 0,
  FEWSTEP_ROPE_NEOX = 1, /* pairs (i, i + R / 2): Llama, Qwen, GPT-NeoX */
  FEWSTEP_ROPE_GPTJ = 2  /* pairs (2 i, 2 i + 1): GPT-J, the paper */
} fewstep_rope;

/* Arguments of fewstep_kv_append. */
typedef struct fewstep_kv_append_args {
  uint32_t size;
  int32_t rope;                     /* fewstep_rope, of k */
  const fewstep_tensor* k;          /* [N, G, D] */
  const fewstep_tensor* v;          /* [N, G, D] */
  const fewstep_tensor* k_cache;    /* [P, T, G, D] */
  const fewstep_tensor* v_cache;    /* [P, T, G, D] */
  const fewstep_tensor* indptr;     /* [B + 1] i32 */
  const fewstep_tensor* length;     /* [B] i32 */
  const fewstep_tensor* page_table; /* [B, pages] i32, or NULL: P = B */
  const fewstep_tensor* k_scale;    /* [P, T, G] f32, for int8 and float8 caches */
  const fewstep_tensor* v_scale;    /* [P, T, G] f32, for int8 and float8 caches */
  const fewstep_tensor* cos;        /* [S, R / 2] f32, with rope */
  const fewstep_tensor* sin;        /* [S, R / 2] f32, with rope */
  const fewstep_tensor* positions;  /* [N] i32, or NULL: the row's slot */
} fewstep_kv_append_args;

#define FEWSTEP_KV_APPEND_ARGS_INIT \
  {sizeof(fewstep_kv_append_args),  \
   FEWSTEP_ROPE_NONE,               \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL,                            \
   NULL}

/* Writes a layer's rows of keys and values behind those that a cache holds, rotated and quantised
 * on the way.
 *
 *   row n = indptr[b] + i goes to slot length[b] + i of request b; with rope its key's pair (x, y)
 * j becomes (x cos - y sin, y cos + x sin) at [positions[n], j], and elements from R on stay
 *
 * `length` stays as it is: it counts what was committed, and the caller adds the rows once all
 * layers have them. Nodes of a tree have positions that differ from their slots.
 *
 * Shapes   k, v [N, G, D]  k_cache, v_cache [P, T, G, D]  indptr [B + 1]  length [B]
 *          page_table [B, pages]  k_scale, v_scale [P, T, G]  cos, sin [S, R / 2]  positions [N];
 *          R <= D <= 1024
 * Types    k and v: f32 f16 bf16; caches: f32 f16 bf16 i8 f8_e4m3fn; scales, cos, sin: f32;
 *          indices: i32; arithmetic f32, rounded once to nearest even, but x * (448 / max|x|) of
 *          float8_e4m3fn twice
 * Layout   k, v, caches and scales strided but for the last dimension; tables and vectors with
 *          rows strided
 * Alias    any overlap with what is written is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads k and v once, writes their rows once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also a slot beyond the cache, a
 *          page that is not in the table, a position outside of the tables; FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR; on CUDA nobody reads the indices before: a row without a slot
 *          or a position is passed over
 * Source   Su et al. 2021, "RoFormer", arXiv 2104.09864, eq. 34; pages: Kwon et al. 2023,
 *          "Efficient memory management for large language model serving with PagedAttention",
 *          arXiv 2309.06180
 */
FEWSTEP_API fewstep_status fewstep_kv_append(const fewstep_context* ctx,
                                             const fewstep_kv_append_args* args);

/* The caches of all layers: n tensors of [P, T, G, D] each, of one shape and type, or one tensor of
 * [L, P, T, G, D] with n = 1. At most 256 layers. */
typedef struct fewstep_kv_caches {
  int32_t n;
  const fewstep_tensor* k_cache; /* n tensors in a row */
  const fewstep_tensor* v_cache;
  const fewstep_tensor* k_scale; /* [P, T, G] f32 (or [L, P, T, G]) with bytes, else NULL */
  const fewstep_tensor* v_scale;
} fewstep_kv_caches;

#define FEWSTEP_KV_CACHES_INIT {0, NULL, NULL, NULL, NULL}

/* Arguments of fewstep_kv_commit. */
typedef struct fewstep_kv_commit_args {
  uint32_t size;
  int32_t first; /* 0, or more: nodes that stay in place before the path, 1 for a root */
  fewstep_kv_caches caches;
  const fewstep_tensor* path;       /* [B, M] i32 */
  const fewstep_tensor* accepted;   /* [B] i32 */
  const fewstep_tensor* base;       /* [B] i32 */
  const fewstep_tensor* page_table; /* [B, pages] i32, or NULL: P = B */
  const fewstep_tensor* length;     /* [B] i32 written, or NULL */
} fewstep_kv_commit_args;

#define FEWSTEP_KV_COMMIT_ARGS_INIT \
  {sizeof(fewstep_kv_commit_args), 0, FEWSTEP_KV_CACHES_INIT, NULL, NULL, NULL, NULL, NULL}

/* Moves the accepted rows of a draft block into place, in all layers at once.
 *
 *   slot base[b] + first + i  =  slot base[b] + path[b, i]    for i < accepted[b]
 *   length[b] = base[b] + first + accepted[b]
 *
 * base[b] is the slot of node 0 of request b's draft block, and path holds node ids of that block,
 * strictly increasing (a child comes after its parent), so that no row is overwritten before it is
 * read. Where the root is node 0 and is not in the path, first = 1 keeps its row. What follows the
 * accepted entries of path, such as -1, is not read.
 *
 * Shapes   caches [P, T, G, D] each  path [B, M]  accepted [B]  base [B]  page_table [B, pages]
 *          length [B]
 * Types    caches: one of f32 f16 bf16 i8 f8_e4m3fn, scales f32; indices: i32
 * Layout   caches and scales strided but for the last dimension; tables and vectors with rows
 *          strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads and writes the rows that move, each once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also a path that does not
 *          increase, a slot beyond the cache, a page that is not in the table; FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR; on CUDA nobody reads the indices before: a row without a slot
 *          is passed over, and `accepted` is cut to [0, M]
 * Source   the rows that tree verification accepts: Miao et al. 2023, "SpecInfer", arXiv
 *          2305.09781, sec. 4.3
 */
FEWSTEP_API fewstep_status fewstep_kv_commit(const fewstep_context* ctx,
                                             const fewstep_kv_commit_args* args);

/* Takes back tokens: length[b] = kept[b].
 *
 * The rows stay in the cache until others are written over them.
 *
 * Shapes   length [B]  kept [B]
 * Types    i32
 * Layout   strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   exact
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also kept[b] < 0 or > length[b];
 *          FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR; on CUDA nobody reads the indices before: such a length stays
 * Source   llama.cpp's llama_memory_seq_rm, transformers' Cache.crop
 */
FEWSTEP_API fewstep_status fewstep_kv_truncate(const fewstep_context* ctx,
                                               const fewstep_tensor* length,
                                               const fewstep_tensor* kept);

/* Arguments of fewstep_kv_gather. */
typedef struct fewstep_kv_gather_args {
  uint32_t size;
  fewstep_kv_caches caches;
  const fewstep_tensor* index;      /* [B, M] or [L, B, M] i32 */
  const fewstep_tensor* count;      /* [B] or [L, B] i32, as index */
  const fewstep_tensor* page_table; /* [B, pages] i32, or NULL: P = B */
} fewstep_kv_gather_args;

#define FEWSTEP_KV_GATHER_ARGS_INIT \
  {sizeof(fewstep_kv_gather_args), FEWSTEP_KV_CACHES_INIT, NULL, NULL, NULL}

/* Keeps the listed tokens of each request and closes the gaps, in place: pruning, for all layers or
 * layer by layer.
 *
 *   slot i  =  slot index[b, i]    for i < count[b]; with [L, B, M], of each layer
 *
 * Entries increase strictly; what follows the first count[b] is not read.
 *
 * Shapes   caches [P, T, G, D] each  index [B, M] or [L, B, M]  count [B] or [L, B]
 *          page_table [B, pages]
 * Types    caches: one of f32 f16 bf16 i8 f8_e4m3fn, scales f32; indices: i32
 * Layout   caches and scales strided but for the last dimension; index and count strided but for
 *          the last dimension; table with rows strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads and writes the rows that move, each once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs, thread counts and batch compositions, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also entries that do not increase,
 *          a slot beyond the cache, a page that is not in the table; FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR; on CUDA nobody reads the indices before: a row without a slot
 *          is passed over, and `count` is cut to [0, M]
 * Source   token pruning: Fu et al. 2024, "LazyLLM", arXiv 2407.14057
 */
FEWSTEP_API fewstep_status fewstep_kv_gather(const fewstep_context* ctx,
                                             const fewstep_kv_gather_args* args);

/* Arguments of fewstep_kv_copy_pages. */
typedef struct fewstep_kv_copy_pages_args {
  uint32_t size;
  fewstep_kv_caches caches;
  const fewstep_tensor* source; /* [N] i32 */
  const fewstep_tensor* target; /* [N] i32 */
} fewstep_kv_copy_pages_args;

#define FEWSTEP_KV_COPY_PAGES_ARGS_INIT \
  {sizeof(fewstep_kv_copy_pages_args), FEWSTEP_KV_CACHES_INIT, NULL, NULL}

/* Copies whole pages in all layers: what fewstep_kv_pool_extend asks for on write to a shared page.
 *
 *   page target[n] = page source[n]    in order
 *
 * A pair with source[n] = -1 is passed over.
 *
 * Shapes   caches [P, T, G, D] each  source [N]  target [N]
 * Types    caches: one of f32 f16 bf16 i8 f8_e4m3fn, scales f32; indices: i32
 * Layout   caches and scales strided but for the last dimension; vectors strided
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads and writes each page once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   across ISAs and thread counts, bit for bit
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also a page outside of [0, P), a
 *          page copied onto itself; FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR; on CUDA nobody reads the indices before: a pair without such
 *          pages is passed over
 * Source   copy-on-write: Kwon et al. 2023, arXiv 2309.06180, sec. 4.4
 */
FEWSTEP_API fewstep_status fewstep_kv_copy_pages(const fewstep_context* ctx,
                                                 const fewstep_kv_copy_pages_args* args);

/* A message of fewstep_kv_export_tokens begins with 64 bytes, little-endian:
 *
 *    0  char[8]  "FSTEPKV" and a zero     32  u32  head_dim D
 *    8  u32      version, 2               36  u32  scales, 1 for 8 bits and else 0
 *   12  u32      header_bytes, 64         40  u64  tokens
 *   16  u8 u8    dtype: DLPack's code, bits   48  u64  payload_bytes
 *   18  u16      lanes, 1                 56  u64  checksum of all other bytes
 *   20  u32      layers
 *   24  u32      first_layer
 *   28  u32      heads G
 *
 * and goes on with each layer's keys and values [tokens, G, D] and, of caches of bytes, the scales
 * of both [tokens, G] f32. The checksum, in csrc/kv/message.h, adds up what each 1024 bytes of the
 * payload are mixed to, so that a GPU can have it too; that of version 1, which is still read on
 * the CPU, mixes all of them in turn. */
typedef struct fewstep_kv_header {
  uint32_t version, layers, first_layer, heads, head_dim, scales;
  uint8_t dtype_code, dtype_bits;
  uint64_t tokens, payload_bytes;
} fewstep_kv_header;

/* Reads and checks a message's header, without its payload; an error names the field. */
FEWSTEP_API fewstep_status fewstep_kv_read_header(const void* data, uint64_t bytes,
                                                  fewstep_kv_header* out);

/* Bytes of a message of `tokens` tokens; 0 where a number is negative or the product too large. */
FEWSTEP_API int64_t fewstep_kv_export_bytes(int64_t layers, int64_t tokens, int64_t heads,
                                            int64_t head_dim, int32_t dtype_bits);

/* Arguments of fewstep_kv_export_tokens. */
typedef struct fewstep_kv_export_tokens_args {
  uint32_t size;
  int32_t row;         /* the request */
  int32_t begin, end;  /* slots */
  int32_t first_layer; /* number of the first of these layers, told to the other side */
  fewstep_kv_caches caches;
  const fewstep_tensor* page_table; /* [B, pages] i32, or NULL: P = B */
  const fewstep_tensor* out;        /* [N] u8, fewstep_kv_export_bytes */
} fewstep_kv_export_tokens_args;

#define FEWSTEP_KV_EXPORT_TOKENS_ARGS_INIT \
  {sizeof(fewstep_kv_export_tokens_args), 0, 0, 0, 0, FEWSTEP_KV_CACHES_INIT, NULL, NULL}

/* Writes tokens of a request, in the given layers, as a message for another process or a file,
 * where the caches are: on CUDA in device memory.
 *
 * Caches of all kinds and page sizes give the same message.
 *
 * Shapes   caches [P, T, G, D] each  page_table [B, pages]  out [N]
 * Types    caches: one of f32 f16 bf16 i8 f8_e4m3fn, scales f32; page_table: i32; out: u8
 * Layout   caches and scales strided but for the last dimension; out contiguous, on CUDA at a
 *          multiple of 8 bytes
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads the rows once and the message once more for its checksum
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   exact
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also slots beyond the cache, a
 *          page that is not in the table, an `out` of another size; FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR. On CUDA nobody reads the table before: slots without a page are
 *          zeros
 * Source   prompt and token phases on different machines: Patel et al. 2023, "Splitwise", arXiv
 *          2311.18677, sec. 4.2, layer by layer
 */
FEWSTEP_API fewstep_status fewstep_kv_export_tokens(const fewstep_context* ctx,
                                                    const fewstep_kv_export_tokens_args* args);

/* Arguments of fewstep_kv_import_tokens. */
typedef struct fewstep_kv_import_tokens_args {
  uint32_t size;
  int32_t row;         /* the request */
  int32_t begin;       /* slot of the first token */
  int32_t first_layer; /* what the message must say */
  fewstep_kv_caches caches;
  const fewstep_tensor* page_table; /* [B, pages] i32, or NULL: P = B */
  const fewstep_tensor* data;       /* [N] u8 */
  const fewstep_tensor* status;     /* [2] i64; may be NULL on the CPU */
} fewstep_kv_import_tokens_args;

#define FEWSTEP_KV_IMPORT_TOKENS_ARGS_INIT \
  {sizeof(fewstep_kv_import_tokens_args), 0, 0, 0, FEWSTEP_KV_CACHES_INIT, NULL, NULL, NULL}

/* Puts a message's tokens into a request's slots from `begin` on; how many, its header tells.
 *
 * No cache is written unless the message is whole: its size, every field of its header and the
 * checksum are compared first. On CUDA the host cannot read the message: its size tells how many
 * tokens there must be, and status[0] becomes 0 where they are imported, else the number of the
 * header's first byte that is not as it must be, from 1 on, and 57 where the checksum is not;
 * status[1] is scratch.
 *
 * Shapes   caches [P, T, G, D] each  page_table [B, pages]  data [N]  status [2] or, on the CPU,
 *          NULL
 * Types    caches: one of f32 f16 bf16 i8 f8_e4m3fn, scales f32; page_table: i32; data: u8;
 *          status: i64
 * Layout   caches and scales strided but for the last dimension; data contiguous, of any alignment,
 *          on CUDA at a multiple of 8 bytes
 * Alias    any overlap is FEWSTEP_INVALID_ARGUMENT
 * Memory   allocates nothing; reads the message twice, writes the rows once
 * Order    CUDA: asynchronous on the context's stream, capturable; CPU: done on return
 * Repeat   exact
 * Errors   FEWSTEP_INVALID_ARGUMENT, before anything is written: also a message that differs from
 *          what the caches want, by the field's name; FEWSTEP_UNSUPPORTED,
 *          FEWSTEP_BACKEND_ERROR. On CUDA nobody reads the table before: slots without a page are
 *          passed over
 * Source   as fewstep_kv_export_tokens
 */
FEWSTEP_API fewstep_status fewstep_kv_import_tokens(const fewstep_context* ctx,
                                                    const fewstep_kv_import_tokens_args* args);

#ifdef __cplusplus
}
#endif

#endif
