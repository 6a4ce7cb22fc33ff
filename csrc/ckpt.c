/* ckpt.c: see ckpt.h. */
#include "ckpt.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define GROW_TRIES 16
#define DROP_ROWS 500
#define STUCK_RETRY_US 100000
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_BEST_EFFORT_LOWEST ((2 << 13) | 7)

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- one vShard ---- */

static int job_sort(nd_ckpt *c, const nd_job *job)
{
    if (job->rows.count > c->sorted_max) {
        nd_href *bigger = realloc(c->sorted, job->rows.count * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        c->sorted = bigger;
        c->sorted_max = job->rows.count;
    }
    for (uint32_t i = 0; i < job->rows.count; i++) {
        nd_rec *r = *nd_vec_at(&job->rows, i);
        c->sorted[i] = (nd_href){nd_sip13(&c->io->sip, nd_rec_key(r), r->klen), r};
    }
    nd_href_sort(c->sorted, job->rows.count);
    return 0;
}

static int row_write(nd_ckpt *c, nd_wtx *w, uint32_t slice, const nd_href *at)
{
    const nd_rec *r = at->rec;
    nd_arg key = {nd_rec_key(r), r->klen};
    if (r->flags & ND_REC_TOMB)
        return nd_lmdb_row_del(c->io, w, slice, at->hash, &key);
    nd_disk_row row = {at->hash, key, nd_rec_val(r), r->vlen, r->type, nd_rec_expire(r)};
    return nd_lmdb_row_put(c->io, w, slice, &row, false);
}

static int job_write(nd_ckpt *c, nd_wtx *w, const nd_job *job)
{
    int rc = job_sort(c, job);
    for (uint32_t i = 0; rc == 0 && i < job->rows.count; i++)
        rc = row_write(c, w, job->head.slice, &c->sorted[i]);
    if (rc == 0 && job->slice_drop)
        rc = nd_lmdb_drop_put(c->io, w, job->slice_drop);
    return rc < 0 ? rc : nd_lmdb_vshard_put(c->io, w, job->vshard, &job->head);
}

/* ---- one transaction ---- */

/* What a transaction is about: whole jobs, or some of a job's sorted rows. */
typedef struct part {
    uint32_t first, end;
    const nd_job *job;
    uint32_t row, row_end;
} part;

typedef int (*part_fn)(nd_ckpt *c, nd_wtx *w, const part *p);

static int txn(nd_ckpt *c, uint64_t bytes, part_fn fn, const part *p)
{
    int rc = -EOVERFLOW;
    for (int tries = 0; rc == -EOVERFLOW && tries < GROW_TRIES; tries++) {
        nd_wtx w;
        rc = nd_lmdb_write_begin(c->io, bytes, &w);
        if (rc < 0)
            return rc;
        rc = nd_lmdb_slice_next_put(c->io, &w, c->slice_next);
        if (rc == 0)
            rc = fn(c, &w, p);
        rc = nd_lmdb_write_end(c->io, &w, rc);
    }
    return rc;
}

static int groups_write(nd_ckpt *c, nd_wtx *w)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < c->group_count; i++) {
        const nd_store_group *g = &c->groups[i];
        nd_arg state = {g->state, g->state_len};
        rc = nd_lmdb_group_put(c->io, w, g->group, g->applied_index, g->applied_term, &state);
    }
    return rc;
}

/* A bound on what rows may take: each its own leaf page, copied, plus its bytes twice, plus the way to the root. */
static uint64_t bytes_for(const nd_ckpt *c, uint64_t rows, uint64_t bytes)
{
    rows += 64 + c->group_count;
    for (uint32_t i = 0; i < c->group_count; i++)
        bytes += c->groups[i].state_len;
    return 2 * (rows * c->io->page_bytes + bytes);
}

static int jobs_write(nd_ckpt *c, nd_wtx *w, const part *p)
{
    int rc = 0;
    for (uint32_t i = p->first; rc == 0 && i < p->end; i++)
        rc = job_write(c, w, &c->jobs[i]);
    return rc == 0 && p->end == c->job_count ? groups_write(c, w) : rc;
}

/* ---- a vShard too large for one transaction ---- */

static int stage_rows(nd_ckpt *c, nd_wtx *w, const part *p)
{
    int rc = nd_lmdb_install_put(c->io, w, p->job->stage); /* dropped at the next opening unless it becomes whole */
    for (uint32_t i = p->row; rc == 0 && i < p->row_end; i++) {
        const nd_rec *r = c->sorted[i].rec;
        nd_arg key = {nd_rec_key(r), r->klen};
        nd_disk_row row = {.hash = c->sorted[i].hash, .key = key};
        if (!(r->flags & ND_REC_TOMB))
            row = (nd_disk_row){c->sorted[i].hash, key, nd_rec_val(r), r->vlen, r->type, nd_rec_expire(r)};
        rc = nd_lmdb_row_put(c->io, w, p->job->stage, &row, false);
    }
    return rc;
}

