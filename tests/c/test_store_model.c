/* Random operations on a store and on an array of rows, with checkpoints, evictions, flushes and reopenings in between:
 * after each the two agree, and the state hash equals one computed from nothing.
 */
#include "../../csrc/rowhash.h"
#include "store_test.h"

#define VSHARDS 4
#ifndef STEPS
#define STEPS 20000
#endif
#define KEYS 400
#define VALUE_MAX 6000

typedef struct row {
    uint8_t *val;                /* NULL = absent */
    uint32_t len;
    int64_t expire_ms;
} row;

typedef struct world {
    scratch dir;
    nd_store_cfg cfg;
    nd_store *s;
    row rows[VSHARDS][KEYS];
    uint64_t seed, index;
    bool running;
    uint8_t met[KEYS];
} world;

/* Key k: some empty, some long enough for the second hash. */
static nd_arg key_of(uint32_t k, uint8_t buf[1024])
{
    uint32_t len = k == 0 ? 0 : k % 17 == 0 ? 401 + k : 4 + k % 30;
    memset(buf, 'a' + (int)(k % 3), len);
    if (len)
        memcpy(buf, &k, 4);
    return (nd_arg){buf, len};
}

static uint32_t number_of(const nd_arg *key)
{
    uint32_t k = 0;
    if (key->len)
        memcpy(&k, key->ptr, 4);
    return k;
}

static void model_set(row *r, const uint8_t *val, uint32_t len, int64_t expire_ms)
{
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, val, len);
    free(r->val);
    *r = (row){copy, len, expire_ms};
}

static void model_clear(row *r)
{
    free(r->val);
    *r = (row){0};
}

static void op_put(world *w, uint32_t v, uint32_t k, const nd_arg *key)
{
    static uint8_t val[VALUE_MAX];
    uint32_t len = (uint32_t)(rnd(&w->seed) % 8 == 0 ? rnd(&w->seed) % VALUE_MAX : rnd(&w->seed) % 130);
    int64_t expire_ms = rnd(&w->seed) % 4 == 0 ? (int64_t)(1 + rnd(&w->seed) % 1000) : 0;
    for (uint32_t i = 0; i < len; i++)
        val[i] = (uint8_t)rnd(&w->seed);
    ND_ASSERT(nd_store_put(w->s, v, key, ND_TYPE_STRING, val, len, expire_ms) == 0);
    model_set(&w->rows[v][k], val, len, expire_ms);
}

/* The value's own tail becomes the value: put may point into what it replaces. */
static void op_put_alias(world *w, uint32_t v, uint32_t k, const nd_arg *key)
{
    nd_row got;
    row *r = &w->rows[v][k];
    if (!r->val)
        return;
    ND_ASSERT(nd_store_get(w->s, v, key, 0, true, &got) == 1);
    uint32_t skip = (uint32_t)(rnd(&w->seed) % (r->len + 1));
    ND_ASSERT(nd_store_put(w->s, v, key, ND_TYPE_STRING, got.val + skip, got.len - skip, got.expire_ms) == 0);
    model_set(r, r->val + skip, r->len - skip, r->expire_ms);
}

static void op_edit(world *w, uint32_t v, uint32_t k, const nd_arg *key)
{
    row *r = &w->rows[v][k];
    uint8_t *p, old[2 * VALUE_MAX] = {0};
    uint32_t lo = (uint32_t)(rnd(&w->seed) % VALUE_MAX), hi = lo + (uint32_t)(rnd(&w->seed) % 100);
    if (rnd(&w->seed) % 2 && r->val) {
        lo = r->len;
        hi = lo + (uint32_t)(rnd(&w->seed) % 40);
    }
    if (hi > VALUE_MAX)
        return;
    uint32_t len = r->val && r->len > hi ? r->len : hi;
    if (r->val)
        memcpy(old, r->val, r->len);
    ND_ASSERT(nd_store_edit_begin(w->s, v, key, ND_TYPE_STRING, lo, hi, len, &p) == 0);
    for (uint32_t i = lo; i < hi; i++)
        old[i] = p[i] = (uint8_t)rnd(&w->seed);
    nd_store_edit_end(w->s);
    model_set(r, old, len, r->expire_ms);
}

