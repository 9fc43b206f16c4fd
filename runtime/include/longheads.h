// longheads: LLaMA-class models that read far past their trained context.
//
// The only public header. A model (immutable weights) is apart from a session (one mutable timeline: KV cache,
// summaries, position, logits); many sessions share a model. Nothing here exits, aborts or prints: a call that can
// fail returns a status, and lh_last_error() has the sentence, per thread. Every *_free accepts NULL.
#ifndef LONGHEADS_H
#define LONGHEADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LH_API __attribute__((visibility("default")))
#else
#define LH_API
#endif

typedef struct lh_model lh_model;
typedef struct lh_session lh_session;
typedef struct lh_tokenizer lh_tokenizer;
typedef struct lh_detokenizer lh_detokenizer;
typedef struct lh_sampler lh_sampler;

typedef enum lh_status {
    LH_OK = 0,
    LH_ERR_IO,           // a file cannot be opened, read or written
    LH_ERR_FORMAT,       // a file is damaged or not what it claims to be
    LH_ERR_UNSUPPORTED,  // well-formed, but not something this build can do
    LH_ERR_ARGUMENT,     // the caller's value is out of range
    LH_ERR_MEMORY,       // not enough memory
    LH_ERR_CONTEXT,      // the tokens do not fit the session's context
    LH_ERR_STATE,        // the call makes no sense now (no logits yet, ...)
    LH_ERR_BUSY,         // the session is in use on another thread
    LH_ERR_BACKEND,      // the device failed
    LH_ERR_STOPPED,      // lh_progress said so
} lh_status;

// The sentence of the last call that failed on this thread ("" if none).
LH_API const char *lh_last_error(void);
LH_API const char *lh_version(void);

// How far a long call is, in bytes, or in tokens where it reads some: told now and then on the thread that made the call,
// and for the last time with done = total. The call stops where it returns false, and fails with LH_ERR_STOPPED. Other
// sessions may be used meanwhile, the one that the call is about may not. NULL in place of one: nobody is told.
typedef struct lh_progress {
    bool (*report)(void *arg, uint64_t done, uint64_t total);  // NULL: nobody is told
    void *arg;
} lh_progress;

// --- model -----------------------------------------------------------------------------------------------------

typedef struct lh_model_options {
    const char *device;  // "auto", "cpu", "cuda", "cuda:N"; NULL is "auto"
    int32_t n_threads;   // 0: as many as this process may use (affinity and container quota)
    bool mmap;           // on a CPU: leave weights in the file's pages, which processes share. Otherwise up to 16 GiB of
                         // them are copied into huge pages, which are read faster, if half of the free memory holds them
    lh_progress progress;  // of the weights
} lh_model_options;

typedef struct lh_model_info {
    int32_t n_vocab, n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff;
    int64_t trained_ctx;     // tokens
    int64_t weight_bytes;    // tensors, as stored
    int64_t active_bytes;    // of these, what every token reads: of an embedding that is not the output too, one row
    int64_t n_params;
    int32_t n_threads;
    const char *device;      // lives as long as the model
    const char *device_note; // why "auto" took no GPU although there is one, a sentence; "" where there is nothing to tell
} lh_model_info;

// A metadata entry as the file holds it; pointers live as long as the model.
// type and elem_type are GGUF value types: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array,
// 10 u64, 11 i64, 12 f64. Scalars: data is the value, little endian. Strings: data is the text, size bytes, no
// terminator. Arrays: data is count elements; strings inside are a u64 length and the bytes.
typedef struct lh_metadata {
    const char *key;
    int32_t type, elem_type;
    uint64_t count;          // elements of an array, else 1
    const void *data;
    uint64_t size;           // bytes at data
} lh_metadata;

LH_API lh_status lh_model_open(const char *path, const lh_model_options *options, lh_model **out);
LH_API void lh_model_free(lh_model *m);
LH_API void lh_model_get_info(const lh_model *m, lh_model_info *out);
LH_API int64_t lh_model_n_metadata(const lh_model *m);
LH_API lh_status lh_model_get_metadata(const lh_model *m, int64_t i, lh_metadata *out);
LH_API const lh_tokenizer *lh_model_tokenizer(const lh_model *m);

