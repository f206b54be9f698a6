/* Causal attention over packed documents on a CPU, forward and backward, in float32.

   - A task is one head of one document: its keys, values and scores stay in the caches, and what a mask would hide is
     computed only within the last block of a row of scores.
   - All products are one kernel that accumulates a tile of 6 rows by two vectors in registers. What it reads again and
     again is packed first into panels as wide as a tile, because rows that are heads * head_dim floats apart fall onto
     few lines of a cache.
   - The threads are those of the caller's OpenMP team (see attention.py). Each runs `tinystories_attention` and claims
     one task after the other. Each task writes to its own memory, so the result does not depend on their number. */

#include <stdatomic.h>

#include "../../generation/native/vectors.h"

#define TILE_ROWS 6
#define TILE_WIDTH (2 * LANES)
#define BLOCK 24 /* rows of scores at once; a multiple of TILE_ROWS */

typedef struct {
    int64_t documents, tokens, heads, head_dim, threads, backward;
    float scaling;
    const int32_t *cu_seqlens;        /* [documents + 1] */
    const float *query, *key, *value; /* [tokens][heads][head_dim] */
    float *output;                    /* the same */
    float *log_sums;                  /* [heads][tokens]: log-sum-exp of the scores */
    const float *gradient;            /* of `output`, for the backward pass */
    float *query_gradient, *key_gradient, *value_gradient;
    float *scratch;                   /* [threads][scratch_size] */
    int64_t scratch_size;
    _Atomic int64_t next, started;
} Attention;

static int64_t rounded(int64_t count) { return (count + TILE_WIDTH - 1) / TILE_WIDTH * TILE_WIDTH; }

/* Floats of scratch memory per thread, for documents of up to `longest` tokens. */
int64_t tinystories_attention_scratch(int64_t longest, int64_t head_dim) {
    return 4 * rounded(longest) * head_dim + 2 * BLOCK * rounded(longest) + longest;
}

/* Whether this kernel supports heads of this size. */
int tinystories_attention_supports(int64_t head_dim) { return head_dim % TILE_WIDTH == 0; }

