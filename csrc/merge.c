/* merge.c: see merge.h. Rows are copied out before they are written: a transaction may move the map under a reader's pointers. */
#include "merge.h"

#include <errno.h>
#include <string.h>

#define GROW_TRIES 16

typedef struct held {              /* rows copied out of the stage */
    nd_disk_row *row;
    uint32_t n;
    uint64_t bytes;
} held;

static void held_free(held *h)
{
    for (uint32_t i = 0; i < h->n; i++)
        free((void *)h->row[i].key.ptr);
    free(h->row);
    *h = (held){0};
}

static int held_add(held *h, const nd_disk_row *row)
{
    uint8_t *copy = malloc((size_t)row->key.len + row->len + 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, row->key.ptr, row->key.len);
    memcpy(copy + row->key.len, row->val, row->len);
    h->row[h->n] = *row;
    h->row[h->n].key.ptr = copy;
    h->row[h->n++].val = copy + row->key.len;
    h->bytes += (uint64_t)row->key.len + row->len;
    return 0;
}

/* The next rows of the stage: behind `after`, or from its beginning. */
static int take(nd_lmdb *io, uint32_t stage, const nd_disk_row *after, uint32_t rows_max, uint64_t bytes_max, held *h)
{
    nd_walk w;
    h->row = calloc(rows_max, sizeof *h->row);
    if (!h->row)
        return -ENOMEM;
    int rc = nd_lmdb_read_begin(io);
    if (rc < 0)
        return rc;
    rc = nd_walk_open(&w, io, io->reader, stage, after ? after->hash : 0);
    if (rc == 0) {
        if (after)
            rc = nd_walk_after(&w, after->hash, &after->key);
        while (rc == 0 && w.more && h->n < rows_max && h->bytes < bytes_max) {
            rc = held_add(h, &w.row);
            if (rc == 0)
                rc = nd_walk_next(&w);
        }
        nd_walk_close(&w);
    }
    nd_lmdb_read_end(io);
    return rc;
}

static int rows_write(nd_lmdb *io, nd_wtx *w, uint32_t slice, const held *h)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < h->n; i++) {
        const nd_disk_row *row = &h->row[i];
        rc = row->type == 0 ? nd_lmdb_row_del(io, w, slice, row->hash, &row->key) : nd_lmdb_row_put(io, w, slice, row, false);
    }
    return rc;
}

static int end_write(nd_lmdb *io, nd_wtx *w, uint32_t vshard, uint32_t stage, const nd_vshard_head *head)
{
    nd_vshard_head old;
    int rc = nd_lmdb_vshard_get(io, w->txn, vshard, &old);
    if (rc == 1 && old.slice != head->slice)
        rc = nd_lmdb_drop_put(io, w, old.slice); /* it was flushed before the checkpoint */
    if (rc >= 0)
        rc = nd_lmdb_vshard_put(io, w, vshard, head);
    if (rc == 0)
        rc = nd_lmdb_merge_del(io, w, vshard);
    return rc < 0 ? rc : nd_lmdb_drop_put(io, w, stage);
}

/* h = NULL: the end. */
static int txn(nd_lmdb *io, uint32_t vshard, uint32_t stage, const nd_vshard_head *head, const held *h)
{
    int rc = -EOVERFLOW;
    uint64_t bytes = 2 * ((64 + (uint64_t)(h ? h->n : 0)) * io->page_bytes + (h ? h->bytes : 0));
    for (int tries = 0; rc == -EOVERFLOW && tries < GROW_TRIES; tries++) {
        nd_wtx w;
        rc = nd_lmdb_write_begin(io, bytes, &w);
        if (rc < 0)
            return rc;
        rc = h ? rows_write(io, &w, head->slice, h) : end_write(io, &w, vshard, stage, head);
        rc = nd_lmdb_write_end(io, &w, rc);
    }
    return rc;
}

static int merge(nd_lmdb *io, uint32_t vshard, uint32_t stage, const nd_vshard_head *head, uint32_t rows_max, uint64_t bytes_max)
{
    held before = {0};
    int rc;
    for (;;) {
        held h = {0};
        rc = take(io, stage, before.n ? &before.row[before.n - 1] : NULL, rows_max, bytes_max, &h);
        held_free(&before);
        before = h;
        if (rc < 0 || h.n == 0)
            break;
        rc = txn(io, vshard, stage, head, &h);
        if (rc < 0)
            break;
    }
    held_free(&before);
    return rc < 0 ? rc : txn(io, vshard, stage, head, NULL);
}

int nd_merge_finish(nd_lmdb *io, uint32_t rows_max, uint64_t bytes_max)
{
    for (;;) {
        uint32_t vshard, stage;
        nd_vshard_head head;
        int rc = nd_lmdb_read_begin(io);
        if (rc < 0)
            return rc;
        rc = nd_lmdb_merge_first(io, io->reader, &vshard, &stage, &head);
        nd_lmdb_read_end(io);
        if (rc == 1)
            rc = merge(io, vshard, stage, &head, rows_max, bytes_max);
        else
            return rc;
        if (rc < 0)
            return rc;
    }
}
