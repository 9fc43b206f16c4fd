// Logits to a token: bias, penalties, top-k, typical, top-p, min-p, temperature, a draw. Knows only float* and n.
//
// The candidates stay in the order of their ids all the way. Every filter finds where to cut and keeps, in place, what
// does not come after the cut, so nothing is ever sorted, the cost is linear in the vocabulary, and what a seed draws
// does not depend on how the cut was found.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rank.h"
#include "sampler.h"

struct lh_sampler {
    lh_sampler_options options;  // logit_bias points to our own copy
    int32_t n_vocab;
    uint64_t rng[4];
    // The penalties' memory; counts is NULL where no penalty is on.
    int32_t *counts;             // (n_vocab) occurrences inside the window
    int32_t *ring;               // (ring_capacity) the window's ids; NULL where it never ends
    int32_t ring_capacity, ring_size, ring_next;
    // What is left to choose from, ascending ids. Four rows, n of each in use.
    int32_t n;
    int32_t *id;                 // (n_vocab)
    float *logit;                // (n_vocab)
    uint32_t *key;               // (n_vocab) what a filter ranks by, smaller first
    double *weight;              // (n_vocab) not normalised
};

// --- random numbers ----------------------------------------------------------------------------------------------
// xoshiro256** (Blackman and Vigna, https://prng.di.unimi.it), seeded by splitmix64: integers only, so the same stream
// everywhere.

static void rng_seed(uint64_t state[4], uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        state[i] = z ^ (z >> 31);
    }
}