/* One tile: c[rows][TILE_WIDTH] = or += a[rows][depth] * b[depth][TILE_WIDTH]. */
ALWAYS void tile(int rows, int64_t depth, const float *a, int64_t a_row, int64_t a_depth, const float *b,
                 int64_t b_depth, float *c, int64_t c_row, int add) {
    vec sum[TILE_ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        sum[r][0] = add ? load(c + r * c_row) : (vec){0};
        sum[r][1] = add ? load(c + r * c_row + LANES) : (vec){0};
    }
    for (int64_t k = 0; k < depth; k++) {
        vec left = load(b + k * b_depth), right = load(b + k * b_depth + LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vec one = all(a[r * a_row + k * a_depth]);
            sum[r][0] = fused(one, left, sum[r][0]);
            sum[r][1] = fused(one, right, sum[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        store(c + r * c_row, sum[r][0]);
        store(c + r * c_row + LANES, sum[r][1]);
    }
}

typedef struct { const float *at; int64_t row, depth; } Left;    /* element [i][k] is at[i * row + k * depth] */
typedef struct { const float *at; int64_t panel, depth; } Right; /* panels of TILE_WIDTH columns */

/* c[rows][width] = or += a * b, over `depth`; width is a multiple of TILE_WIDTH. */
static void product(int64_t rows, int64_t width, int64_t depth, Left a, Right b, float *c, int64_t c_row, int add) {
    for (int64_t column = 0; column < width; column += TILE_WIDTH) {
        const float *panel = b.at + column / TILE_WIDTH * b.panel;
        int64_t row = 0;
        for (; row + TILE_ROWS <= rows; row += TILE_ROWS)
            tile(TILE_ROWS, depth, a.at + row * a.row, a.row, a.depth, panel, b.depth, c + row * c_row + column, c_row,
                 add);
        const float *rest = a.at + row * a.row;
        float *to = c + row * c_row + column;
        switch (rows - row) {
        case 5: tile(5, depth, rest, a.row, a.depth, panel, b.depth, to, c_row, add); break;
        case 4: tile(4, depth, rest, a.row, a.depth, panel, b.depth, to, c_row, add); break;
        case 3: tile(3, depth, rest, a.row, a.depth, panel, b.depth, to, c_row, add); break;
        case 2: tile(2, depth, rest, a.row, a.depth, panel, b.depth, to, c_row, add); break;
        case 1: tile(1, depth, rest, a.row, a.depth, panel, b.depth, to, c_row, add); break;
        }
    }
}

/* from[count][width] into panels [width / TILE_WIDTH][count][TILE_WIDTH]. */
static Right packed(const float *from, int64_t stride, int64_t count, int64_t width, float *to) {
    for (int64_t column = 0; column < width; column += TILE_WIDTH)
        for (int64_t i = 0; i < count; i++)
            memcpy(to + column * count + i * TILE_WIDTH, from + i * stride + column, TILE_WIDTH * sizeof(float));
    return (Right){to, count * TILE_WIDTH, TILE_WIDTH};
}

/* The same of the transpose: panels [count / TILE_WIDTH][width][TILE_WIDTH], zero behind `count`. */
static Right packed_across(const float *from, int64_t stride, int64_t count, int64_t width, float *to) {
    for (int64_t first = 0; first < count; first += TILE_WIDTH) {
        float *panel = to + first * width;
        int64_t here = count - first < TILE_WIDTH ? count - first : TILE_WIDTH;
        for (int64_t i = 0; i < here; i++)
            for (int64_t k = 0; k < width; k++) panel[k * TILE_WIDTH + i] = from[(first + i) * stride + k];
        for (int64_t i = here; i < TILE_WIDTH; i++)
            for (int64_t k = 0; k < width; k++) panel[k * TILE_WIDTH + i] = 0;
    }
    return (Right){to, width * TILE_WIDTH, TILE_WIDTH};
}

/* scores[padded] to exp(scores * scaling - shift), zero behind `count`; returns their sum. */
static float exponentials(float *scores, int64_t count, int64_t padded, float scaling, float shift) {
    vec sum = {0};
    for (int64_t i = count; i < padded; i++) scores[i] = 0;
    for (int64_t i = 0; i < count; i += LANES) {
        vec weight = exp_of(fused(load(scores + i), all(scaling), all(-shift)));
        if (i + LANES > count) {
            int64_t here = count - i;
            float some[LANES];
            store(some, weight);
            weight = load_some(some, here);
        }
        store(scores + i, weight);
        sum += weight;
    }
    return sum_of(sum);
}

typedef struct { const float *query, *key, *value; float *output, *log_sums; int64_t count, stride; } Head;

static void forward(const Attention *task, Head head, float *scratch) {
    int64_t dim = task->head_dim, padded = rounded(head.count);
    Right keys = packed_across(head.key, head.stride, head.count, dim, scratch);
    Right values = packed(head.value, head.stride, head.count, dim, scratch + padded * dim);
    float *scores = scratch + 2 * padded * dim;
    for (int64_t first = 0; first < head.count; first += BLOCK) {
        int64_t rows = head.count - first < BLOCK ? head.count - first : BLOCK, seen = first + rows;
        int64_t width = rounded(seen);
        Left query = {head.query + first * head.stride, head.stride, 1};
        product(rows, width, dim, query, keys, scores, padded, 0);
        for (int64_t r = 0; r < rows; r++) {
            float *row = scores + r * padded;
            float shift = largest_of(row, first + r + 1) * task->scaling;
            float sum = exponentials(row, first + r + 1, width, task->scaling, shift), inverse = 1 / sum;
            for (int64_t i = 0; i < width; i += LANES) store(row + i, load(row + i) * inverse);
            head.log_sums[first + r] = shift + logf(sum);
        }
        product(rows, dim, seen, (Left){scores, padded, 1}, values, head.output + first * head.stride, head.stride,
                0);
    }
}

static void backward(const Attention *task, Head head, const float *gradient, float *query_gradient,
                     float *key_gradient, float *value_gradient, float *scratch) {
    int64_t dim = task->head_dim, padded = rounded(head.count), stride = head.stride;
    Right keys_across = packed_across(head.key, stride, head.count, dim, scratch);
    Right values_across = packed_across(head.value, stride, head.count, dim, scratch + padded * dim);
    Right keys = packed(head.key, stride, head.count, dim, scratch + 2 * padded * dim);
    float *weights = scratch + 4 * padded * dim, *score_gradients = weights + BLOCK * padded;
    for (int64_t i = 0; i < head.count; i++) {
        memset(key_gradient + i * stride, 0, dim * sizeof(float));
        memset(value_gradient + i * stride, 0, dim * sizeof(float));
    }
    for (int64_t first = 0; first < head.count; first += BLOCK) {
        int64_t rows = head.count - first < BLOCK ? head.count - first : BLOCK, seen = first + rows;
        int64_t width = rounded(seen);
        const float *query = head.query + first * stride, *given = gradient + first * stride;
        product(rows, width, dim, (Left){query, stride, 1}, keys_across, weights, padded, 0);
        product(rows, width, dim, (Left){given, stride, 1}, values_across, score_gradients, padded, 0);
        for (int64_t r = 0; r < rows; r++) {
            float *weight = weights + r * padded, *score_gradient = score_gradients + r * padded;
            const float *output = head.output + (first + r) * stride, *output_gradient = given + r * stride;
            vec sums = {0};
            for (int64_t k = 0; k < dim; k += LANES) sums = fused(load(output + k), load(output_gradient + k), sums);
            vec delta = all(sum_of(sums));
            exponentials(weight, first + r + 1, width, task->scaling, head.log_sums[first + r]);
            for (int64_t i = 0; i < width; i += LANES)
                store(score_gradient + i, (load(score_gradient + i) - delta) * load(weight + i) * task->scaling);
        }
        product(rows, dim, seen, (Left){score_gradients, padded, 1}, keys, query_gradient + first * stride, stride, 0);
        product(seen, dim, rows, (Left){weights, 1, padded}, (Right){given, TILE_WIDTH, stride}, value_gradient,
                stride, 1);
        product(seen, dim, rows, (Left){score_gradients, 1, padded}, (Right){query, TILE_WIDTH, stride}, key_gradient,
                stride, 1);
    }
}

/* What each thread of a team runs. */
void tinystories_attention(void *given) {
    Attention *task = given;
    int64_t thread = atomic_fetch_add(&task->started, 1), stride = task->heads * task->head_dim;
    if (thread >= task->threads) return;
    float *scratch = task->scratch + thread * task->scratch_size;
    for (;;) {
        int64_t claimed = atomic_fetch_add(&task->next, 1);
        if (claimed >= task->documents * task->heads) return;
        int64_t document = claimed / task->heads, which = claimed % task->heads;
        int64_t begin = task->cu_seqlens[document], count = task->cu_seqlens[document + 1] - begin;
        int64_t at = begin * stride + which * task->head_dim;
        Head head = {
            task->query + at, task->key + at, task->value + at, task->output + at,
            task->log_sums + which * task->tokens + begin, count, stride,
        };
        if (task->backward)
            backward(task, head, task->gradient + at, task->query_gradient + at, task->key_gradient + at,
                     task->value_gradient + at, scratch);
        else
            forward(task, head, scratch);
    }
}
