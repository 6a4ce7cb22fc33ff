/* Nanoseconds per operation and bytes per row of the store, at N rows of 16 B keys and 64 B values over all vShards:
 *   gcc -O2 -std=gnu11 -msse4.2 -Icsrc tests/c/bench_store.c csrc/store*.c csrc/ckpt.c csrc/lmdbio.c \
 *       csrc/memtable.c csrc/slab.c -llmdb -lpthread -o /tmp/bench_store && /tmp/bench_store 1000000
 */
#include <time.h>

#include "store_test.h"

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);   /* other programs' time is not ours */
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t rss_bytes(void)
{
    unsigned long pages = 0, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    ND_ASSERT(f && fscanf(f, "%lu %lu %lu", &pages, &resident, &shared) == 3);
    fclose(f);
    return (uint64_t)(resident - shared) * 4096;
}

static uint32_t key_make(uint64_t i, uint8_t buf[17], nd_arg *key)
{
    uint64_t x = i * 0x9e3779b97f4a7c15;
    for (int j = 0; j < 16; j++)
        buf[j] = (uint8_t)('a' + (x >> (4 * j) & 15));
    *key = (nd_arg){buf, 16};
    return (uint32_t)(x >> 54);
}

static uint64_t order(uint64_t n, uint64_t *seed)
{
    return rnd(seed) % n;
}

static void report(const char *what, uint64_t began, uint64_t n)
{
    printf("%-22s %6.0f ns\n", what, (double)(now_ns() - began) / (double)n);
}

static void puts_all(nd_store *s, uint64_t n, bool random, const char *what)
{
    uint8_t buf[17], val[64] = {1};
    uint64_t began = now_ns(), seed = 5;
    for (uint64_t i = 0; i < n; i++) {
        nd_arg key;
        uint32_t v = key_make(random ? order(n, &seed) : i, buf, &key);
        memcpy(val, &i, 8);
        ND_ASSERT(nd_store_put(s, v, &key, ND_TYPE_STRING, val, sizeof val, 0) == 0);
    }
    report(what, began, n);
}

static void gets_all(nd_store *s, uint64_t n, uint32_t ahead, const char *what)
{
    uint8_t buf[64][17];
    nd_arg key[64];
    uint32_t v[64];
    nd_row row;
    uint64_t began = now_ns(), seed = 9;
    for (uint64_t i = 0; i < n; i += 64) {
        for (unsigned j = 0; j < 64; j++) {
            v[j] = key_make(order(n, &seed), buf[j], &key[j]);
            if (ahead)
                nd_store_prefetch(s, v[j], &key[j]);
        }
        for (unsigned j = 0; j < 64; j++)
            ND_ASSERT(nd_store_get(s, v[j], &key[j], 0, true, &row) == 1);
    }
    report(what, began, n);
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000, empty, peak = 0;
    scratch dir = scratch_new();
    nd_store_cfg cfg = cfg_of(&dir);
    cfg.txn_rows_max = argc > 2 ? (uint32_t)atoi(argv[2]) : 4000;
    cfg.map_bytes = (uint64_t)8 << 30;
    nd_store *s = open_store(&cfg, ND_VSHARDS);
    nd_store_stats stats;
    empty = rss_bytes();
    puts_all(s, n, false, "put new");
    puts_all(s, n, true, "overwrite");
    gets_all(s, n, 0, "get");
    gets_all(s, n, 1, "get, prefetched");
    printf("%-22s %6.1f B/row resident\n", "dirty", (double)(rss_bytes() - empty) / (double)n);
    uint64_t began = now_ns();
    ND_ASSERT(checkpoint_begin(s, ND_VSHARDS, 1) == 0);
    printf("%-22s %6.0f us\n", "freeze", (double)(now_ns() - began) / 1e3);
    while (nd_store_checkpoint_end(s) == 0) {
        nd_store_housekeep(s, 500);
        struct pollfd p = {nd_store_checkpoint_fd(s), POLLIN, 0};
        poll(&p, 1, 1);
        uint64_t rss = rss_bytes();
        peak = rss > peak ? rss : peak;
    }
    housekeep_all(s);
    nd_store_stats_get(s, &stats);
    printf("%-22s %6.0f ms, of it %.0f ms on the loop\n", "checkpoint", (double)stats.checkpoint_last_us / 1e3,
           (double)(now_ns() - began) / 1e6);
    printf("%-22s %6.1f B/row\n", "  peak", (double)(peak - empty) / (double)n);
    nd_store_stats_get(s, &stats);
    printf("%-22s %6.1f B/row resident, %.1f counted\n", "clean", (double)(rss_bytes() - empty) / (double)n,
           (double)stats.memory_bytes / (double)n);
    puts_all(s, n, true, "overwrite clean");
    nd_store_close(s);
    s = open_store(&cfg, ND_VSHARDS);
    gets_all(s, n, 0, "get cold");
    nd_store_close(s);
    scratch_remove(&dir);
    return 0;
}
