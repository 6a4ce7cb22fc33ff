/* tls.h: TLS on client ports: what a server shows and asks for, and reading and writing of one connection through it.
 *
 * An nd_tls is made from PEM files, never changed, and counted by OpenSSL: connections keep the one they began with, so that
 * replacing it (nd_engine_tls) cuts nobody off but clients whose certificates the new revocation lists name. Where lists are
 * given, each authority needs one that has not ended, or its clients are refused. TLS 1.2 and 1.3; no tickets, no resumption,
 * no renegotiation: each connection proves itself anew. A handshake is bounded by a deadline, the handshakes at one time by a
 * number, and the work of one turn by HANDSHAKES_PER_TURN, so that who comes does not delay who is there. Loop thread only;
 * nothing here blocks. OpenSSL writes with write(): the process must ignore SIGPIPE, as Python does.
 */
#ifndef ND_TLS_H
#define ND_TLS_H
#include <sys/types.h>

#include "engine.h"

/* cffi:begin */
#define ND_TLS_CLIENTS_NO 0          /* no certificate is asked of clients */
#define ND_TLS_CLIENTS_OPTIONAL 1    /* one that is shown must be good */
#define ND_TLS_CLIENTS_YES 2
#define ND_TLS_ERROR_BYTES 256
#define ND_LISTEN_TLS 2              /* with a port kind in nd_engine_listen: the port speaks TLS */

typedef struct nd_tls nd_tls;
/* Certificate chain, its key, authorities of clients' certificates and their revocation lists (or ""). NULL: error says which
 * file and why. */
nd_tls *nd_tls_new(const char *cert, const char *key, const char *ca, const char *crl, uint32_t clients, char *error);
void nd_tls_free(nd_tls *t);
int64_t nd_tls_not_after(const nd_tls *t);   /* when the certificate ends, seconds since 1970 */
int64_t nd_tls_lists_end(const nd_tls *t);   /* when the first of the lists must have been replaced; 0 = there are none */
/* What TLS ports show from now on (the engine keeps a reference of its own), and the bounds of handshakes; how many open
 * connections end because their certificates are revoked now. */
uint32_t nd_engine_tls(nd_engine *e, nd_tls *t, uint32_t handshake_ms, uint32_t handshakes_max);
void nd_engine_advertise_tls(nd_engine *e, uint32_t worker, uint32_t port);  /* for MOVED on TLS connections */
/* cffi:end */

#define HANDSHAKES_PER_TURN 8

typedef struct tls_state {           /* of the engine */
    struct ssl_ctx_st *ctx;
    uint32_t handshake_ms, handshakes_max;
    uint32_t open, left;             /* handshakes going on; steps of handshakes left in this turn */
    uint32_t ports[64];
} tls_state;

struct conn;
bool tls_has_room(nd_engine *e);                     /* for one more handshake */
void tls_begin(nd_engine *e, struct conn *c);        /* the connection is new and speaks TLS */
void tls_end(nd_engine *e, struct conn *c);          /* says goodbye if that can be said now */
/* A step of the handshake: 1 = finished, 0 = goes on, -1 = failed (noted, counted; the caller closes the connection). */
int tls_shake(nd_engine *e, struct conn *c);
bool tls_overdue(nd_engine *e, const struct conn *c);/* its handshake takes too long; counted */
/* As recv and send: > 0, 0 = the client ended, -1 with errno EAGAIN or another. c->more: there may be more to read at once. */
ssize_t tls_recv(struct conn *c, uint8_t *p, size_t n);
ssize_t tls_send(struct conn *c, const uint8_t *p, size_t n);
void tls_free(nd_engine *e);
#endif
