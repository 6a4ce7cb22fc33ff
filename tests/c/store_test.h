/* store_test.h: what the C tests of the store share: a scratch directory, keys by number, a checkpoint run to its end. */
#ifndef ND_STORE_TEST_H
#define ND_STORE_TEST_H
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../csrc/store.h"

typedef struct scratch { char path[64]; } scratch;

static inline scratch scratch_new(void)
{
    scratch d = {"/dev/shm/nd-store-XXXXXX"};   /* syncs cost nothing there */
    if (access("/dev/shm", W_OK) != 0)
        d = (scratch){"/tmp/nd-store-XXXXXX"};
    ND_ASSERT(mkdtemp(d.path));
    return d;
}

static inline void scratch_remove(const scratch *d)
{
    static const char *const names[] = {"data.mdb", "lock.mdb"};
    char file[96];
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s/%s", d->path, names[i]);
        unlink(file);
    }
    ND_ASSERT(rmdir(d->path) == 0);
}

static inline nd_store_cfg cfg_of(const scratch *d)
{
    return (nd_store_cfg){.path = d->path, .map_bytes = 1 << 20, .dirty_bytes_max = 1 << 20,
                          .memory_bytes_max = (uint64_t)1 << 40, .txn_rows_max = 300, .txn_bytes_max = 1 << 20};
}

static inline nd_store *open_store(const nd_store_cfg *cfg, uint32_t vshards)
{
    nd_store *s;
    ND_ASSERT(nd_store_open(cfg, &s) == 0);
    for (uint32_t v = 0; v < vshards; v++)
        ND_ASSERT(nd_store_own(s, v, v / 2) == 0);
    return s;
}

static inline int checkpoint_begin(nd_store *s, uint32_t vshards, uint64_t index)
{
    nd_store_group g[ND_GROUPS_MAX];
    uint32_t n = (vshards + 1) / 2;
    for (uint32_t i = 0; i < n; i++)
        g[i] = (nd_store_group){i, index, 7, (const uint8_t *)"state", 5};
    return nd_store_checkpoint_begin(s, g, n);
}

static inline int checkpoint_await(nd_store *s)
{
    struct pollfd p = {nd_store_checkpoint_fd(s), POLLIN, 0};
    int rc;
    while ((rc = nd_store_checkpoint_end(s)) == 0)
        ND_ASSERT(poll(&p, 1, 60000) == 1);
    return rc;
}

static inline void housekeep_all(nd_store *s)
{
    while (nd_store_housekeep(s, 1000) > 0)
        ;
}

static inline void checkpoint(nd_store *s, uint32_t vshards, uint64_t index)
{
    ND_ASSERT(checkpoint_begin(s, vshards, index) == 0);
    ND_ASSERT(checkpoint_await(s) == 1);
    housekeep_all(s);
}

static inline uint64_t rnd(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x * 0x2545f4914f6cdd1d;
}
#endif
