/* One forward step of a Llama decoder on a CPU: reads tokens, extends the key/value cache, and computes logits.

   Compiled on the machine that runs it (see build.py), with vectors of its processor's width.

   - A row is one token of one sequence. Every product reads a row of weights once for all rows of a block, and every
     dot product is summed in the same order for any number of rows or threads. So the logits of a sequence are
     bit-identical alone and in a batch, with and without padding on the left.
   - Weights are read in place, as torch stores them, [out, in]. Eight-bit weights are a copy with a scale for each row;
     activations are then rounded to at most 16 bits, so that products are exact in 32-bit integers.
   - A step is a list of phases (a product, attention, ...) of chunks, which threads claim one by one. Only threads that
     have claimed a chunk are waited for, so the caller does all the work if other processes occupy the cores. Between
     steps the threads sleep. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "vectors.h"

#define MAX_THREADS 64
#define MAX_ROWS 64 /* of a block */
#if LANES == 16
#define FEW_ROWS 6 /* that share the registers with four rows of weights */
#else
#define FEW_ROWS 3
#endif

/* ---- arguments -------------------------------------------------------------------------------------------------- */

typedef struct {
    const void *weight; /* float [out][in], or int8_t [out][padded in] */
    const float *scale; /* [out] of eight-bit weights, else NULL */
} Matrix;

typedef struct {
    const float *input_norm, *output_norm;
    Matrix query, key, value, output, gate, up, down;
} Layer;

typedef struct {
    int64_t hidden, inner, layers, heads, key_value_heads, head_dim, rotary_dim, vocabulary, eight_bit;
    float epsilon, scaling;
    const float *embedding, *final_norm;
    Matrix head;
    const Layer *layer;
} Model;

typedef struct {
    const Model *model;
    int64_t batch, length;              /* new tokens per sequence */
    const int64_t *ids;                 /* [batch][length] */
    const int64_t *positions;           /* [batch][length], or [length] for all with position_stride 0 */
    int64_t position_stride;
    const int64_t *mask;                /* [batch][past + length], 0 for padding on the left; NULL: none */
    const int64_t *past;                /* tokens in the cache: [batch], or one for all with past_stride 0 */
    int64_t past_stride;
    float *const *keys, *const *values; /* each layer: [batch][key_value_heads][capacity][head_dim] */
    int64_t capacity;
    const float *cosines, *sines;       /* [table][rotary_dim] */
    int64_t table;
    int64_t keep;                       /* logits are for the last `keep` tokens of each sequence */
    float *logits;                      /* [batch][keep][vocabulary] */
    int64_t threads;
} Step;

enum { OK = 0, OUT_OF_MEMORY = 1, BAD_TOKEN = 2, BAD_POSITION = 3, POSITION_BEYOND_TABLE = 4, BAD_MASK = 5 };

ALWAYS int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- products --------------------------------------------------------------------------------------------------- */

/* Keeps the compiler from loading a vector again for each product. */
ALWAYS vec in_register(vec value) {
#if defined(__AVX__)
    __asm__("" : "+v"(value));
#elif defined(__aarch64__)
    __asm__("" : "+w"(value));
#endif
    return value;
}

/* Bytes by which weights are prefetched: rows are too short for the hardware prefetcher. */
#define AHEAD 8192
ALWAYS void fetch(const void *from, int64_t bytes) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i);
}

/* sums[row][n] = dot products of `rows` rows of x and `outs` (1, 4 or 8) rows of weights. */
ALWAYS void dots(int outs, int rows, const float *w, const float *x, int64_t width, float *sums, int64_t stride,
                 int ahead) {
    vec sum[8][6] = {{{0}}};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec rest[6];
        if (ahead) fetch((const char *)(w + outs * i) + AHEAD, outs * LANES * 4);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) rest[r] = in_register(load(x + r * width + i));
#pragma GCC unroll 8
        for (int n = 0; n < outs; n++) {
            vec weight = load(w + n * width + i);
            if (rows > 1) weight = in_register(weight);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) sum[n][r] = fused(weight, rest[r], sum[n][r]);
        }
    }
    if (i < width)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vec rest = load_some(x + r * width + i, width - i);
#pragma GCC unroll 8
            for (int n = 0; n < outs; n++)
                sum[n][r] = fused(load_some(w + n * width + i, width - i), rest, sum[n][r]);
        }
