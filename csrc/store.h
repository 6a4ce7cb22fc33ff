/* store.h: the rows of one worker: a memory table in front of one LMDB environment.
 *
 * Rows are owned by (vShard); each vShard the worker owns has a slice (a local number that makes up the LMDB key prefix) and
 * belongs to one group. All functions but the checkpoint thread's own work run on the worker's loop thread; none is reentrant.
 * A pointer handed out (nd_row.val, scan keys) stays valid until the next call on the same store that may change or load a row
 * (any get, put, edit, del, flush, housekeep); what scan, sweep and random's LMDB side give out, until their function returns
 * (random: until the next random).
 * Values given to put may point into any row; keys may point into the row that is changed.
 * Return codes: >= 0 as documented, or -errno; -EIO and every LMDB failure are fatal for the worker (the caller stops).
 * What is unchanged on failure: everything, but after a fatal code the store may only be closed.
 *
 * Memory and disk. The table holds every dirty row (changed since its last synced checkpoint) and as many clean ones as
 * memory_bytes_max allows; a row that is neither is read from LMDB and becomes a clean resident row. A freeze is O(vShards):
 * rows are immutable once frozen (a change makes a new record), so the checkpoint thread reads them without a lock.
 */
#ifndef ND_STORE_H
#define ND_STORE_H
#include "nd.h"

#define ND_TYPE_STRING 1

/* cffi:begin */
typedef struct nd_store nd_store;
typedef struct nd_cut nd_cut;
typedef struct nd_install nd_install;

typedef struct nd_store_cfg {
    const char *path;            /* existing directory of the LMDB environment; copied */
    uint64_t map_bytes;          /* first map size; grows between transactions */
    uint64_t dirty_bytes_max;    /* above this nd_store_wants_checkpoint says 1 */
    uint64_t memory_bytes_max;   /* above this clean rows are evicted */
    uint64_t txn_bytes_max;      /* a checkpoint transaction closes after the vShard that passes these; one with more is staged */
    uint32_t txn_rows_max, pause_us;   /* the checkpoint thread rests this long between transactions */
} nd_store_cfg;

/* A group's part of a freeze. `state` is opaque to the store (configuration, hard state, dedup records, …). */
typedef struct nd_store_group {
    uint32_t group;
    uint64_t applied_index;
    uint64_t applied_term;
    const uint8_t *state;        /* copied */
    uint32_t state_len;
} nd_store_group;

typedef struct nd_store_stats {
    uint64_t rows;               /* live rows of all owned vShards, resident or not */
    uint64_t resident_rows, dirty_rows;
    uint64_t dirty_bytes;
    uint64_t memory_bytes;       /* slabs and table, as allocated */
    uint64_t checkpoints;
    uint64_t checkpoint_last_us; /* duration of the last one */
    uint64_t cold_reads;         /* rows read from LMDB */
    uint64_t evictions;
    uint64_t rows_with_expiry;
} nd_store_stats;

/* ---- life ---- */
int nd_store_open(const nd_store_cfg *cfg, nd_store **out);
void nd_store_close(nd_store *s);     /* waits for a running checkpoint transaction; does not start one */
/* Own a vShard: reads its durable header (slice, counts, hash, applied index) or creates an empty one in memory. */
int nd_store_own(nd_store *s, uint32_t vshard, uint32_t group);
/* Index up to which this vShard's rows hold its group's log, as of the last synced checkpoint (0 = nothing). An entry's
 * command on the vShard is applied at replay only if its index is greater. */
uint64_t nd_store_applied_index(nd_store *s, uint32_t vshard);
/* The group's durable checkpoint header as written by nd_store_checkpoint_begin: 1 = found, 0 = none. state is copied. */
int nd_store_group_get(nd_store *s, uint32_t group, uint64_t *applied_index, uint64_t *applied_term, uint8_t *state,
                       uint32_t state_cap, uint32_t *state_len);

/* ---- figures ---- */
uint64_t nd_store_count(nd_store *s, uint32_t vshard);   /* rows, expired ones that are not yet deleted included */
uint64_t nd_store_hash(nd_store *s, uint32_t vshard);    /* incremental state hash; equal rows, equal hash, on any replica */
void nd_store_stats_get(nd_store *s, nd_store_stats *out);

/* ---- checkpoint ---- */
int nd_store_wants_checkpoint(nd_store *s, int asked);   /* 1 = changed rows are at their bound, or `asked`; and none runs */
/* Freeze all owned vShards and start the thread. -EBUSY while one runs. groups[] names every owned group. */
int nd_store_checkpoint_begin(nd_store *s, const nd_store_group *groups, uint32_t n);
int nd_store_checkpoint_fd(nd_store *s);                 /* eventfd, readable when the thread has ended */
int nd_store_checkpoint_thread(nd_store *s);             /* its thread id, for who places threads on cores */
/* After the fd fired: 1 = done and durable, 0 = still running, -ENOSPC = the disk is full: vShards that were not yet written are
 * dirty again, and a later checkpoint may be tried; any other -errno = failed, fatal. housekeep makes the written rows clean,
 * step by step (also while it runs); wants_checkpoint says 0 until that is done, begin does what is left of it at once. */
