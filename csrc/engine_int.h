/* engine_int.h: what engine.c, batch.c, conn.c, front.c and peer.c share. Nothing outside these five files includes it. */
#ifndef ND_ENGINE_INT_H
#define ND_ENGINE_INT_H
#include "access.h"
#include "conn.h"
#include "tls.h"

#define READ_BYTES 65536           /* one read of a socket */
#define OUTPUT_PER_TURN 8388608    /* reply bytes made in one turn for pipelines, once for new input and once for input kept */
#define PEER_MSG_BYTES 49152       /* commands or replies for a peer are cut into messages of about this size */

typedef struct op {
    dest to;
    bool read;                     /* a read that waits for the writes before it; its bytes are in batch.reads */
    uint16_t vshard;
    uint32_t offset;
    const nd_cmdrow *row;
} op;

typedef struct batch {
    struct batch *next;
    uint64_t index, term, stamp, seed, opened_us;
    bytes entry;                   /* header and commands as the log carries them */
    bytes reads;
    op *ops;
    uint32_t n_ops, cap_ops;
    uint32_t commands;
    uint32_t group;
    bool needs_space;
} batch;

typedef struct group {
    uint32_t first, last;          /* vShards */
    bool mine, listed;             /* listed: in engine.open_groups */
    batch *open;                   /* gathers */
    batch *sealed, *sealed_last;   /* closed, waiting to be proposed */
    batch *flying, *flying_last;   /* proposed, in log order */
    uint64_t applied, applied_term;
    uint64_t stopped_at;           /* replay: the entry that cannot be applied, 0 = none */
    char *halted;                  /* what its commands are answered; NULL = it serves */
} group;

typedef struct list {              /* of connection or group numbers */
    uint32_t *v;
    uint32_t n, cap;
} list;

typedef struct call_done {
    uint32_t token;
    uint8_t *p;
    size_t n;
} call_done;

typedef struct call {
    uint32_t token;
    uint16_t peer;                 /* worker + 1, 0 = here */
    bool write;
    uint32_t start_ms;
} call;

typedef struct peer {
    bytes commands;                /* of this turn, not yet in the ring */
    bytes replies;                 /* not yet in the ring, from replies_at on */
    bytes waiting;                 /* its commands that we have no room for yet, from waiting_at on */
    size_t replies_at, waiting_at;
    uint32_t waiting_n;
    uint64_t outstanding;          /* bytes of commands that it has not answered yet */
    list held;                     /* connections whose next command waits until these are fewer */
    origin *origins;
    uint32_t origins_cap;
} peer;

struct nd_engine {
    nd_engine_cfg cfg;
    nd_store *store;
    nd_cmdtab *tab;
    nd_metrics *m;
    nd_ringset *rings;
    nd_page *page;
    int epoll_fd;
    int listen_fd[4];              /* by port kind, | ND_LISTEN_TLS */
    uint64_t now_us, stamp;
    size_t made;                   /* bytes of replies made since the turn, or its second half, began */
    int fatal;
    int refuse;                    /* text kind, -1 = none */
    conn **conns;                  /* by index */
    list free_conns, dirty, resume, py_queue;
    uint32_t conns_open, next_gen, life; /* life: differs from that of every former life of this process */
    group groups[ND_GROUPS_MAX];
    uint32_t halted_n;             /* groups that are halted; almost always none */
    list open_groups;
    batch *pool;
    uint32_t pool_n;
    uint64_t gathered_bytes, pending;
    uint32_t vshard_first, vshard_last;  /* of this worker */
    nd_wal_rec *recs;
    batch **rec_batches;
    uint32_t recs_n;
    peer *peers;                   /* by worker number */
    call *calls;
    uint32_t calls_n, calls_cap;
    call_done *done;
    uint32_t done_head, done_n, done_cap;
    uint8_t *done_last;
    nd_event events[64];
    uint32_t events_head, events_n;
    uint64_t events_dropped[ND_EVENT_KINDS];
    nd_reply reply;                /* scratch */
    nd_arg *argv;                  /* scratch for decoded commands */
    uint32_t argv_cap;
    uint8_t *rbuf;
    char texts[ND_TEXTS][160];
    char hosts[ND_WORKERS_MAX][64];
    uint32_t ports[ND_WORKERS_MAX];
    const nd_cmdrow *expire_row;
    access_state access;
    tls_state tls;
};

/* util (engine.c) */
void list_push(list *l, uint32_t v);
uint8_t *bytes_room(bytes *b, size_t more);
void nd_engine_note(nd_engine *e, uint32_t kind, uint32_t conn_idx, uint64_t value, const char *text);
void call_finish(nd_engine *e, uint32_t token, const uint8_t *p, size_t n);
bool worker_of(nd_engine *e, uint32_t vshard, uint32_t *worker);

/* What a command for the vShard is answered because its group is halted; NULL = it is served. */
static inline const char *halted_text(const nd_engine *e, uint32_t vshard)
{
    return e->halted_n ? e->groups[vshard * e->cfg.groups / ND_VSHARDS].halted : NULL;
}

/* batch.c */
void submit(nd_engine *e, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc, const dest *to, origin *from);
void run(nd_engine *e, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc, uint64_t stamp, uint64_t seed,
         nd_reply *reply);
uint32_t decode_args(nd_engine *e, const uint8_t *p, size_t n, size_t *at);
void batches_free(nd_engine *e);

/* peer.c */
size_t peer_command_bytes(const nd_arg *argv, uint32_t argc);
bool peer_has_room(nd_engine *e, uint32_t worker, size_t bytes);    /* for a command of so many bytes more */
void peer_hold(nd_engine *e, uint32_t worker, conn *c);             /* until it may have room */
void peer_answered(nd_engine *e, slot *s);                          /* the slot's command no longer counts there */
bool peer_is_behind(const nd_engine *e, const dest *to);            /* far too much waits for it already */
void peer_forward(nd_engine *e, uint32_t worker, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc,
                  const dest *to);
void peer_reply(nd_engine *e, const dest *to, const uint8_t *p, size_t n);
void peers_poll(nd_engine *e, uint32_t rung);
bool peers_flush(nd_engine *e);    /* true: something arrived meanwhile, poll again */
void peers_free(nd_engine *e);
#endif