static void op_key(world *w)
{
    uint8_t buf[1024];
    uint32_t v = (uint32_t)(rnd(&w->seed) % VSHARDS), k = (uint32_t)(rnd(&w->seed) % KEYS);
    nd_arg key = key_of(k, buf);
    row *r = &w->rows[v][k];
    nd_row got;
    switch (rnd(&w->seed) % 10) {
    case 0: case 1: case 2: op_put(w, v, k, &key); break;
    case 3: op_put_alias(w, v, k, &key); break;
    case 4: case 5: op_edit(w, v, k, &key); break;
    case 6: case 7:
        ND_ASSERT(nd_store_del(w->s, v, &key) == (r->val != NULL));
        model_clear(r);
        break;
    case 8: {
        int64_t at = rnd(&w->seed) % 3 ? (int64_t)(1 + rnd(&w->seed) % 1000) : 0;
        ND_ASSERT(nd_store_set_expire(w->s, v, &key, at) == (r->val != NULL));
        r->expire_ms = r->val ? at : 0;
        break;
    }
    default: {
        int64_t now = (int64_t)(rnd(&w->seed) % 1000);
        bool there = r->val && (r->expire_ms == 0 || r->expire_ms > now);
        ND_ASSERT(nd_store_get(w->s, v, &key, now, true, &got) == there);
        if (there)
            ND_ASSERT(got.len == r->len && memcmp(got.val, r->val, r->len) == 0 && got.expire_ms == r->expire_ms);
    }
    }
}

static void met_scan(void *ctx, const nd_arg *key, const nd_row *got)
{
    world *w = ctx;
    row *r = &w->rows[w->met[0] >> 4][number_of(key)];
    ND_ASSERT(r->val && got->len == r->len && memcmp(got->val, r->val, r->len) == 0 && got->expire_ms == r->expire_ms);
    w->met[number_of(key)] |= 1;
}

static void met_expired(void *ctx, uint32_t vshard, const nd_arg *key, int64_t expire_ms)
{
    world *w = ctx;
    row *r = &w->rows[vshard][number_of(key)];
    ND_ASSERT(r->val && r->expire_ms == expire_ms && expire_ms <= 500);
    w->met[number_of(key)] |= (uint8_t)(2 << vshard);
}

static void check_scan(world *w, uint32_t v)
{
    uint64_t cursor = 0;
    uint32_t rows = 0;
    do {
        w->met[0] = (uint8_t)((w->met[0] & 1) | v << 4);   /* which vShard, for the callback */
        int n = nd_store_scan(w->s, v, &cursor, 10, 0, met_scan, w);
        ND_ASSERT(n >= 0 && cursor % 1024 == 0);
        rows += (uint32_t)n;
    } while (cursor != 0);
    ND_ASSERT(rows == nd_store_count(w->s, v));
    for (uint32_t k = 0; k < KEYS; k++)
        ND_ASSERT((w->met[k] & 1) == (w->rows[v][k].val != NULL));
    memset(w->met, 0, sizeof w->met);
}

static void check_sweep(world *w)
{
    for (uint32_t i = 0; i < 300; i++)
        ND_ASSERT(nd_store_sweep(w->s, 500, 100, met_expired, w) >= 0);
    for (uint32_t v = 0; v < VSHARDS; v++)
        for (uint32_t k = 0; k < KEYS; k++) {
            row *r = &w->rows[v][k];
            ND_ASSERT(((w->met[k] >> (1 + v)) & 1) == (r->val && r->expire_ms != 0 && r->expire_ms <= 500));
        }
    memset(w->met, 0, sizeof w->met);
}

static void check_all(world *w)
{
    nd_store_stats stats;
    uint64_t expiring = 0, rows = 0;
    for (uint32_t v = 0; v < VSHARDS; v++) {
        uint64_t count = 0, hash = 0;
        for (uint32_t k = 0; k < KEYS; k++) {
            uint8_t buf[1024];
            nd_arg key = key_of(k, buf);
            row *r = &w->rows[v][k];
            if (!r->val)
                continue;
            count++;
            expiring += r->expire_ms != 0;
            hash += nd_rowhash(nd_rowhash_key(key.ptr, key.len), ND_TYPE_STRING, r->expire_ms, r->val, r->len);
        }
        ND_ASSERT(nd_store_count(w->s, v) == count && nd_store_hash(w->s, v) == hash);
        rows += count;
        check_scan(w, v);
        nd_arg key;
        int found = nd_store_random(w->s, v, rnd(&w->seed), 0, &key);
        ND_ASSERT(found == (count > 0) && (!found || w->rows[v][number_of(&key)].val));
    }
    nd_store_stats_get(w->s, &stats);
    ND_ASSERT(stats.rows == rows && stats.rows_with_expiry == expiring && stats.resident_rows <= rows);
    check_sweep(w);
}