static int stage_whole(nd_ckpt *c, nd_wtx *w, const part *p)
{
    int rc = nd_lmdb_install_del(c->io, w, p->job->stage);
    return rc < 0 ? rc : nd_lmdb_merge_put(c->io, w, p->job->vshard, p->job->stage, &p->job->head);
}

static int stage_drop(nd_ckpt *c, nd_wtx *w, const part *p)
{
    int rc = nd_lmdb_install_del(c->io, w, p->job->stage);
    return rc < 0 ? rc : nd_lmdb_drop_put(c->io, w, p->job->stage);
}

static int merge_rows(nd_ckpt *c, nd_wtx *w, const part *p)
{
    int rc = 0;
    for (uint32_t i = p->row; rc == 0 && i < p->row_end; i++)
        rc = row_write(c, w, p->job->head.slice, &c->sorted[i]);
    return rc;
}

static int merge_end(nd_ckpt *c, nd_wtx *w, const part *p)
{
    const nd_job *job = p->job;
    int rc = nd_lmdb_vshard_put(c->io, w, job->vshard, &job->head);
    if (rc == 0)
        rc = nd_lmdb_merge_del(c->io, w, job->vshard);
    if (rc == 0)
        rc = nd_lmdb_drop_put(c->io, w, job->stage);
    if (rc == 0 && job->slice_drop)
        rc = nd_lmdb_drop_put(c->io, w, job->slice_drop);
    return rc == 0 && p->end == c->job_count ? groups_write(c, w) : rc;
}

/* ---- one run ---- */

static bool stop_asked(nd_ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    bool stop = c->stop;
    pthread_mutex_unlock(&c->lock);
    return stop;
}

/* Rest between transactions; a stop ends the rest. */
static void rest_us(nd_ckpt *c, uint64_t us)
{
    struct timespec until;
    if (us == 0)
        return;
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + us * 1000;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&c->lock);
    while (!c->stop && pthread_cond_timedwait(&c->wake, &c->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&c->lock);
}

