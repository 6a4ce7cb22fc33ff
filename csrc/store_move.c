/* store_move.c: cut, iterate and install of one vShard. See store.h.
 *
 * A cut is an LMDB read transaction: header and rows of one moment. Its cursor lives for one chunk only, because the map may move
 * between chunks. An install writes a slice that no header names yet, registered so that the next opening deletes it when the
 * install never ended; commit is one transaction that names it and drops the old slice.
 */
#include <errno.h>

#include "store_impl.h"

#define CHUNK_ROW_BYTES 20         /* u32 key_len, u32 val_len, u8 type, u8 pad[3], i64 expire_ms */
#define GROW_TRIES 16

struct nd_cut {
    nd_lmdb *io;
    MDB_txn *txn;
    uint32_t slice;                /* 0 = no row */
    bool started;
    uint64_t hash;                 /* of the last row given */
    uint32_t key_len;
    uint8_t key[ND_KEY_BYTES_MAX];
};

struct nd_install {
    nd_store *s;
    uint32_t vshard, group, slice;
    bool registered;
    uint64_t count, hash, expiring;
};

/* ---- cut ---- */

static int cut_head(nd_store *s, MDB_txn *txn, uint32_t vshard, nd_vshard_head *head)
{
    uint64_t index, term;
    nd_arg state;
    int rc = nd_lmdb_vshard_get(&s->io, txn, vshard, head);
    if (rc < 0)
        return rc;
    rc = nd_lmdb_group_get(&s->io, txn, nd_vs_of(s, vshard)->group, &index, &term, &state);
    if (rc == 1 && index > head->applied_index)
        head->applied_index = index;
    return rc < 0 ? rc : 0;
}

int nd_cut_open(nd_store *s, uint32_t vshard, nd_cut **out, uint64_t *applied_index, uint64_t *count, uint64_t *hash)
{
    nd_vshard_head head = {0};
    nd_cut *c = malloc(sizeof *c);
    if (!c)
        return -ENOMEM;
    *c = (nd_cut){.io = &s->io};
    int rc = nd_lmdb_snapshot(&s->io, &c->txn);
    if (rc == 0) {
        pthread_mutex_lock(&s->io.map_lock);
        rc = nd_lmdb_merge_has(&s->io, c->txn, vshard);
        rc = rc == 1 ? -EAGAIN : rc < 0 ? rc : cut_head(s, c->txn, vshard, &head);
        pthread_mutex_unlock(&s->io.map_lock);
        if (rc < 0)
            mdb_txn_abort(c->txn);
    }
    if (rc < 0) {
        free(c);
        return rc;
    }
    c->slice = head.slice;
    *applied_index = head.applied_index;
    *count = head.count;
    *hash = head.hash;
    *out = c;
    return 0;
}

/* The row at buf: bytes written, 0 = it does not fit. */
static uint64_t chunk_row(uint8_t *buf, uint64_t cap, const nd_disk_row *row)
{
    uint64_t bytes = CHUNK_ROW_BYTES + (uint64_t)row->key.len + row->len;
    if (bytes > cap)
        return 0;
    memcpy(buf, &row->key.len, 4);
    memcpy(buf + 4, &row->len, 4);
    memcpy(buf + 8, (uint8_t[4]){row->type}, 4);
    memcpy(buf + 12, &row->expire_ms, 8);
    memcpy(buf + CHUNK_ROW_BYTES, row->key.ptr, row->key.len);
    if (row->len)
        memcpy(buf + CHUNK_ROW_BYTES + row->key.len, row->val, row->len);
    return bytes;
}

static int64_t cut_fill(nd_cut *c, nd_walk *w, uint8_t *buf, uint64_t cap)
{
    uint64_t used = 0;
    int rc = 0;
    while (rc == 0 && w->more) {
        uint64_t bytes = chunk_row(buf + used, cap - used, &w->row);
        if (bytes == 0)
            return used > 0 ? (int64_t)used : -ENOBUFS;
        used += bytes;
        c->started = true;
        c->hash = w->row.hash;
        c->key_len = w->row.key.len;
        memcpy(c->key, w->row.key.ptr, w->row.key.len);
        rc = nd_walk_next(w);
    }
    return rc < 0 ? rc : (int64_t)used;
}

