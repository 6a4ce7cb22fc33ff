/* store.c: rows of the store for commands: get, put, delete, expiry, ranges. See store.h and store_impl.h.
 *
 * Every change keeps four things in step: the table, the vShard's count and state hash, the dirty vector, the byte counts.
 * What may fail (memory, LMDB) comes first, so that a failed call changed nothing.
 */
#include <errno.h>

#include "store_impl.h"

#define PASS_ROWS_PER_CHANGE 2
#define EVICT_EVERY_ROWS 64
#define VEC_BLOCK_BYTES (ND_VEC_BLOCK * sizeof(nd_rec *))

/* ---- records ---- */

static size_t rec_size(uint32_t klen, uint32_t vlen, bool expiry)
{
    nd_rec shape = {.klen = (uint16_t)klen, .vlen = vlen, .flags = expiry ? ND_REC_EXPIRY : 0};
    return nd_rec_bytes(&shape);
}

uint64_t nd_rec_held(const nd_rec *r)
{
    return nd_slab_capacity(r, nd_rec_bytes(r));
}

void nd_rec_free(nd_store *s, nd_rec *r)
{
    nd_slab_free(&s->slab, r, nd_rec_bytes(r));
}

static uint32_t clock_state(const nd_store *s)
{
    return s->clock_s << ND_REC_CLOCK_SHIFT | ND_REC_USED;
}

static void rec_touch(const nd_store *s, nd_rec *r)
{
    r->state = (r->state & ((1u << ND_REC_CLOCK_SHIFT) - 1)) | clock_state(s);
}

static void rec_set_expire(nd_rec *r, int64_t expire_ms)
{
    if (r->flags & ND_REC_EXPIRY)
        memcpy(r->data, &expire_ms, 8);
}

/* A record in no table, its value not yet written; spare = bytes the value may grow by in place. */
static nd_rec *rec_alloc(nd_store *s, const nd_arg *key, uint8_t type, uint32_t vlen, int64_t expire_ms, uint32_t spare)
{
    bool expiry = nd_rec_has_expiry_field(key->len, vlen, expire_ms);
    size_t bytes = rec_size(key->len, vlen, expiry);
    if (spare && bytes > ND_SLAB_MAX)
        bytes = rec_size(key->len, vlen + spare, expiry);
    nd_rec *r = nd_slab_alloc(&s->slab, bytes);
    if (!r)
        return NULL;
    *r = (nd_rec){.klen = (uint16_t)key->len, .type = type, .flags = expiry ? ND_REC_EXPIRY : 0, .vlen = vlen,
                  .dirty = ND_REC_CLEAN, .state = clock_state(s)};
    rec_set_expire(r, expire_ms);
    if (key->len)
        memcpy(nd_rec_key(r), key->ptr, key->len);
    return r;
}

nd_rec *nd_rec_new(nd_store *s, const nd_arg *key, uint8_t type, uint32_t vlen, int64_t expire_ms)
{
    return rec_alloc(s, key, type, vlen, expire_ms, 0);
}

/* Can the record, as it is, take a value of this length? Small ones keep their size class; large ones waste at most half. */
static bool rec_fits(const nd_rec *r, uint32_t vlen, int64_t expire_ms)
{
    bool expiry = r->flags & ND_REC_EXPIRY;
    if (expiry != nd_rec_has_expiry_field(r->klen, vlen, expire_ms))
        return false;
    size_t old = nd_rec_bytes(r), bytes = rec_size(r->klen, vlen, expiry);
    if (old <= ND_SLAB_MAX)
        return (old + 15) / 16 == (bytes + 15) / 16;
    uint64_t capacity = nd_slab_capacity(r, old);
    return bytes > ND_SLAB_MAX && bytes <= capacity && bytes >= capacity / 2;
}

/* ---- dirty vectors ---- */

int nd_vec_reserve(nd_store *s, nd_vec *v)
{
    if (v->count < v->blocks * ND_VEC_BLOCK)
        return 0;
    if (v->blocks == v->blocks_max) {
        uint32_t max = v->blocks_max ? 2 * v->blocks_max : 4;
        nd_rec ***block = realloc(v->block, max * sizeof *block);
        if (!block)
            return -ENOMEM;
        v->block = block;
        v->blocks_max = max;
    }
    v->block[v->blocks] = nd_slab_alloc(&s->slab, VEC_BLOCK_BYTES);
    if (!v->block[v->blocks])
        return -ENOMEM;
    v->blocks++;
    return 0;
}