static void stuck_set(nd_ckpt *c, bool stuck)
{
    pthread_mutex_lock(&c->lock);
    c->stuck = stuck;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

/* Once the stage is whole there is no way back: a full disk is waited for. A stop leaves the rest to the next opening. */
static int txn_of_merge(nd_ckpt *c, uint64_t bytes, part_fn fn, const part *p)
{
    int rc;
    while ((rc = txn(c, bytes, fn, p)) == -ENOSPC) {
        stuck_set(c, true);
        rest_us(c, STUCK_RETRY_US);
        if (stop_asked(c))
            return -ECANCELED;
    }
    stuck_set(c, false);
    return rc;
}

/* All rows of the job by fn, in transactions of about txn_bytes_max and at most txn_rows_max rows. */
static int rows_in_parts(nd_ckpt *c, const nd_job *job, part_fn fn, bool merging)
{
    int rc = 0;
    for (part p = {.job = job}; rc == 0 && p.row < job->rows.count; p.row = p.row_end) {
        uint64_t bytes = 0;
        for (p.row_end = p.row; p.row_end < job->rows.count && p.row_end - p.row < c->cfg->txn_rows_max &&
                                bytes < c->cfg->txn_bytes_max; p.row_end++)
            bytes += sizeof(nd_rec) + c->sorted[p.row_end].rec->klen + c->sorted[p.row_end].rec->vlen;
        uint64_t need = bytes_for(c, p.row_end - p.row, bytes);
        if (stop_asked(c))
            return -ECANCELED;
        rc = merging ? txn_of_merge(c, need, fn, &p) : txn(c, need, fn, &p);
        rest_us(c, c->cfg->pause_us);
    }
    return rc;
}

static int run_staged(nd_ckpt *c, uint32_t number)
{
    const nd_job *job = &c->jobs[number];
    part whole = {.job = job, .first = number, .end = number + 1};
    int rc = job_sort(c, job);
    if (rc == 0)
        rc = rows_in_parts(c, job, stage_rows, false);
    if (rc == 0)
        rc = txn(c, bytes_for(c, 0, 0), stage_whole, &whole);
    if (rc < 0) {
        if (rc == -ENOSPC) /* gives back what it took, if that works; the next opening does otherwise */
            (void)txn(c, bytes_for(c, 0, 0), stage_drop, &whole);
        return rc;
    }
    rc = rows_in_parts(c, job, merge_rows, true);
    return rc < 0 ? rc : txn_of_merge(c, bytes_for(c, 0, 0), merge_end, &whole);
}

/* Jobs from `first` on that go into one transaction; returns where they end. */
static uint32_t run_whole(nd_ckpt *c, uint32_t first, int *rc)
{
    part p = {.first = first, .end = first};
    uint64_t rows = 0, bytes = 0;
    while (p.end < c->job_count && !c->jobs[p.end].stage &&
           (p.end == first || (rows < c->cfg->txn_rows_max && bytes < c->cfg->txn_bytes_max))) {
        rows += c->jobs[p.end].rows.count + 1;
        bytes += c->jobs[p.end++].rows.bytes;
    }
    *rc = txn(c, bytes_for(c, rows, bytes), jobs_write, &p);
    return p.end;
}

static int run(nd_ckpt *c)
{
    uint32_t first = 0;
    do {
        int rc;
        uint32_t end = first + 1;
        if (stop_asked(c))
            return -ECANCELED;
        if (first < c->job_count && c->jobs[first].stage)
            rc = run_staged(c, first);
        else
            end = run_whole(c, first, &rc);
        if (rc < 0)
            return rc;
        /* Release: the loop that sees the count also sees that the thread is done with the jobs' records. */
        atomic_store_explicit(&c->committed, end, memory_order_release);
        first = end;
        if (first < c->job_count)
            rest_us(c, c->cfg->pause_us);
    } while (first < c->job_count);
    return 1;
}

/* Delete some rows of a dropped slice, in one transaction: 1 = did something, 0 = nothing left to do, -errno. */
static int drop_some(nd_ckpt *c)
{
    nd_wtx w;
    uint32_t slice;
    int rc = nd_lmdb_write_begin(c->io, (uint64_t)DROP_ROWS * 4 * c->io->page_bytes, &w);
    if (rc < 0)
        return rc;
    int found = nd_lmdb_drop_first(c->io, w.txn, &slice);
    rc = found < 0 ? found : 0;
    if (found == 1) {
        int n = nd_lmdb_slice_trim(&w, slice, DROP_ROWS);
        rc = n < 0 ? n : n < DROP_ROWS ? nd_lmdb_drop_del(c->io, &w, slice) : 0;
    }
    rc = nd_lmdb_write_end(c->io, &w, found == 0 ? -ENOENT : rc);
    return rc == 0 ? 1 : rc == -ENOENT ? 0 : rc == -EOVERFLOW ? 1 : rc;
}

/* ---- the thread ---- */

static void notify(nd_ckpt *c)
{
    uint64_t one = 1;
    ND_ASSERT(write(c->event_fd, &one, sizeof one) == sizeof one);
}

static void run_requested(nd_ckpt *c)
{
    uint64_t start = now_us();
    int result = run(c);
    free(c->sorted);
    c->sorted = NULL;
    c->sorted_max = 0;
    pthread_mutex_lock(&c->lock);
    c->result = result;
    c->duration_us = now_us() - start;
    c->running = false;
    c->has_drops = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
    notify(c);
}

static void drop_between_runs(nd_ckpt *c)
{
    int rc = drop_some(c);
    pthread_mutex_lock(&c->lock);
    if (rc <= 0)
        c->has_drops = false;      /* a full disk: tried again after the next run */
    bool fatal = rc < 0 && rc != -ENOSPC;
    if (fatal)
        c->error = rc;
    pthread_mutex_unlock(&c->lock);
    if (fatal)
        notify(c);
    rest_us(c, c->cfg->pause_us);
}

static void *thread_main(void *arg)
{
    nd_ckpt *c = arg;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    prctl(PR_SET_NAME, "nodedb-ckpt");
    setpriority(PRIO_PROCESS, (id_t)tid, 19);
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, IOPRIO_BEST_EFFORT_LOWEST);
    pthread_mutex_lock(&c->lock);
    c->thread_id = tid;
    pthread_cond_broadcast(&c->wake);
    while (!c->stop) {
        bool wanted = c->requested, drops = c->has_drops && c->error == 0;
        if (!wanted && !drops) {
            pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        c->requested = false;
        pthread_mutex_unlock(&c->lock);
        if (wanted)
            run_requested(c);
        else
            drop_between_runs(c);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

int nd_ckpt_start(nd_ckpt *c, nd_lmdb *io, const nd_store_cfg *cfg)
{
    *c = (nd_ckpt){.io = io, .cfg = cfg, .result = 1, .has_drops = true};
    c->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (c->event_fd < 0)
        return -errno;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
    sigset_t all, before;          /* signals are the main thread's business */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&c->thread, NULL, thread_main, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        close(c->event_fd);
        return -rc;
    }
    c->started = true;
    pthread_mutex_lock(&c->lock);
    while (c->thread_id == 0)
        pthread_cond_wait(&c->wake, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

void nd_ckpt_stop(nd_ckpt *c)
{
    if (!c->started)
        return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->wake);
    close(c->event_fd);
    c->started = false;
}

void nd_ckpt_request(nd_ckpt *c)
{
    atomic_store_explicit(&c->committed, 0, memory_order_relaxed);   /* the lock below orders it */
    pthread_mutex_lock(&c->lock);
    c->requested = c->running = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

int nd_ckpt_poll(nd_ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    int rc = c->error < 0 ? c->error : c->running ? 0 : c->result;
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void nd_ckpt_wait(nd_ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->running && !c->stuck)
        pthread_cond_wait(&c->wake, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void nd_ckpt_drops_added(nd_ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    c->has_drops = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
}
