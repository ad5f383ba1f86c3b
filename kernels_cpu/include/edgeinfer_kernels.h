/* The C ABI of edgeinfer's kernels. Nothing here allocates, throws or starts a thread; callers bring memory and threads. */
#ifndef EDGEINFER_KERNELS_H
#define EDGEINFER_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

#if defined(_WIN32) && defined(EI_BUILDING)
#define EI_API __declspec(dllexport)
#elif defined(_WIN32)
#define EI_API __declspec(dllimport)
#else
#define EI_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface; a binding refuses a library that answers another number. */
#define EI_ABI_VERSION 3
EI_API int32_t ei_abi_version(void);
EI_API const char *ei_version(void);

/* Instruction sets, as bits of a mask. A kernel of one runs where its bit is in ei_capabilities(). */
enum {
    EI_ISA_SCALAR = 0,
    EI_ISA_AVX2 = 1,         /* AVX2, FMA and F16C */
    EI_ISA_AVXVNNI = 2,      /* the above and AVX-VNNI */
    EI_ISA_AVX512VNNI = 3,   /* AVX2 and AVX-512 F, BW, DQ, VL, VNNI */
    EI_ISA_NEON = 4,         /* ARMv8.0: Cortex-A72, Raspberry Pi 4 */
    EI_ISA_NEON_DOTPROD = 5, /* SDOT: Cortex-A76, Raspberry Pi 5 */
    EI_ISA_NEON_I8MM = 6,    /* SMMLA */
    EI_ISA_COUNT = 7
};

enum { EI_OK = 0, EI_UNKNOWN = -1, EI_UNSUPPORTED = -2, EI_NOT_FINITE = -3 };

/* Formats of weights, by their number in GGUF files (ggml_type). ei_has_matmul says which of them there are products for. */
enum {
    EI_FORMAT_F32 = 0,
    EI_FORMAT_F16 = 1,
    EI_FORMAT_Q4_0 = 2,
    EI_FORMAT_Q4_1 = 3,
    EI_FORMAT_Q5_0 = 6,
    EI_FORMAT_Q5_1 = 7,
    EI_FORMAT_Q8_0 = 8,
    EI_FORMAT_Q4_K = 12,
    EI_FORMAT_Q5_K = 13,
    EI_FORMAT_Q6_K = 14,
    EI_FORMAT_IQ4_NL = 20,
    EI_FORMAT_BF16 = 30
};

/* "avx512vnni" and so on; NULL for a number that names none. */
EI_API const char *ei_isa_name(int32_t isa);
/* Mask of the instruction sets that this build has and this machine runs. Never empty: scalar always is. */
EI_API uint32_t ei_capabilities(void);
/* Mask of those that kernels are chosen from: ei_capabilities(), or what ei_force_isa left of it. */
EI_API uint32_t ei_enabled(void);
/* The best of ei_enabled(). */
EI_API int32_t ei_best_isa(void);
/* Hold the process to one instruction set and those it builds on; NULL lifts that. Call it before kernels are chosen: weights that are
 * already packed keep theirs. EI_UNKNOWN: no such name. EI_UNSUPPORTED: not in ei_capabilities(); nothing was changed. */
EI_API int32_t ei_force_isa(const char *name);

/* ggml's abort callback: true while the int32 that `flag` points at is not 0. Reads it atomically; any thread may write it. */
EI_API bool ei_flag(void *flag);

/* Read n_bytes (a multiple of 256) at `buffer` (64-byte aligned) once, as a stream, with the widest loads of `isa`. The answer depends on
 * every byte, so that no load can be left out. Never 0, except where `isa` is not in ei_capabilities(). */
EI_API uint64_t ei_probe_read(int32_t isa, const void *buffer, size_t n_bytes);
/* Run n_rounds of int8 multiply-accumulate on registers and return how many operations that were (2 per multiply-accumulate).
 * 0 where `isa` is not in ei_capabilities(). */
EI_API uint64_t ei_probe_int8(int32_t isa, uint64_t n_rounds);

/* Matrix products y = W x. W is n_rows x n_cols (a row is one output, n_cols a multiple of the format's block), x is M columns of n_cols
 * floats. Each y is the same bits whatever M, the split into calls, the threads and the instruction set.
 *
 *   1. ei_pack       once: rows as they lie in a file -> panels of 16 rows
 *   2. ei_quantize   per x: columns -> activations (int8, or floats for weights that are), in items that threads share out
 *   3. ei_matmul     panels x activations -> y, in panels that threads share out
 *
 * `isa` is an EI_ISA_... of ei_capabilities(); an ISA without a kernel of its own uses the best it builds on. Buffers are 64-byte aligned,
 * rows to pack 2-byte (and row_bytes is even), columns and y as floats are. */