static void dirty_bytes_add(nd_store *s, nd_vs *v, uint64_t bytes)
{
    v->dirty.bytes += bytes;
    s->dirty_bytes += bytes;
}

void nd_vec_push(nd_store *s, nd_vs *v, nd_rec *r)
{
    ND_ASSERT(v->dirty.count < v->dirty.blocks * ND_VEC_BLOCK);
    r->dirty = v->dirty.count++;
    r->state = (r->state & ~ND_REC_GEN) | (s->gen & ND_REC_GEN);
    *nd_vec_at(&v->dirty, r->dirty) = r;
    s->dirty_rows++;
    dirty_bytes_add(s, v, nd_rec_held(r));
}

/* Take a record of the current generation out: the last one takes its place. */
static void vec_remove(nd_store *s, nd_vs *v, nd_rec *r)
{
    nd_rec *last = *nd_vec_at(&v->dirty, --v->dirty.count);
    *nd_vec_at(&v->dirty, r->dirty) = last;
    last->dirty = r->dirty;
    r->dirty = ND_REC_CLEAN;
    s->dirty_rows--;
    dirty_bytes_add(s, v, -nd_rec_held(r));
}

void nd_vec_free(nd_store *s, nd_vec *v)
{
    for (uint32_t i = 0; i < v->blocks; i++)
        nd_slab_free(&s->slab, v->block[i], VEC_BLOCK_BYTES);
    free(v->block);
    *v = (nd_vec){0};
}

/* ---- accounting ---- */

static uint64_t rec_rowhash(const nd_rec *r, uint64_t key_hash)
{
    return nd_rowhash(key_hash, r->type, nd_rec_expire(r), nd_rec_val(r), r->vlen);
}

static void count_add(nd_vs *v, const nd_rec *r, uint64_t sign)
{
    v->count += sign;
    v->resident += sign;
    if (nd_rec_expire(r) != 0) {
        v->expiring += sign;
        v->resident_expiring += sign;
    }
}

static void row_in(nd_vs *v, const nd_pos *pos, uint64_t key_hash)
{
    int64_t expire_ms = nd_rec_expire(pos->rec);
    v->hash += rec_rowhash(pos->rec, key_hash);
    count_add(v, pos->rec, 1);
    if (expire_ms != 0 && expire_ms < pos->seg->expire_min)
        pos->seg->expire_min = expire_ms;
}

static void row_out(nd_vs *v, const nd_rec *r, uint64_t key_hash)
{
    v->hash -= rec_rowhash(r, key_hash);
    count_add(v, r, (uint64_t)-1);
}

static uint64_t key_hash_of(const nd_arg *key)
{
    return nd_rowhash_key(key->ptr, key->len);
}

/* ---- finding ---- */

/* Copy a row that is in LMDB only into the table, clean. */
static int cold_keep(nd_store *s, nd_vs *v, const nd_arg *key, const nd_disk_row *row, nd_pos *pos)
{
    nd_rec *r = nd_rec_new(s, key, row->type, row->len, row->expire_ms);
    if (!r)
        return -ENOMEM;
    if (row->len)
        memcpy(nd_rec_val(r), row->val, row->len);
    r->state |= ND_REC_DISK;
    int rc = nd_table_insert(&v->table, &s->slab, &s->io.sip, row->hash, r, pos);
    if (rc < 0) {
        nd_rec_free(s, r);
        return rc;
    }
    v->resident++;
    if (row->expire_ms) {
        v->resident_expiring++;
        if (row->expire_ms < pos->seg->expire_min)
            pos->seg->expire_min = row->expire_ms;
    }
    return 1;
}

/* What adds rows also evicts, so that a flood does not outrun housekeeping. One segment: a row that was just handed out has its
 * mark of use, which takes a first visit to clear and a second to evict. */
static void evict_now_and_then(nd_store *s)
{
    if (s->slab.bytes_used > s->cfg.memory_bytes_max && ++s->rows_since_evict >= EVICT_EVERY_ROWS) {
        s->rows_since_evict = 0;
        nd_evict_step(s);
    }
}

static int cold_load(nd_store *s, nd_vs *v, const nd_arg *key, uint64_t place, nd_pos *pos)
{
    nd_disk_row row;
    evict_now_and_then(s);
    int rc = nd_lmdb_read_begin(&s->io);
    if (rc < 0)
        return rc;
    s->cold_reads++;
    rc = nd_lmdb_row_get(&s->io, s->io.reader, v->slice, place, key, &row);
    if (rc == 1)
        rc = cold_keep(s, v, key, &row, pos);
    nd_lmdb_read_end(&s->io);
    return rc;
}

