/* store_ckpt.c: freezing, the pass over what was frozen, flushing, background work of the loop. See store_impl.h.
 *
 * Life of a generation: begin hands each changed vShard's dirty vector to the thread as a job; as jobs become durable, the pass
 * makes their records clean, frees retired ones and removes tombstones; when the thread fails on a full disk, the pass makes the
 * records of the jobs left dirty again. All of it goes a bounded number of rows at a time, but for begin, which finishes
 * a pass that housekeeping did not.
 */
#include <errno.h>
#include <unistd.h>

#include "store_impl.h"

/* ---- freeze ---- */

static void groups_free(nd_ckpt *c)
{
    free(c->groups);
    c->groups = NULL;
    c->group_count = 0;
}

void nd_jobs_free(nd_store *s)
{
    for (uint32_t i = s->pass_job; i < s->ckpt.job_count; i++)
        free(s->ckpt.jobs[i].rows.block);
    free(s->ckpt.jobs);
    s->ckpt.jobs = NULL;
    s->ckpt.job_count = 0;
    groups_free(&s->ckpt);
}

/* The groups and their states in one allocation. */
static int groups_copy(nd_ckpt *c, const nd_store_group *groups, uint32_t n)
{
    size_t bytes = n * sizeof *groups;
    for (uint32_t i = 0; i < n; i++)
        bytes += groups[i].state_len;
    c->groups = malloc(bytes + 1);
    if (!c->groups)
        return -ENOMEM;
    uint8_t *state = (uint8_t *)(c->groups + n);
    for (uint32_t i = 0; i < n; i++) {
        c->groups[i] = groups[i];
        c->groups[i].state = state;
        if (groups[i].state_len)
            memcpy(state, groups[i].state, groups[i].state_len);
        state += groups[i].state_len;
    }
    c->group_count = n;
    return 0;
}

static const nd_store_group *group_find(const nd_ckpt *c, const uint16_t at[ND_GROUPS_MAX], uint32_t group)
{
    ND_ASSERT(at[group] > 0);
    return &c->groups[at[group] - 1];
}

static bool vs_changed(const nd_vs *v)
{
    return v->owned && (v->dirty.count > 0 || v->slice_drop != 0);
}

static void vs_freeze(nd_store *s, nd_vs *v, nd_job *job, const nd_store_group *g)
{
    if (v->slice == 0) {
        v->slice = s->slice_next++;
        v->slice_durable = false;
    }
    *job = (nd_job){
        .rows = v->dirty,
        .vshard = (uint32_t)(v - s->vs),
        .slice_drop = v->slice_drop,
        .stage = v->dirty.count > 1 && v->dirty.bytes > s->cfg.txn_bytes_max ? s->slice_next++ : 0,
        .slice_durable = v->slice_durable,
        .head = {v->slice, v->group, g->applied_index, g->applied_term, v->count, v->hash, v->expiring},
    };
    v->dirty = (nd_vec){0};
    v->slice_drop = 0;
    v->job = job;
}

int nd_store_checkpoint_begin(nd_store *s, const nd_store_group *groups, uint32_t n)
{
    nd_ckpt *c = &s->ckpt;
    uint16_t at[ND_GROUPS_MAX] = {0};
    uint32_t jobs = 0;
    int rc = nd_ckpt_poll(c);
    if (s->awaiting_end)
        return -EBUSY;
    if (rc < 0 && rc != -ENOSPC)
        return rc;
    rc = nd_pass_finish(s);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < n; i++) {
        ND_ASSERT(groups[i].group < ND_GROUPS_MAX);
        at[groups[i].group] = (uint16_t)(i + 1);
    }
    for (uint32_t i = 0; i < ND_VSHARDS; i++)
        jobs += vs_changed(&s->vs[i]);
    c->jobs = calloc(jobs + 1, sizeof *c->jobs);
    if (!c->jobs)
        return -ENOMEM;
    rc = groups_copy(c, groups, n);
    if (rc < 0) {
        free(c->jobs);
        c->jobs = NULL;
        return rc;
    }
    for (uint32_t i = 0; i < ND_VSHARDS; i++)
        if (vs_changed(&s->vs[i]))
            vs_freeze(s, &s->vs[i], &c->jobs[c->job_count++], group_find(c, at, s->vs[i].group));
    c->slice_next = s->slice_next;
    s->gen++;
    s->frozen_rows = s->dirty_rows;
    s->frozen_bytes = s->dirty_bytes;
    s->dirty_rows = s->dirty_bytes = 0;
    s->pass_job = s->pass_row = 0;
    s->awaiting_end = true;
    nd_ckpt_request(c);
    return 0;
}

int nd_store_checkpoint_fd(nd_store *s)
{
    return s->ckpt.event_fd;
}

int nd_store_checkpoint_thread(nd_store *s)
{
    return s->ckpt.thread_id;
}