int64_t nd_cut_next(nd_cut *c, uint8_t *buf, uint64_t cap)
{
    nd_walk w;
    int64_t rc = 0;
    if (c->slice == 0)
        return 0;
    pthread_mutex_lock(&c->io->map_lock);
    rc = nd_walk_open(&w, c->io, c->txn, c->slice, c->hash);
    if (rc == 0) {
        nd_arg key = {c->key, c->key_len};
        if (c->started)
            rc = nd_walk_after(&w, c->hash, &key);
        if (rc == 0)
            rc = cut_fill(c, &w, buf, cap);
        nd_walk_close(&w);
    }
    pthread_mutex_unlock(&c->io->map_lock);
    return rc;
}

void nd_cut_close(nd_cut *c)
{
    mdb_txn_abort(c->txn);
    free(c);
}

/* ---- install ---- */

int nd_install_begin(nd_store *s, uint32_t vshard, uint32_t group, nd_install **out)
{
    ND_ASSERT(vshard < ND_VSHARDS && group < ND_GROUPS_MAX);
    if (s->vs[vshard].owned && s->vs[vshard].group != group)
        return -EINVAL;
    nd_install *in = malloc(sizeof *in);
    if (!in)
        return -ENOMEM;
    *in = (nd_install){.s = s, .vshard = vshard, .group = group, .slice = s->slice_next++};
    *out = in;
    return 0;
}

/* The next row of a chunk: bytes taken, or 0 when it is malformed. */
static uint64_t chunk_take(const uint8_t *buf, uint64_t len, nd_disk_row *row)
{
    if (len < CHUNK_ROW_BYTES)
        return 0;
    memcpy(&row->key.len, buf, 4);
    memcpy(&row->len, buf + 4, 4);
    row->type = buf[8];
    memcpy(&row->expire_ms, buf + 12, 8);
    if (row->key.len > ND_KEY_BYTES_MAX || row->len > ND_VALUE_BYTES_MAX || row->type == 0)
        return 0;
    row->key.ptr = buf + CHUNK_ROW_BYTES;
    row->val = row->key.ptr + row->key.len;
    uint64_t bytes = CHUNK_ROW_BYTES + (uint64_t)row->key.len + row->len;
    return bytes <= len ? bytes : 0;
}

/* What a chunk adds; taken over only when its transaction is durable. */
static int chunk_write(nd_install *in, nd_wtx *w, nd_install *sum, const uint8_t *buf, uint64_t len)
{
    nd_lmdb *io = &in->s->io;
    int rc = nd_lmdb_slice_next_put(io, w, in->s->slice_next);
    if (rc == 0)
        rc = nd_lmdb_install_put(io, w, in->slice);
    for (uint64_t used = 0; rc == 0 && used < len;) {
        nd_disk_row row;
        uint64_t bytes = chunk_take(buf + used, len - used, &row);
        if (bytes == 0)
            return -EBADMSG;
        row.hash = nd_key_place(in->s, &row.key);
        rc = nd_lmdb_row_put(io, w, in->slice, &row, true);
        sum->count++;
        sum->expiring += row.expire_ms != 0;
        sum->hash += nd_rowhash(nd_rowhash_key(row.key.ptr, row.key.len), row.type, row.expire_ms, row.val, row.len);
        used += bytes;
    }
    return rc == -EEXIST ? -EBADMSG : rc;
}