/* 1 and *pos (maybe a tombstone), 0 = nowhere, -errno. A vShard whose rows are all resident never asks LMDB. */
static int row_find(nd_store *s, nd_vs *v, const nd_arg *key, uint64_t place, nd_pos *pos)
{
    if (nd_table_find(&v->table, place, key, pos))
        return 1;
    return nd_vs_cold(v) == 0 ? 0 : cold_load(s, v, key, place, pos);
}

/* row_find for changes: room in the dirty vector is made, too. Each change takes a step of the pass over what was frozen, so
 * that the pass ends before the next generation is half as large, however rarely housekeeping is called. The pass frees only
 * records that were replaced, and tombstones: no value that the caller may hold. */
static int row_find_to_change(nd_store *s, nd_vs *v, const nd_arg *key, uint64_t place, nd_pos *pos)
{
    if (s->ckpt.jobs)
        nd_pass(s, PASS_ROWS_PER_CHANGE);
    evict_now_and_then(s);
    int rc = nd_vec_reserve(s, &v->dirty);
    return rc < 0 ? rc : row_find(s, v, key, place, pos);
}

/* Put `r` in the place of pos->rec, dirty; the old record is freed, or retired when it is frozen. */
static void rec_swap(nd_store *s, nd_vs *v, nd_pos *pos, nd_rec *r)
{
    nd_rec *old = pos->rec;
    nd_table_replace(pos, r);
    if (old->dirty == ND_REC_CLEAN || nd_rec_frozen(s, old)) {
        r->state |= ND_REC_DISK;
        nd_vec_push(s, v, r);
    } else {
        r->state = (r->state & ~ND_REC_GEN) | (old->state & (ND_REC_GEN | ND_REC_DISK));
        r->dirty = old->dirty;
        *nd_vec_at(&v->dirty, r->dirty) = r;
        dirty_bytes_add(s, v, nd_rec_held(r) - nd_rec_held(old));
    }
    if (nd_rec_frozen(s, old))
        old->state |= ND_REC_RETIRED;
    else
        nd_rec_free(s, old);
}

static void rec_mark_dirty(nd_store *s, nd_vs *v, nd_rec *r)
{
    if (r->dirty == ND_REC_CLEAN)
        nd_vec_push(s, v, r);
}

/* Add a record whose key is nowhere. */
static int rec_insert(nd_store *s, nd_vs *v, uint64_t place, nd_rec *r, nd_pos *pos)
{
    int rc = nd_table_insert(&v->table, &s->slab, &s->io.sip, place, r, pos);
    if (rc < 0)
        nd_rec_free(s, r);
    else
        nd_vec_push(s, v, r);
    return rc;
}

/* ---- the calls ---- */

void nd_row_fill(const nd_store *s, const nd_rec *r, nd_row *out)
{
    *out = (nd_row){nd_rec_val(r), r->vlen, r->type, nd_rec_expire(r), s->clock_s - (r->state >> ND_REC_CLOCK_SHIFT)};
}

int nd_store_get(nd_store *s, uint32_t vshard, const nd_arg *key, int64_t now_ms, bool touch, nd_row *out)
{
    nd_vs *v = nd_vs_of(s, vshard);
    nd_pos pos;
    int rc = row_find(s, v, key, nd_key_place(s, key), &pos);
    if (rc <= 0 || !nd_rec_live(pos.rec))
        return rc < 0 ? rc : 0;
    nd_row_fill(s, pos.rec, out);
    if (out->expire_ms != 0 && out->expire_ms <= now_ms)
        return 0;
    pos.rec->state |= ND_REC_USED;
    if (touch)
        rec_touch(s, pos.rec);
    return 1;
}

uint64_t nd_store_prefetch(nd_store *s, uint32_t vshard, const nd_arg *key)
{
    uint64_t place = nd_key_place(s, key);
    nd_table_prefetch(&nd_vs_of(s, vshard)->table, place);
    return place;
}

void nd_store_prefetch_row(nd_store *s, uint32_t vshard, uint64_t place)
{
    nd_table_prefetch_record(&nd_vs_of(s, vshard)->table, place);
}

