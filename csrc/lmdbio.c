/* lmdbio.c: see lmdbio.h. Row keys sort by (slice, hash, key): big-endian numbers, LMDB's default order.
 *
 * A map may only move while nobody reads through it. The loop's read transaction is reset between reads and a cut closes its
 * cursor between chunks, so that holding map_lock is enough; transactions themselves hold page numbers, not addresses.
 */
#include "lmdbio.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/statvfs.h>

#define FORMAT_VERSION 1
#define FORMAT_BYTES 52            /* u32 version, sip k0 k1, sip2 k0 k1, u64 opens, u32 pad */
#define MAP_BYTES_MIN ((uint64_t)1 << 20)
#define OPEN_PAGES 256             /* more than the transaction of an opening may need */
#define KLEN_LONG 0xffff
#define TAG_HEADER 0
#define VALUE_EXPIRY 1
#define VALUE_LONG_KEY 2

static void put_be(uint8_t *p, uint64_t x, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(x >> (8 * (bytes - 1 - i)));
}

static uint64_t get_be(const uint8_t *p, unsigned bytes)
{
    uint64_t x = 0;
    for (unsigned i = 0; i < bytes; i++)
        x = x << 8 | p[i];
    return x;
}

static void put_le(uint8_t **p, uint64_t x, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        *(*p)++ = (uint8_t)(x >> (8 * i));
}

static uint64_t get_le(const uint8_t **p, unsigned bytes)
{
    uint64_t x = nd_load_tail(*p, bytes < 8 ? bytes : 7);
    if (bytes == 8)
        x |= (uint64_t)(*p)[7] << 56;
    *p += bytes;
    return x;
}

static int from_mdb(int rc)
{
    switch (rc) {
    case 0: return 0;
    case ENOSPC: case EDQUOT: case EFBIG: return -ENOSPC;
    case MDB_MAP_FULL: return -EOVERFLOW;
    case MDB_READERS_FULL: return -EMFILE;
    case MDB_KEYEXIST: return -EEXIST;
    case MDB_INVALID: case MDB_VERSION_MISMATCH: return -EUCLEAN;
    default: return rc > 0 ? -rc : -EIO;
    }
}

/* ---- open ---- */

static int format_write(nd_lmdb *io, MDB_txn *txn, uint64_t opens)
{
    uint8_t b[FORMAT_BYTES], *p = b, name = 'F';
    put_le(&p, FORMAT_VERSION, 4);
    put_le(&p, io->sip.k0, 8);
    put_le(&p, io->sip.k1, 8);
    put_le(&p, io->sip2.k0, 8);
    put_le(&p, io->sip2.k1, 8);
    put_le(&p, opens, 8);
    put_le(&p, 0, 8);
    MDB_val key = {1, &name}, val = {sizeof b, b};
    return from_mdb(mdb_put(txn, io->meta, &key, &val, 0));
}

static int format_seed(nd_lmdb *io)
{
    uint64_t seed[4];
    if (getrandom(seed, sizeof seed, 0) != sizeof seed)
        return -EIO;
    io->sip = (nd_sip){seed[0], seed[1]};
    io->sip2 = (nd_sip){seed[2], seed[3]};
    return 0;
}

/* Read or create the format row and count this opening. The count makes every opening a synced write: LMDB's newest header
 * page may only be in the page cache when an earlier sync of it failed, and this transaction supersedes it before anything
 * relies on it. */
static int format_open(nd_lmdb *io, MDB_txn *txn)
{
    uint8_t name = 'F';
    MDB_val key = {1, &name}, val;
    uint64_t opens = 0;
    int rc = mdb_get(txn, io->meta, &key, &val);
    if (rc == MDB_NOTFOUND) {
        rc = format_seed(io);
    } else if (rc == 0) {
        const uint8_t *p = val.mv_data;
        if (val.mv_size < 4)
            return -EUCLEAN;
        if (get_le(&p, 4) > FORMAT_VERSION)
            return -ENOTSUP;
        if (val.mv_size != FORMAT_BYTES)
            return -EUCLEAN;
        io->sip.k0 = get_le(&p, 8);
        io->sip.k1 = get_le(&p, 8);
        io->sip2.k0 = get_le(&p, 8);
        io->sip2.k1 = get_le(&p, 8);
        opens = get_le(&p, 8);
    } else {
        rc = from_mdb(rc);
    }
    return rc < 0 ? rc : format_write(io, txn, opens + 1);
}

