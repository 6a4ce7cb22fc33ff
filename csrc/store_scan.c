/* store_scan.c: walks over one vShard's rows, resident or not, in order of their hash: scan, random row, expiry sweep.
 *
 * Two sorted streams are merged: the table, segment by segment, and LMDB's rows of the slice, of which those that the table knows
 * (as changed, deleted or simply resident) are passed over. A vShard without cold rows never opens the second stream.
 */
#include <errno.h>

#include "store_impl.h"

#define RANDOM_TRIES 100
#define CURSOR_STEP 1024u          /* cursors have their low 10 bits free for the caller */

typedef struct merge {
    nd_store *s;
    nd_vs *v;
    nd_href mem[ND_SEG_SLOTS];
    uint32_t at, n;
    uint64_t mem_next;             /* where the next segment starts */
    bool mem_more;                 /* there is a next segment */
    bool cold;                     /* disk is open */
    nd_walk disk;
} merge;

typedef struct merged {
    uint64_t hash;
    nd_arg key;
    nd_row row;
} merged;

/* Live rows of the next segments, until one has some. */
static void mem_fill(merge *m)
{
    m->at = m->n = 0;
    while (m->n == 0 && m->mem_more) {
        uint64_t from = m->mem_next;
        nd_seg *seg = nd_table_segment(&m->v->table, from, &m->mem_next);
        for (unsigned i = 0; seg && i < ND_SEG_SLOTS; i++) {
            nd_rec *r = nd_slot_live(seg->slot[i]) ? nd_slot_rec(seg->slot[i]) : NULL;
            if (!r || !nd_rec_live(r))
                continue;
            uint64_t hash = nd_sip13(&m->s->io.sip, nd_rec_key(r), r->klen);
            if (hash >= from)
                m->mem[m->n++] = (nd_href){hash, r};
        }
        m->mem_more = seg && m->mem_next != 0;
    }
    nd_href_sort(m->mem, m->n);
}

static bool disk_hidden(const merge *m)
{
    nd_pos pos;
    return nd_table_find(&m->v->table, m->disk.row.hash, &m->disk.row.key, &pos);
}

static int disk_skip_hidden(merge *m)
{
    int rc = 0;
    while (rc == 0 && m->disk.more && disk_hidden(m))
        rc = nd_walk_next(&m->disk);
    return rc;
}

static void merge_close(merge *m)
{
    if (!m->cold)
        return;
    nd_walk_close(&m->disk);
    nd_lmdb_read_end(&m->s->io);
    m->cold = false;
}

static int merge_open(merge *m, nd_store *s, nd_vs *v, uint64_t hash)
{
    m->s = s;
    m->v = v;
    m->mem_next = hash;
    m->mem_more = true;
    m->cold = false;
    m->disk.more = false;
    mem_fill(m);
    if (nd_vs_cold(v) == 0)
        return 0;
    int rc = nd_lmdb_read_begin(&s->io);
    if (rc < 0)
        return rc;
    m->cold = true;
    rc = nd_walk_open(&m->disk, &s->io, s->io.reader, v->slice, hash);
    if (rc == 0)
        rc = disk_skip_hidden(m);
    if (rc < 0)
        merge_close(m);
    return rc;
}

/* 1 = *out is the next row, 0 = end, -errno. What *out points to lives until the next call. */
static int merge_next(merge *m, merged *out)
{
    if (m->at == m->n)
        mem_fill(m);
    bool mem = m->at < m->n, disk = m->disk.more;
    if (!mem && !disk)
        return 0;
    if (mem && (!disk || m->mem[m->at].hash <= m->disk.row.hash)) {
        nd_rec *r = m->mem[m->at].rec;
        out->hash = m->mem[m->at++].hash;
        out->key = (nd_arg){nd_rec_key(r), r->klen};
        nd_row_fill(m->s, r, &out->row);
        return 1;
    }
    const nd_disk_row *d = &m->disk.row;
    *out = (merged){d->hash, d->key, {d->val, d->len, d->type, d->expire_ms, 0}};
    int rc = nd_walk_next(&m->disk);
    if (rc == 0)
        rc = disk_skip_hidden(m);
    return rc < 0 ? rc : 1;
}

static bool expired(const nd_row *row, int64_t now_ms)
{
    return row->expire_ms != 0 && row->expire_ms <= now_ms;
}

int nd_store_scan(nd_store *s, uint32_t vshard, uint64_t *cursor, uint32_t rows_max, int64_t now_ms, nd_scan_fn fn, void *ctx)
{
    nd_vs *v = nd_vs_of(s, vshard);
    merge m;
    merged next;
    uint64_t step = 0;
    uint32_t rows = 0;
    int rc = merge_open(&m, s, v, *cursor & ~(uint64_t)(CURSOR_STEP - 1));
    if (rc < 0)
        return rc;
    while ((rc = merge_next(&m, &next)) == 1) {
        if (rows >= rows_max && next.hash / CURSOR_STEP != step)
            break;
        step = next.hash / CURSOR_STEP;
        rows++;
        if (!expired(&next.row, now_ms))
            fn(ctx, &next.key, &next.row);
    }
    merge_close(&m);
    if (rc < 0)
        return rc;
    *cursor = rc == 0 ? 0 : (step + 1) * CURSOR_STEP;
    return (int)rows;
}

/* ---- random ---- */

static int random_from(nd_store *s, nd_vs *v, uint64_t hash, int64_t now_ms, nd_arg *key)
{
    merge m;
    merged next;
    int rc = merge_open(&m, s, v, hash);
    if (rc < 0)
        return rc;
    while ((rc = merge_next(&m, &next)) == 1)
        if (!expired(&next.row, now_ms))
            break;
    if (rc == 1) {
        memcpy(s->random_key, next.key.ptr, next.key.len);
        *key = (nd_arg){s->random_key, next.key.len};
    }
    merge_close(&m);
    return rc;
}

