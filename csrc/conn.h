/* conn.h: one client connection, as engine.c, batch.c, conn.c, front.c and peer.c see it: the slots of its replies, in the order
 * of its commands, its input not yet scanned and its output not yet sent. A connection that ends frees all of it at once; whoever
 * kept its number finds another generation there, or nothing.
 */
#ifndef ND_CONN_H
#define ND_CONN_H
#include "acl.h"
#include "engine.h"
#include "resp.h"

#define SRC_LOCAL 0                /* a connection of this worker; 1..workers: a connection of worker src - 1 */
#define CONN_CALL 0x80000000u      /* in place of a connection: a call made by Python, the low bits are its token */
#define SLOTS_MAX 8192             /* commands of one connection in flight; above it the connection is not read */
#define REPLY_ROOM 16842752        /* what one reply may take: a value and its frame; a connection with less is not served */

/* Where a reply goes. */
typedef struct dest {
    uint32_t conn, gen, seq;
    uint16_t src;
    uint8_t resp;
} dest;

typedef struct bytes {
    uint8_t *p;
    size_t len, cap;
} bytes;

/* One source of commands whose reads must wait for its writes: a connection here, or one of a peer. */
typedef struct origin {
    uint32_t gen;
    uint32_t pending;              /* writes not yet applied */
    uint64_t vshards;              /* bit vShard % 64 of each of them; cleared when pending falls to 0 */
} origin;

typedef struct slot {
    uint8_t state;                 /* SLOT_* */
    bool write;
    uint16_t peer;                 /* forwarded to worker peer - 1; 0 = here */
    uint32_t start_ms;
    uint32_t len;
    uint32_t forwarded;            /* bytes of the command at its peer, counted in peer.outstanding while it is pending */
    union {
        uint8_t small[20];
        uint8_t *big;
    } u;
} slot;
enum { SLOT_PENDING = 1, SLOT_READY = 2 };
typedef struct conn {
    int fd;
    uint32_t idx;
    origin origin;
    uint8_t port_kind, resp;
    bool readonly, dirty, closing, watch_out, muted, resuming;
    bool authenticated, unrestricted; /* unrestricted: no command needs a look at the user's rules */
    bool shaking, more, broken;    /* TLS: in its handshake; may have bytes to read at once; no goodbye can be said */
    bool writes;                   /* its last command with a key was a write: rows are wanted when it is applied, not now */
    uint16_t held;                 /* its next command waits for room at worker held - 1; 0 = it does not */
    bool full;                     /* has no room for a reply: not served until it reads */
    bool cut;                      /* above its output limit: gets nothing more, closed at the next flush */
    uint8_t python;                /* PY_*: a command for Python stops the scan until it is answered */
    bool queued;                   /* in the queue for Python */
    nd_resp scan;
    bytes in;                      /* bytes not yet scanned into commands */
    nd_reply out;
    size_t sent;                   /* of out */
    size_t ready;                  /* bytes of replies that wait in slots for one before them */
    uint64_t took_us;              /* when the socket last took something, or had nothing to take */
    slot *slots;                   /* ring of replies that are owed, seq % cap */
    uint32_t slots_cap, head, tail;
    nd_arg *py_argv;
    uint8_t *py_bytes;
    uint32_t py_argc;
    char py_name[32];
    nd_acl_user *user;             /* NULL = nothing is checked */
    struct ssl_st *ssl;            /* NULL = plain */
    uint64_t opened_us, last_us;
} conn;
enum { PY_NONE = 0, PY_WAITS = 1, PY_RUNS = 2 };

conn *conn_new(nd_engine *e, int fd, uint32_t port_kind, bool tls);
void conn_close(nd_engine *e, conn *c);
slot *conn_slot(nd_engine *e, conn *c, bool write, uint32_t peer_number);
void conn_complete(nd_engine *e, conn *c, uint32_t seq, const uint8_t *p, size_t n);
void conn_reply_text(nd_engine *e, conn *c, const char *error);
void conn_dirty(nd_engine *e, conn *c);
void conn_resume(nd_engine *e, conn *c);
void conn_watch(nd_engine *e, conn *c);
bool conn_has_room(const nd_engine *e, const conn *c);   /* for one more reply, below its output limit */
bool dest_is_gone(const nd_engine *e, const dest *to);   /* nobody would get a reply made for it */
void conn_python(nd_engine *e, conn *c, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc);
void deliver(nd_engine *e, const dest *to, const uint8_t *p, size_t n);
void deliver_text(nd_engine *e, const dest *to, const char *error);
#endif