/* Everything up to the groups' indexes is durable, also on vShards that had nothing to write. */
static void applied_note(nd_store *s)
{
    uint64_t index[ND_GROUPS_MAX] = {0};
    for (uint32_t i = 0; i < s->ckpt.group_count; i++)
        index[s->ckpt.groups[i].group] = s->ckpt.groups[i].applied_index;
    for (uint32_t i = 0; i < ND_VSHARDS; i++)
        if (s->vs[i].owned && s->vs[i].applied_index < index[s->vs[i].group])
            s->vs[i].applied_index = index[s->vs[i].group];
}

int nd_store_checkpoint_end(nd_store *s)
{
    uint64_t events;
    int rc = nd_ckpt_poll(&s->ckpt);
    if (rc == 0)
        return 0;
    ssize_t got = read(s->ckpt.event_fd, &events, sizeof events);
    ND_ASSERT(got == sizeof events || errno == EAGAIN);
    if (!s->awaiting_end)
        return rc == -ENOSPC ? 1 : rc;   /* that one was told */
    s->awaiting_end = false;
    s->checkpoint_last_us = s->ckpt.duration_us;
    if (rc == 1) {
        s->checkpoints++;
        applied_note(s);
    }
    groups_free(&s->ckpt);
    return rc;
}

int nd_store_wants_checkpoint(nd_store *s, int asked)
{
    if (s->awaiting_end || s->ckpt.job_count > 0)
        return 0;
    bool all_dirty = s->slab.bytes_used > s->cfg.memory_bytes_max && s->dirty_bytes > s->cfg.memory_bytes_max / 2;
    return asked != 0 || s->dirty_bytes > s->cfg.dirty_bytes_max || all_dirty;
}

/* ---- the pass ---- */

static void frozen_forget(nd_store *s, const nd_rec *r)
{
    s->frozen_rows--;
    s->frozen_bytes -= nd_rec_held(r);
}

/* The row is in LMDB as the record says. */
static void pass_clean(nd_store *s, nd_vs *v, nd_rec *r)
{
    nd_arg key = {nd_rec_key(r), r->klen};
    nd_pos pos;
    r->dirty = ND_REC_CLEAN;
    r->state |= ND_REC_DISK;
    if (nd_rec_live(r))
        return;
    ND_ASSERT(nd_table_find(&v->table, nd_key_place(s, &key), &key, &pos) && pos.rec == r);
    nd_table_remove(&pos);
    nd_rec_free(s, r);
}

/* false = no memory, nothing done. */
static bool pass_row(nd_store *s, nd_vs *v, const nd_job *job, nd_rec *r, bool committed)
{
    if (!(r->state & ND_REC_RETIRED) && !job->orphan && !committed && nd_vec_reserve(s, &v->dirty) < 0)
        return false;
    frozen_forget(s, r);
    if (r->state & ND_REC_RETIRED)
        nd_rec_free(s, r);
    else if (job->orphan)
        return true;               /* it is in a grave */
    else if (committed)
        pass_clean(s, v, r);
    else
        nd_vec_push(s, v, r);
    return true;
}

/* What became of the job's slice, and of the one it was to drop. */
static void pass_job_over(nd_store *s, nd_vs *v, nd_job *job, bool committed)
{
    if (committed && v->applied_index < job->head.applied_index)
        v->applied_index = job->head.applied_index;
    if (!job->orphan) {
        v->slice_durable = v->slice_durable || committed;
        v->slice_drop = committed ? 0 : job->slice_drop;
    } else {
        v->slice_drop = committed || job->slice_durable ? job->head.slice : job->slice_drop;
    }
    v->job = NULL;
    nd_vec_free(s, &job->rows);
}

uint32_t nd_pass(nd_store *s, uint32_t rows_max)
{
    nd_ckpt *c = &s->ckpt;
    uint32_t rows = 0, committed = atomic_load_explicit(&c->committed, memory_order_acquire);
    uint32_t end = s->awaiting_end ? committed : c->job_count;
    while (s->pass_job < end) {
        nd_job *job = &c->jobs[s->pass_job];
        nd_vs *v = &s->vs[job->vshard];
        bool durable = s->pass_job < committed;
        for (; s->pass_row < job->rows.count; s->pass_row++, rows++)
            if (rows == rows_max || !pass_row(s, v, job, *nd_vec_at(&job->rows, s->pass_row), durable))
                return rows;
        pass_job_over(s, v, job, durable);
        s->pass_job++;
        s->pass_row = 0;
    }
    if (!s->awaiting_end && c->jobs) {
        nd_jobs_free(s);
        s->pass_job = 0;
        s->gen_done = s->gen - 1;
    }
    return rows;
}

int nd_pass_finish(nd_store *s)
{
    nd_pass(s, UINT32_MAX);
    return s->ckpt.jobs ? -ENOMEM : 0;
}

/* ---- flush ---- */

