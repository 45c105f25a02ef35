/* What the kernels for CPUs share: numbers in memory, and dropout.
 *
 * Numbers lie in float32 or bfloat16; all arithmetic is float32. Random numbers are bytes.
 */

#pragma once

#include <omp.h>
#include <stdint.h>
#include <string.h>

/* One function for each generation of processors; the loader takes the newest that runs. */
#if defined(__x86_64__) && defined(__GLIBC__) && __GNUC__ >= 12
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

INLINE float from_bfloat16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

INLINE uint16_t to_bfloat16(float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* n numbers as float32: where they lie, or converted into spare. */
INLINE float *read(int64_t bfloat16, const void *from, float *restrict spare, int64_t n) {
    const uint16_t *halves = from;
    if (!bfloat16) return (float *)from;
    for (int64_t j = 0; j < n; j++) spare[j] = from_bfloat16(halves[j]);
    return spare;
}

/* Where to put float32 numbers that belong into `to`: there, or in spare for `write`. */
INLINE float *place(int64_t bfloat16, void *to, float *spare) { return bfloat16 ? spare : to; }

/* What was put at `place` lies in `to` after it. */
INLINE void write(int64_t bfloat16, void *to, const float *restrict from, int64_t n) {
    uint16_t *halves = to;
    if (!bfloat16) return;
    for (int64_t j = 0; j < n; j++) halves[j] = to_bfloat16(from[j]);
}

/* What is dropped of rows. */
typedef struct {
    int64_t below; /* of 256 values of a random byte, those that drop an element */
    uint64_t seed;
    float kept; /* what the others are multiplied by */
} Dropout;

/* keep[j] = 0 where dropped, else what to multiply by: bytes of SplitMix64 (Steele, Lea and Flood,
 * OOPSLA 2014), numbered by row and column, so that neither tiles nor threads change them. */
INLINE void draw(Dropout dropout, int64_t row, float *restrict keep, int64_t n) {
    enum { WORDS = 64, BYTES = 8 * WORDS };
    const uint64_t golden = 0x9e3779b97f4a7c15;
    uint64_t words[WORDS], start = dropout.seed + (uint64_t)row * ((n + 7) / 8) * golden;
    const uint8_t *bytes = (const uint8_t *)words;
    int below = dropout.below;
    float kept = dropout.kept;
    for (int64_t first = 0; first < n; first += BYTES) {
        for (int i = 0; i < WORDS; i++) {
            uint64_t z = start + (first / 8 + i) * golden;
            z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
            z = (z ^ z >> 27) * 0x94d049bb133111eb;
            words[i] = z ^ z >> 31;
        }
        int64_t some = n - first < BYTES ? n - first : BYTES;
        for (int64_t j = 0; j < some; j++) keep[first + j] = bytes[j] < below ? 0.f : kept;
    }
}