static uint64_t rotate_left(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

// Uniform in [0, 1), all 53 bits.
static double rng_next(uint64_t s[4]) {
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

// --- options -----------------------------------------------------------------------------------------------------

lh_sampler_options lh_sampler_default_options(void) {
    return (lh_sampler_options){.top_p = 1, .typical_p = 1, .repeat_penalty = 1, .penalty_last_n = 64};
}

static lh_status check_range(const char *name, float value, bool zero_allowed) {
    if (value > 0 && value <= 1) return LH_OK;
    if (value == 0 && zero_allowed) return LH_OK;
    return lh_error(LH_ERR_ARGUMENT, "%s is %g; it must be %s 0 and at most 1", name, (double)value,
                    zero_allowed ? "at least" : "above");
}

static lh_status check_finite(const char *name, float value) {
    if (isfinite(value)) return LH_OK;
    return lh_error(LH_ERR_ARGUMENT, "%s is %g; it must be a finite number", name, (double)value);
}

static lh_status check_id(const char *what, int32_t id, int32_t n_vocab) {
    if (id >= 0 && id < n_vocab) return LH_OK;
    return lh_error(LH_ERR_ARGUMENT, "%s is %d; ids of this vocabulary are 0 to %d", what, (int)id, (int)n_vocab - 1);
}

static lh_status check_options(const lh_sampler_options *o, int32_t n_vocab) {
    if (n_vocab < 1) return lh_error(LH_ERR_ARGUMENT, "a vocabulary of %d tokens; at least 1 is needed", (int)n_vocab);
    LH_TRY(check_finite("temperature", o->temperature));
    LH_TRY(check_range("top_p", o->top_p, false));
    LH_TRY(check_range("min_p", o->min_p, true));
    LH_TRY(check_range("typical_p", o->typical_p, false));
    LH_TRY(check_finite("repeat_penalty", o->repeat_penalty));
    if (o->repeat_penalty <= 0)
        return lh_error(LH_ERR_ARGUMENT, "repeat_penalty is %g; it must be above 0 (1 is off)",
                        (double)o->repeat_penalty);
    LH_TRY(check_finite("frequency_penalty", o->frequency_penalty));
    LH_TRY(check_finite("presence_penalty", o->presence_penalty));
    if (o->penalty_last_n < -1)
        return lh_error(LH_ERR_ARGUMENT, "penalty_last_n is %d; give a number of tokens, 0 for none or -1 for all",
                        (int)o->penalty_last_n);
    if (o->n_logit_bias < 0 || (o->n_logit_bias > 0 && !o->logit_bias))
        return lh_error(LH_ERR_ARGUMENT, "n_logit_bias is %d, and logit_bias holds no such entries",
                        (int)o->n_logit_bias);
    for (int32_t i = 0; i < o->n_logit_bias; i++) {
        LH_TRY(check_id("an id in logit_bias", o->logit_bias[i].id, n_vocab));
        // Minus infinity is how a token is banned.
        if (!(o->logit_bias[i].bias < INFINITY))
            return lh_error(LH_ERR_ARGUMENT, "the logit_bias of id %d is %g; it must be a finite number or -inf",
                            (int)o->logit_bias[i].id, (double)o->logit_bias[i].bias);
    }
    return LH_OK;
}

static bool has_penalties(const lh_sampler_options *o) {
    return o->penalty_last_n != 0 &&
           (o->repeat_penalty != 1 || o->frequency_penalty != 0 || o->presence_penalty != 0);
}

lh_status lh_sampler_new(const lh_sampler_options *options, int32_t n_vocab, lh_sampler **out) {
    *out = NULL;
    lh_sampler_options defaults = lh_sampler_default_options();
    if (!options) options = &defaults;
    LH_TRY(check_options(options, n_vocab));
    lh_sampler *s = lh_alloc(1, sizeof *s);
    if (!s) return LH_ERR_MEMORY;
    s->options = *options;
    s->options.logit_bias = NULL;
    s->n_vocab = n_vocab;
    rng_seed(s->rng, options->seed);

    size_t n = (size_t)n_vocab;
    bool ok = (s->id = lh_alloc(n, sizeof *s->id)) && (s->logit = lh_alloc(n, sizeof *s->logit)) &&
              (s->key = lh_alloc(n, sizeof *s->key)) && (s->weight = lh_alloc(n, sizeof *s->weight));
    if (ok && has_penalties(options)) ok = (s->counts = lh_alloc(n, sizeof *s->counts)) != NULL;
    if (ok && options->n_logit_bias > 0) {
        lh_logit_bias *copy = lh_alloc((size_t)options->n_logit_bias, sizeof *copy);
        if (copy) memcpy(copy, options->logit_bias, (size_t)options->n_logit_bias * sizeof *copy);
        s->options.logit_bias = copy;
        ok = copy != NULL;
    }
    if (!ok) {
        lh_sampler_free(s);
        return LH_ERR_MEMORY;
    }
    *out = s;
    return LH_OK;
}

void lh_sampler_free(lh_sampler *s) {
    if (!s) return;
    lh_free((void *)s->options.logit_bias);
    lh_free(s->counts);
    lh_free(s->ring);
    lh_free(s->id);
    lh_free(s->logit);
    lh_free(s->key);
    lh_free(s->weight);
    lh_free(s);
}

// --- penalties ---------------------------------------------------------------------------------------------------

// The ring grows by doubling while it fills, for a window may be far longer than any text ever gets.
static lh_status ring_grow(lh_sampler *s) {
    int64_t wanted = LH_MAX(64, 2 * (int64_t)s->ring_capacity);
    int32_t capacity = (int32_t)LH_MIN(wanted, s->options.penalty_last_n);
    int32_t *ring = lh_alloc((size_t)capacity, sizeof *ring);
    if (!ring) return LH_ERR_MEMORY;
    if (s->ring) memcpy(ring, s->ring, (size_t)s->ring_size * sizeof *ring);
    lh_free(s->ring);
    s->ring = ring;
    s->ring_capacity = capacity;
    s->ring_next = s->ring_size;
    return LH_OK;
}

static lh_status accept_one(lh_sampler *s, int32_t id) {
    int32_t last_n = s->options.penalty_last_n;
    if (last_n > 0) {
        if (s->ring_size == s->ring_capacity && s->ring_capacity < last_n) LH_TRY(ring_grow(s));
        if (s->ring_size == last_n)
            s->counts[s->ring[s->ring_next]]--;
        else
            s->ring_size++;
        s->ring[s->ring_next] = id;
        if (++s->ring_next == last_n) s->ring_next = 0;
    }
    s->counts[id]++;
    return LH_OK;
}

lh_status lh_sampler_accept(lh_sampler *s, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++) LH_TRY(check_id("an accepted token", ids[i], s->n_vocab));
    if (!s->counts) return LH_OK;
    int32_t last_n = s->options.penalty_last_n;
    for (int64_t i = last_n > 0 ? LH_MAX(n - last_n, 0) : 0; i < n; i++) LH_TRY(accept_one(s, ids[i]));
    return LH_OK;
}

// A NaN is no opinion: it counts as minus infinity everywhere.
static float without_nan(float logit) { return isnan(logit) ? -INFINITY : logit; }

// logit (n_vocab) becomes logits with bias and penalties.
static void adjust(lh_sampler *s, const float *logits) {
    const lh_sampler_options *o = &s->options;
    float *logit = s->logit;
    for (int32_t i = 0; i < s->n_vocab; i++) logit[i] = without_nan(logits[i]);
    for (int32_t i = 0; i < o->n_logit_bias; i++) {
        float *x = &logit[o->logit_bias[i].id];
        *x = without_nan(*x + o->logit_bias[i].bias);  // inf - inf: a ban is stronger
    }
    if (!s->counts) return;
    for (int32_t i = 0; i < s->n_vocab; i++) {
        if (s->counts[i] == 0) continue;
        // In double nothing here can overflow into inf - inf.
        double x = logit[i];
        x = x > 0 ? x / (double)o->repeat_penalty : x * (double)o->repeat_penalty;
        x -= s->counts[i] * (double)o->frequency_penalty + (double)o->presence_penalty;
        logit[i] = (float)x;
    }
}

// --- filters -----------------------------------------------------------------------------------------------------

#define LANES 16  // of plain loops that compilers turn into vectors

static float max_logit(const float *logit, int32_t n) {
    float best[LANES], max = -INFINITY;
    for (int l = 0; l < LANES; l++) best[l] = -INFINITY;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) best[l] = logit[i + l] > best[l] ? logit[i + l] : best[l];
    for (; i < n; i++) max = logit[i] > max ? logit[i] : max;
    for (int l = 0; l < LANES; l++) max = best[l] > max ? best[l] : max;
    return max;
}

