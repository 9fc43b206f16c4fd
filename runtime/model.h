// What lh_model and lh_session are made of; shared by the files that implement longheads.h.
#ifndef LH_MODEL_H
#define LH_MODEL_H

#include <stdatomic.h>

#include "forward.h"
#include "tokenizer.h"

struct lh_model {
    lh_gguf *gguf;
    lh_config config;
    lh_weights weights;
    float *reach;                 // (n_layer, n_head); see reach.h
    lh_tokenizer *tokenizer;
    lh_backend *backend;
};

struct lh_session {
    const lh_model *model;
    lh_session_options options;   // resolved
    lh_kv kv;
    lh_longheads longheads;
    lh_forward forward;
    int32_t *ids;                 // (ctx): what was read
    float *logits;                // (n_vocab), host
    bool has_logits;              // of the last id
    float *kept_logits;           // (n_vocab): those at the end of the last text that was read at once,
    int64_t kept_at;              // at this position; 0: there are none
    float *rows;                  // (LH_LOGITS_ROWS, n_vocab), host; only once score was called
    atomic_flag busy;
};

// Every public call that changes a session, or waits for it, is between these: a session in use on another thread is
// refused, not corrupted.
lh_status lh_session_enter(lh_session *s);
void lh_session_leave(lh_session *s);

// A reading of many tokens: what it tells of itself, and stops by.
typedef struct lh_reading {
    lh_session *session;
    const lh_progress *progress;  // or NULL
    int64_t done, total;          // tokens; done: in whole batches
    int32_t n;                    // of the batch at hand
    double told;                  // when, in seconds
} lh_reading;

// Between two batches, and where it begins and ends: done is told. Other sessions have their turn meanwhile.
lh_status lh_reading_tell(lh_reading *r);

// Do n more tokens fit?
lh_status lh_session_check_room(const lh_session *s, int64_t n);

// Keeps the logits, which are there, for whoever comes back to this position.
void lh_session_keep_logits(lh_session *s);

// A batch of n tokens failed on its way: the session goes back to where it can go on from.
void lh_session_give_up(lh_session *s, int32_t n);

// The state as it is after reading nothing.
void lh_session_clear(lh_session *s);

#endif