#pragma GCC unroll 2
    for (int n = 0; n < outs; n += 4)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            float *to = sums + r * stride + n;
            if (outs == 1) *to = sum_of(sum[0][r]);
            else sums_of(sum[n][r], sum[n + 1][r], sum[n + 2][r], sum[n + 3][r], to);
        }
}

/* The same for eight-bit weights and 16-bit activations; `width` is a multiple of PAD, and sums fit into 32 bits. */
#if LANES == 16
#define PAD 32
typedef __m512i isum;
ALWAYS isum no_sum(void) { return _mm512_setzero_si512(); }
ALWAYS __m512i wide_weights(const int8_t *w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w)); }
ALWAYS __m512i wide_values(const int16_t *x) { return _mm512_loadu_si512(x); }
ALWAYS isum add_products(isum sum, __m512i w, __m512i x) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sum, w, x);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
#endif
}
ALWAYS __m256i folded_sum(isum sum) {
    return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}
typedef __m512i wide;
#elif defined(__AVX2__)
#define PAD 16
typedef __m256i isum;
typedef __m256i wide;
ALWAYS isum no_sum(void) { return _mm256_setzero_si256(); }
ALWAYS wide wide_weights(const int8_t *w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w)); }
ALWAYS wide wide_values(const int16_t *x) { return _mm256_loadu_si256((const __m256i *)x); }
ALWAYS isum add_products(isum sum, wide w, wide x) { return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)); }
ALWAYS __m256i folded_sum(isum sum) { return sum; }
#else
#define PAD 16
typedef struct { int32_t lane[16]; } isum;
typedef struct { int16_t lane[16]; } wide;
ALWAYS isum no_sum(void) { return (isum){{0}}; }
ALWAYS wide wide_weights(const int8_t *w) {
    wide result;
    for (int i = 0; i < 16; i++) result.lane[i] = w[i];
    return result;
}
ALWAYS wide wide_values(const int16_t *x) {
    wide result;
    memcpy(&result, x, sizeof result);
    return result;
}
ALWAYS isum add_products(isum sum, wide w, wide x) {
    for (int i = 0; i < 16; i++) sum.lane[i] += (int32_t)w.lane[i] * x.lane[i];
    return sum;
}
#endif

/* Integer sums do not depend on the order. */
ALWAYS void whole_sums(int count, const isum *sum, int stride, int32_t *to) {
#ifdef __AVX2__
    __m256i every[4];
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++) every[n] = folded_sum(sum[n < count ? n * stride : 0]);
    __m256i both = _mm256_hadd_epi32(_mm256_hadd_epi32(every[0], every[1]), _mm256_hadd_epi32(every[2], every[3]));
    int32_t totals[4];
    __m128i left = _mm256_castsi256_si128(both), right = _mm256_extracti128_si256(both, 1);
    _mm_storeu_si128((__m128i *)totals, _mm_add_epi32(left, right));
    for (int n = 0; n < count; n++) to[n] = totals[n];
#else
    for (int n = 0; n < count; n++) {
        to[n] = 0;
        for (int i = 0; i < 16; i++) to[n] += sum[n * stride].lane[i];
    }
#endif
}

ALWAYS void byte_dots(int outs, int rows, const int8_t *w, const float *w_scale, const int16_t *x, const float *x_scale,
                      int64_t width, float *sums, int64_t stride) {
    isum sum[4][6];
#pragma GCC unroll 4
    for (int n = 0; n < outs; n++)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) sum[n][r] = no_sum();
    for (int64_t i = 0; i < width; i += PAD) {
        wide rest[6];
        if (rows == 1 && outs == 4) fetch(w + outs * i + AHEAD, outs * PAD);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) rest[r] = wide_values(x + r * width + i);
#pragma GCC unroll 4
        for (int n = 0; n < outs; n++) {
            wide weight = wide_weights(w + n * width + i);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) sum[n][r] = add_products(sum[n][r], weight, rest[r]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        int32_t totals[4];
        whole_sums(outs, &sum[0][r], 6, totals);
#pragma GCC unroll 4
        for (int n = 0; n < outs; n++) sums[r * stride + n] = (float)totals[n] * w_scale[n] * x_scale[r];
    }
}

