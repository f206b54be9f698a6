/* Vectors of the processor's width, and functions of them. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define ALWAYS static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

ALWAYS vec load(const float *from) { return *(const loose_vec *)from; }
ALWAYS vec load_some(const float *from, int64_t count) {
    vec value = {0};
    memcpy(&value, from, count * sizeof(float));
    return value;
}
ALWAYS void store(float *to, vec value) { *(loose_vec *)to = value; }
ALWAYS vec all(float value) { return value - (vec){0}; }

/* a * b + c, rounded once where the processor can. It is explicit, since a compiler (hence -ffp-contract=off) may fuse
   in one loop and not in another, and a sum must not depend on the loop that computes it. */
ALWAYS vec fused(vec a, vec b, vec c) {
#if LANES == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8 && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

typedef float quarter __attribute__((vector_size(16)));

/* Lanes 0, 4, 8, ... are summed in lane 0, and so on. */
ALWAYS quarter folded(vec value) {
    typedef float half __attribute__((vector_size(2 * LANES)));
    union { vec whole; half halves[2]; quarter quarters[LANES / 4]; } parts = {value};
    quarter sum = parts.quarters[0];
#if LANES >= 8
    union { half whole; quarter quarters[LANES / 8]; } added = {parts.halves[0] + parts.halves[1]};
    sum = added.quarters[0];
#if LANES == 16
    sum += added.quarters[1];
#endif
#endif
    return sum;
}

ALWAYS float sum_of(vec value) {
    quarter sum = folded(value);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* The same for four vectors at once, added in the same order. */
ALWAYS void sums_of(vec a, vec b, vec c, vec d, float *to) {
#if defined(__clang__) || __GNUC__ >= 12
    quarter first = folded(a), second = folded(b), third = folded(c), fourth = folded(d);
#define PAIRS(a, b, i, j) __builtin_shufflevector(a, b, i, 4 + i, j, 4 + j)
    quarter left = PAIRS(first, second, 0, 1) + PAIRS(first, second, 2, 3);
    quarter right = PAIRS(third, fourth, 0, 1) + PAIRS(third, fourth, 2, 3);
    quarter sums = __builtin_shufflevector(left, right, 0, 1, 4, 5) + __builtin_shufflevector(left, right, 2, 3, 6, 7);
#undef PAIRS
    memcpy(to, &sums, sizeof sums);
#else
    to[0] = sum_of(a), to[1] = sum_of(b), to[2] = sum_of(c), to[3] = sum_of(d);
#endif
}

/* exp(x) within 2 ulp for x up to 88; 0 below -87.3, NaN for NaN. */
ALWAYS vec exp_of(vec x) {
    ivec tiny = x < all(-87.3f);
    vec clamped = (vec)(((ivec)x & ~tiny) | ((ivec)all(-87.3f) & tiny));
    /* Adding 1.5 * 2^23 rounds to an integer in the low bits. */
    vec shifted = fused(clamped, all(1.44269504f), all(12582912.0f));
    vec whole = shifted - 12582912.0f;
    vec rest = fused(whole, all(2.12194440e-4f), fused(whole, all(-0.693359375f), clamped));
    vec series = all(1.9875691500e-4f);
    series = fused(series, rest, all(1.3981999507e-3f));
    series = fused(series, rest, all(8.3334519073e-3f));
    series = fused(series, rest, all(4.1665795894e-2f));
    series = fused(series, rest, all(1.6666665459e-1f));
    series = fused(series, rest, all(5.0000001201e-1f));
    series = fused(series * rest, rest, rest) + 1.0f;
    vec power = (vec)(((ivec)shifted - (ivec)all(12582912.0f) + 127) << 23);
    return (vec)((ivec)(series * power) & ~tiny);
}

ALWAYS vec silu_of(vec x) {
    ivec negative = x < (vec){0};
    vec minus_size = (vec)((ivec)x | (ivec)all(-0.0f));
    vec small = exp_of(minus_size);
    vec above = (vec)(((ivec)small & negative) | ((ivec)all(1.0f) & ~negative));
    return x * above / (small + 1.0f);
}

/* The largest score; -infinity if all are NaN. */
ALWAYS float largest_of(const float *scores, int64_t count) {
    vec most = all(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec score = load(scores + i);
        ivec more = score > most;
        most = (vec)(((ivec)score & more) | ((ivec)most & ~more));
    }
    float largest = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < count; i++) largest = scores[i] > largest ? scores[i] : largest;
    return largest;
}