int nd_vs_bury(nd_store *s, nd_vs *v)
{
    nd_grave *g = malloc(sizeof *g);
    if (!g)
        return -ENOMEM;
    *g = (nd_grave){.next = s->graves, .table = v->table, .dirty = v->dirty, .gen_wait = v->job ? s->gen - 1 : 0};
    s->graves = g;
    s->dirty_rows -= v->dirty.count;
    s->dirty_bytes -= v->dirty.bytes;
    v->table = (nd_table){0};
    v->dirty = (nd_vec){0};
    v->count = v->hash = v->resident = v->expiring = v->resident_expiring = 0;
    v->cold_expire_min = INT64_MAX;
    if (v->job)
        v->job->orphan = true;     /* its pass says which slice is to be dropped */
    else if (v->slice_durable)
        v->slice_drop = v->slice;
    v->slice = 0;
    v->slice_durable = false;
    return 0;
}

int nd_store_flush(nd_store *s, uint32_t vshard)
{
    nd_vs *v = nd_vs_of(s, vshard);
    return v->count == 0 && !v->table.dir ? 0 : nd_vs_bury(s, v);
}

static uint32_t grave_segment(nd_store *s, nd_grave *g)
{
    uint64_t next;
    uint32_t rows = 0;
    nd_seg *seg = nd_table_segment(&g->table, g->hash, &next);
    for (uint32_t i = 0; seg && i < ND_SEG_SLOTS; i++) {
        if (!nd_slot_live(seg->slot[i]))
            continue;
        nd_rec_free(s, nd_slot_rec(seg->slot[i]));
        rows++;
    }
    g->hash = next;
    g->rows_freed = next == 0;
    return rows + 1;
}

/* Free flushed rows, a segment at a time. A grave whose rows the thread may still read waits for their generation's end. */
static uint32_t graves_dig(nd_store *s, uint32_t rows_max)
{
    uint32_t rows = 0;
    for (nd_grave **at = &s->graves; *at && rows < rows_max;) {
        nd_grave *g = *at;
        if (g->gen_wait > s->gen_done) {
            at = &g->next;
            continue;
        }
        while (!g->rows_freed && rows < rows_max)
            rows += grave_segment(s, g);
        if (!g->rows_freed)
            break;
        *at = g->next;
        nd_table_free(&g->table, &s->slab);
        nd_vec_free(s, &g->dirty);
        free(g);
    }
    return rows;
}

/* ---- eviction ---- */

static void evict_row(nd_store *s, nd_vs *v, nd_pos *pos)
{
    int64_t expire_ms = nd_rec_expire(pos->rec);
    v->resident--;
    if (expire_ms != 0) {
        v->resident_expiring--;
        if (expire_ms < v->cold_expire_min)
            v->cold_expire_min = expire_ms;
    }
    nd_table_remove(pos);
    nd_rec_free(s, pos->rec);
    s->evictions++;
}

/* The clock passes one segment: clean rows used since it last passed stay once more. */
static uint32_t evict_segment(nd_store *s, nd_vs *v, nd_seg *seg)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < ND_SEG_SLOTS; i++) {
        if (!nd_slot_live(seg->slot[i]))
            continue;
        nd_pos pos = {seg, i, nd_slot_rec(seg->slot[i])};
        rows++;
        if (pos.rec->dirty != ND_REC_CLEAN)
            continue;
        if (pos.rec->state & ND_REC_USED)
            pos.rec->state &= ~ND_REC_USED;
        else
            evict_row(s, v, &pos);
    }
    return rows;
}

static bool nothing_clean(const nd_store *s)
{
    return s->slab.bytes_used <= s->dirty_bytes + s->frozen_bytes;
}

uint32_t nd_evict_step(nd_store *s)
{
    for (uint32_t passed = 0; passed < ND_VSHARDS; passed++) {
        nd_vs *v = &s->vs[s->evict_vs];
        uint64_t next = 0;
        nd_seg *seg = nd_table_segment(&v->table, s->evict_hash, &next);
        uint32_t rows = seg ? evict_segment(s, v, seg) : 0;
        s->evict_hash = next;
        s->evict_vs = (s->evict_vs + (next == 0)) % ND_VSHARDS;
        if (rows > 0)
            return rows;
    }
    return 0;
}

static uint32_t evict(nd_store *s, uint32_t rows_max)
{
    uint32_t rows = 0;
    while (s->slab.bytes_used > s->cfg.memory_bytes_max && rows < rows_max && !nothing_clean(s)) {
        uint32_t step = nd_evict_step(s);
        if (step == 0)
            break;
        rows += step;
    }
    return rows;
}

int nd_store_housekeep(nd_store *s, uint32_t rows_max)
{
    ND_ASSERT(!s->edit.vs);
    nd_clock_advance(s);
    uint32_t rows = nd_pass(s, rows_max);
    if (rows < rows_max)
        rows += graves_dig(s, rows_max - rows);
    if (rows < rows_max)
        rows += evict(s, rows_max - rows);
    return (int)(rows < rows_max ? rows : rows_max);
}