// What the model's device can do at best: arithmetic in registers alone, reading from memory alone.
typedef struct lh_ceilings {
    double fp32;  // multiplications and additions of floats, a second
    double int8;  // the same of bytes, summed in 32 bits, by the best instruction that the kernels use
    double float16;  // the same of halves on tensor cores, or of bfloat16 in tiles, summed as floats; 0: the device has
                     // none that the kernels use
    double read;  // bytes a second
} lh_ceilings;

// Measures them with all that the device has (on a CPU: the threads of the model), about `seconds` for each.
LH_API lh_status lh_model_probe(const lh_model *m, double seconds, lh_ceilings *out);

// --- session ---------------------------------------------------------------------------------------------------

typedef enum lh_scheme { LH_SCHEME_PEAK = 0, LH_SCHEME_BOUNDS = 1, LH_SCHEME_PAPER = 2 } lh_scheme;
typedef enum lh_select_per { LH_PER_KV_HEAD = 0, LH_PER_HEAD = 1 } lh_select_per;
typedef enum lh_attention_kind { LH_ATTENTION_LONGHEADS = 0, LH_ATTENTION_DENSE = 1 } lh_attention_kind;
typedef enum lh_kv_type { LH_KV_F16 = 0, LH_KV_F32 = 1, LH_KV_BF16 = 2, LH_KV_Q8_0 = 3 } lh_kv_type;
// How positions are stretched over more tokens than the model was trained on; rope_freqs of llama3 come on top.
typedef enum lh_rope_scaling {
    LH_ROPE_FROM_MODEL = 0,
    LH_ROPE_NONE = 1,
    LH_ROPE_LINEAR = 2,
    LH_ROPE_YARN = 3,  // arXiv 2309.00071
} lh_rope_scaling;

// Lengths in tokens. 0 means "from the model"; lh_session_options_resolve says what that is. Where rope_scaling or
// rope_scale is another than the file's, trained_ctx stands for what the model reads without scaling, times rope_scale.
typedef struct lh_session_options {
    int64_t ctx;          // capacity (0: trained_ctx)
    int32_t chunk;        // l (0: 64)
    int32_t budget;       // k*l, a multiple of chunk (0: 2048, at most two thirds of the window)
    int32_t near_budget;  // the same of KV heads that choose nothing, see far_heads (0: half of the budget)
    int32_t window;       // W, a multiple of chunk (0: three quarters of trained_ctx)
    int32_t local;        // last chunks, own included, that heads which choose attend always (0: all but 4 of the
                          // budget, at least half)
    int32_t dense_until;  // positions below attend densely (0: the larger budget)
    int32_t far_heads;    // so many KV heads, of all layers, choose chunks by score: those with the strongest matches of
                          // content; the others attend the first one and the last ones (0: a quarter for LH_SCHEME_PEAK,
                          // else all; more: all)
    float far_bias;    // added to q.k of chosen chunks: this times 2 - L + 2 min(L, 1) min(x - 1, 1.5), where L >= 0
                          // is ln(candidates / chunks of the window), and x is how far a chunk stands out (0: 0.5 for
                          // LH_SCHEME_PEAK, none for others; negative: none)
    int32_t batch;        // most tokens computed at once (0: 1024)
    lh_scheme scheme;
    lh_select_per select_per;
    lh_attention_kind attention;
    lh_kv_type kv_type;
    bool keep_all;        // keep keys, values and summaries of the whole text in all KV heads, not only in those that read
                          // far: lets rewind go anywhere and set_options make others read far
    bool kv_offload;      // whole texts live in memory of the host, and on the GPU only the chunks in use
    lh_rope_scaling rope_scaling;  // 0 with a rope_scale: the file's kind, or linear where it has none
    float rope_scale;              // 1 to 65536 (0: the file's)
} lh_session_options;

typedef struct lh_session_stats {
    int64_t kv_bytes, summary_bytes, buffer_bytes;  // reserved for the whole ctx
    int64_t copy_bytes;                // kv_offload: of the GPU's copies of chunks
    int64_t cache_hits, cache_misses;  // of chunks that single tokens attended: found there, fetched
    int64_t row_bytes;                 // of a token's key and value in one KV head
    int64_t chunk_summary_bytes;       // of a chunk's summaries in one KV head, of what each token reads
} lh_session_stats;