int nd_install_chunk(nd_install *in, const uint8_t *buf, uint64_t len)
{
    nd_lmdb *io = &in->s->io;
    int rc = -EOVERFLOW;
    for (int tries = 0; rc == -EOVERFLOW && tries < GROW_TRIES; tries++) {
        nd_wtx w;
        nd_install sum = *in;
        rc = nd_lmdb_write_begin(io, 4 * len + 256 * (uint64_t)io->page_bytes, &w);
        if (rc < 0)
            return rc;
        rc = nd_lmdb_write_end(io, &w, chunk_write(in, &w, &sum, buf, len));
        if (rc == 0) {
            *in = sum;
            in->registered = true;
        }
    }
    return rc;
}

static int drop_old(nd_store *s, nd_wtx *w, uint32_t vshard)
{
    nd_vshard_head old;
    int rc = nd_lmdb_vshard_get(&s->io, w->txn, vshard, &old);
    if (rc == 1)
        rc = nd_lmdb_drop_put(&s->io, w, old.slice);
    if (rc == 0 && s->vs[vshard].slice_drop)
        rc = nd_lmdb_drop_put(&s->io, w, s->vs[vshard].slice_drop);
    return rc;
}

static int install_switch(nd_install *in, uint64_t applied_index)
{
    nd_store *s = in->s;
    nd_vshard_head head = {in->slice, in->group, applied_index, 0, in->count, in->hash, in->expiring};
    int rc = -EOVERFLOW;
    for (int tries = 0; rc == -EOVERFLOW && tries < GROW_TRIES; tries++) {
        nd_wtx w;
        rc = nd_lmdb_write_begin(&s->io, 256 * (uint64_t)s->io.page_bytes, &w);
        if (rc < 0)
            return rc;
        rc = drop_old(s, &w, in->vshard);
        if (rc == 0)
            rc = nd_lmdb_slice_next_put(&s->io, &w, s->slice_next);
        if (rc == 0)
            rc = nd_lmdb_vshard_put(&s->io, &w, in->vshard, &head);
        if (rc == 0)
            rc = nd_lmdb_install_del(&s->io, &w, in->slice);
        rc = nd_lmdb_write_end(&s->io, &w, rc);
    }
    return rc;
}

/* The vShard in memory becomes what the header now says: all rows cold. */
static int install_adopt(const nd_install *in, uint64_t applied_index)
{
    nd_vs *v = &in->s->vs[in->vshard];
    if (!v->owned)
        return 0;
    int rc = nd_vs_bury(in->s, v);
    if (rc < 0)
        return rc;
    v->slice = in->slice;
    v->slice_durable = true;
    v->slice_drop = 0;
    v->count = in->count;
    v->hash = in->hash;
    v->expiring = in->expiring;
    v->cold_expire_min = in->expiring ? INT64_MIN : INT64_MAX;
    v->applied_index = applied_index;
    return 0;
}

int nd_install_commit(nd_install *in, uint64_t applied_index, uint64_t count, uint64_t hash)
{
    nd_store *s = in->s;
    int rc = in->count == count && in->hash == hash ? 0 : -EBADMSG;
    if (rc == 0) {
        nd_ckpt_wait(&s->ckpt);
        nd_pass(s, UINT32_MAX);
        rc = s->vs[in->vshard].job ? -EBUSY : 0;
    }
    if (rc == 0)
        rc = install_switch(in, applied_index);
    if (rc < 0) {
        nd_install_abort(in);
        return rc;
    }
    rc = install_adopt(in, applied_index);
    nd_ckpt_drops_added(&s->ckpt);
    free(in);
    return rc;
}

/* Best effort: what a failed transaction leaves registered is dropped at the next opening. */
void nd_install_abort(nd_install *in)
{
    nd_store *s = in->s;
    nd_wtx w;
    if (in->registered && nd_lmdb_write_begin(&s->io, 64 * (uint64_t)s->io.page_bytes, &w) == 0) {
        int rc = nd_lmdb_install_del(&s->io, &w, in->slice);
        if (rc == 0)
            rc = nd_lmdb_drop_put(&s->io, &w, in->slice);
        if (nd_lmdb_write_end(&s->io, &w, rc) == 0)
            nd_ckpt_drops_added(&s->ckpt);
    }
    free(in);
}
