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

/* sum = dropout(x) + residual of a row; keep is what x is multiplied by, where any is dropped.
 * The rows of x and residual may be read into sum and spare. */
INLINE void add(const Norm *n, int64_t row, const void *x_row, const void *residual_row,
                float *restrict sum, float *restrict keep, float *restrict spare) {
    const float *x = read(n->bfloat16, x_row, sum, n->width);
    const float *restrict residual = read(n->bfloat16, residual_row, spare, n->width);
    if (n->dropout.below) {
        draw(n->dropout, row, keep, n->width);
#pragma omp simd
        for (int64_t j = 0; j < n->width; j++) sum[j] = x[j] * keep[j] + residual[j];
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n->width; j++) sum[j] = x[j] + residual[j];
    }
}

FOR_EACH_CPU static void forward_row(const Norm *n, int64_t row, const void *x,
                                     const void *residual, const float *restrict weight,
                                     const float *restrict bias, void *out_row, Figures *figures,
                                     float *spare) {
    float *restrict sum = spare, *restrict out = place(n->bfloat16, out_row, spare + n->width);
    add(n, row, x, residual, sum, spare + n->width, spare + 2 * n->width);
    float total = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n->width; j++) total += sum[j];
    float mean = total / n->width;
#pragma omp simd reduction(+ : rest, squares)
    for (int64_t j = 0; j < n->width; j++) {
        float deviation = sum[j] - mean;
        rest += deviation;
        squares += deviation * deviation;
    }
    /* What rounding took from the mean; beside small deviations it counts. */
    rest /= n->width;
    mean += rest;
    float inverse = 1 / sqrtf(fmaxf(squares / n->width - rest * rest, 0) + n->epsilon);
    for (int64_t j = 0; j < n->width; j++)
        out[j] = (sum[j] - mean) * inverse * weight[j] + bias[j];
    write(n->bfloat16, out_row, out, n->width);
    *figures = (Figures){mean, inverse};
}

FOR_EACH_CPU static void backward_row(const Norm *n, int64_t row, const void *x,
                                      const void *residual, const float *restrict weight,
                                      Figures figures, const void *grad_row, void *dx_row,
                                      void *dresidual_row, float *restrict dweight,
                                      float *restrict dbias, float *spare) {
    float *restrict normal = spare, *restrict keep = spare + n->width;
    float *restrict slope = spare + 2 * n->width, *restrict room = spare + 3 * n->width;
    add(n, row, x, residual, normal, keep, room);
    const float *grad = read(n->bfloat16, grad_row, room, n->width);
    float along = 0, level = 0;
#pragma omp simd reduction(+ : along, level)
    for (int64_t j = 0; j < n->width; j++) {
        normal[j] = (normal[j] - figures.mean) * figures.inverse_deviation;
        slope[j] = grad[j] * weight[j];
        dweight[j] += grad[j] * normal[j];
        dbias[j] += grad[j];
        along += slope[j] * normal[j];
        level += slope[j];
    }
    along /= n->width;
    level /= n->width;
    float *restrict dresidual = place(n->bfloat16, dresidual_row, room);
    for (int64_t j = 0; j < n->width; j++)
        dresidual[j] = (slope[j] - normal[j] * along - level) * figures.inverse_deviation;
    write(n->bfloat16, dresidual_row, dresidual, n->width);
    if (!n->dropout.below) return;
    float *restrict dx = place(n->bfloat16, dx_row, slope);
    for (int64_t j = 0; j < n->width; j++) dx[j] = dresidual[j] * keep[j];
    write(n->bfloat16, dx_row, dx, n->width);
}

/* x, residual and out are [rows, width], weight and bias [width] in float32, spare
 * [threads, 4, width]. */
void add_norm_forward(const Norm *n, const char *x, const char *residual, const float *weight,
                      const float *bias, char *out, Figures *figures, float *spare, int threads) {
    int64_t bytes = n->width * (n->bfloat16 ? 2 : 4);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n->rows; i++)
        forward_row(n, i, x + i * bytes, residual + i * bytes, weight, bias, out + i * bytes,
                    figures + i, spare + omp_get_thread_num() * 4 * n->width);
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
                     dweight + n->width, spare + omp_get_thread_num() * 4 * n->width);
    }
}