EI_API int32_t ei_has_matmul(int32_t format, int64_t n_cols);
/* The instruction set that products of this format run with when `isa` is asked for: that, or the best it builds on; -1 without any. */
EI_API int32_t ei_matmul_isa(int32_t format, int32_t isa);
/* The same of ei_quantize, and below of ei_attention. */
EI_API int32_t ei_quantize_isa(int32_t format, int32_t isa);
EI_API size_t ei_packed_bytes(int32_t format, int64_t n_rows, int64_t n_cols);
EI_API int64_t ei_n_panels(int64_t n_rows);
EI_API void ei_pack(int32_t format, const void *rows, size_t row_bytes, int64_t n_rows, int64_t n_cols, void *packed, int64_t first_panel,
                    int64_t n_panels);
EI_API size_t ei_activation_bytes(int32_t format, int64_t n_cols, int64_t n_columns);
EI_API int64_t ei_n_quantize_items(int32_t format, int64_t n_cols, int64_t n_columns);
EI_API void ei_quantize(int32_t isa, int32_t format, const float *columns, size_t column_stride, int64_t n_cols, int64_t n_columns,
                        void *activations, int64_t first_item, int64_t n_items);
EI_API void ei_matmul(int32_t isa, int32_t format, const void *packed, int64_t n_rows, int64_t n_cols, const void *activations,
                      int64_t n_columns, float *out, size_t out_stride, int64_t first_panel, int64_t n_panels);

/* Attention of n_tokens x (n_kv_heads * n_group) query heads over n_kv cells; K and V both in `format` (EI_FORMAT_F16 or EI_FORMAT_Q8_0),
 * the mask in half precision, queries and the output in single. Strides in bytes; the elements of a head are side by side. head_dim is a
 * multiple of 16, with Q8_0 of 32, at most 512; n_kv at most 2^18. A mask value (one row of n_kv a token) is added to each score; minus
 * infinity hides the cell, whatever it holds. An output is the same bits whatever the order of the cells, the split into units and parts,
 * the threads and the instruction set. */
typedef struct {
    const char *q, *k, *v, *mask;
    char *out;
    size_t q_token_stride, q_head_stride, k_cell_stride, k_head_stride, v_cell_stride, v_head_stride, mask_token_stride;
    size_t out_token_stride, out_head_stride;
    int64_t n_kv, head_dim;
    int32_t n_group; /* query heads that share a KV head */
    float scale;
} ei_attention_args;
enum { EI_ATTENTION_SCORES, EI_ATTENTION_WEIGHTS, EI_ATTENTION_VALUES, EI_ATTENTION_OUTPUT, EI_ATTENTION_STEPS };
/* A unit of it, for one thread: at most 64 tokens, and n_heads of the n_group heads that share kv_head, the first of them first_head of the
 * group. scratch: ei_attention_scratch_bytes, 64-byte aligned, the unit's own while it runs. With n_parts > 1 it is one step of one part of
 * the unit's cells, [0, n_parts) of them on as many threads: every part ends a step before any begins the next. Else step is not read. */
typedef struct {
    int32_t kv_head, first_token, n_tokens, first_head, n_heads;
    void *scratch;
    int32_t part, n_parts, step;
} ei_attention_unit;
EI_API size_t ei_attention_scratch_bytes(int64_t n_kv, int64_t head_dim, int32_t n_tokens, int32_t n_heads, int32_t n_parts);
/* -1 where there is no kernel for a format. */
EI_API int32_t ei_attention_isa(int32_t format, int32_t isa);
EI_API void ei_attention(int32_t isa, int32_t format, const ei_attention_args *args, const ei_attention_unit *unit);

/* Rows of floats to blocks of a format as they lie in a file, and back, for every EI_FORMAT_... but F32. Rows are contiguous, of n_cols
 * elements, a multiple of the format's block. Same bits on every machine; threads share out rows.
 *
 * `importance` is NULL or n_cols numbers from 0 to 1: how much the square of an error in that column counts. Q4_K, Q5_K, Q6_K and IQ4_NL
 * search for the scales of least error; the others round to nearest and pay no heed.
 * ei_encode answers how many rows it wrote: fewer than n_rows where the next has a value that is not finite or too large for the format
 * (F16 and BF16 take all). EI_UNKNOWN: no such format, or n_cols does not suit it. */
EI_API int64_t ei_encode(int32_t format, const float *rows, int64_t n_rows, int64_t n_cols, const float *importance, void *blocks);
EI_API int32_t ei_decode(int32_t format, const void *blocks, int64_t n_rows, int64_t n_cols, float *rows);