typedef struct {
    const float *plain;     /* [rows][width] */
    const int16_t *rounded; /* [rows][padded width] */
    const float *scale;     /* [rows] */
    int64_t width;
} Input;

ALWAYS int64_t padded(int64_t width) { return (width + PAD - 1) / PAD * PAD; }

/* sums[row][n] for the rows of weights from `first` up to `last`. */
static void product(const Matrix *matrix, const Input *input, int rows, int64_t first, int64_t last, float *sums,
                    int64_t stride) {
    int64_t n = first;
    if (matrix->scale) {
        int64_t width = padded(input->width);
        const int8_t *w = matrix->weight;
#define BYTES(outs, some) \
    byte_dots(outs, some, w + n * width, matrix->scale + n, input->rounded + r * width, input->scale + r, width, \
              sums + r * stride + n - first, stride)
#define OVER_ROWS(DO, outs) \
    { \
        int r = 0; \
        for (; r + FEW_ROWS <= rows; r += FEW_ROWS) DO(outs, FEW_ROWS); \
        for (; r + 2 <= rows; r += 2) DO(outs, 2); \
        for (; r < rows; r++) DO(outs, 1); \
    }
        for (; n + 4 <= last; n += 4) OVER_ROWS(BYTES, 4)
        for (; n < last; n++) OVER_ROWS(BYTES, 1)
        return;
    }
    int64_t width = input->width;
    const float *w = matrix->weight;
#define FLOATS(outs, some) \
    dots(outs, some, w + n * width, input->plain + r * width, width, sums + r * stride + n - first, stride, \
         outs == 8 || (outs == 4 && some > 1 && r == 0))
    if (rows == 1) {
        const int r = 0;
        for (; n + 8 <= last; n += 8) FLOATS(8, 1);
    }
    for (; n + 4 <= last; n += 4) OVER_ROWS(FLOATS, 4)
    for (; n < last; n++) OVER_ROWS(FLOATS, 1)
}

/* ---- the work of a block ---------------------------------------------------------------------------------------- */

enum { NORM_IN, QKV, ATTEND, ROUND_ATTENDED, OUTPUT, NORM_OUT, GATE_UP, ROUND_INNER, DOWN, KINDS };

static struct {
    Step step;
    Model model;
    int64_t first_row, rows, first_token, tokens; /* of the batch and of each sequence that this block works on */
    int64_t kept;                                 /* tokens of each sequence in this block with logits */
    int block;                                    /* batch rows * tokens */
    int phases, threads;
    float *hidden, *normed, *qkv, *attended, *inner; /* [block][...] */
    int16_t *rounded;                                /* [block][widest, padded] */
    float *scale;                                    /* [block] */
    const int64_t *starts;                           /* [batch]: first position that is not padding */
    int64_t *start_memory, start_capacity;
    char *memory;
    int64_t memory_bytes;
} job;

static _Thread_local float *scores; /* of one query, and the outputs of a chunk */
static _Thread_local int64_t scores_capacity;

static float *scratch(int64_t floats) {
    if (floats > scores_capacity) {
        free(scores);
        scores_capacity = 2 * floats;
        scores = aligned_alloc(64, (scores_capacity * 4 + 63) / 64 * 64);
        if (!scores) abort(); /* a few kilobytes */
    }
    return scores;
}

static void norm_row(const float *x, const float *weight, float *to) {
    int64_t width = job.model.hidden, i = 0;
    vec squares = {0};
    for (; i + LANES <= width; i += LANES) squares = fused(load(x + i), load(x + i), squares);
    float total = sum_of(squares);
    for (; i < width; i++) total = fmaf(x[i], x[i], total);
    float factor = 1.0f / sqrtf(total / (float)width + job.model.epsilon);
    for (i = 0; i < width; i++) to[i] = weight[i] * (x[i] * factor);
}

/* Largest integer that activations of `width` values may be rounded to, so that products fit into 32 bits. */
ALWAYS float most(int64_t width) {
    int64_t limit = INT32_MAX / (127 * width);
    return limit > 32767 ? 32767.0f : (float)limit;
}