// Distance below the maximum; the case of its own keeps inf - inf from being NaN, so that infinities share all weight.
static double below_max(float logit, float max) { return logit == max ? 0 : (double)logit - (double)max; }

// Fills weight with exp((logit - max) / temperature); returns the sum.
static double weigh(lh_sampler *s, double temperature) {
    float max = max_logit(s->logit, s->n);
    double sum = 0;
    for (int32_t i = 0; i < s->n; i++) sum += s->weight[i] = exp(below_max(s->logit[i], max) / temperature);
    return sum;
}

// Bits that sort, as unsigned integers, like the floats.
static uint32_t ascending_key(float x) { return (uint32_t)lh_order_of(x) ^ 0x80000000u; }

static void rank_by_logit(lh_sampler *s) {
    for (int32_t i = 0; i < s->n; i++) s->key[i] = ~ascending_key(s->logit[i]);
}

static void keep(lh_sampler *s, int32_t to, int32_t from) {
    s->id[to] = s->id[from];
    s->logit[to] = s->logit[from];
}

// Keep the candidates that rank first (small key, then small id), as few as weigh at least `target` together; all, if
// all weigh less. This is a radix select by weight: three passes find the key at which the sum crosses the target, some
// bits at a time, and the last loop goes through the candidates that share this key.
static void keep_first(lh_sampler *s, double target) {
    static const struct { int bits, shift; } digits[] = {{11, 21}, {11, 10}, {10, 0}};
    uint32_t cut = 0, known = 0;  // bits of the cut found so far, and which bits these are
    double before = 0;            // weight of the candidates with smaller keys
    for (int pass = 0; pass < 3; pass++) {
        double bucket[1 << 11] = {0};
        int shift = digits[pass].shift;
        uint32_t mask = (1u << digits[pass].bits) - 1;
        for (int32_t i = 0; i < s->n; i++)
            if ((s->key[i] & known) == cut) bucket[s->key[i] >> shift & mask] += s->weight[i];
        // Sums in another order may miss the target by a rounding; then the last bucket that holds something is it.
        uint32_t digit = 0;
        double sum = before;
        for (uint32_t b = 0; b <= mask; b++) {
            if (bucket[b] == 0) continue;
            digit = b;
            before = sum;
            sum += bucket[b];
            if (sum >= target) break;
        }
        cut |= digit << shift;
        known |= mask << shift;
    }
    int32_t n = 0;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->key[i] > cut) continue;
        if (s->key[i] == cut) {
            if (before >= target) continue;
            before += s->weight[i];
        }
        keep(s, n++, i);
    }
    s->n = n;
}