// Fill in every 0, cap what exceeds the model, refuse what makes no sense. Each cap adds a sentence and a newline to
// notes (at most cap bytes with the terminator; may be NULL).
LH_API lh_status lh_session_options_resolve(const lh_model *m, lh_session_options *inout, char *notes, size_t cap);
// Resolves a copy of options (NULL: all defaults) and allocates. The model must outlive the session.
LH_API lh_status lh_session_new(const lh_model *m, const lh_session_options *options, lh_session **out);
LH_API void lh_session_free(lh_session *s);
// Go on under other options, which are resolved; what was read stays as it was read, and logits are asked for anew.
// budget, near_budget, window, local, dense_until, far_heads, far_bias, select_per and attention may change. What
// shapes the cache may not: ctx, batch, chunk, scheme, kv_type, keep_all, kv_offload and rope; a session that was made
// dense stays so, because it has no summaries; and without keep_all KV heads that did not read far do not begin to.
LH_API lh_status lh_session_set_options(lh_session *s, const lh_session_options *options);
LH_API void lh_session_get_stats(const lh_session *s, lh_session_stats *out);

// Read n ids, any number, at the current position. All are checked before the first is computed. Afterwards logits are
// those that follow the last id. Where the device or memory fails on the way, or progress stops it, position tells where to
// go on from: the end of the last batch that was read, or with LH_SCHEME_PAPER the start of the chunk that it ends in; 0
// where that cannot be gone on from.
LH_API lh_status lh_session_feed(lh_session *s, const int32_t *ids, int64_t n, const lh_progress *progress);
// As feed; logprobs[i] becomes ln p(ids[i] | everything before it), NaN for the first id of an empty session.
LH_API lh_status lh_session_score(lh_session *s, const int32_t *ids, int64_t n, float *logprobs,
                                  const lh_progress *progress);
// As feed; logits (n, n_vocab) become those that follow each id.
LH_API lh_status lh_session_feed_logits(lh_session *s, const int32_t *ids, int64_t n, float *logits,
                                        const lh_progress *progress);
LH_API lh_status lh_session_logits(lh_session *s, const float **out);  // (n_vocab,), valid until the next call
LH_API int64_t lh_session_position(const lh_session *s);
// The ids that were read, position of them; valid until the session is loaded or freed.
LH_API const int32_t *lh_session_ids(const lh_session *s);
// Forget the last n tokens. Logits and selected chunks are those of the token that is last then (it is read again when
// they are asked for; but the logits at the end of the last text of several tokens are kept, and come back as they were).
// Without keep_all one can go back to lh_session_oldest, or to 0.
LH_API lh_status lh_session_rewind(lh_session *s, int64_t n);
// The lowest position, but 0, to go back to. Under the options that the session was made with, the last 4096 tokens before
// the farthest position that was ever read can be forgotten.
LH_API int64_t lh_session_oldest(const lh_session *s);
// For benchmarks: n tokens whose keys and values are random instead of computed, so that a depth is reached in
// seconds. Their ids are 0, as which they are read where they must be read again (see rewind). The same seed gives the
// same state, in whatever pieces.
LH_API lh_status lh_session_fill(lh_session *s, int64_t n, uint64_t seed, const lh_progress *progress);
// Chunks attended by the last token, (n_layer, n_head, *k), ascending, -1 where unused. out has room for cap of them; NULL:
// to ask for *k, which grows with the position in dense attention.
LH_API lh_status lh_session_selected(lh_session *s, int32_t *out, int64_t cap, int32_t *k);
// For the same model, and for this version of longheads on a machine of the same byte order. A file that is there is
// replaced when the new one is whole.
LH_API lh_status lh_session_save(lh_session *s, const char *path, const lh_progress *progress);
// A file of another model, of other settings, or a damaged one leaves the session as it was; one that changes or cannot be
// read any more once it has been checked, as when it is stopped then, leaves it empty. It is read twice.
LH_API lh_status lh_session_load(lh_session *s, const char *path, const lh_progress *progress);

// --- tokenizer -------------------------------------------------------------------------------------------------