static void reopen(world *w)
{
    if (w->running)
        ND_ASSERT(checkpoint_await(w->s) == 1);
    w->running = false;
    checkpoint(w->s, VSHARDS, ++w->index);
    nd_store_close(w->s);
    w->s = open_store(&w->cfg, VSHARDS);
    for (uint32_t v = 0; v < VSHARDS; v++)
        ND_ASSERT(nd_store_applied_index(w->s, v) == w->index);
}

/* Cut every vShard to chunks and install them again: the same rows, in a new slice. */
static void move_all(world *w)
{
    static uint8_t chunk[8192];
    reopen(w);
    for (uint32_t v = 0; v < VSHARDS; v++) {
        nd_cut *cut;
        nd_install *in;
        uint64_t index, count, hash;
        int64_t n;
        ND_ASSERT(nd_cut_open(w->s, v, &cut, &index, &count, &hash) == 0);
        ND_ASSERT(index == w->index && count == nd_store_count(w->s, v) && hash == nd_store_hash(w->s, v));
        ND_ASSERT(nd_install_begin(w->s, v, v / 2, &in) == 0);
        while ((n = nd_cut_next(cut, chunk, sizeof chunk)) > 0)
            ND_ASSERT(nd_install_chunk(in, chunk, (uint64_t)n) == 0);
        ND_ASSERT(n == 0);
        nd_cut_close(cut);
        ND_ASSERT(nd_install_commit(in, index, count, hash) == 0);
    }
}

static void op_world(world *w)
{
    switch (rnd(&w->seed) % 12) {
    case 0: check_all(w); break;
    case 1: reopen(w); break;
    case 2:
        if (rnd(&w->seed) % 4 == 0)
            move_all(w);
        break;
    case 3: {
        uint32_t v = (uint32_t)(rnd(&w->seed) % VSHARDS);
        ND_ASSERT(nd_store_flush(w->s, v) == 0);
        for (uint32_t k = 0; k < KEYS; k++)
            model_clear(&w->rows[v][k]);
        break;
    }
    case 4: case 5: case 6:
        if (!w->running)
            ND_ASSERT(checkpoint_begin(w->s, VSHARDS, ++w->index) == 0);
        w->running = true;
        break;
    case 7: case 8:
        if (w->running)
            ND_ASSERT(checkpoint_await(w->s) == 1);
        w->running = false;
        break;
    default:
        nd_store_housekeep(w->s, 1 + (uint32_t)(rnd(&w->seed) % 300));
    }
}

static void play(uint64_t seed, uint64_t memory_bytes_max, uint64_t txn_bytes_max, uint32_t steps)
{
    static world w;
    memset(&w, 0, sizeof w);
    w.seed = seed;
    w.dir = scratch_new();
    w.cfg = cfg_of(&w.dir);
    w.cfg.memory_bytes_max = memory_bytes_max;
    w.cfg.txn_bytes_max = txn_bytes_max;
    w.s = open_store(&w.cfg, VSHARDS);
    for (uint32_t i = 0; i < steps; i++) {
        if (rnd(&w.seed) % 60 == 0)
            op_world(&w);
        else
            op_key(&w);
    }
    reopen(&w);
    check_all(&w);
    nd_store_close(w.s);
    for (uint32_t v = 0; v < VSHARDS; v++)
        for (uint32_t k = 0; k < KEYS; k++)
            model_clear(&w.rows[v][k]);
    scratch_remove(&w.dir);
}

int main(void)
{
    play(1, (uint64_t)1 << 40, 1 << 20, STEPS);
    play(2, 40000, 1 << 20, STEPS);
    play(3, 0, 1 << 20, STEPS);
    play(4, 40000, 5000, STEPS);                     /* most vShards are staged */
    return 0;
}
