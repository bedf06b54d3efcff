/* The six inner products of (w, g, v), each element read once.
 *
 * setup.py builds this where a C compiler is found; cpu.py calls it, and does
 * without where it was not built. It needs nothing of Python.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PRODUCTS 6
#define MAX_THREADS 64
/* Elements that one thread takes at a time. The bounds do not depend on the number
 * of threads, and so neither does the sum. */
#define BLOCK 16384
/* Additions in the tensors' own precision before a sum is carried on in double. */
#define RUN 64
#define VECTOR_BYTES 32

typedef float float_vector __attribute__((vector_size(VECTOR_BYTES)));
typedef double double_vector __attribute__((vector_size(VECTOR_BYTES)));

#define DEFINE_PRODUCTS(NAME, T, TARGET)                                             \
    TARGET static void NAME(const void *pw, const void *pg, const void *pv,          \
                            int64_t n, double *out)                                  \
    {                                                                                \
        enum { LANES = VECTOR_BYTES / sizeof(T) };                                   \
        const T *w = pw, *g = pg, *v = pv;                                           \
        double sum[PRODUCTS] = {0};                                                  \
        int64_t i = 0;                                                               \
        while (i + LANES <= n) {                                                     \
            T##_vector ww = {0}, wg = {0}, wv = {0}, gg = {0}, gv = {0}, vv = {0};   \
            int64_t left = (n - i) / LANES;                                          \
            for (int64_t end = i + LANES * (left < RUN ? left : RUN); i < end;       \
                 i += LANES) {                                                       \
                T##_vector a, b, c;                                                  \
                memcpy(&a, w + i, sizeof a); /* not aligned */                       \
                memcpy(&b, g + i, sizeof b);                                         \
                memcpy(&c, v + i, sizeof c);                                         \
                ww += a * a;                                                         \
                wg += a * b;                                                         \
                wv += a * c;                                                         \
                gg += b * b;                                                         \
                gv += b * c;                                                         \
                vv += c * c;                                                         \
            }                                                                        \
            for (int l = 0; l < LANES; l++) {                                        \
                sum[0] += ww[l];                                                     \
                sum[1] += wg[l];                                                     \
                sum[2] += wv[l];                                                     \
                sum[3] += gg[l];                                                     \
                sum[4] += gv[l];                                                     \
                sum[5] += vv[l];                                                     \
            }                                                                        \
        }                                                                            \
        for (; i < n; i++) {                                                         \
            double a = w[i], b = g[i], c = v[i];                                     \
            sum[0] += a * a;                                                         \
            sum[1] += a * b;                                                         \
            sum[2] += a * c;                                                         \
            sum[3] += b * b;                                                         \
            sum[4] += b * c;                                                         \
            sum[5] += c * c;                                                         \
        }                                                                            \
        memcpy(out, sum, sizeof sum);                                                \
    }

typedef void (*products_function)(const void *, const void *, const void *, int64_t,
                                  double *);

DEFINE_PRODUCTS(float_products, float, )
DEFINE_PRODUCTS(double_products, double, )

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
DEFINE_PRODUCTS(float_products_avx2, float, AVX2)
DEFINE_PRODUCTS(double_products_avx2, double, AVX2)
#endif

static products_function products_of(int item_size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return item_size == sizeof(float) ? float_products_avx2 : double_products_avx2;
#endif
    return item_size == sizeof(float) ? float_products : double_products;
}

struct block {
    const char *w, *g, *v;
    int64_t n;
    double sums[PRODUCTS];
};

struct work {
    products_function products;
    struct block *blocks;
    int64_t count;
    _Atomic int64_t next;
};

static void *take_blocks(void *argument)
{
    struct work *work = argument;
    int64_t i;
    while ((i = atomic_fetch_add(&work->next, 1)) < work->count) {
        struct block *b = &work->blocks[i];
        work->products(b->w, b->g, b->v, b->n, b->sums);
    }
    return NULL;
}

static void do_work(struct work *work, int threads)
{
    /* Threads of our own, for the time of the call: a pool would not survive a fork,
     * and its idle threads would spin beside those that train. Where one cannot be
     * had, the others do its part. */
    pthread_t others[MAX_THREADS];
    int started = 0;
    while (started < threads - 1 && started < MAX_THREADS &&
           pthread_create(&others[started], NULL, take_blocks, work) == 0)
        started++;
    take_blocks(work);
    while (started > 0)
        pthread_join(others[--started], NULL);
}

/* Writes six inner products for each of the rows that the layers consist of.
 *
 * pointers: three for each layer, to w, g and v, laid flat.
 * rows:     into how many equal rows a layer is divided.
 * sizes:    elements of each of its rows.
 * out:      six products for every row, the rows of all layers one after another.
 *
 * Returns 0, or 1 where there is no memory. */
int smd_gram(int64_t layers, const char *const *pointers, const int64_t *rows,
             const int64_t *sizes, int item_size, int threads, double *out)
{
    int64_t count = 0;
    for (int64_t layer = 0; layer < layers; layer++)
        count += rows[layer] * ((sizes[layer] + BLOCK - 1) / BLOCK);
    struct block *blocks = malloc((size_t)(count ? count : 1) * sizeof *blocks);
    if (blocks == NULL)
        return 1;

    struct block *block = blocks;
    for (int64_t layer = 0; layer < layers; layer++, pointers += 3)
        for (int64_t row = 0; row < rows[layer]; row++)
            for (int64_t begin = 0; begin < sizes[layer]; begin += BLOCK, block++) {
                int64_t left = sizes[layer] - begin;
                int64_t offset = (row * sizes[layer] + begin) * item_size;
                block->w = pointers[0] + offset;
                block->g = pointers[1] + offset;
                block->v = pointers[2] + offset;
                block->n = left < BLOCK ? left : BLOCK;
            }

    struct work work = {products_of(item_size), blocks, count, 0};
    do_work(&work, threads);

    block = blocks;
    for (int64_t layer = 0; layer < layers; layer++)
        for (int64_t row = 0; row < rows[layer]; row++, out += PRODUCTS) {
            memset(out, 0, PRODUCTS * sizeof *out);
            for (int64_t begin = 0; begin < sizes[layer]; begin += BLOCK, block++)
                for (int k = 0; k < PRODUCTS; k++)
                    out[k] += block->sums[k];
        }
    free(blocks);
    return 0;
}