/* n_blocks of a format from quants as ONNX Runtime's MatMulNBits has them (4 bits with neighbours in a byte, or a byte each around 128; one
 * block after the other) and `scales`: all else that a block has, as it lies there (2 bytes of Q4_0, Q5_0 and Q8_0, 4 of Q4_1 and Q5_1, 16
 * of Q4_K and Q5_K, 18 of Q6_K). Answers how many blocks it made: fewer where the next has a quant that is none of the format's.
 * EI_UNKNOWN: no such format. */
EI_API int64_t ei_build_blocks(int32_t format, const void *quants, const void *scales, int64_t n_blocks, void *blocks);

/* The k best of n logits, 1 <= k <= n: their ids, the greatest logit first and of equals the lower id, and unless `probabilities` is NULL
 * the softmax over them of logit / temperature (above 0). Minus infinity is never among them, so that there may be fewer than k. Answers
 * how many, or EI_NOT_FINITE where a logit is NaN or plus infinity. Same bits on every machine. `scratch` is 8-byte aligned. */
EI_API size_t ei_top_k_scratch_bytes(int64_t n, int64_t k);
EI_API int64_t ei_top_k(int32_t isa, const float *logits, int64_t n, int64_t k, float temperature, int32_t *ids, float *probabilities,
                        void *scratch);

/* The plug-in for ggml's CPU backend: our products and attention inside llama.cpp's own threads. `resolve` finds functions of the ggml
 * libraries by name (NULL where there is none). Returns NULL once it is active, or why it stands aside, in which case nothing has changed.
 * Models that are loaded afterwards use it; calling it again changes nothing. Not thread-safe. */
typedef void *(*ei_resolve_symbol)(const char *name);
EI_API const char *ei_ggml_install(ei_resolve_symbol resolve);
/* The calling thread is about to load a model: whether it is packed for our products, as it is where nobody says so. Attention, which needs
 * no packing, is computed by us in any case. A model that was announced and whose products have no weights of less than 8 bits shall not
 * lose by what its inputs are rounded to: Q8_0 then takes inputs of 15 bits instead of 8 (matmul/terms.h). */
EI_API void ei_ggml_pack(int32_t on);

/* The packed weights of one load, and an image of them in a file.
 *
 * A buffer of the load whose size is that of the image's buffer of the same number is a private mapping of it; file_offset is a multiple of
 * the page size, and the file must not become shorter while the model lives. A weight in such a buffer is not packed where the image's
 * tensor of the same number says just what it would be; any other weight is packed as always. */
typedef struct {
    char name[64];
    int32_t type;   /* EI_FORMAT_... */
    int32_t buffer; /* number of the buffer in the load; -1 past most_buffers */
    int64_t shape[3];
    uint64_t offset, n_bytes; /* in the buffer */
} ei_packed_tensor;
typedef struct {
    void *base; /* the load's; lives as long as the model */
    uint64_t n_bytes;
    uint64_t file_offset; /* the image's */
    int64_t mapped;       /* the load's: 1 for a mapping of the image */
} ei_packed_buffer;
typedef struct {
    /* The image, if there is one: else both numbers are 0. Read until the load is over. */
    const ei_packed_buffer *image_buffers;
    const ei_packed_tensor *image_tensors;
    int64_t n_image_tensors;
    int32_t n_image_buffers, image_file; /* image_file: a descriptor that can be mapped */
    /* The load, in the order that things happened. The numbers count all, though no more than `most` are written. */
    ei_packed_buffer *buffers;
    ei_packed_tensor *tensors;
    int64_t most_tensors, n_tensors, n_found; /* n_found: tensors that were not packed, because the image had them */
    int32_t most_buffers, n_buffers;
} ei_packed_load;
/* From now on the calling thread loads a model with this; NULL: no longer. Nothing of `load` is kept after that. */
EI_API void ei_ggml_load(ei_packed_load *load);

/* What products with packed weights are fed, by the weight's name: for each of its columns the sum of the squares of the activations that
 * met it, and how many did; of experts, for each. With `rows`, the activations themselves too, up to most_rows of n_cols; whoever reads
 * them sets *n_rows back to 0. A weight of another shape than its entry is passed over. */
typedef struct {
    char name[64];
    int64_t n_cols, n_experts; /* 1 for a plain matrix */
    double *sums;              /* n_experts * n_cols, added to */
    int64_t *counts;           /* n_experts, added to */
    float *rows;               /* or NULL */
    int64_t most_rows;
    int64_t *n_rows; /* added to; not read without rows */
} ei_collected;
typedef struct {
    const ei_collected *entries; /* sorted by name, as strncmp does */
    int64_t n_entries;
} ei_collection;
/* From now on every product of the process tells; NULL: none. Call it while none runs. Nothing is kept of it after NULL. */
EI_API void ei_ggml_collect(const ei_collection *collection);

#ifdef __cplusplus
}
#endif
#endif
