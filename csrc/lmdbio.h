/* lmdbio.h: the LMDB environment of one store: rows and meta rows as bytes, transactions, growth of the map.
 *
 * The byte tables are in docs/formats/store.md. Two threads use it: the loop thread reads through one renewed read transaction
 * (and writes in installs), the checkpoint thread writes. map_lock is held while the loop reads and while the map is moved;
 * write_lock for the length of a write transaction. Pointers from a read end with nd_lmdb_read_end.
 * Return codes: 0, 1 or -errno. -ENOSPC: the disk is full, the transaction left no trace. -EOVERFLOW: the map was too small, the
 * transaction left no trace and the next one begins by growing it. -ENOTSUP: a newer format. -EUCLEAN: not such an environment.
 */
#ifndef ND_LMDBIO_H
#define ND_LMDBIO_H
#include <lmdb.h>
#include <pthread.h>

#include "hash.h"

#define ND_ROW_KEY_SHORT_MAX 400   /* longer keys are stored under a second hash */
#define ND_ROW_KEY_BYTES_MAX 415

typedef struct nd_lmdb {
    MDB_env *env;
    MDB_dbi rows, meta;
    MDB_txn *reader;               /* of the loop thread, reset between reads */
    pthread_mutex_t map_lock, write_lock;
    char *path;
    uint64_t map_bytes;
    uint32_t page_bytes;
    bool map_full;                 /* the last write transaction wanted a larger map */
    nd_sip sip, sip2;              /* placement in the table and in key order; the second hash of long keys */
    uint32_t slice_next;           /* as read at open */
} nd_lmdb;

/* A row as stored: borrowed until the transaction ends or changes the page. */
typedef struct nd_disk_row {
    uint64_t hash;
    nd_arg key;
    const uint8_t *val;
    uint32_t len;
    uint8_t type;
    int64_t expire_ms;
} nd_disk_row;

typedef struct nd_vshard_head {
    uint32_t slice, group;
    uint64_t applied_index, applied_term, count, hash, expiring;
} nd_vshard_head;

typedef struct nd_wtx {
    MDB_txn *txn;
    MDB_cursor *rows;
    uint64_t bytes;                /* what it may need on disk */
} nd_wtx;

typedef struct nd_walk {
    MDB_cursor *cursor;
    uint32_t slice;
    bool more;                     /* row is valid */
    nd_disk_row row;
} nd_walk;

int nd_lmdb_open(nd_lmdb *io, const char *path, uint64_t map_bytes);
void nd_lmdb_close(nd_lmdb *io);

/* ---- the loop thread's reads ---- */
int nd_lmdb_read_begin(nd_lmdb *io);
void nd_lmdb_read_end(nd_lmdb *io);
/* A read transaction of its own; reading through it needs map_lock. mdb_txn_abort ends it. */
int nd_lmdb_snapshot(nd_lmdb *io, MDB_txn **txn);
int nd_lmdb_row_get(nd_lmdb *io, MDB_txn *txn, uint32_t slice, uint64_t hash, const nd_arg *key, nd_disk_row *out);
/* Walk the rows of a slice in order of their hash, from `hash` on. */
int nd_walk_open(nd_walk *w, nd_lmdb *io, MDB_txn *txn, uint32_t slice, uint64_t hash);
int nd_walk_next(nd_walk *w);
/* Move to the row after `key` (of this hash), or to the first row of a higher hash when it is gone. */
int nd_walk_after(nd_walk *w, uint64_t hash, const nd_arg *key);
void nd_walk_close(nd_walk *w);

/* ---- write transactions ---- */
int nd_lmdb_write_begin(nd_lmdb *io, uint64_t bytes, nd_wtx *w);
/* Commit and sync when rc is 0, else abort; returns the outcome. */
int nd_lmdb_write_end(nd_lmdb *io, nd_wtx *w, int rc);
/* fresh: the key must not be there, -EEXIST otherwise. */
int nd_lmdb_row_put(nd_lmdb *io, nd_wtx *w, uint32_t slice, const nd_disk_row *row, bool fresh);
int nd_lmdb_row_del(nd_lmdb *io, nd_wtx *w, uint32_t slice, uint64_t hash, const nd_arg *key);
/* Delete up to n rows of a slice: rows deleted, less than n when none is left. */
int nd_lmdb_slice_trim(nd_wtx *w, uint32_t slice, uint32_t n);

/* ---- meta rows: get 1 = found, 0 = none ---- */
int nd_lmdb_vshard_get(nd_lmdb *io, MDB_txn *txn, uint32_t vshard, nd_vshard_head *out);
int nd_lmdb_vshard_put(nd_lmdb *io, nd_wtx *w, uint32_t vshard, const nd_vshard_head *head);
/* state and state_len are borrowed. */
int nd_lmdb_group_get(nd_lmdb *io, MDB_txn *txn, uint32_t group, uint64_t *index, uint64_t *term, nd_arg *state);
int nd_lmdb_group_put(nd_lmdb *io, nd_wtx *w, uint32_t group, uint64_t index, uint64_t term, const nd_arg *state);
/* Slices whose rows are to be deleted, by number; drop_first says one of them. */
int nd_lmdb_drop_put(nd_lmdb *io, nd_wtx *w, uint32_t slice);
int nd_lmdb_drop_first(nd_lmdb *io, MDB_txn *txn, uint32_t *slice);
int nd_lmdb_drop_del(nd_lmdb *io, nd_wtx *w, uint32_t slice);
/* Slices that an install is filling: what is left of them at open becomes a slice to be dropped. */
int nd_lmdb_install_put(nd_lmdb *io, nd_wtx *w, uint32_t slice);
int nd_lmdb_install_del(nd_lmdb *io, nd_wtx *w, uint32_t slice);
/* A vShard too large for one transaction: its changed rows stand whole in a stage, and go from there into its slice until its
 * header becomes `head`. A staged row of type 0 is a deletion. first: 1 = found one, 0 = none; has: 1, 0. */
int nd_lmdb_merge_put(nd_lmdb *io, nd_wtx *w, uint32_t vshard, uint32_t stage, const nd_vshard_head *head);
int nd_lmdb_merge_first(nd_lmdb *io, MDB_txn *txn, uint32_t *vshard, uint32_t *stage, nd_vshard_head *head);
int nd_lmdb_merge_has(nd_lmdb *io, MDB_txn *txn, uint32_t vshard);
int nd_lmdb_merge_del(nd_lmdb *io, nd_wtx *w, uint32_t vshard);
int nd_lmdb_slice_next_put(nd_lmdb *io, nd_wtx *w, uint32_t slice_next);
#endif
