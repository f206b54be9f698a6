/* Vectors as wide as the processor's, and what is done with them. */

#include <math.h>
#include <stdint.h>
#include <string.h>

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
ALWAYS void store(float *to, vec value) { *(loose_vec *)to = value; }
ALWAYS vec all(float value) { return value - (vec){0}; }

ALWAYS float sum_of(vec value) {
    typedef float half __attribute__((vector_size(2 * LANES)));
    typedef float quarter __attribute__((vector_size(16)));
    union { vec whole; half halves[2]; quarter quarters[LANES / 4]; } parts = {value};
    quarter sum = parts.quarters[0];
#if LANES >= 8
    union { half whole; quarter quarters[LANES / 8]; } added = {parts.halves[0] + parts.halves[1]};
    sum = added.quarters[0];
#if LANES == 16
    sum += added.quarters[1];
#endif
#endif
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* e to the x, within 2 units in the last place; 0 below -87.3, and NaN stays NaN. No x above 88 may come. */
ALWAYS vec exp_of(vec x) {
    ivec tiny = x < all(-87.3f);
    vec clamped = (vec)(((ivec)x & ~tiny) | ((ivec)all(-87.3f) & tiny));
    vec shifted = clamped * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number in the low bits */
    vec whole = shifted - 12582912.0f;
    vec rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec series = all(1.9875691500e-4f);
    series = series * rest + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    series = series * rest * rest + rest + 1.0f;
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
