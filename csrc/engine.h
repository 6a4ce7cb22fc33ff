/* engine.h: the data path of one worker, from client bytes to replies, a batch at a time.
 *
 *   poll     accept, read and scan client sockets; serve reads; gather writes into the open batch of their group; send what
 *            other workers own to their rings, and take in what they sent
 *   seal     close the open batches and show them as WAL records: Python's log gives each its term and index and writes them
 *   commit   apply committed batches to the store through the command functions, in order, and place the replies
 *   flush    one write per connection that has something to say, one publish per ring
 *
 * Loop thread only; no function blocks and none calls Python. A reply is placed in the slot that its command took when it was
 * read, so that a connection's replies leave in the order of its commands whatever order they are made in. A write is never
 * visible before it is committed. A connection's read waits for its own earlier writes to the vShard, and for nothing else.
 * The entry format (what the log carries) is a byte table at the top of batch.c. Integers returned are counts or -errno;
 * a negative return from poll, commit or replay is fatal for the worker.
 */
#ifndef ND_ENGINE_H
#define ND_ENGINE_H
#include "cmd.h"
#include "metrics.h"
#include "nd.h"
#include "page.h"
#include "ringset.h"
#include "shm.h"
#include "store.h"
#include "wal.h"

/* cffi:begin */
typedef struct nd_engine nd_engine;
#define ND_TEXT_OVERLOAD 0
#define ND_TEXT_NOSPACE 1
#define ND_TEXT_UNKNOWN 2
#define ND_TEXT_DEADLINE 3
#define ND_TEXT_TRYAGAIN 4
#define ND_TEXT_CROSSSLOT 5
#define ND_TEXT_MAXCLIENTS 6
#define ND_TEXT_KEY_TOO_LONG 7
#define ND_TEXT_CLUSTERDOWN 8
#define ND_TEXT_HALTED 9
#define ND_TEXTS 10

typedef struct nd_engine_cfg {
    uint32_t self;                /* this worker's number, from 0 */
    uint32_t workers;
    uint32_t groups;              /* of the node; group = vShard * groups / 1024 */
    uint64_t generation;          /* of this process */
    uint32_t connections_max;
    uint32_t deadline_ms;         /* a command unanswered for so long is answered DEADLINE or UNKNOWN */
    uint64_t output_bytes_max;    /* >= 17 MiB; a pipeline waits before it, more owed or no progress for deadline_ms closes */
    uint64_t query_bytes_max;     /* a connection with more unscanned input is closed */
    uint64_t forward_bytes_max;   /* unanswered commands for one other worker: above it clients that send more wait */
    uint64_t gather_bytes_max;    /* writes not yet applied; above it clients are not read */
    uint32_t moved;               /* 1: the shared port answers MOVED for foreign keys, 0: it forwards; worker ports always MOVED */
} nd_engine_cfg;

/* What poll, commit and flush tell the caller (a set of bits). */
#define ND_TURN_PROPOSE 1         /* writes wait to be sealed */
#define ND_TURN_PYTHON 2          /* nd_engine_python_next has a command */
#define ND_TURN_CALLS 4           /* nd_engine_call_next has an answer */
#define ND_TURN_PAUSED 8          /* too much gathered: stop watching the epoll fd until a commit says otherwise */
#define ND_TURN_MORE 16           /* work was left for the next turn: poll again soon */
#define ND_TURN_EVENTS 32         /* nd_engine_event_next has something to log */

/* A command for Python. Valid until the reply is given; argv is owned by the engine. */
typedef struct nd_python_cmd {
    uint32_t conn, gen;
    uint32_t argc;
    const nd_arg *argv;
    char name[32];
} nd_python_cmd;

typedef struct nd_conn_info {
    uint32_t port_kind, resp;
    int fd;
    uint32_t readonly;
    uint64_t opened_us, last_us;
} nd_conn_info;

#define ND_EVENT_OUTPUT_LIMIT 1
#define ND_EVENT_PROTOCOL 2
#define ND_EVENT_RING_CORRUPT 3
#define ND_EVENT_PEER_RESTARTED 4
#define ND_EVENT_QUERY_LIMIT 5
#define ND_EVENT_TLS 6
#define ND_EVENT_KINDS 7
typedef struct nd_event {
    uint32_t kind, conn;
    uint64_t value;
    char text[64], address[48];      /* address: of the client it is about, or "" */
} nd_event;

int nd_engine_new(const nd_engine_cfg *cfg, nd_store *store, nd_cmdtab *tab, nd_metrics *metrics, nd_engine **out);
void nd_engine_free(nd_engine *e);
void nd_engine_text(nd_engine *e, uint32_t kind, const char *text);        /* error replies, from the one table in errors.py */
void nd_engine_advertise(nd_engine *e, uint32_t worker, const char *host, uint32_t port);  /* for MOVED; host "" = as connected */
void nd_engine_rings(nd_engine *e, nd_ringset *rings, nd_page *page); /* borrowed, must outlive e */

