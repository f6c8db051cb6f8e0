// Fused GroupNorm * a + o -> SiLU on channels-last activations, forward and backward.
// x, y, dy, dx: [B, N, C] (N = H * W), bfloat16 or float32. a, o, da, dod: [B, C] float32.
// mean, rstd: [B, G] float32. act: 1 applies SiLU, 0 does not. Parallel over the batch.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline float load_bf16(uint16_t v) {
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint16_t store_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);  // round to nearest even
}
// exp(v) for |v| <= 80 (clamped beyond), relative error below 2e-7. Written out because compilers
// vectorize the library's expf only under -ffast-math, which changes the whole process's rounding.
static inline float exp_limited(float v) {
    v = v < -80.0f ? -80.0f : v;
    v = v > 80.0f ? 80.0f : v;
    float k = rintf(v * 1.44269504f), r = v - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.9875691e-4f;  // coefficients of Cephes' expf
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)k + 127) << 23;  // 2^k
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}
#define LOAD_f32(v) (v)
#define STORE_f32(v) (v)
#define LOAD_bf16(v) load_bf16(v)
#define STORE_bf16(v) store_bf16(v)

#define DEFINE(T, NAME)                                                                           \
    void forward_##NAME(const T *x, T *y, const float *a, const float *o, float *mean,            \
                        float *rstd, long B, long N, long C, long G, float eps, int act) {        \
        _Pragma("omp parallel for schedule(dynamic, 1)") for (long b = 0; b < B; b++) {           \
            const T *xb = x + b * N * C;                                                          \
            T *yb = y + b * N * C;                                                                \
            float *s = calloc(4 * C, sizeof(float)), *q = s + C, *m = s + 2 * C, *k = s + 3 * C;  \
            for (long n = 0; n < N; n++)                                                          \
                _Pragma("omp simd") for (long c = 0; c < C; c++) {                                \
                    float v = LOAD_##NAME(xb[n * C + c]);                                         \
                    s[c] += v;                                                                    \
                    q[c] += v * v;                                                                \
                }                                                                                 \
            long w = C / G;                                                                       \
            for (long g = 0; g < G; g++) {                                                        \
                double sum = 0, sq = 0;                                                           \
                for (long c = g * w; c < (g + 1) * w; c++) sum += s[c], sq += q[c];               \
                double mu = sum / (N * w), var = sq / (N * w) - mu * mu;                          \
                float r = (float)(1 / sqrt((var > 0 ? var : 0) + eps));                           \
                mean[b * G + g] = (float)mu;                                                      \
                rstd[b * G + g] = r;                                                              \
                for (long c = g * w; c < (g + 1) * w; c++) {                                      \
                    k[c] = a[b * C + c] * r;                                                      \
                    m[c] = o[b * C + c] - (float)mu * k[c];                                       \
                }                                                                                 \
            }                                                                                     \
            for (long n = 0; n < N; n++)                                                          \
                _Pragma("omp simd") for (long c = 0; c < C; c++) {                                \
                    float z = LOAD_##NAME(xb[n * C + c]) * k[c] + m[c];                           \
                    float f = act ? z / (1 + exp_limited(-z)) : z;                                \
                    yb[n * C + c] = STORE_##NAME(f);                                              \
                }                                                                                 \
            free(s);                                                                              \
        }                                                                                         \
    }                                                                                             \
    void backward_##NAME(const T *x, const T *dy, T *dx, const float *a, const float *o,          \
                         const float *mean, const float *rstd, float *da, float *dod, long B,     \
                         long N, long C, long G, int act) {                                       \
        _Pragma("omp parallel for schedule(dynamic, 1)") for (long b = 0; b < B; b++) {           \
            const T *xb = x + b * N * C, *yb = dy + b * N * C;                                    \
            T *db = dx + b * N * C;                                                               \
            long w = C / G;                                                                       \
            float *mu = calloc(6 * C, sizeof(float)), *r = mu + C, *A = mu + 2 * C,               \
                  *O = mu + 3 * C, *p = mu + 4 * C, *u = mu + 5 * C;                              \
            float *sa = da + b * C, *so = dod + b * C;                                            \
            for (long c = 0; c < C; c++) {                                                        \
                mu[c] = mean[b * G + c / w], r[c] = rstd[b * G + c / w];                          \
                A[c] = a[b * C + c], O[c] = o[b * C + c];                                         \
                sa[c] = so[c] = 0;                                                                \
            }                                                                                     \
            for (long n = 0; n < N; n++)                                                          \
                _Pragma("omp simd") for (long c = 0; c < C; c++) {                                \
                    float h = (LOAD_##NAME(xb[n * C + c]) - mu[c]) * r[c];                        \
                    float d = LOAD_##NAME(yb[n * C + c]), z = h * A[c] + O[c];                    \
                    float e = 1 / (1 + exp_limited(-z));                                          \
                    d = act ? d * e * (1 + z * (1 - e)) : d;                                      \
                    sa[c] += d * h;                                                               \
                    so[c] += d;                                                                   \
                }                                                                                 \
            for (long g = 0; g < G; g++) {                                                        \
                double P = 0, U = 0;                                                              \
                for (long c = g * w; c < (g + 1) * w; c++) P += A[c] * so[c], U += A[c] * sa[c];  \
                for (long c = g * w; c < (g + 1) * w; c++)                                        \
                    p[c] = (float)(P / (N * w)), u[c] = (float)(U / (N * w));                     \
            }                                                                                     \
            for (long n = 0; n < N; n++)                                                          \
                _Pragma("omp simd") for (long c = 0; c < C; c++) {                                \
                    float h = (LOAD_##NAME(xb[n * C + c]) - mu[c]) * r[c];                        \
                    float d = LOAD_##NAME(yb[n * C + c]), z = h * A[c] + O[c];                    \
                    float e = 1 / (1 + exp_limited(-z));                                          \
                    d = act ? d * e * (1 + z * (1 - e)) : d;                                      \
                    db[n * C + c] = STORE_##NAME(r[c] * (d * A[c] - p[c] - h * u[c]));            \
                }                                                                                 \
            free(mu);                                                                             \
        }                                                                                         \
    }

DEFINE(float, f32)
DEFINE(uint16_t, bf16)
