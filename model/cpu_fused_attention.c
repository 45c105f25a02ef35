/* Softmax of attention with relative positions and dropout for CPUs, forward and backward.
 *
 * Matrix products are left to torch, as is cutting the work into tiles (cpu_fused_attention.py).
 * A product with the keys and, below them, the position table leaves rows of `stride` numbers: a
 * query's dots with `keys` keys, with 2·clip + 1 positions, and what fills the row up. These
 * functions replace a row by its probabilities and, behind them, by the sum of the probabilities
 * at each position, so that one more product, with values and table, sums up both. The notation
 * is that of relative_attention.py.
 */

#include "cpu_kernels.h"

#include <math.h>

/* Rows `first_query` and following of heads `first_head` and following; as in cpu_kernels.py. */
typedef struct {
    int64_t heads, rows, keys, clip, stride;
    int64_t first_head, first_query;
    int64_t queries;    /* of a head, in all tiles */
    int64_t offset;     /* position of a head's first query */
    int64_t text_heads; /* heads of one text */
    const void *mask;   /* added to the scores, or null; its strides in elements: */
    int64_t mask_text, mask_head, mask_row;
    int64_t bfloat16;
    Dropout dropout;
    float scale;
} Tile;

/* What softmax needs to be computed again, of a row. Not the logarithm of the sum of exponentials:
 * beside the lowest number, of a row that is masked throughout, the sum would be lost. */
typedef struct {
    float top, inverse_sum;
} Softmax;

/* Where a row has its positions: keys below `low` share the first, from `high` on the last. */
typedef struct {
    int64_t low, high, shift, last;
} Band;

const uint32_t nezha_sources = DIGEST;

INLINE int64_t clamp(int64_t x, int64_t least, int64_t most) {
    return x < least ? least : x > most ? most : x;
}

INLINE Band band(const Tile *t, int64_t query) {
    int64_t position = t->offset + query;
    int64_t low = clamp(position - t->clip, 0, t->keys);
    int64_t high = clamp(position + t->clip + 1, low, t->keys);
    return (Band){low, high, t->clip - position, 2 * t->clip};
}

/* e^x for x <= 0 within two units of the last place; not a number stays so. Cody and Waite's
 * reduction by multiples of ln 2 and Cephes' polynomial, without a branch or a table, so that the
 * compiler makes vectors of it. */
INLINE float exponential(float x) {
    const float round = 12582912.f; /* 1.5·2^23: what is added to it loses its fraction */
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return x < -87.f ? 0.f : p * power;
}

/* x[j] += dots[p(j)] for all keys j */
INLINE void add_positions(const Tile *t, Band b, float *restrict x, const float *restrict dots) {
    float first = dots[0], last = dots[b.last];
    for (int64_t j = 0; j < b.low; j++) x[j] += first;
    for (int64_t j = b.low; j < b.high; j++) x[j] += dots[j + b.shift];
    for (int64_t j = b.high; j < t->keys; j++) x[j] += last;
}

/* sums[p] = sum of x[j] over the keys at position p. What rounding takes from the two ends, sums
 * of many, goes into the two columns behind, where the table has its first and last row again. */
INLINE void sum_by_position(const Tile *t, Band b, const float *restrict x, float *restrict sums) {
    float first = 0, last = 0;
#pragma omp simd reduction(+ : first)
    for (int64_t j = 0; j < b.low; j++) first += x[j];
#pragma omp simd reduction(+ : last)
    for (int64_t j = b.high; j < t->keys; j++) last += x[j];
    memset(sums, 0, (t->stride - t->keys) * sizeof(float));
    memcpy(sums + b.low + b.shift, x + b.low, (b.high - b.low) * sizeof(float));
    first += sums[0];
    last += sums[b.last];
    sums[0] = from_bfloat16(to_bfloat16(first));
    sums[b.last] = from_bfloat16(to_bfloat16(last));
    sums[b.last + 1] = first - sums[0];
    sums[b.last + 2] = last - sums[b.last];
}

