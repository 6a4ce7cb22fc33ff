/* ckpt.h: the checkpoint thread: writes frozen rows to LMDB in synced transactions, deletes dropped slices when idle.
 *
 * The loop hands it jobs, one per changed vShard; while it runs, the thread owns everything in them but `committed`, which
 * counts the jobs that are durable (release/acquire): the loop may take these back at once. Frozen records are read without a
 * lock because nobody changes them. Each transaction holds whole vShards with their headers, the last one the groups' headers.
 * A vShard with more rows than a transaction should hold is written twice: into a stage, then, from the transaction that says
 * the stage is whole, into its slice; dead between the two, the next opening does what is left (merge.h).
 */
#ifndef ND_CKPT_H
#define ND_CKPT_H
#include <stdatomic.h>

#include "lmdbio.h"
#include "memtable.h"
#include "store.h"

#define ND_VEC_BLOCK 64

/* Records changed in one generation: blocks of 64, so that growth copies little. */
typedef struct nd_vec {
    nd_rec ***block;
    uint32_t blocks, blocks_max;
    uint32_t count;
    uint64_t bytes;              /* of the records, as allocated */
} nd_vec;

typedef struct nd_job {
    nd_vec rows;
    uint32_t vshard;
    uint32_t slice_drop;         /* 0 = none */
    uint32_t stage;              /* slice to stage the rows in, too many for one transaction; 0 = they are not */
    nd_vshard_head head;
    bool slice_durable;          /* loop: the slice was in LMDB before this job */
    bool orphan;                 /* loop: the vShard was flushed meanwhile */
} nd_job;

typedef struct nd_ckpt {
    nd_lmdb *io;
    const nd_store_cfg *cfg;
    pthread_t thread;
    int thread_id;               /* as the kernel numbers it; set before start returns */
    pthread_mutex_t lock;        /* guards the words up to `error` */
    pthread_cond_t wake;
    bool started, stop, requested, running, has_drops;
    bool stuck;                  /* a merge waits for disk space: it can neither end nor be given up */
    int result;                  /* of the last run: 1 or -errno */
    int error;                   /* of the work between runs; fatal */
    int event_fd;
    nd_job *jobs;                /* of the run: owned by the loop, lent to the thread */
    uint32_t job_count;
    nd_store_group *groups;      /* with their states, one allocation */
    uint32_t group_count;
    uint32_t slice_next;
    _Atomic uint32_t committed;
    uint64_t duration_us;
    nd_href *sorted;             /* thread: rows of one job by hash */
    size_t sorted_max;
} nd_ckpt;

int nd_ckpt_start(nd_ckpt *c, nd_lmdb *io, const nd_store_cfg *cfg);
void nd_ckpt_stop(nd_ckpt *c);                 /* waits for the transaction in flight */
void nd_ckpt_request(nd_ckpt *c);              /* jobs, groups, slice_next are set */
/* 1 = the last request is done and durable, 0 = it runs, -errno. */
int nd_ckpt_poll(nd_ckpt *c);
void nd_ckpt_wait(nd_ckpt *c);                 /* until no request runs */
void nd_ckpt_drops_added(nd_ckpt *c);

static inline nd_rec **nd_vec_at(const nd_vec *v, uint32_t i)
{
    return &v->block[i / ND_VEC_BLOCK][i % ND_VEC_BLOCK];
}
#endif