static void round_row(const float *x, int64_t width, int64_t row) {
    int16_t *to = job.rounded + row * padded(width);
    vec most_lanes = {0};
    int64_t i = 0;
    float largest = 0;
    for (; i + LANES <= width; i += LANES) {
        vec size = (vec)((ivec)load(x + i) & 0x7fffffff);
        ivec more = size > most_lanes;
        most_lanes = (vec)(((ivec)size & more) | ((ivec)most_lanes & ~more));
    }
    for (int lane = 0; lane < LANES; lane++)
        if (most_lanes[lane] > largest) largest = most_lanes[lane];
    for (; i < width; i++)
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    float factor = largest > 0 ? most(width) / largest : 0.0f;
    job.scale[row] = largest > 0 ? largest / most(width) : 0.0f;
    for (i = 0; i < width; i++) {
        float scaled = x[i] * factor;
        to[i] = (int16_t)(int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
    }
    for (; i < padded(width); i++) to[i] = 0;
}

static Input input_of(const float *plain, int64_t width) {
    return (Input){plain, job.rounded, job.scale, width};
}

static void qkv_chunk(const Layer *layer, int64_t first, int64_t last) {
    const Model *model = &job.model;
    int64_t query = model->heads * model->head_dim, key = model->key_value_heads * model->head_dim;
    int64_t total = query + 2 * key;
    Input input = input_of(job.normed, model->hidden);
    const Matrix *matrices[3] = {&layer->query, &layer->key, &layer->value};
    int64_t ends[4] = {0, query, query + key, total};
    for (int part = 0; part < 3; part++) {
        int64_t from = first > ends[part] ? first : ends[part], to = last < ends[part + 1] ? last : ends[part + 1];
        if (from < to)
            product(matrices[part], &input, job.block, from - ends[part], to - ends[part], job.qkv + from, total);
    }
}

static void rotate(float *head, const float *cosine, const float *sine, int64_t rotary) {
    int64_t half = rotary / 2;
    for (int64_t i = 0; i < half; i++) {
        float first = head[i], second = head[i + half];
        head[i] = first * cosine[i] - second * sine[i];
        head[i + half] = second * cosine[i + half] + first * sine[i + half];
    }
}

/* out[dim] = the values [places][dim] weighted, in steps of `vecs` vectors. */
ALWAYS void weigh(int vecs, const float *weights, int64_t places, const float *values, int64_t dim, float scale,
                  float *out) {
    vec sum[8] = {{0}};
    for (int64_t place = 0; place < places; place++) {
        vec weight = all(weights[place]);
#pragma GCC unroll 8
        for (int i = 0; i < vecs; i++) sum[i] = fused(weight, load(values + place * dim + i * LANES), sum[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < vecs; i++) store(out + i * LANES, sum[i] * scale);
}

/* Attention of one query to `places` keys and values. `weights` has `places` floats, rounded up to full vectors. */
static void attend(const float *query, const float *keys, const float *values, int64_t places, int64_t dim,
                   float scaling, float *weights, float *out) {
    int64_t place = 0;
    for (; place + 8 <= places; place += 8) {
        if (place + 24 <= places) fetch(keys + (place + 16) * dim, 32 * dim);
        fetch(values + place * dim, 32 * dim);
        dots(8, 1, keys + place * dim, query, dim, weights + place, 0, 0);
    }
    for (; place < places; place++) dots(1, 1, keys + place * dim, query, dim, weights + place, 0, 0);
    float largest = -INFINITY;
    for (place = 0; place < places; place++) {
        weights[place] *= scaling;
        if (weights[place] > largest) largest = weights[place];
    }
    for (; place % LANES; place++) weights[place] = -INFINITY;
    vec total = {0};
    for (int64_t i = 0; i < places; i += LANES) {
        vec weight = exp_of(load(weights + i) - largest);
        store(weights + i, weight);
        total += weight;
    }
    float scale = 1.0f / sum_of(total);
    int64_t d = 0;
    for (; d + 8 * LANES <= dim; d += 8 * LANES) weigh(8, weights, places, values + d, dim, scale, out + d);
    for (; d + 4 * LANES <= dim; d += 4 * LANES) weigh(4, weights, places, values + d, dim, scale, out + d);
    for (; d + LANES <= dim; d += LANES) weigh(1, weights, places, values + d, dim, scale, out + d);
    for (; d < dim; d++) {
        float sum = 0;
        for (place = 0; place < places; place++) sum = fmaf(weights[place], values[place * dim + d], sum);
        out[d] = sum * scale;
    }
}

/* All queries of one sequence that share a key/value head. */
static void attend_chunk(int64_t index, int64_t chunk) {
    const Model *model = &job.model;
    const Step *step = &job.step;
    int64_t dim = model->head_dim, groups = model->heads / model->key_value_heads;
    int64_t row = chunk / model->key_value_heads, head = chunk % model->key_value_heads;
    int64_t sequence = job.first_row + row;
    int64_t offset = (sequence * model->key_value_heads + head) * step->capacity * dim;
    float *keys = step->keys[index] + offset, *values = step->values[index] + offset;
    int64_t query_width = model->heads * dim, width = query_width + 2 * model->key_value_heads * dim;
    int64_t start = job.starts[sequence], past = step->past[sequence * step->past_stride];
    float *weights = scratch(past + step->length + LANES);
    for (int64_t token = 0; token < job.tokens; token++) {
        int64_t position = step->positions[sequence * step->position_stride + job.first_token + token];
        const float *cosine = step->cosines + position * model->rotary_dim;
        const float *sine = step->sines + position * model->rotary_dim;
        float *own = job.qkv + (row * job.tokens + token) * width;
        float *key = own + query_width + head * dim;
        int64_t place = past + job.first_token + token;
        rotate(key, cosine, sine, model->rotary_dim);
        memcpy(keys + place * dim, key, dim * sizeof(float));
        memcpy(values + place * dim, key + model->key_value_heads * dim, dim * sizeof(float));
        int64_t from = start < place ? start : place; /* padding attends to itself, so that it is finite */
        for (int64_t i = head * groups; i < (head + 1) * groups; i++) {
            rotate(own + i * dim, cosine, sine, model->rotary_dim);
            attend(own + i * dim, keys + from * dim, values + from * dim, place + 1 - from, dim, model->scaling,
                   weights, job.attended + (row * job.tokens + token) * query_width + i * dim);
        }
    }
}

static void add_chunk(const Matrix *matrix, const float *plain, int64_t width, int64_t first, int64_t last) {
    Input input = input_of(plain, width);
    int64_t outs = last - first;
    float *sums = scratch(job.block * outs);
    product(matrix, &input, job.block, first, last, sums, outs);
    for (int64_t row = 0; row < job.block; row++)
        for (int64_t n = 0; n < outs; n++) job.hidden[row * job.model.hidden + first + n] += sums[row * outs + n];
}

static void gate_up_chunk(const Layer *layer, int64_t first, int64_t last) {
    Input input = input_of(job.normed, job.model.hidden);
    int64_t outs = last - first, stride = (outs + LANES - 1) / LANES * LANES;
    float *gates = scratch(2 * job.block * stride), *ups = gates + job.block * stride;
    product(&layer->gate, &input, job.block, first, last, gates, stride);
    product(&layer->up, &input, job.block, first, last, ups, stride);
    for (int64_t row = 0; row < job.block; row++) {
        float *gate = gates + row * stride, *up = ups + row * stride;
        for (int64_t i = outs; i < stride; i++) gate[i] = up[i] = 0;
        for (int64_t i = 0; i < stride; i += LANES) store(gate + i, silu_of(load(gate + i)) * load(up + i));
        memcpy(job.inner + row * job.model.inner + first, gate, outs * sizeof(float));
    }
}

static void head_chunk(int64_t first, int64_t last) {
    const Step *step = &job.step;
    int64_t vocabulary = job.model.vocabulary, hidden = job.model.hidden;
    float *to = step->logits + job.first_row * step->keep * vocabulary + first;
    if (job.kept == step->keep) { /* the kept rows of all sequences are contiguous, also in the logits */
        Input input = input_of(job.normed, hidden);
        product(&job.model.head, &input, (int)(job.rows * job.kept), first, last, to, vocabulary);
        return;
    }
    /* Kept tokens are the last ones of a sequence, and its blocks run forward. */
    int64_t before = job.first_token + job.tokens - job.kept - (step->length - step->keep);
    for (int64_t row = 0; row < job.rows; row++) {
        int64_t skipped = row * job.kept;
        Input input = {job.normed + skipped * hidden, job.rounded + skipped * padded(hidden), job.scale + skipped,
                       hidden};
        product(&job.model.head, &input, (int)job.kept, first, last, to + (row * step->keep + before) * vocabulary,
                vocabulary);
    }
}

/* ---- phases and chunks ------------------------------------------------------------------------------------------ */

/* Rows of weights in a chunk: small enough to balance the threads, large enough to be worth claiming. */
static int64_t chunk_rows(int64_t outs, int64_t width) {
    int64_t bytes = width * (job.model.eight_bit ? 1 : 4) * job.block;
    int64_t worth = 32768 / (bytes ? bytes : 1) + 1, fair = outs / (8 * job.threads) + 1;
    int64_t rows = (worth > fair ? worth : fair) + 7;
    return rows / 8 * 8;
}

ALWAYS int64_t outs_of(int kind) {
    const Model *model = &job.model;
    switch (kind) {
    case QKV: return (model->heads + 2 * model->key_value_heads) * model->head_dim;
    case GATE_UP: return model->inner;
    default: return model->hidden;
    }
}

ALWAYS int64_t width_of(int kind) {
    return kind == DOWN ? job.model.inner : kind == OUTPUT ? job.model.heads * job.model.head_dim : job.model.hidden;
}

static int64_t kept_rows(void) { return job.rows * job.kept; }

static int64_t chunks_of(int phase) {
    int kind = phase % KINDS;
    if (phase / KINDS == job.model.layers) { /* after the layers: the last norm, then the head */
        if (kind == 0) return kept_rows();
        int64_t rows = chunk_rows(job.model.vocabulary, job.model.hidden);
        return kept_rows() ? (job.model.vocabulary + rows - 1) / rows : 0;
    }
    switch (kind) {
    case NORM_IN: case NORM_OUT: return job.block;
    case ROUND_ATTENDED: case ROUND_INNER: return job.model.eight_bit ? job.block : 0;
    case ATTEND: return job.rows * job.model.key_value_heads;
    default: {
        int64_t rows = chunk_rows(outs_of(kind), width_of(kind));
        return (outs_of(kind) + rows - 1) / rows;
    }
    }
}

static void run_chunk(int phase, int64_t chunk) {
    const Model *model = &job.model;
    int kind = phase % KINDS;
    int64_t hidden = model->hidden;
    if (phase / KINDS == model->layers) {
        if (kind == 0) {
            int64_t row = chunk / job.kept * job.tokens + job.tokens - job.kept + chunk % job.kept;
            norm_row(job.hidden + row * hidden, model->final_norm, job.normed + chunk * hidden);
            if (model->eight_bit) round_row(job.normed + chunk * hidden, hidden, chunk);
            return;
        }
        int64_t rows = chunk_rows(model->vocabulary, hidden);
        head_chunk(chunk * rows, least(model->vocabulary, (chunk + 1) * rows));
        return;
    }
    const Layer *layer = model->layer + phase / KINDS;
    switch (kind) {
    case NORM_IN: case NORM_OUT:
        norm_row(job.hidden + chunk * hidden, kind == NORM_IN ? layer->input_norm : layer->output_norm,
                 job.normed + chunk * hidden);
        if (model->eight_bit) round_row(job.normed + chunk * hidden, hidden, chunk);
        return;
    case ATTEND: attend_chunk(phase / KINDS, chunk); return;
    case ROUND_ATTENDED: round_row(job.attended + chunk * width_of(OUTPUT), width_of(OUTPUT), chunk); return;
    case ROUND_INNER: round_row(job.inner + chunk * model->inner, model->inner, chunk); return;
    }
    int64_t rows = chunk_rows(outs_of(kind), width_of(kind));
    int64_t first = chunk * rows, last = least(outs_of(kind), first + rows);
    if (kind == QKV) qkv_chunk(layer, first, last);
    else if (kind == GATE_UP) gate_up_chunk(layer, first, last);
    else if (kind == OUTPUT) add_chunk(&layer->output, job.attended, width_of(OUTPUT), first, last);
    else add_chunk(&layer->down, job.inner, model->inner, first, last);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

/* The current phase, its number of chunks, and the next chunk to claim, in 32 + 16 + 16 bits, so that one atomic
   addition claims a chunk of a known phase. With 0 chunks there is nothing to do. */
static _Atomic uint64_t ticket;
static _Atomic int chunks_left;
static _Atomic int sleepers, workers_wanted, finished = 1;
static uint32_t first_phase; /* number of the job's first phase; counts on over all jobs */
static uint32_t next_number;
static int workers;
static pthread_mutex_t caller_lock = PTHREAD_MUTEX_INITIALIZER, sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

ALWAYS void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

ALWAYS uint64_t chunks_in(uint64_t state) { return state >> 16 & 0xffff; }
ALWAYS uint64_t next_in(uint64_t state) { return state & 0xffff; }

static void start_phase(int phase) {
    for (; phase < job.phases; phase++) {
        int64_t chunks = chunks_of(phase);
        int brief = phase % KINDS == NORM_IN || phase % KINDS == NORM_OUT || phase % KINDS == ROUND_ATTENDED ||
                    phase % KINDS == ROUND_INNER;
        if (phase / KINDS == job.model.layers) brief = phase % KINDS == 0;
        if (brief && (job.block < 8 || job.threads == 1)) { /* less work than distributing it */
            for (int64_t chunk = 0; chunk < chunks; chunk++) run_chunk(phase, chunk);
        } else if (chunks) {
            atomic_store_explicit(&chunks_left, (int)chunks, memory_order_relaxed);
            atomic_store(&ticket, (uint64_t)(first_phase + phase) << 32 | (uint64_t)chunks << 16);
            return;
        }
    }
    atomic_store(&ticket, (uint64_t)(first_phase + job.phases) << 32);
    atomic_store(&finished, 1);
}

static int claim_and_run(void) {
    uint64_t state = atomic_load_explicit(&ticket, memory_order_acquire);
    if (next_in(state) >= chunks_in(state)) return 0;
    state = atomic_fetch_add(&ticket, 1);
    if (next_in(state) >= chunks_in(state)) return 0;
    int phase = (int)((uint32_t)(state >> 32) - first_phase);
    run_chunk(phase, (int64_t)next_in(state));
    if (atomic_fetch_sub(&chunks_left, 1) == 1) start_phase(phase + 1);
    return 1;
}

ALWAYS void wait_a_little(int *waited) {
    if (*waited < 2000) {
        ++*waited;
        pause_briefly();
    } else {
        sched_yield();
    }
}

static void *work(void *argument) {
    int number = (int)(intptr_t)argument, waited = 0;
    for (;;) {
        int wanted = number < atomic_load_explicit(&workers_wanted, memory_order_relaxed);
        if (wanted && claim_and_run()) {
            waited = 0;
            continue;
        }
        int idle = !wanted || !chunks_in(atomic_load_explicit(&ticket, memory_order_relaxed));
        if (!idle || waited < 500) {
            wait_a_little(&waited);
            continue;
        }
        pthread_mutex_lock(&sleep_lock);
        atomic_fetch_add(&sleepers, 1);
        while (number >= atomic_load(&workers_wanted) || !chunks_in(atomic_load(&ticket)))
            pthread_cond_wait(&wake, &sleep_lock);
        atomic_fetch_sub(&sleepers, 1);
        pthread_mutex_unlock(&sleep_lock);
        waited = 0;
    }
    return NULL;
}

static void after_fork(void) { /* in the child, which has only the thread that forked */
    pthread_mutex_init(&caller_lock, NULL);
    pthread_mutex_init(&sleep_lock, NULL);
    pthread_cond_init(&wake, NULL);
    workers = 0;
    atomic_store(&sleepers, 0);
    atomic_store(&workers_wanted, 0);
    atomic_store(&ticket, 0);
    atomic_store(&finished, 1);
}

static void start_workers(int wanted) {
    static int prepared;
    if (!prepared) prepared = !pthread_atfork(NULL, NULL, after_fork);
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* signals are handled by Python's thread */
    for (; workers < wanted; workers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)workers)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run_job(void) {
    int waited = 0;
    first_phase = next_number;
    next_number += (uint32_t)job.phases + 1;
    atomic_store(&finished, 0);
    atomic_store(&workers_wanted, job.threads - 1);
    start_phase(0);
    if (job.threads > 1 && atomic_load(&sleepers)) {
        pthread_mutex_lock(&sleep_lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleep_lock);
    }
    while (!atomic_load_explicit(&finished, memory_order_acquire)) {
        if (claim_and_run()) waited = 0;
        else wait_a_little(&waited);
    }
}

/* ---- a step ----------------------------------------------------------------------------------------------------- */

static int check(const Step *step) {
    const Model *model = step->model;
    int64_t total = step->past[0] + step->length;
    if (step->mask && step->past_stride) return BAD_MASK;
    for (int64_t i = 0; i < step->batch * step->length; i++)
        if (step->ids[i] < 0 || step->ids[i] >= model->vocabulary) return BAD_TOKEN;
    int beyond = 0;
    for (int64_t row = 0; row < (step->position_stride ? step->batch : 1); row++)
        for (int64_t i = 0; i < step->length; i++) {
            int64_t position = step->positions[row * step->position_stride + i];
            if (position < 0) return BAD_POSITION;
            beyond |= position >= step->table;
        }
    if (step->batch > job.start_capacity) {
        free(job.start_memory);
        job.start_capacity = step->batch;
        job.start_memory = malloc(step->batch * sizeof(int64_t));
        if (!job.start_memory) return job.start_capacity = 0, OUT_OF_MEMORY;
    }
    for (int64_t row = 0; row < step->batch; row++) {
        int64_t start = 0;
        if (step->mask) {
            const int64_t *mask = step->mask + row * total;
            while (start < total && !mask[start]) start++;
            if (start == total) return BAD_MASK;
            for (int64_t i = start; i < total; i++)
                if (mask[i] != 1) return BAD_MASK;
        }
        job.start_memory[row] = start;
    }
    job.starts = job.start_memory;
    return beyond ? POSITION_BEYOND_TABLE : OK;
}

static int allocate(const Model *model, int64_t block) {
    int64_t query = model->heads * model->head_dim, qkv = query + 2 * model->key_value_heads * model->head_dim;
    int64_t widest = model->hidden;
    if (query > widest) widest = query;
    if (model->inner > widest) widest = model->inner;
    int64_t sizes[7] = {4 * model->hidden, 4 * model->hidden, 4 * qkv, 4 * query, 4 * model->inner,
                        2 * padded(widest), 4};
    void **places[7] = {(void **)&job.hidden, (void **)&job.normed, (void **)&job.qkv, (void **)&job.attended,
                        (void **)&job.inner, (void **)&job.rounded, (void **)&job.scale};
    int64_t needed = 0;
    for (int i = 0; i < 7; i++) needed += (sizes[i] * block + 127) / 64 * 64;
    if (needed > job.memory_bytes) {
        free(job.memory);
        job.memory = aligned_alloc(64, needed);
        job.memory_bytes = job.memory ? needed : 0;
        if (!job.memory) return OUT_OF_MEMORY;
    }
    char *place = job.memory;
    for (int i = 0; i < 7; i++) {
        *places[i] = place;
        place += (sizes[i] * block + 127) / 64 * 64;
    }
    return OK;
}

static void run_block(int64_t first_row, int64_t rows, int64_t first_token, int64_t tokens) {
    const Step *step = &job.step;
    int64_t hidden = job.model.hidden;
    job.first_row = first_row, job.rows = rows, job.first_token = first_token, job.tokens = tokens;
    job.block = (int)(rows * tokens);
    int64_t kept = first_token + tokens - (step->length - step->keep);
    job.kept = kept < 0 ? 0 : least(kept, tokens);
    job.phases = (int)job.model.layers * KINDS + 2;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t token = 0; token < tokens; token++) {
            int64_t id = step->ids[(first_row + row) * step->length + first_token + token];
            memcpy(job.hidden + (row * tokens + token) * hidden, job.model.embedding + id * hidden, hidden * 4);
        }
    run_job();
}

/* Nothing is written unless the result is OK. */
int tinystories_step(const Step *step) {
    pthread_mutex_lock(&caller_lock);
    int status = check(step);
    int64_t rows = least(step->batch, MAX_ROWS), tokens = least(step->length, MAX_ROWS / rows);
    if (status == OK) status = allocate(step->model, rows * tokens);
    if (status == OK) {
        job.step = *step;
        job.model = *step->model;
        job.threads = (int)(step->threads < 1 ? 1 : least(step->threads, MAX_THREADS));
        start_workers(job.threads - 1);
        for (int64_t row = 0; row < step->batch; row += rows)
            for (int64_t token = 0; token < step->length; token += tokens)
                run_block(row, least(rows, step->batch - row), token, least(tokens, step->length - token));
    }
    pthread_mutex_unlock(&caller_lock);
    return status;
}

int64_t tinystories_padding(void) { return PAD; }
