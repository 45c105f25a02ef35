/* LayerNorm(dropout(x) + residual) for CPUs, forward and backward. */

#include "cpu_kernels.h"

#include <math.h>

/* As in cpu_kernels.py. */
typedef struct {
    int64_t rows, width;
    int64_t bfloat16;
    Dropout dropout;
    float epsilon;
} Norm;

/* Of a row, in front of the normalisation. */
typedef struct {
    float mean, inverse_deviation;
} Figures;

int64_t norm_bytes(void) { return sizeof(Norm); }

/* sum = dropout(x) + residual of a row; keep is what x was multiplied by. */
INLINE void add(const Norm *n, int64_t row, const void *x, const void *residual,
                float *restrict sum, float *restrict keep, float *restrict spare) {
    load(n->bfloat16, sum, x, n->width);
    if (n->dropout.below) {
        draw(n->dropout, row, keep, n->width);
        for (int64_t j = 0; j < n->width; j++) sum[j] *= keep[j];
    }
    load(n->bfloat16, spare, residual, n->width);
    for (int64_t j = 0; j < n->width; j++) sum[j] += spare[j];
}

FOR_EACH_CPU static void forward_row(const Norm *n, int64_t row, const void *x,
                                     const void *residual, const float *restrict weight,
                                     const float *restrict bias, void *out, Figures *figures,
                                     float *restrict sum) {
    float *restrict keep = sum + n->width;
    add(n, row, x, residual, sum, keep, keep + n->width);
    float total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n->width; j++) total += sum[j];
    float mean = total / n->width;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < n->width; j++) squares += (sum[j] - mean) * (sum[j] - mean);
    float inverse = 1 / sqrtf(squares / n->width + n->epsilon);
    for (int64_t j = 0; j < n->width; j++)
        sum[j] = (sum[j] - mean) * inverse * weight[j] + bias[j];
    store(n->bfloat16, out, sum, n->width);
    *figures = (Figures){mean, inverse};
}

FOR_EACH_CPU static void backward_row(const Norm *n, int64_t row, const void *x,
                                      const void *residual, const float *restrict weight,
                                      Figures figures, const void *grad, void *dx, void *dresidual,
                                      float *restrict dweight, float *restrict dbias,
                                      float *restrict normal) {
    float *restrict keep = normal + n->width, *restrict slope = keep + n->width;
    add(n, row, x, residual, normal, keep, slope);
    load(n->bfloat16, slope, grad, n->width);
    float along = 0, level = 0;
#pragma omp simd reduction(+ : along, level)
    for (int64_t j = 0; j < n->width; j++) {
        float value = (normal[j] - figures.mean) * figures.inverse_deviation;
        dweight[j] += slope[j] * value;
        dbias[j] += slope[j];
        slope[j] *= weight[j];
        normal[j] = value;
        along += slope[j] * value;
        level += slope[j];
    }
    along /= n->width, level /= n->width;
    for (int64_t j = 0; j < n->width; j++)
        slope[j] = (slope[j] - normal[j] * along - level) * figures.inverse_deviation;
    store(n->bfloat16, dresidual, slope, n->width);
    if (!n->dropout.below) return;
    for (int64_t j = 0; j < n->width; j++) slope[j] *= keep[j];
    store(n->bfloat16, dx, slope, n->width);
}

/* x, residual and out are [rows, width], weight and bias [width] in float32, spare
 * [threads, 3, width]. */
void add_norm_forward(const Norm *n, const char *x, const char *residual, const float *weight,
                      const float *bias, char *out, Figures *figures, float *spare, int threads) {
    int64_t bytes = n->width * (n->bfloat16 ? 2 : 4);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n->rows; i++)
        forward_row(n, i, x + i * bytes, residual + i * bytes, weight, bias, out + i * bytes,
                    figures + i, spare + omp_get_thread_num() * 3 * n->width);
}

/* As above. sums [threads, 2, width], zeros at first, take each thread's share of the gradients of
 * weight and bias. Where nothing is dropped dx would be dresidual, and is left alone. */
void add_norm_backward(const Norm *n, const char *x, const char *residual, const float *weight,
                       const Figures *figures, const char *grad, char *dx, char *dresidual,
                       float *sums, float *spare, int threads) {
    int64_t bytes = n->width * (n->bfloat16 ? 2 : 4);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n->rows; i++) {
        float *dweight = sums + omp_get_thread_num() * 2 * n->width;
        backward_row(n, i, x + i * bytes, residual + i * bytes, weight, figures[i],
                     grad + i * bytes, dx + i * bytes, dresidual + i * bytes, dweight,
                     dweight + n->width, spare + omp_get_thread_num() * 3 * n->width);
    }
}
