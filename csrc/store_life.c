/* store_life.c: opening, owning vShards, figures, closing. See store.h. */
#include <errno.h>
#include <time.h>

#include "merge.h"
#include "store_impl.h"

static int64_t now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec;
}

void nd_clock_advance(nd_store *s)
{
    s->clock_s = (uint32_t)(now_s() - s->opened_s) & (UINT32_MAX >> ND_REC_CLOCK_SHIFT);
}

int nd_store_open(const nd_store_cfg *cfg, nd_store **out)
{
    nd_store *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->cfg = *cfg;
    s->cfg.path = NULL;
    s->opened_s = now_s();
    s->gen = 1;
    nd_slab_init(&s->slab);
    s->random_key = malloc(ND_KEY_BYTES_MAX);
    int rc = s->random_key ? nd_lmdb_open(&s->io, cfg->path, cfg->map_bytes) : -ENOMEM;
    if (rc == 0) {
        rc = nd_merge_finish(&s->io, cfg->txn_rows_max, cfg->txn_bytes_max);
        if (rc < 0)
            nd_lmdb_close(&s->io);
    }
    if (rc < 0) {
        free(s->random_key);
        free(s);
        return rc;
    }
    s->slice_next = s->io.slice_next;
    rc = nd_ckpt_start(&s->ckpt, &s->io, &s->cfg);
    if (rc < 0) {
        nd_lmdb_close(&s->io);
        free(s->random_key);
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

static void vs_free(nd_vs *v)
{
    free(v->table.dir);
    free(v->dirty.block);
}

/* The slab frees every record, segment and block at once; the rest is what malloc gave. */
void nd_store_close(nd_store *s)
{
    nd_ckpt_stop(&s->ckpt);
    nd_jobs_free(s);
    for (uint32_t i = 0; i < ND_VSHARDS; i++)
        vs_free(&s->vs[i]);
    while (s->graves) {
        nd_grave *g = s->graves;
        s->graves = g->next;
        free(g->table.dir);
        free(g->dirty.block);
        free(g);
    }
    nd_slab_destroy(&s->slab);
    nd_lmdb_close(&s->io);
    free(s->random_key);
    free(s);
}

static int own_read(nd_store *s, nd_vs *v, uint32_t vshard, uint32_t group)
{
    nd_vshard_head head;
    uint64_t index, term;
    nd_arg state;
    int rc = nd_lmdb_vshard_get(&s->io, s->io.reader, vshard, &head);
    if (rc < 0)
        return rc;
    if (rc == 1) {
        if (head.group != group)
            return -EINVAL;
        v->slice = head.slice;
        v->slice_durable = true;
        v->count = head.count;
        v->hash = head.hash;
        v->expiring = head.expiring;
        v->applied_index = head.applied_index;
        v->cold_expire_min = head.expiring ? INT64_MIN : INT64_MAX;
    }
    rc = nd_lmdb_group_get(&s->io, s->io.reader, group, &index, &term, &state);
    /* The group's header goes into a checkpoint's last transaction: a vShard with no job had nothing new until there. */
    if (rc == 1 && index > v->applied_index)
        v->applied_index = index;
    return rc < 0 ? rc : 0;
}

int nd_store_own(nd_store *s, uint32_t vshard, uint32_t group)
{
    ND_ASSERT(vshard < ND_VSHARDS && group < ND_GROUPS_MAX && !s->vs[vshard].owned);
    nd_vs v = {.group = group, .owned = true, .cold_expire_min = INT64_MAX};
    int rc = nd_lmdb_read_begin(&s->io);
    if (rc < 0)
        return rc;
    rc = own_read(s, &v, vshard, group);
    nd_lmdb_read_end(&s->io);
    if (rc == 0)
        s->vs[vshard] = v;
    return rc;
}

uint64_t nd_store_applied_index(nd_store *s, uint32_t vshard)
{
    return nd_vs_of(s, vshard)->applied_index;
}

int nd_store_group_get(nd_store *s, uint32_t group, uint64_t *applied_index, uint64_t *applied_term, uint8_t *state,
                       uint32_t state_cap, uint32_t *state_len)
{
    nd_arg stored;
    int rc = nd_lmdb_read_begin(&s->io);
    if (rc < 0)
        return rc;
    rc = nd_lmdb_group_get(&s->io, s->io.reader, group, applied_index, applied_term, &stored);
    if (rc == 1) {
        *state_len = stored.len;
        if (stored.len > state_cap)
            rc = -ENOBUFS;
        else if (stored.len)
            memcpy(state, stored.ptr, stored.len);
    }
    nd_lmdb_read_end(&s->io);
    return rc;
}

int nd_store_group_put(nd_store *s, const nd_store_group *g)
{
    nd_wtx w;
    nd_arg state = {g->state, g->state_len};
    if (nd_ckpt_poll(&s->ckpt) == 0)
        return -EBUSY;
    int rc = -EOVERFLOW;
    for (int tries = 0; rc == -EOVERFLOW && tries < 16; tries++) {
        rc = nd_lmdb_write_begin(&s->io, 64 * (uint64_t)s->io.page_bytes + 2 * (uint64_t)g->state_len, &w);
        if (rc < 0)
            return rc;
        rc = nd_lmdb_group_put(&s->io, &w, g->group, g->applied_index, g->applied_term, &state);
        rc = nd_lmdb_write_end(&s->io, &w, rc);
    }
    for (uint32_t i = 0; rc == 0 && i < ND_VSHARDS; i++)
        if (s->vs[i].owned && s->vs[i].group == g->group && s->vs[i].applied_index < g->applied_index)
            s->vs[i].applied_index = g->applied_index;
    return rc;
}

uint64_t nd_store_count(nd_store *s, uint32_t vshard)
{
    return nd_vs_of(s, vshard)->count;
}

uint64_t nd_store_hash(nd_store *s, uint32_t vshard)
{
    return nd_vs_of(s, vshard)->hash;
}

void nd_store_stats_get(nd_store *s, nd_store_stats *out)
{
    *out = (nd_store_stats){
        .dirty_rows = s->dirty_rows + s->frozen_rows,
        .dirty_bytes = s->dirty_bytes + s->frozen_bytes,
        .memory_bytes = s->slab.bytes_allocated + sizeof *s,
        .checkpoints = s->checkpoints,
        .checkpoint_last_us = s->checkpoint_last_us,
        .cold_reads = s->cold_reads,
        .evictions = s->evictions,
    };
    for (uint32_t i = 0; i < ND_VSHARDS; i++) {
        const nd_vs *v = &s->vs[i];
        out->rows += v->count;
        out->resident_rows += v->resident;
        out->rows_with_expiry += v->expiring;
        out->memory_bytes += v->table.dir ? sizeof(uintptr_t) << v->table.dir_bits : 0;
    }
}