static void put_in_place(nd_store *s, nd_vs *v, nd_pos *pos, uint64_t key_hash, const nd_disk_row *row)
{
    nd_rec *r = pos->rec;
    row_out(v, r, key_hash);
    if (row->len)
        memmove(nd_rec_val(r), row->val, row->len);
    r->vlen = row->len;
    r->type = row->type;
    rec_set_expire(r, row->expire_ms);
    rec_touch(s, r);
    row_in(v, pos, key_hash);
    rec_mark_dirty(s, v, r);
}

/* row->key, val, len, type, expire_ms into a new record that replaces pos->rec (found) or is added. */
static int put_new(nd_store *s, nd_vs *v, nd_pos *pos, bool found, uint64_t key_hash, const nd_disk_row *row)
{
    nd_rec *r = nd_rec_new(s, &row->key, row->type, row->len, row->expire_ms);
    if (!r)
        return -ENOMEM;
    if (row->len)
        memcpy(nd_rec_val(r), row->val, row->len);
    if (found) {
        if (nd_rec_live(pos->rec))
            row_out(v, pos->rec, key_hash);
        rec_swap(s, v, pos, r);
    } else {
        int rc = rec_insert(s, v, row->hash, r, pos);
        if (rc < 0)
            return rc;
    }
    row_in(v, pos, key_hash);
    return 0;
}

int nd_store_put(nd_store *s, uint32_t vshard, const nd_arg *key, uint8_t type, const uint8_t *val, uint32_t len,
                 int64_t expire_ms)
{
    ND_ASSERT(key->len <= ND_KEY_BYTES_MAX);
    nd_vs *v = nd_vs_of(s, vshard);
    nd_disk_row row = {nd_key_place(s, key), *key, val, len, type, expire_ms};
    nd_pos pos;
    int rc = row_find_to_change(s, v, key, row.hash, &pos);
    if (rc < 0)
        return rc;
    bool found = rc == 1;
    uint64_t key_hash = key_hash_of(key);
    if (found && nd_rec_live(pos.rec) && !nd_rec_frozen(s, pos.rec) && rec_fits(pos.rec, len, expire_ms)) {
        put_in_place(s, v, &pos, key_hash, &row);
        return 0;
    }
    return put_new(s, v, &pos, found, key_hash, &row);
}

int nd_store_del(nd_store *s, uint32_t vshard, const nd_arg *key)
{
    nd_vs *v = nd_vs_of(s, vshard);
    nd_pos pos;
    int rc = row_find_to_change(s, v, key, nd_key_place(s, key), &pos);
    if (rc <= 0 || !nd_rec_live(pos.rec))
        return rc < 0 ? rc : 0;
    nd_rec *old = pos.rec;
    bool current = old->dirty != ND_REC_CLEAN && !nd_rec_frozen(s, old);
    nd_rec *tomb = NULL;
    if (!current || old->state & ND_REC_DISK) {
        tomb = nd_rec_new(s, key, old->type, 0, 0);
        if (!tomb)
            return -ENOMEM;
        tomb->flags |= ND_REC_TOMB;
    }
    row_out(v, old, key_hash_of(key));
    if (tomb) {
        rec_swap(s, v, &pos, tomb);
    } else {
        vec_remove(s, v, old);
        nd_table_remove(&pos);
        nd_rec_free(s, old);
    }
    return 1;
}

int nd_store_set_expire(nd_store *s, uint32_t vshard, const nd_arg *key, int64_t expire_ms)
{
    nd_vs *v = nd_vs_of(s, vshard);
    nd_pos pos;
    nd_disk_row row = {.hash = nd_key_place(s, key), .key = *key, .expire_ms = expire_ms};
    int rc = row_find_to_change(s, v, key, row.hash, &pos);
    if (rc <= 0 || !nd_rec_live(pos.rec))
        return rc < 0 ? rc : 0;
    nd_rec *r = pos.rec;
    uint64_t key_hash = key_hash_of(key);
    if (nd_rec_frozen(s, r) || !rec_fits(r, r->vlen, expire_ms)) {
        row.val = nd_rec_val(r);
        row.len = r->vlen;
        row.type = r->type;
        rc = put_new(s, v, &pos, true, key_hash, &row);
        return rc < 0 ? rc : 1;
    }
    v->hash -= nd_rowhash_head(key_hash, r->type, nd_rec_expire(r), r->vlen);
    count_add(v, r, (uint64_t)-1);
    rec_set_expire(r, expire_ms);
    count_add(v, r, 1);
    v->hash += nd_rowhash_head(key_hash, r->type, expire_ms, r->vlen);
    if (expire_ms != 0 && expire_ms < pos.seg->expire_min)
        pos.seg->expire_min = expire_ms;
    rec_mark_dirty(s, v, r);
    return 1;
}