static void keep_top_k(lh_sampler *s, int32_t k) {
    if (k <= 0 || k >= s->n) return;
    rank_by_logit(s);
    for (int32_t i = 0; i < s->n; i++) s->weight[i] = 1;
    keep_first(s, k);
}

static void keep_top_p(lh_sampler *s, double p) {
    if (p >= 1) return;
    double sum = weigh(s, 1);
    rank_by_logit(s);
    keep_first(s, p * sum);
}

// Locally typical sampling (arXiv 2202.00666): candidates whose surprise -ln p is nearest to the entropy come first.
static void keep_typical(lh_sampler *s, double p) {
    if (p >= 1) return;
    float max = max_logit(s->logit, s->n);
    double sum = weigh(s, 1), log_sum = log(sum), entropy = 0;
    for (int32_t i = 0; i < s->n; i++)
        if (s->weight[i] > 0) entropy += s->weight[i] / sum * (log_sum - below_max(s->logit[i], max));
    for (int32_t i = 0; i < s->n; i++)
        s->key[i] = ascending_key((float)fabs(log_sum - below_max(s->logit[i], max) - entropy));
    keep_first(s, p * sum);
}

// At least min_p times as likely as the likeliest.
static void keep_min_p(lh_sampler *s, double min_p) {
    if (min_p <= 0) return;
    double least = (double)max_logit(s->logit, s->n) + log(min_p);
    int32_t n = 0;
    for (int32_t i = 0; i < s->n; i++)
        if (s->logit[i] >= least) keep(s, n++, i);
    s->n = n;
}

// --- choosing ----------------------------------------------------------------------------------------------------

// An index among the candidates, with the probability of its weight.
static int32_t draw(lh_sampler *s) {
    double sum = weigh(s, s->options.temperature);
    double left = rng_next(s->rng) * sum;
    int32_t chosen = 0;
    // Where rounding leaves something at the end, the last candidate of any weight has it.
    for (int32_t i = 0; i < s->n; i++) {
        if (s->weight[i] == 0) continue;
        chosen = i;
        left -= s->weight[i];
        if (left < 0) break;
    }
    return chosen;
}

// All candidates; of more than top_k the best ones, some more perhaps: filters cost what they have to look at.
static void begin_choice(lh_sampler *s) {
    int32_t k = s->options.top_k, least = INT32_MIN, *order = (int32_t *)s->key;
    if (k > 0 && k < s->n_vocab) {
        for (int32_t i = 0; i < s->n_vocab; i++) order[i] = lh_order_of(s->logit[i]);
        least = lh_floor_of_best(order, s->n_vocab, k);
    }
    s->n = 0;
    for (int32_t i = 0; i < s->n_vocab; i++) {
        if (s->logit[i] == -INFINITY || lh_order_of(s->logit[i]) < least) continue;
        s->logit[s->n] = s->logit[i];
        s->id[s->n++] = i;
    }
}

// --- probabilities -----------------------------------------------------------------------------------------------