static int slice_next_read(nd_lmdb *io, MDB_txn *txn)
{
    uint8_t name = 'N';
    MDB_val key = {1, &name}, val;
    int rc = mdb_get(txn, io->meta, &key, &val);
    io->slice_next = 1;
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc != 0 || val.mv_size != 4)
        return rc != 0 ? from_mdb(rc) : -EUCLEAN;
    const uint8_t *p = val.mv_data;
    io->slice_next = (uint32_t)get_le(&p, 4);
    return 0;
}

/* Installs that never ended: their slices are to be dropped. */
static int installs_drop(nd_lmdb *io, MDB_txn *txn)
{
    MDB_cursor *c;
    int rc = mdb_cursor_open(txn, io->meta, &c);
    while (rc == 0) {
        uint8_t name = 'I', drop[5] = {'D'};
        MDB_val k = {1, &name}, v, dk = {sizeof drop, drop}, dv = {0, drop};
        rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
        if (rc != 0 || k.mv_size != 5 || *(const uint8_t *)k.mv_data != 'I')
            break;
        memcpy(drop + 1, (const uint8_t *)k.mv_data + 1, 4);
        rc = mdb_cursor_del(c, 0);
        if (rc == 0)
            rc = mdb_put(txn, io->meta, &dk, &dv, 0);
    }
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
}