int nd_engine_epoll_fd(nd_engine *e);
int nd_engine_listen(nd_engine *e, int fd, uint32_t port_kind);            /* takes a listening, non-blocking socket; owned by e */
void nd_engine_unlisten(nd_engine *e);

/* rung: the bell's descriptor is readable and is to be cleared. */
int nd_engine_poll(nd_engine *e, uint64_t now_us, uint64_t stamp, uint32_t rung);
nd_wal_rec *nd_engine_recs(nd_engine *e);
/* Fill nd_engine_recs with the batches to propose (payload views valid until they are applied); returns how many. */
int nd_engine_seal(nd_engine *e, uint64_t stamp, uint64_t seed, uint64_t now_us);
/* 1 if a command that needs disk space is among the sealed records. */
int nd_engine_sealed_needs_space(nd_engine *e);
/* Term and index of the records are now the batches'. A record whose index is 0 was refused: its term is the text that answers
 * its commands. Returns how many were refused. */
uint32_t nd_engine_proposed(nd_engine *e, uint32_t n);
/* The group serves no more: every command for its keys is answered with this error from now on, reads too; what was proposed and
 * not committed is answered UNKNOWN. Not while an append is in flight. Commands over all rows of the worker go on. */
void nd_engine_halt(nd_engine *e, uint32_t group, const char *text);
void nd_engine_refuse_sealed(nd_engine *e, uint32_t text);                 /* the log did not take them: answer all with the text */
int nd_engine_commit(nd_engine *e, const nd_commit *commits, uint32_t n, uint64_t now_us);
int nd_engine_flush(nd_engine *e, uint64_t now_us);
int nd_engine_expire(nd_engine *e, uint64_t now_us);                       /* deadline sweep; call every 100 ms or so */
void nd_engine_refuse_writes(nd_engine *e, int text);                      /* text kind for commands that need space, -1 = none */
/* Look at up to rows_max rows for expiry and propose deletes for those due; returns rows examined. */
int nd_engine_sweep(nd_engine *e, uint64_t stamp, uint64_t now_us, uint32_t rows_max);

/* Apply entries of the log at start; commands whose vShard already holds the index are skipped. An entry that this version cannot
 * apply stops its group there: the rest of the group's entries are passed over. */
int nd_engine_replay(nd_engine *e, const nd_wal_rec *recs, uint32_t n);
uint64_t nd_engine_stopped_at(nd_engine *e, uint32_t group);               /* index of that entry, 0 = none */
/* The newest stamp seen: a restarted worker's clock must not go back behind what it applied. */
uint64_t nd_engine_stamp(nd_engine *e);
uint64_t nd_engine_applied(nd_engine *e, uint32_t group);
uint64_t nd_engine_applied_term(nd_engine *e, uint32_t group);
void nd_engine_applied_set(nd_engine *e, uint32_t group, uint64_t index, uint64_t term);
uint64_t nd_engine_pending(nd_engine *e);                                  /* commands accepted and not yet answered */

/* Python's side of commands. */
int nd_engine_python_next(nd_engine *e, nd_python_cmd *out);               /* 1 = *out filled, 0 = none */
void nd_engine_python_reply(nd_engine *e, uint32_t conn, uint32_t gen, const uint8_t *p, uint64_t n, uint32_t close_after);
int nd_engine_conn(nd_engine *e, uint32_t conn, uint32_t gen, nd_conn_info *out);       /* 1 / 0 gone */
int nd_engine_conn_set(nd_engine *e, uint32_t conn, uint32_t gen, uint32_t resp, uint32_t readonly);
/* Run an internal command in a worker (this one or another) and get its raw reply through nd_engine_call_next. argv[0] is the
 * name. vshard chooses the group for ND_CMD_GROUP_ALL, and is the key's vShard otherwise. 0, -ENOENT, -EAGAIN (ring full). */
int nd_engine_call(nd_engine *e, uint32_t token, uint32_t worker, uint32_t vshard, const nd_arg *argv, uint32_t argc,
                   uint32_t resp, uint64_t now_us);
int nd_engine_call_next(nd_engine *e, uint32_t *token, const uint8_t **p, uint64_t *n); /* view valid until the next call */
int nd_engine_event_next(nd_engine *e, nd_event *out);
uint64_t nd_engine_events_dropped(nd_engine *e, uint32_t kind);            /* since the last call: there was no room for them */
uint32_t nd_engine_close_all(nd_engine *e);                                /* at the end of a drain; returns how many were open */
/* cffi:end */
#endif
