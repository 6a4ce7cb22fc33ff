/* access.h: who a connection of the engine acts as, what it is refused, and the mail between the worker and control.
 *
 * A new connection acts as the default user; AUTH moves it to another. Per command there is one branch for a user who may
 * do everything, and acl.h's check for all others. A refusal is answered here in Redis's words and noted for Python (ACL LOG);
 * the queue of notes is bounded, and what finds it full is only counted. Without a default user (tests) nothing is checked.
 * Messages of control are kept until Python takes them in the same turn. Loop thread only.
 */
#ifndef ND_ACCESS_H
#define ND_ACCESS_H
#include "acl.h"
#include "engine.h"
#include "ringset.h"

/* cffi:begin */
typedef struct nd_denial {
    uint32_t conn, gen;
    uint32_t reason;                 /* ND_ACL_DENIED_… */
    uint32_t object_len;             /* of the command's name or the key; cut after 255 bytes */
    uint8_t object[256];
} nd_denial;

typedef struct nd_conn_access {
    uint32_t authenticated, tls;
    uint32_t name_len;
    const uint8_t *name;             /* of the user; valid until users change */
} nd_conn_access;

/* The user of new connections, borrowed until it is replaced; NULL = none, nothing is checked. */
void nd_engine_default_user(nd_engine *e, nd_acl_user *u);
/* Connections that act as `old` act as `fresh` from now on; fresh NULL: they are closed once what they are owed is
 * written. Returns how many. */
uint32_t nd_engine_users_swap(nd_engine *e, nd_acl_user *old, nd_acl_user *fresh);
int nd_engine_conn_user(nd_engine *e, uint32_t conn, uint32_t gen, nd_acl_user *u);  /* it has authenticated; 1 / 0 gone */
int nd_engine_conn_unuser(nd_engine *e, uint32_t conn, uint32_t gen);                /* as a new connection; 1 / 0 gone */
int nd_engine_conn_access(nd_engine *e, uint32_t conn, uint32_t gen, nd_conn_access *out);           /* 1 / 0 gone */
int nd_engine_denial_next(nd_engine *e, nd_denial *out);             /* 1 = *out filled, 0 = none */
/* While the default user needs no password: what a connection from elsewhere than loopback is told before it is closed
 * (copied); "" = such connections are welcome. */
void nd_engine_protect(nd_engine *e, const char *text);
void nd_engine_auth_limit(nd_engine *e, uint32_t auth_ms);           /* unauthenticated for longer: closed; 0 = never */

/* A message for control: 1 = on its way, 0 = no room, -EHOSTDOWN. type > 0. */
int nd_engine_control_send(nd_engine *e, uint32_t type, uint64_t request_id, const uint8_t *p, uint64_t n);
/* 1 = a message of control, valid until the next call; type 0: control died, what was asked has no answer. 0 = none. */
int nd_engine_control_next(nd_engine *e, nd_ring_msg *out);
/* cffi:end */

#define ND_DENIALS_MAX 64

typedef struct access_mail {
    struct access_mail *next;
    nd_ring_msg msg;
    uint8_t bytes[];
} access_mail;

typedef struct access_state {        /* of the engine */
    nd_acl_user *default_user;
    nd_denial denials[ND_DENIALS_MAX];
    uint32_t denials_head, denials_n;
    char *protect;
    uint32_t auth_ms;
    access_mail *first, *last, *taken;
} access_state;

struct conn;
void access_begin(nd_engine *e, struct conn *c);
void access_end(struct conn *c);
void access_free(nd_engine *e);
/* False: refused and answered. Only for connections that are not unrestricted. */
bool access_permits(nd_engine *e, struct conn *c, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc);
/* False: protected mode; the client was told and its descriptor closed. */
bool access_welcomes(nd_engine *e, int fd, const void *address, bool tls);
bool access_overdue(nd_engine *e, const struct conn *c);             /* counted */
void access_mail_in(nd_engine *e, const nd_ring_msg *msg);
#endif