static int tables_open(nd_lmdb *io)
{
    MDB_txn *txn;
    int rc = from_mdb(mdb_txn_begin(io->env, NULL, 0, &txn));
    if (rc < 0)
        return rc;
    rc = from_mdb(mdb_dbi_open(txn, "rows", MDB_CREATE, &io->rows));
    if (rc == 0)
        rc = from_mdb(mdb_dbi_open(txn, "meta", MDB_CREATE, &io->meta));
    if (rc == 0)
        rc = format_open(io, txn);
    if (rc == 0)
        rc = slice_next_read(io, txn);
    if (rc == 0)
        rc = installs_drop(io, txn);
    if (rc < 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return from_mdb(mdb_txn_commit(txn));
}

static int map_grow(nd_lmdb *io, uint64_t bytes)
{
    pthread_mutex_lock(&io->map_lock);
    int rc = from_mdb(mdb_env_set_mapsize(io->env, (bytes + 65535) & ~(uint64_t)65535));
    pthread_mutex_unlock(&io->map_lock);
    if (rc == 0)
        io->map_bytes = (bytes + 65535) & ~(uint64_t)65535;
    return rc;
}

static int map_reserve(nd_lmdb *io, uint64_t bytes)
{
    MDB_envinfo info;
    int rc = from_mdb(mdb_env_info(io->env, &info));
    if (rc < 0)
        return rc;
    uint64_t need = ((uint64_t)info.me_last_pgno + 1) * io->page_bytes + bytes;
    if (!io->map_full && need <= io->map_bytes)
        return 0;
    rc = map_grow(io, 2 * (need > io->map_bytes ? need : io->map_bytes));
    io->map_full = io->map_full && rc < 0;
    return rc;
}

static int env_open(nd_lmdb *io, const char *path)
{
    int dead;
    MDB_stat stat;
    MDB_envinfo info;
    int rc = mdb_env_create(&io->env);
    if (rc != 0) {
        io->env = NULL;
        return from_mdb(rc);
    }
    mdb_env_set_maxdbs(io->env, 2);
    mdb_env_set_mapsize(io->env, io->map_bytes);
    rc = mdb_env_open(io->env, path, MDB_NOTLS | MDB_NORDAHEAD, 0600);
    if (rc == 0)
        rc = mdb_reader_check(io->env, &dead);
    if (rc == 0)
        rc = mdb_env_stat(io->env, &stat);
    if (rc == 0)
        rc = mdb_env_info(io->env, &info);
    if (rc != 0)
        return from_mdb(rc);
    io->page_bytes = stat.ms_psize;
    io->map_bytes = info.me_mapsize;
    /* The last session may have filled its map to the brim. */
    int err = map_reserve(io, OPEN_PAGES * (uint64_t)io->page_bytes);
    return err < 0 ? err : tables_open(io);
}

int nd_lmdb_open(nd_lmdb *io, const char *path, uint64_t map_bytes)
{
    *io = (nd_lmdb){.path = strdup(path)};
    if (!io->path)
        return -ENOMEM;
    pthread_mutex_init(&io->map_lock, NULL);
    pthread_mutex_init(&io->write_lock, NULL);
    io->map_bytes = (map_bytes < MAP_BYTES_MIN ? MAP_BYTES_MIN : map_bytes) & ~(uint64_t)65535;
    int rc = env_open(io, path);
    if (rc == 0) {
        rc = from_mdb(mdb_txn_begin(io->env, NULL, MDB_RDONLY, &io->reader));
        if (rc == 0)
            mdb_txn_reset(io->reader);
    }
    if (rc < 0)
        nd_lmdb_close(io);
    return rc;
}

void nd_lmdb_close(nd_lmdb *io)
{
    if (io->reader)
        mdb_txn_abort(io->reader);
    if (io->env)
        mdb_env_close(io->env);
    pthread_mutex_destroy(&io->map_lock);
    pthread_mutex_destroy(&io->write_lock);
    free(io->path);
    *io = (nd_lmdb){0};
}

/* ---- row keys and values ---- */

typedef struct row_key {
    uint8_t bytes[ND_ROW_KEY_BYTES_MAX];
    uint32_t len;
} row_key;

static uint8_t *key_head(row_key *k, uint32_t slice, uint64_t hash, uint32_t klen)
{
    put_be(k->bytes, slice, 4);
    put_be(k->bytes + 4, hash, 8);
    put_be(k->bytes + 12, klen, 2);
    return k->bytes + 14;
}

static void key_short(row_key *k, uint32_t slice, uint64_t hash, const nd_arg *key)
{
    uint8_t *p = key_head(k, slice, hash, key->len);
    memcpy(p, key->ptr, key->len);
    p[key->len] = TAG_HEADER;
    k->len = 14 + key->len + 1;
}

static void key_long(row_key *k, const nd_lmdb *io, uint32_t slice, uint64_t hash, const nd_arg *key, uint8_t chain)
{
    uint8_t *p = key_head(k, slice, hash, KLEN_LONG);
    put_be(p, nd_sip13(&io->sip2, key->ptr, key->len), 8);
    p[8] = chain;
    p[9] = TAG_HEADER;
    k->len = 24;
}

static int row_decode(const MDB_val *k, const MDB_val *v, nd_disk_row *out)
{
    const uint8_t *kp = k->mv_data, *p = v->mv_data, *end = p + v->mv_size;
    if (k->mv_size < 15 || v->mv_size < 2)
        return -EIO;
    uint8_t flags = p[1];
    size_t need = 2 + (flags & VALUE_EXPIRY ? 8 : 0) + (flags & VALUE_LONG_KEY ? 4 : 0);
    if (v->mv_size < need)
        return -EIO;
    out->hash = get_be(kp + 4, 8);
    out->type = p[0];
    p += 2;
    out->expire_ms = flags & VALUE_EXPIRY ? (int64_t)get_le(&p, 8) : 0;
    if (flags & VALUE_LONG_KEY) {
        uint32_t klen = (uint32_t)get_le(&p, 4);
        if (klen > (size_t)(end - p))
            return -EIO;
        out->key = (nd_arg){p, klen};
        p += klen;
    } else {
        out->key = (nd_arg){kp + 14, (uint32_t)k->mv_size - 15};
    }
    out->val = p;
    out->len = (uint32_t)(end - p);
    return 0;
}

static bool key_is(const nd_disk_row *row, const nd_arg *key)
{
    return row->key.len == key->len && memcmp(row->key.ptr, key->ptr, key->len) == 0;
}

/* Find a long key by walking its chain: 1 with *out and the cursor on it, 0 with *chain = a free number, -errno. */
static int long_find(nd_lmdb *io, MDB_cursor *c, uint32_t slice, uint64_t hash, const nd_arg *key, nd_disk_row *out,
                     uint8_t *chain)
{
    row_key want;
    key_long(&want, io, slice, hash, key, 0);
    MDB_val k = {want.len, want.bytes}, v;
    *chain = 0;
    int rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    while (rc == 0 && k.mv_size == want.len && memcmp(k.mv_data, want.bytes, 22) == 0) {
        rc = row_decode(&k, &v, out);
        if (rc < 0)
            return rc;
        if (key_is(out, key))
            return 1;
        uint8_t used = ((const uint8_t *)k.mv_data)[22];
        if (used == *chain && ++*chain == 255)
            return -EIO;
        rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
}

static int long_get(nd_lmdb *io, MDB_txn *txn, uint32_t slice, uint64_t hash, const nd_arg *key, nd_disk_row *out)
{
    MDB_cursor *c;
    uint8_t chain;
    int rc = from_mdb(mdb_cursor_open(txn, io->rows, &c));
    if (rc < 0)
        return rc;
    rc = long_find(io, c, slice, hash, key, out, &chain);
    mdb_cursor_close(c);
    return rc;
}

int nd_lmdb_row_get(nd_lmdb *io, MDB_txn *txn, uint32_t slice, uint64_t hash, const nd_arg *key, nd_disk_row *out)
{
    if (key->len > ND_ROW_KEY_SHORT_MAX)
        return long_get(io, txn, slice, hash, key, out);
    row_key rk;
    key_short(&rk, slice, hash, key);
    MDB_val k = {rk.len, rk.bytes}, v;
    int rc = mdb_get(txn, io->rows, &k, &v);
    if (rc != 0)
        return rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
    rc = row_decode(&k, &v, out);
    if (rc < 0)
        return rc;
    out->key = *key;
    return 1;
}

int nd_lmdb_row_put(nd_lmdb *io, nd_wtx *w, uint32_t slice, const nd_disk_row *row, bool fresh)
{
    row_key rk;
    bool is_long = row->key.len > ND_ROW_KEY_SHORT_MAX;
    uint8_t flags = (row->expire_ms ? VALUE_EXPIRY : 0) | (is_long ? VALUE_LONG_KEY : 0);
    if (is_long) {
        nd_disk_row old;
        uint8_t chain;
        int found = long_find(io, w->rows, slice, row->hash, &row->key, &old, &chain);
        if (found < 0 || (found && fresh))
            return found < 0 ? found : -EEXIST;
        if (found) {
            int rc = from_mdb(mdb_cursor_del(w->rows, 0));
            return rc < 0 ? rc : nd_lmdb_row_put(io, w, slice, row, true);
        }
        key_long(&rk, io, slice, row->hash, &row->key, chain);
    } else {
        key_short(&rk, slice, row->hash, &row->key);
    }
    size_t head = 2 + (row->expire_ms ? 8 : 0) + (is_long ? 4 + (size_t)row->key.len : 0);
    MDB_val k = {rk.len, rk.bytes}, v = {head + row->len, NULL};
    int rc = mdb_cursor_put(w->rows, &k, &v, MDB_RESERVE | (fresh ? MDB_NOOVERWRITE : 0));
    if (rc != 0)
        return from_mdb(rc);
    uint8_t *p = v.mv_data;
    *p++ = row->type;
    *p++ = flags;
    if (row->expire_ms)
        put_le(&p, (uint64_t)row->expire_ms, 8);
    if (is_long) {
        put_le(&p, row->key.len, 4);
        memcpy(p, row->key.ptr, row->key.len);
        p += row->key.len;
    }
    if (row->len)
        memcpy(p, row->val, row->len);
    return 0;
}

int nd_lmdb_row_del(nd_lmdb *io, nd_wtx *w, uint32_t slice, uint64_t hash, const nd_arg *key)
{
    int rc;
    if (key->len > ND_ROW_KEY_SHORT_MAX) {
        nd_disk_row old;
        uint8_t chain;
        rc = long_find(io, w->rows, slice, hash, key, &old, &chain);
        return rc <= 0 ? rc : from_mdb(mdb_cursor_del(w->rows, 0));
    }
    row_key rk;
    key_short(&rk, slice, hash, key);
    MDB_val k = {rk.len, rk.bytes}, v;
    rc = mdb_cursor_get(w->rows, &k, &v, MDB_SET_KEY);
    if (rc == 0)
        rc = mdb_cursor_del(w->rows, 0);
    return rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
}

/* ---- reads and walks ---- */

int nd_lmdb_read_begin(nd_lmdb *io)
{
    pthread_mutex_lock(&io->map_lock);
    int rc = from_mdb(mdb_txn_renew(io->reader));
    if (rc < 0)
        pthread_mutex_unlock(&io->map_lock);
    return rc;
}

void nd_lmdb_read_end(nd_lmdb *io)
{
    mdb_txn_reset(io->reader);
    pthread_mutex_unlock(&io->map_lock);
}

int nd_lmdb_snapshot(nd_lmdb *io, MDB_txn **txn)
{
    /* The beginning reads the newest header page through the map, which a growing writer may be moving. */
    pthread_mutex_lock(&io->map_lock);
    int rc = from_mdb(mdb_txn_begin(io->env, NULL, MDB_RDONLY, txn));
    pthread_mutex_unlock(&io->map_lock);
    return rc;
}

static int walk_take(nd_walk *w, int rc, const MDB_val *k, const MDB_val *v)
{
    w->more = false;
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc != 0)
        return from_mdb(rc);
    if (k->mv_size < 4 || get_be(k->mv_data, 4) != w->slice)
        return 0;
    rc = row_decode(k, v, &w->row);
    w->more = rc == 0;
    return rc;
}

int nd_walk_open(nd_walk *w, nd_lmdb *io, MDB_txn *txn, uint32_t slice, uint64_t hash)
{
    uint8_t from[12];
    *w = (nd_walk){.slice = slice};
    int rc = from_mdb(mdb_cursor_open(txn, io->rows, &w->cursor));
    if (rc < 0)
        return rc;
    put_be(from, slice, 4);
    put_be(from + 4, hash, 8);
    MDB_val k = {sizeof from, from}, v;
    rc = mdb_cursor_get(w->cursor, &k, &v, MDB_SET_RANGE);
    rc = walk_take(w, rc, &k, &v);
    if (rc < 0)
        nd_walk_close(w);
    return rc;
}

int nd_walk_next(nd_walk *w)
{
    MDB_val k, v;
    int rc = mdb_cursor_get(w->cursor, &k, &v, MDB_NEXT);
    return walk_take(w, rc, &k, &v);
}

int nd_walk_after(nd_walk *w, uint64_t hash, const nd_arg *key)
{
    int rc = 0;
    while (rc == 0 && w->more && w->row.hash == hash) {
        bool here = key_is(&w->row, key);
        rc = nd_walk_next(w);
        if (here)
            break;
    }
    return rc;
}

void nd_walk_close(nd_walk *w)
{
    if (w->cursor)
        mdb_cursor_close(w->cursor);
    w->cursor = NULL;
    w->more = false;
}

/* ---- write transactions ---- */

int nd_lmdb_write_begin(nd_lmdb *io, uint64_t bytes, nd_wtx *w)
{
    *w = (nd_wtx){.bytes = bytes};
    pthread_mutex_lock(&io->write_lock);
    int rc = map_reserve(io, bytes);
    if (rc == 0)
        rc = from_mdb(mdb_txn_begin(io->env, NULL, 0, &w->txn));
    if (rc == 0)
        rc = from_mdb(mdb_cursor_open(w->txn, io->rows, &w->rows));
    if (rc < 0) {
        if (w->txn)
            mdb_txn_abort(w->txn);
        pthread_mutex_unlock(&io->write_lock);
    }
    return rc;
}

/* LMDB turns a short write into EIO, which is what a disk that fills up gives it. Nothing committed refers to the pages of a
 * transaction that failed before its header page, so that trying again later writes them all anew. */
static bool disk_is_full(const nd_lmdb *io, uint64_t bytes)
{
    struct statvfs fs;
    return statvfs(io->path, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < bytes;
}

int nd_lmdb_write_end(nd_lmdb *io, nd_wtx *w, int rc)
{
    mdb_cursor_close(w->rows);
    if (rc < 0)
        mdb_txn_abort(w->txn);
    else
        rc = from_mdb(mdb_txn_commit(w->txn));
    io->map_full = rc == -EOVERFLOW;
    if (rc == -EIO && disk_is_full(io, w->bytes))
        rc = -ENOSPC;
    pthread_mutex_unlock(&io->write_lock);
    return rc;
}

int nd_lmdb_slice_trim(nd_wtx *w, uint32_t slice, uint32_t n)
{
    uint8_t from[4];
    put_be(from, slice, 4);
    uint32_t done = 0;
    while (done < n) {
        MDB_val k = {sizeof from, from}, v;
        int rc = mdb_cursor_get(w->rows, &k, &v, MDB_SET_RANGE);
        if (rc == MDB_NOTFOUND || (rc == 0 && get_be(k.mv_data, 4) != slice))
            break;
        if (rc == 0)
            rc = mdb_cursor_del(w->rows, 0);
        if (rc != 0)
            return from_mdb(rc);
        done++;
    }
    return (int)done;
}

/* ---- meta rows ---- */

static int meta_put(nd_lmdb *io, nd_wtx *w, uint8_t name, uint32_t number, const uint8_t *bytes, size_t len)
{
    uint8_t key[5] = {name};
    put_be(key + 1, number, 4);
    MDB_val k = {sizeof key, key}, v = {len, (void *)bytes};
    return from_mdb(mdb_put(w->txn, io->meta, &k, &v, 0));
}

static int meta_get(nd_lmdb *io, MDB_txn *txn, uint8_t name, uint32_t number, MDB_val *v)
{
    uint8_t key[5] = {name};
    put_be(key + 1, number, 4);
    MDB_val k = {sizeof key, key};
    int rc = mdb_get(txn, io->meta, &k, v);
    return rc == 0 ? 1 : rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
}

#define VSHARD_BYTES 48

static void head_read(const uint8_t *p, nd_vshard_head *out)
{
    out->slice = (uint32_t)get_le(&p, 4);
    out->group = (uint32_t)get_le(&p, 4);
    out->applied_index = get_le(&p, 8);
    out->applied_term = get_le(&p, 8);
    out->count = get_le(&p, 8);
    out->hash = get_le(&p, 8);
    out->expiring = get_le(&p, 8);
}

static void head_write(uint8_t *p, const nd_vshard_head *head)
{
    put_le(&p, head->slice, 4);
    put_le(&p, head->group, 4);
    put_le(&p, head->applied_index, 8);
    put_le(&p, head->applied_term, 8);
    put_le(&p, head->count, 8);
    put_le(&p, head->hash, 8);
    put_le(&p, head->expiring, 8);
}

int nd_lmdb_vshard_get(nd_lmdb *io, MDB_txn *txn, uint32_t vshard, nd_vshard_head *out)
{
    MDB_val v;
    int rc = meta_get(io, txn, 'V', vshard, &v);
    if (rc <= 0)
        return rc;
    if (v.mv_size != VSHARD_BYTES)
        return -EUCLEAN;
    head_read(v.mv_data, out);
    return 1;
}

int nd_lmdb_vshard_put(nd_lmdb *io, nd_wtx *w, uint32_t vshard, const nd_vshard_head *head)
{
    uint8_t b[VSHARD_BYTES];
    head_write(b, head);
    return meta_put(io, w, 'V', vshard, b, sizeof b);
}

int nd_lmdb_group_get(nd_lmdb *io, MDB_txn *txn, uint32_t group, uint64_t *index, uint64_t *term, nd_arg *state)
{
    MDB_val v;
    int rc = meta_get(io, txn, 'G', group, &v);
    if (rc <= 0)
        return rc;
    if (v.mv_size < 16)
        return -EUCLEAN;
    const uint8_t *p = v.mv_data;
    *index = get_le(&p, 8);
    *term = get_le(&p, 8);
    *state = (nd_arg){p, (uint32_t)v.mv_size - 16};
    return 1;
}

int nd_lmdb_group_put(nd_lmdb *io, nd_wtx *w, uint32_t group, uint64_t index, uint64_t term, const nd_arg *state)
{
    uint8_t *b = malloc(16 + (size_t)state->len), *p = b;
    if (!b)
        return -ENOMEM;
    put_le(&p, index, 8);
    put_le(&p, term, 8);
    if (state->len)
        memcpy(p, state->ptr, state->len);
    int rc = meta_put(io, w, 'G', group, b, 16 + (size_t)state->len);
    free(b);
    return rc;
}

static int meta_del(nd_lmdb *io, nd_wtx *w, uint8_t name, uint32_t number)
{
    uint8_t key[5] = {name};
    put_be(key + 1, number, 4);
    MDB_val k = {sizeof key, key};
    int rc = mdb_del(w->txn, io->meta, &k, NULL);
    return rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
}

int nd_lmdb_drop_put(nd_lmdb *io, nd_wtx *w, uint32_t slice)
{
    return meta_put(io, w, 'D', slice, (const uint8_t *)"", 0);
}

int nd_lmdb_install_put(nd_lmdb *io, nd_wtx *w, uint32_t slice)
{
    return meta_put(io, w, 'I', slice, (const uint8_t *)"", 0);
}

int nd_lmdb_install_del(nd_lmdb *io, nd_wtx *w, uint32_t slice)
{
    return meta_del(io, w, 'I', slice);
}

/* The first meta row of this name: 1 = found. The value is borrowed until the transaction ends or changes the page. */
static int meta_first(nd_lmdb *io, MDB_txn *txn, uint8_t name, uint32_t *number, MDB_val *v)
{
    MDB_cursor *c;
    MDB_val k = {1, &name};
    int rc = mdb_cursor_open(txn, io->meta, &c);
    if (rc != 0)
        return from_mdb(rc);
    rc = mdb_cursor_get(c, &k, v, MDB_SET_RANGE);
    bool found = rc == 0 && k.mv_size == 5 && *(const uint8_t *)k.mv_data == name;
    if (found)
        *number = (uint32_t)get_be((const uint8_t *)k.mv_data + 1, 4);
    mdb_cursor_close(c);
    return found ? 1 : rc == MDB_NOTFOUND ? 0 : from_mdb(rc);
}

int nd_lmdb_drop_first(nd_lmdb *io, MDB_txn *txn, uint32_t *slice)
{
    MDB_val v;
    return meta_first(io, txn, 'D', slice, &v);
}

int nd_lmdb_merge_put(nd_lmdb *io, nd_wtx *w, uint32_t vshard, uint32_t stage, const nd_vshard_head *head)
{
    uint8_t b[4 + VSHARD_BYTES], *p = b;
    put_le(&p, stage, 4);
    head_write(p, head);
    return meta_put(io, w, 'M', vshard, b, sizeof b);
}

int nd_lmdb_merge_first(nd_lmdb *io, MDB_txn *txn, uint32_t *vshard, uint32_t *stage, nd_vshard_head *head)
{
    MDB_val v;
    int rc = meta_first(io, txn, 'M', vshard, &v);
    if (rc <= 0)
        return rc;
    if (v.mv_size != 4 + VSHARD_BYTES)
        return -EUCLEAN;
    const uint8_t *p = v.mv_data;
    *stage = (uint32_t)get_le(&p, 4);
    head_read(p, head);
    return 1;
}

int nd_lmdb_merge_has(nd_lmdb *io, MDB_txn *txn, uint32_t vshard)
{
    MDB_val v;
    return meta_get(io, txn, 'M', vshard, &v);
}

int nd_lmdb_merge_del(nd_lmdb *io, nd_wtx *w, uint32_t vshard) { return meta_del(io, w, 'M', vshard); }

int nd_lmdb_drop_del(nd_lmdb *io, nd_wtx *w, uint32_t slice)
{
    return meta_del(io, w, 'D', slice);
}

int nd_lmdb_slice_next_put(nd_lmdb *io, nd_wtx *w, uint32_t slice_next)
{
    uint8_t b[4], *p = b, name = 'N';
    put_le(&p, slice_next, 4);
    MDB_val k = {1, &name}, v = {sizeof b, b};
    return from_mdb(mdb_put(w->txn, io->meta, &k, &v, 0));
}