int nd_store_checkpoint_end(nd_store *s);
/* Bounded background work for the loop (evictions, freeing what a checkpoint retired, deleting dropped slices' memory):
 * returns the number of rows it handled, at most `rows_max`. */
int nd_store_housekeep(nd_store *s, uint32_t rows_max);

/* ---- cut, iterate, install (worker-count change, later snapshots and migration) ----
 * A cut shows one vShard as of the last completed checkpoint (-EAGAIN: it is being merged, ask again). Chunk: rows of
 * {u32 key_len, u32 val_len, u8 type, u8 pad[3], i64 expire_ms, key, value}, little-endian. */
int nd_cut_open(nd_store *s, uint32_t vshard, nd_cut **out, uint64_t *applied_index, uint64_t *count, uint64_t *hash);
int64_t nd_cut_next(nd_cut *c, uint8_t *buf, uint64_t cap);   /* bytes written, 0 = end, -ENOBUFS = cap below one row */
void nd_cut_close(nd_cut *c);
/* Install fills a new slice in small transactions, and commit switches the vShard's header to it in one. */
int nd_install_begin(nd_store *s, uint32_t vshard, uint32_t group, nd_install **out);
int nd_install_chunk(nd_install *in, const uint8_t *buf, uint64_t len);
/* -EBADMSG when count or hash differ from what was installed (nothing switched). Frees `in` in every case. */
int nd_install_commit(nd_install *in, uint64_t applied_index, uint64_t count, uint64_t hash);
void nd_install_abort(nd_install *in);
/* Write a group header outside a checkpoint, in a synced transaction of its own (no checkpoint may be running). */
int nd_store_group_put(nd_store *s, const nd_store_group *g);
/* cffi:end */

/* ---- rows, for commands ---- */
typedef struct nd_row {
    const uint8_t *val;
    uint32_t len;
    uint8_t type;
    int64_t expire_ms;           /* absolute, 0 = never */
    uint32_t idle_s;             /* since the last get or change, coarse */
} nd_row;
/* 1 = found, 0 = absent or expired at now_ms (hidden, never removed by a read). touch = counts as use for idle time. */
int nd_store_get(nd_store *s, uint32_t vshard, const nd_arg *key, int64_t now_ms, bool touch, nd_row *out);
/* Bring the table line of a key into the cache, ahead of a get or put in a batch. */
uint64_t nd_store_prefetch(nd_store *s, uint32_t vshard, const nd_arg *key);
void nd_store_prefetch_row(nd_store *s, uint32_t vshard, uint64_t place); /* place: what the call above returned */
/* Create or replace. */
int nd_store_put(nd_store *s, uint32_t vshard, const nd_arg *key, uint8_t type, const uint8_t *val, uint32_t len,
                 int64_t expire_ms);
/* 1 = was there (expired rows count as there), 0 = absent. */
int nd_store_del(nd_store *s, uint32_t vshard, const nd_arg *key);
/* Row must exist: 1 done, 0 absent. */
int nd_store_set_expire(nd_store *s, uint32_t vshard, const nd_arg *key, int64_t expire_ms);
/* Change bytes [lo, hi) of a string row in place at a cost of the range, not of the value (amortised over growth):
 * the value becomes len_new long (>= old length, >= hi; the gap is zero-filled), *p points at its first byte and the caller
 * writes only [lo, hi) before nd_store_edit_end. Creates the row (expire 0) when absent. An expired row must be deleted first. */
int nd_store_edit_begin(nd_store *s, uint32_t vshard, const nd_arg *key, uint8_t type, uint32_t lo, uint32_t hi,
                        uint32_t len_new, uint8_t **p);
void nd_store_edit_end(nd_store *s);
/* Drop every row of the vShard: O(1) for the caller, the old slice is deleted in the background. */
int nd_store_flush(nd_store *s, uint32_t vshard);
/* Rows in order of their 64-bit key hash, from *cursor (0 = first); fn gets each row that is not expired at now_ms. Stops
 * after the hash that passes rows_max rows examined; *cursor = where to go on, 0 = end. Rows present throughout a whole scan
 * are met at least once. The low 10 bits of a cursor are always zero. Returns rows examined. fn must not call the store. */
typedef void (*nd_scan_fn)(void *ctx, const nd_arg *key, const nd_row *row);
int nd_store_scan(nd_store *s, uint32_t vshard, uint64_t *cursor, uint32_t rows_max, int64_t now_ms, nd_scan_fn fn, void *ctx);
/* A row chosen by `seed` among those not expired: 1 = found, 0 = none (key valid as pointers of get are). */
int nd_store_random(nd_store *s, uint32_t vshard, uint64_t seed, int64_t now_ms, nd_arg *key);
/* Look for rows whose expiry is <= now_ms, going round all vShards with expiring rows from where the last call stopped; at most
 * rows_max examined. fn gets (vshard, key, expire_ms) and must not call the store. Returns rows examined. */
typedef void (*nd_expired_fn)(void *ctx, uint32_t vshard, const nd_arg *key, int64_t expire_ms);
int nd_store_sweep(nd_store *s, int64_t now_ms, uint32_t rows_max, nd_expired_fn fn, void *ctx);
#endif