// Opens any GGUF with a vocabulary, weights or not.
LH_API lh_status lh_tokenizer_open(const char *path, lh_tokenizer **out);
LH_API void lh_tokenizer_free(lh_tokenizer *t);
LH_API int32_t lh_tokenizer_n_vocab(const lh_tokenizer *t);
LH_API int32_t lh_tokenizer_bos(const lh_tokenizer *t);  // -1: none
LH_API int32_t lh_tokenizer_eos(const lh_tokenizer *t);  // -1: none
LH_API bool lh_tokenizer_adds_bos(const lh_tokenizer *t);
LH_API bool lh_tokenizer_is_end(const lh_tokenizer *t, int32_t id);      // ends a generation: eos, eot, eom
LH_API bool lh_tokenizer_is_control(const lh_tokenizer *t, int32_t id);
// UTF-8 text (any bytes; NUL allowed) to ids. bos: 1 add, 0 do not, -1 as the file says (then EOS as the file says
// too). special: recognise control tokens written in the text. *n is the number of ids; LH_OK with *n > cap means that
// ids got the first cap only and the caller should ask again.
LH_API lh_status lh_tokenize(const lh_tokenizer *t, const char *text, size_t len, int bos, bool special, int32_t *ids,
                             int64_t cap, int64_t *n);
// The stored bytes of one token (byte tokens decoded, SentencePiece's space mark a space). Pointer lives with t.
LH_API lh_status lh_token_bytes(const lh_tokenizer *t, int32_t id, const char **bytes, size_t *len);
// ids to text, one at a time. Bytes come out when the UTF-8 sequence they belong to is whole; what can never become
// one comes out as U+FFFD. Control tokens give nothing unless special. flush gives what is left.
LH_API lh_status lh_detokenizer_new(const lh_tokenizer *t, bool special, lh_detokenizer **out);
LH_API void lh_detokenizer_free(lh_detokenizer *d);
LH_API lh_status lh_detokenizer_push(lh_detokenizer *d, int32_t id, const char **text, size_t *len);
LH_API lh_status lh_detokenizer_flush(lh_detokenizer *d, const char **text, size_t *len);

// --- sampler ---------------------------------------------------------------------------------------------------

typedef struct lh_logit_bias {
    int32_t id;
    float bias;
} lh_logit_bias;

typedef struct lh_sampler_options {
    float temperature;         // <= 0: greedy
    int32_t top_k;             // <= 0: off
    float top_p, min_p;        // 1 and 0: off
    float typical_p;           // 1: off
    float repeat_penalty;      // 1: off
    float frequency_penalty, presence_penalty;  // 0: off
    int32_t penalty_last_n;    // tokens looked back at; 0: none, -1: all
    uint64_t seed;
    const lh_logit_bias *logit_bias;  // copied
    int32_t n_logit_bias;
} lh_sampler_options;

// Greedy, everything off.
LH_API lh_sampler_options lh_sampler_default_options(void);
LH_API lh_status lh_sampler_new(const lh_sampler_options *options, int32_t n_vocab, lh_sampler **out);
LH_API void lh_sampler_free(lh_sampler *s);
// Tell the penalties about tokens (a prompt's, or one just chosen), in their order.
LH_API lh_status lh_sampler_accept(lh_sampler *s, const int32_t *ids, int64_t n);
// logits (n_vocab,). logprob (may be NULL): ln softmax of the untouched logits at the chosen id.
LH_API lh_status lh_sampler_sample(lh_sampler *s, const float *logits, int32_t *id, float *logprob);
// The k likeliest ids, ties to the lower one, and ln softmax of each: (k). NaN counts as minus infinity.
LH_API lh_status lh_top_logprobs(const float *logits, int32_t n_vocab, int32_t k, int32_t *ids, float *logprobs);

// --- weights ---------------------------------------------------------------------------------------------------

// n values to blocks of a GGUF tensor type, and back; n is a multiple of the values in a block. quantize refuses NaN,
// infinity and what the type cannot hold, with half a sentence that follows the tensor's name.
LH_API lh_status lh_quantize(int32_t type, const float *values, int64_t n, void *blocks);
LH_API lh_status lh_dequantize(int32_t type, const void *blocks, int64_t n, float *values);

#ifdef __cplusplus
}
#endif
#endif