int nd_store_random(nd_store *s, uint32_t vshard, uint64_t seed, int64_t now_ms, nd_arg *key)
{
    nd_vs *v = nd_vs_of(s, vshard);
    for (uint64_t i = 0; nd_vs_cold(v) == 0 && v->resident > 0 && i < RANDOM_TRIES; i++) {
        nd_rec *r = nd_table_pick(&v->table, nd_mix64(seed + i * 0x9e3779b97f4a7c15));
        if (!r || !nd_rec_live(r) || (nd_rec_expire(r) != 0 && nd_rec_expire(r) <= now_ms))
            continue;
        r->state |= ND_REC_USED;
        *key = (nd_arg){nd_rec_key(r), r->klen};
        return 1;
    }
    int rc = random_from(s, v, nd_mix64(seed), now_ms, key);
    return rc == 0 ? random_from(s, v, 0, now_ms, key) : rc;
}

/* ---- sweep ---- */

typedef struct sweep {
    int64_t now_ms;
    nd_expired_fn fn;
    void *ctx;
    uint32_t rows, rows_max;
} sweep;

/* One segment; its lower bound lets most segments pass at a glance, and is made exact when they do not. */
static void sweep_segment(nd_store *s, nd_vs *v, sweep *w)
{
    uint64_t next;
    nd_seg *seg = nd_table_segment(&v->table, s->sweep_hash, &next);
    w->rows++;
    if (seg && seg->expire_min <= w->now_ms) {
        seg->expire_min = INT64_MAX;
        for (unsigned i = 0; i < ND_SEG_SLOTS; i++) {
            nd_rec *r = nd_slot_live(seg->slot[i]) ? nd_slot_rec(seg->slot[i]) : NULL;
            int64_t at = r && nd_rec_live(r) ? nd_rec_expire(r) : 0;
            w->rows += r != NULL;
            if (at == 0)
                continue;
            if (at < seg->expire_min)
                seg->expire_min = at;
            nd_arg key = {nd_rec_key(r), r->klen};
            if (at <= w->now_ms)
                w->fn(w->ctx, s->sweep_vs, &key, at);
        }
    }
    s->sweep_hash = next;
    s->sweep_cold = next == 0;
    s->sweep_cold_min = INT64_MAX;
}

static void sweep_next_vshard(nd_store *s)
{
    s->sweep_vs = (s->sweep_vs + 1) % ND_VSHARDS;
    s->sweep_hash = 0;
    s->sweep_cold = false;
}

static void sweep_cold_row(nd_store *s, nd_vs *v, sweep *w, const nd_disk_row *row)
{
    nd_pos pos;
    w->rows++;
    if (row->expire_ms == 0 || nd_table_find(&v->table, row->hash, &row->key, &pos))
        return;
    if (row->expire_ms < s->sweep_cold_min)
        s->sweep_cold_min = row->expire_ms;
    if (row->expire_ms <= w->now_ms)
        w->fn(w->ctx, s->sweep_vs, &row->key, row->expire_ms);
}

/* Rows outside the table, until the budget is spent (at a new hash) or the slice ends. What is evicted meanwhile lowers the
 * vShard's bound by itself, which is why the bound is reset at the start and only lowered at the end. */
static int sweep_cold(nd_store *s, nd_vs *v, sweep *w)
{
    nd_walk walk;
    if (s->sweep_hash == 0) {
        if (v->expiring == v->resident_expiring || v->cold_expire_min > w->now_ms) {
            sweep_next_vshard(s);
            return 0;
        }
        v->cold_expire_min = INT64_MAX;
    }
    int rc = nd_lmdb_read_begin(&s->io);
    if (rc < 0)
        return rc;
    rc = nd_walk_open(&walk, &s->io, s->io.reader, v->slice, s->sweep_hash);
    while (rc == 0 && walk.more && (w->rows < w->rows_max || walk.row.hash < s->sweep_hash)) {
        s->sweep_hash = walk.row.hash + 1;
        sweep_cold_row(s, v, w, &walk.row);
        rc = nd_walk_next(&walk);
    }
    bool ended = rc == 0 && (!walk.more || s->sweep_hash == 0);
    nd_walk_close(&walk);
    nd_lmdb_read_end(&s->io);
    if (ended) {
        if (s->sweep_cold_min < v->cold_expire_min)
            v->cold_expire_min = s->sweep_cold_min;
        sweep_next_vshard(s);
    }
    return rc;
}

int nd_store_sweep(nd_store *s, int64_t now_ms, uint32_t rows_max, nd_expired_fn fn, void *ctx)
{
    ND_ASSERT(!s->edit.vs);
    sweep w = {now_ms, fn, ctx, 0, rows_max};
    uint32_t first = s->sweep_vs, passed = 0;
    while (w.rows < rows_max && passed <= ND_VSHARDS) {
        uint32_t here = s->sweep_vs;
        nd_vs *v = &s->vs[here];
        int rc = 0;
        if (!v->owned || v->expiring == 0)
            sweep_next_vshard(s);
        else if (s->sweep_cold)
            rc = sweep_cold(s, v, &w);
        else
            sweep_segment(s, v, &w);
        if (rc < 0)
            return rc;
        passed += s->sweep_vs != here;
        if (passed > 0 && s->sweep_vs == first && !s->sweep_cold && s->sweep_hash == 0)
            break;
    }
    return (int)w.rows;
}