static int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float from_bits(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// e^x to 2e-7 for -87 <= x <= 0; 0 for what is less, or no number. e^x = 2^n e^r with |r| <= ln 2 / 2, and
// e^r = 1 + r + r^2 P(r), P of degree 4 with the least relative error (Remez exchange). Adding and subtracting 1.5 * 2^23
// rounds to whole numbers. A mask, since compilers make no vectors of a choice between floats.
static float exp_below(float x) {
    const float magic = 0x1.8p23f;
    int32_t some = -(x >= -87);
    x = from_bits(bits_of(x) & some);
    float whole = x * 0x1.715476p+0f + magic, n = whole - magic;
    float r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
    float p = 0x1.6a241ap-10f;
    p = p * r + 0x1.1239f2p-7f;
    p = p * r + 0x1.5558f2p-5f;
    p = p * r + 0x1.555492p-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = (p * r + 1) * r + 1;
    return from_bits((int32_t)((uint32_t)bits_of(p) + ((uint32_t)bits_of(whole) << 23)) & some);
}

// Sum of exp(logit - max), max finite. Few are added up as floats.
#define RUN (64 * LANES)
static double sum_below(const float *logit, int32_t n, float max) {
    double sum = 0;
    int32_t i = 0;
    while (i + LANES <= n) {
        float lanes[LANES] = {0};
        for (int32_t end = LH_MIN(i + RUN, n); i + LANES <= end; i += LANES)
            for (int l = 0; l < LANES; l++) lanes[l] += exp_below(logit[i + l] - max);
        for (int l = 0; l < LANES; l++) sum += (double)lanes[l];
    }
    for (; i < n; i++) sum += (double)exp_below(logit[i] - max);
    return sum;
}

// ln of the sum of exp(logit - max); where max is infinite, of how many have it.
static double log_sum(const float *logit, int32_t n, float max) {
    if (isfinite(max)) return log(sum_below(logit, n, max));
    int32_t equal = 0;
    for (int32_t i = 0; i < n; i++) equal += logit[i] == max;
    return log(equal);
}

float lh_log_softmax(const float *logits, int32_t n, int32_t id) {
    float max = max_logit(logits, n);  // NaN is never above the maximum
    if (isnan(logits[id]) || logits[id] == -INFINITY) return -INFINITY;
    return (float)(below_max(logits[id], max) - log_sum(logits, n, max));
}

lh_status lh_top_logprobs(const float *logits, int32_t n_vocab, int32_t k, int32_t *ids, float *logprobs) {
    if (k < 0 || k > n_vocab)
        return lh_error(LH_ERR_ARGUMENT, "the %d likeliest of %d tokens were asked for", (int)k, (int)n_vocab);
    if (k == 0) return LH_OK;
    int32_t *order = lh_alloc((size_t)n_vocab, sizeof *order), n = 0;
    lh_ranked *best = lh_alloc((size_t)n_vocab, sizeof *best);
    lh_status status = order && best ? LH_OK : LH_ERR_MEMORY;
    if (status == LH_OK) {
        for (int32_t i = 0; i < n_vocab; i++) order[i] = lh_order_of(without_nan(logits[i]));
        int32_t least = lh_floor_of_best(order, n_vocab, k);
        for (int32_t i = 0; i < n_vocab; i++)
            if (order[i] >= least) best[n++] = (lh_ranked){without_nan(logits[i]), i};
        qsort(best, (size_t)n, sizeof *best, lh_by_rank);
        float max = best[0].value;
        double sum = log_sum(logits, n_vocab, max);
        for (int32_t i = 0; i < k; i++) {
            ids[i] = best[i].index;
            logprobs[i] = best[i].value == -INFINITY ? -INFINITY : (float)(below_max(best[i].value, max) - sum);
        }
    }
    lh_free(best);
    lh_free(order);
    return status;
}

// --- sample ------------------------------------------------------------------------------------------------------

lh_status lh_sampler_sample(lh_sampler *s, const float *logits, int32_t *id, float *logprob) {
    const lh_sampler_options *o = &s->options;
    adjust(s, logits);
    float max = max_logit(s->logit, s->n_vocab);
    if (max == -INFINITY)
        return lh_error(LH_ERR_ARGUMENT, "no token can be chosen: every logit is minus infinity or not a number%s",
                        o->n_logit_bias > 0 ? " once logit_bias is added" : "");
    if (o->temperature <= 0) {
        int32_t best = 0;
        while (s->logit[best] != max) best++;
        *id = best;
    } else {
        begin_choice(s);
        keep_top_k(s, o->top_k);
        keep_typical(s, o->typical_p);
        keep_top_p(s, o->top_p);
        keep_min_p(s, o->min_p);
        *id = s->id[draw(s)];
    }
    if (logprob) *logprob = lh_log_softmax(logits, s->n_vocab, *id);
    return LH_OK;
}
