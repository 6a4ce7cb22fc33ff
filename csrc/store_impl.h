/* store_impl.h: what the files of the store (store*.c) share; nobody else includes it.
 *
 * A record is clean (in LMDB with the same content), dirty (in its vShard's vector of the current generation) or frozen (in the
 * vector that a job lent to the checkpoint thread). Only frozen ones are immutable: a change makes a new record and marks the
 * old one retired. A frozen generation is over when housekeeping has gone through its vectors; until then no new one starts.
 */
#ifndef ND_STORE_IMPL_H
#define ND_STORE_IMPL_H
#include "ckpt.h"
#include "rowhash.h"

typedef struct nd_vs {
    nd_table table;
    uint64_t count, hash;          /* live rows, wherever they are */
    uint64_t resident;             /* live rows in the table */
    uint64_t expiring, resident_expiring;
    nd_vec dirty;
    nd_job *job;                   /* frozen part, until its pass is over */
    uint64_t applied_index;        /* durable */
    int64_t cold_expire_min;       /* no row outside the table expires before it */
    uint32_t group;
    uint32_t slice;                /* 0 = none yet */
    uint32_t slice_drop;           /* to be named in the next checkpoint, 0 = none */
    bool owned;
    bool slice_durable;            /* LMDB may hold rows of the slice */
} nd_vs;

/* A flushed vShard's table, freed little by little. */
typedef struct nd_grave {
    struct nd_grave *next;
    nd_table table;
    nd_vec dirty;
    uint64_t gen_wait;             /* its records may be freed when this generation is over */
    uint64_t hash;                 /* where freeing goes on */
    bool rows_freed;
} nd_grave;

typedef struct nd_edit {
    nd_vs *vs;                     /* NULL = no edit is open */
    nd_rec *rec;
    uint64_t key_hash;
    uint32_t word, word_end;
} nd_edit;

struct nd_store {
    nd_store_cfg cfg;
    nd_lmdb io;
    nd_slab slab;
    nd_ckpt ckpt;
    uint64_t gen, gen_done;        /* current generation; the last one that is over (gen - 1 or gen - 2) */
    uint32_t pass_job, pass_row;   /* where the pass over the frozen vectors is */
    bool awaiting_end;             /* a checkpoint was begun and its end not yet taken */
    uint32_t slice_next;
    uint32_t clock_s;              /* seconds since open, advanced by housekeep */
    int64_t opened_s;
    nd_edit edit;
    nd_grave *graves;
    uint64_t dirty_rows, dirty_bytes, frozen_rows, frozen_bytes;
    uint64_t checkpoints, checkpoint_last_us, cold_reads, evictions;
    uint32_t evict_vs, sweep_vs, rows_since_evict;
    uint64_t evict_hash, sweep_hash;
    bool sweep_cold;               /* the sweep is in the rows outside the table */
    int64_t sweep_cold_min;        /* earliest expiry met in this vShard's cold rows */
    uint8_t *random_key;           /* key handed out by nd_store_random from LMDB */
    nd_vs vs[ND_VSHARDS];
};

static inline nd_vs *nd_vs_of(nd_store *s, uint32_t vshard)
{
    ND_ASSERT(vshard < ND_VSHARDS && s->vs[vshard].owned && !s->edit.vs);
    return &s->vs[vshard];
}

static inline uint64_t nd_vs_cold(const nd_vs *v)
{
    return v->count - v->resident;
}

static inline bool nd_rec_live(const nd_rec *r)
{
    return !(r->flags & ND_REC_TOMB);
}

static inline bool nd_rec_frozen(const nd_store *s, const nd_rec *r)
{
    return r->dirty != ND_REC_CLEAN && (r->state & ND_REC_GEN) != (s->gen & ND_REC_GEN);
}

static inline uint64_t nd_key_place(const nd_store *s, const nd_arg *key)
{
    return nd_sip13(&s->io.sip, key->ptr, key->len);
}

/* store.c */
nd_rec *nd_rec_new(nd_store *s, const nd_arg *key, uint8_t type, uint32_t vlen, int64_t expire_ms);
uint64_t nd_rec_held(const nd_rec *r);                        /* bytes it takes, capacity included */
void nd_rec_free(nd_store *s, nd_rec *r);
int nd_vec_reserve(nd_store *s, nd_vec *v);                   /* room for one more */
void nd_vec_push(nd_store *s, nd_vs *v, nd_rec *r);           /* after reserve: r is dirty in the current generation */
void nd_vec_free(nd_store *s, nd_vec *v);
void nd_row_fill(const nd_store *s, const nd_rec *r, nd_row *out);

/* store_ckpt.c */
uint32_t nd_pass(nd_store *s, uint32_t rows_max);             /* go on through frozen vectors: rows handled */
int nd_pass_finish(nd_store *s);                              /* -ENOMEM = it could not */
uint32_t nd_evict_step(nd_store *s);                          /* the clock passes one segment: rows looked at */
int nd_vs_bury(nd_store *s, nd_vs *v);                        /* detach table and dirty vector: the vShard is empty */
void nd_jobs_free(nd_store *s);

/* store_life.c */
void nd_clock_advance(nd_store *s);
#endif
