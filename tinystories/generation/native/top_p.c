/* Top-p without sorting the vocabulary: the interval that contains the lowest kept score is halved until it holds few
   scores, and only these are sorted. */

#include <stdlib.h>

#include "vectors.h"

typedef struct { float score, ratio; } Candidate; /* ratio: exp(score - largest) */

static int by_score(const void *left, const void *right) {
    float a = ((const Candidate *)left)->score, b = ((const Candidate *)right)->score;
    return (a > b) - (a < b);
}

/* Fills `ratios`; returns their sum, or 0 if a score is NaN or infinity. */
static double ratios_of(const float *scores, int64_t count, float largest, float *ratios) {
    double total = 0;
    for (int64_t first = 0; first < count; first += 64 * LANES) {
        int64_t last = count - first < 64 * LANES ? count : first + 64 * LANES, i = first;
        vec sum = {0};
        for (; i + LANES <= last; i += LANES) {
            vec ratio = exp_of(load(scores + i) - largest);
            store(ratios + i, ratio);
            sum += ratio;
        }
        for (; i < last; i++) total += ratios[i] = exp_of(all(scores[i] - largest))[0];
        total += sum_of(sum);
    }
    return total >= 1 && total < INFINITY ? total : 0;
}

typedef struct { double mass; int64_t count; } Part;

/* The number of scores below `bound`, and the sum of their ratios. */
static Part part_below(const float *scores, const float *ratios, int64_t count, float bound) {
    Part part = {0, 0};
    for (int64_t first = 0; first < count; first += 256 * LANES) {
        int64_t last = count - first < 256 * LANES ? count : first + 256 * LANES, i = first;
        vec sums[4] = {{0}};
        ivec counts[4] = {{0}};
        for (; i + 4 * LANES <= last; i += 4 * LANES)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                ivec below = load(scores + i + k * LANES) < all(bound);
                sums[k] += (vec)((ivec)load(ratios + i + k * LANES) & below);
                counts[k] -= below;
            }
        for (; i < last; i++)
            if (scores[i] < bound) part.mass += ratios[i], part.count++;
        part.mass += sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
        ivec counted = (counts[0] + counts[1]) + (counts[2] + counts[3]);
        for (int lane = 0; lane < LANES; lane++) part.count += counted[lane];
    }
    return part;
}

/* Sets `*bound` to the lowest kept score of a row; returns 0 if rounding could decide. `inside` is scratch. */
static int find_bound(const float *scores, int64_t count, double gone, float *ratios, Candidate *inside,
                      float *bound) {
    float largest = largest_of(scores, count);
    double total = ratios_of(scores, count, largest, ratios);
    if (!total) return 0;
    double budget = gone * total, close = (1e-5 * gone + 1e-7) * total;

    /* Scores with less than an equal part of the budget are all removed. */
    float low = largest + logf((float)(budget / (double)count)) - 1e-3f, high = largest;
    if (!(low > -3e38f && low < high)) return 0;
    Part below = part_below(scores, ratios, count, low), under = part_below(scores, ratios, count, high);
    if (below.mass > budget) return 0;
    if (under.mass <= budget) low = high, high = INFINITY, below = under, under.count = count;
    for (int halvings = 0; under.count - below.count > 64 && halvings < 40; halvings++) {
        float middle = low + (high - low) / 2;
        Part part = part_below(scores, ratios, count, middle);
        if (part.mass <= budget) low = middle, below = part;
        else high = middle, under = part;
    }
    int64_t left = 0;
    for (int64_t i = 0; i < count; i++)
        if (scores[i] >= low && scores[i] < high) inside[left++] = (Candidate){scores[i], ratios[i]};
    qsort(inside, left, sizeof *inside, by_score);
    double mass = below.mass;
    for (int64_t i = 0; i < left; i++) {
        double with = mass + inside[i].ratio;
        if (with > budget - close) {
            *bound = inside[i].score;
            int tied = i && inside[i - 1].score == *bound;
            return mass <= budget - close && with > budget + close && !tied;
        }
        mass = with;
    }
    return 0;
}

/* Copies `scores` [rows][count] to `kept`, with `filler` for the tokens that top-p removes. `gone` [rows] is 1 - top_p;
   a row with 0 is copied as it is. `scratch` holds 3 * count floats. `decided[row]` is 0 for a row that the caller must
   compute: rounding could decide, fewer than `least` tokens would stay, or scores are NaN or infinite. */
void tinystories_top_p(const float *scores, int64_t rows, int64_t count, const double *gone, int64_t least,
                       float filler, float *kept, float *scratch, uint8_t *decided) {
    for (int64_t row = 0; row < rows; row++, scores += count, kept += count) {
        float bound = gone[row] ? INFINITY : -INFINITY;
        int found = !gone[row]
            || find_bound(scores, count, gone[row], scratch, (Candidate *)(scratch + count), &bound);
        int64_t staying = 0;
        for (int64_t i = 0; i < count; i++) {
            int stays = !(scores[i] < bound); /* NaN stays */
            staying += stays;
            kept[i] = stays ? scores[i] : filler;
        }
        decided[row] = found && staying >= least;
    }
}