/* ---- ranges ---- */

/* A record like `old` for a value of len_new bytes: old bytes copied, the rest zero, half as much again to grow. */
static nd_rec *edit_copy(nd_store *s, const nd_rec *old, uint32_t len_new)
{
    nd_arg key = {nd_rec_key(old), old->klen};
    nd_rec *r = rec_alloc(s, &key, old->type, len_new, nd_rec_expire(old), len_new / 2);
    if (!r)
        return NULL;
    if (old->vlen)
        memcpy(nd_rec_val(r), nd_rec_val(old), old->vlen);
    memset(nd_rec_val(r) + old->vlen, 0, len_new - old->vlen);
    return r;
}

/* Can the value be changed where it is? Unlike a put, an edit keeps spare room for the next one. */
static bool edit_fits(const nd_store *s, const nd_rec *r, uint32_t len_new)
{
    if (nd_rec_frozen(s, r))
        return false;
    if (nd_rec_bytes(r) <= ND_SLAB_MAX)
        return rec_fits(r, len_new, nd_rec_expire(r));
    return rec_size(r->klen, len_new, true) <= nd_rec_held(r);
}

static int edit_existing(nd_store *s, nd_vs *v, nd_pos *pos, uint32_t len_new)
{
    nd_edit *e = &s->edit;
    nd_rec *r = pos->rec, *copy = NULL;
    ND_ASSERT(len_new >= r->vlen);
    if (!edit_fits(s, r, len_new)) {
        copy = edit_copy(s, r, len_new);
        if (!copy)
            return -ENOMEM;
    }
    v->hash -= nd_rowhash_head(e->key_hash, r->type, nd_rec_expire(r), r->vlen);
    v->hash -= nd_rowhash_words(e->key_hash, nd_rec_val(r), r->vlen, e->word, e->word_end);
    if (copy) {
        rec_swap(s, v, pos, copy);
    } else {
        memset(nd_rec_val(r) + r->vlen, 0, len_new - r->vlen);
        r->vlen = len_new;
        rec_touch(s, r);
        rec_mark_dirty(s, v, r);
    }
    return 0;
}

static int edit_new(nd_store *s, nd_vs *v, nd_pos *pos, bool tomb, const nd_disk_row *row)
{
    nd_rec *r = nd_rec_new(s, &row->key, row->type, row->len, 0);
    if (!r)
        return -ENOMEM;
    memset(nd_rec_val(r), 0, row->len);
    int rc = 0;
    if (tomb)
        rec_swap(s, v, pos, r);
    else
        rc = rec_insert(s, v, row->hash, r, pos);
    if (rc == 0)
        count_add(v, r, 1);
    return rc;
}

int nd_store_edit_begin(nd_store *s, uint32_t vshard, const nd_arg *key, uint8_t type, uint32_t lo, uint32_t hi,
                        uint32_t len_new, uint8_t **p)
{
    ND_ASSERT(lo <= hi && hi <= len_new && key->len <= ND_KEY_BYTES_MAX);
    nd_vs *v = nd_vs_of(s, vshard);
    nd_disk_row row = {.hash = nd_key_place(s, key), .key = *key, .len = len_new, .type = type};
    nd_pos pos;
    int rc = row_find_to_change(s, v, key, row.hash, &pos);
    if (rc < 0)
        return rc;
    s->edit = (nd_edit){.key_hash = key_hash_of(key), .word = lo / 8, .word_end = (hi + 7) / 8};
    if (rc == 1 && nd_rec_live(pos.rec))
        rc = edit_existing(s, v, &pos, len_new);
    else
        rc = edit_new(s, v, &pos, rc == 1, &row);
    if (rc < 0)
        return rc;
    s->edit.vs = v;
    s->edit.rec = pos.rec;
    *p = nd_rec_val(pos.rec);
    return 0;
}

void nd_store_edit_end(nd_store *s)
{
    nd_edit *e = &s->edit;
    ND_ASSERT(e->vs);
    e->vs->hash += nd_rowhash_head(e->key_hash, e->rec->type, nd_rec_expire(e->rec), e->rec->vlen);
    e->vs->hash += nd_rowhash_words(e->key_hash, nd_rec_val(e->rec), e->rec->vlen, e->word, e->word_end);
    e->vs = NULL;
}