/* x, a row of dots, becomes the scores of its keys. */
INLINE void score(const Tile *t, Band b, int64_t head, int64_t row, float *restrict x,
                  float *restrict spare) {
    add_positions(t, b, x, x + t->keys);
    for (int64_t j = 0; j < t->keys; j++) x[j] *= t->scale;
    if (!t->mask) return;
    int64_t text = (t->first_head + head) / t->text_heads;
    int64_t of_text = (t->first_head + head) % t->text_heads;
    int64_t query = t->first_query + row;
    int64_t at = text * t->mask_text + of_text * t->mask_head + query * t->mask_row;
    const char *mask_row = (const char *)t->mask + at * (t->bfloat16 ? 2 : 4);
    const float *restrict mask = read(t->bfloat16, mask_row, spare, t->keys);
    for (int64_t j = 0; j < t->keys; j++) x[j] += mask[j];
}

/* Number of a row among all tiles' */
INLINE int64_t number(const Tile *t, int64_t head, int64_t row) {
    return (t->first_head + head) * t->queries + t->first_query + row;
}

FOR_EACH_CPU static void forward_row(const Tile *t, int64_t head, int64_t row, void *scores,
                                     Softmax *softmax, float *spare) {
    float *restrict keep = spare + t->stride;
    float *restrict x = read(t->bfloat16, scores, spare, t->stride);
    Band b = band(t, t->first_query + row);
    score(t, b, head, row, x, keep);
    float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < t->keys; j++) top = x[j] > top ? x[j] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < t->keys; j++) sum += x[j] = exponential(x[j] - top);
    float inverse_sum = 1 / sum;
    softmax[number(t, head, row)] = (Softmax){top, inverse_sum};
    for (int64_t j = 0; j < t->keys; j++) x[j] *= inverse_sum;
    if (t->dropout.below) {
        draw(t->dropout, number(t, head, row), keep, t->keys);
        for (int64_t j = 0; j < t->keys; j++) x[j] *= keep[j];
    }
    sum_by_position(t, b, x, x + t->keys);
    write(t->bfloat16, scores, x, t->stride);
}

FOR_EACH_CPU static void backward_row(const Tile *t, int64_t head, int64_t row, void *scores,
                                      void *gradients, const Softmax *softmax, float *spare) {
    float *restrict keep = spare + 2 * t->stride;
    float *restrict x = read(t->bfloat16, scores, spare, t->stride);
    float *restrict dx = read(t->bfloat16, gradients, spare + t->stride, t->stride);
    Softmax saved = softmax[number(t, head, row)];
    Band b = band(t, t->first_query + row);
    score(t, b, head, row, x, keep);
    add_positions(t, b, dx, dx + t->keys);
    for (int64_t j = 0; j < t->keys; j++)
        x[j] = exponential(x[j] - saved.top) * saved.inverse_sum;
    if (t->dropout.below) {
        draw(t->dropout, number(t, head, row), keep, t->keys);
        for (int64_t j = 0; j < t->keys; j++) dx[j] *= keep[j];
    }
    float mean = 0;
#pragma omp simd reduction(+ : mean)
    for (int64_t j = 0; j < t->keys; j++) mean += x[j] * dx[j];
    for (int64_t j = 0; j < t->keys; j++) dx[j] = x[j] * (dx[j] - mean) * t->scale;
    sum_by_position(t, b, dx, dx + t->keys);
    write(t->bfloat16, gradients, dx, t->stride);
    if (t->dropout.below)
        for (int64_t j = 0; j < t->keys; j++) x[j] *= keep[j];
    write(t->bfloat16, scores, x, t->keys);
}

/* scores [heads, rows, stride]: dots of queries with keys and table → dropped probabilities, with
 * sums by position. softmax is [all heads, queries], spare [threads, 3, stride]. */
void attention_forward(const Tile *t, char *scores, Softmax *softmax, float *spare, int threads) {
    int64_t bytes = t->stride * (t->bfloat16 ? 2 : 4);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < t->heads * t->rows; i++)
        forward_row(t, i / t->rows, i % t->rows, scores + i * bytes, softmax,
                    spare + omp_get_thread_num() * 3 * t->stride);
}

/* scores, as above → dropped probabilities, without sums; gradients, dots of the context's with
 * values and table → those of the scores, with sums by position. spare is [threads, 3, stride]. */
void attention_backward(const Tile *t, char *scores, char *gradients, const Softmax *softmax,
                        float *spare, int threads) {
    int64_t bytes = t->stride * (t->bfloat16 ? 2 : 4);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < t->heads * t->rows; i++)
        backward_row(t, i / t->rows, i % t->rows, scores + i * bytes, gradients + i * bytes,
                     softmax, spare + omp_get_thread_num() * 3 * t->stride);
}
