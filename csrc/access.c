/* access.c: see access.h. */
#include "access.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine_int.h"

/* ---- a connection's user ---- */

static bool open_to_all(const nd_acl_user *u)
{
    return !u || (u->flags & (ND_ACL_ENABLED | ND_ACL_NOPASS)) == (ND_ACL_ENABLED | ND_ACL_NOPASS);
}

static void become(nd_engine *e, conn *c, nd_acl_user *u, bool authenticated)
{
    if (u)
        nd_acl_user_ref(u);
    if (c->user)
        nd_acl_user_free(c->user);
    c->user = u;
    c->authenticated = authenticated;
    bool welcome = authenticated || open_to_all(e->access.default_user);
    c->unrestricted = !u || (welcome && u->unrestricted);
    c->scan.strict = u && !welcome;
}

void access_begin(nd_engine *e, conn *c)
{
    become(e, c, e->access.default_user, open_to_all(e->access.default_user));
}

void access_end(conn *c)
{
    if (c->user)
        nd_acl_user_free(c->user);
    c->user = NULL;
}

static conn *find(nd_engine *e, uint32_t idx, uint32_t gen)
{
    conn *c = idx < e->cfg.connections_max ? e->conns[idx] : NULL;
    return c && c->origin.gen == gen ? c : NULL;
}

void nd_engine_default_user(nd_engine *e, nd_acl_user *u)
{
    e->access.default_user = u;
}

uint32_t nd_engine_users_swap(nd_engine *e, nd_acl_user *old, nd_acl_user *fresh)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < e->cfg.connections_max; i++) {
        conn *c = e->conns[i];
        if (!c || c->user != old)
            continue;
        moved++;
        if (fresh) {
            become(e, c, fresh, c->authenticated);
            continue;
        }
        become(e, c, e->access.default_user, false);
        c->closing = true;
        c->in.len = 0;
        conn_dirty(e, c);
    }
    return moved;
}

int nd_engine_conn_user(nd_engine *e, uint32_t idx, uint32_t gen, nd_acl_user *u)
{
    conn *c = find(e, idx, gen);
    if (!c)
        return 0;
    become(e, c, u, true);
    return 1;
}

int nd_engine_conn_unuser(nd_engine *e, uint32_t idx, uint32_t gen)
{
    conn *c = find(e, idx, gen);
    if (!c)
        return 0;
    access_begin(e, c);
    return 1;
}

int nd_engine_conn_access(nd_engine *e, uint32_t idx, uint32_t gen, nd_conn_access *out)
{
    conn *c = find(e, idx, gen);
    if (!c)
        return 0;
    *out = (nd_conn_access){.authenticated = c->authenticated, .name = (const uint8_t *)"", .tls = c->ssl != NULL};
    if (c->user) {
        out->name = c->user->name;
        out->name_len = c->user->name_len;
    }
    return 1;
}

/* ---- refusals ---- */

static void note_denial(nd_engine *e, const conn *c, int reason, const uint8_t *object, size_t n)
{
    access_state *a = &e->access;
    if (a->denials_n == ND_DENIALS_MAX)
        return; /* the counter tells of a storm */
    nd_denial *d = &a->denials[(a->denials_head + a->denials_n++) % ND_DENIALS_MAX];
    *d = (nd_denial){.conn = c->idx, .gen = c->origin.gen, .reason = (uint32_t)reason};
    d->object_len = (uint32_t)(n < sizeof d->object - 1 ? n : sizeof d->object - 1);
    memcpy(d->object, object, d->object_len);
}

int nd_engine_denial_next(nd_engine *e, nd_denial *out)
{
    access_state *a = &e->access;
    if (a->denials_n == 0)
        return 0;
    *out = a->denials[a->denials_head];
    a->denials_head = (a->denials_head + 1) % ND_DENIALS_MAX;
    a->denials_n--;
    return 1;
}

bool access_permits(nd_engine *e, conn *c, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc)
{
    if (!c->authenticated && !open_to_all(e->access.default_user) && !(row->flags & ND_CMD_NO_AUTH)) {
        e->m->commands_denied++;
        conn_reply_text(e, c, "NOAUTH Authentication required.");
        return false;
    }
    uint32_t at;
    int verdict = acl_judge(c->user, row, argv, argc, &at);
    if (verdict == ND_ACL_OK)
        return true;
    e->m->commands_denied++;
    char text[128] = "NOPERM this user has no permissions to access one of the keys used as arguments";
    if (verdict == ND_ACL_DENIED_COMMAND) {
        snprintf(text, sizeof text, "NOPERM this user has no permissions to run the '%s' command", row->name);
        note_denial(e, c, verdict, (const uint8_t *)row->name, strlen(row->name));
    } else {
        note_denial(e, c, verdict, argv[at].ptr, argv[at].len);
    }
    conn_reply_text(e, c, text);
    return false;
}

/* ---- the door ---- */

static bool loopback(const struct sockaddr_storage *from)
{
    if (from->ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)from)->sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *a = &((const struct sockaddr_in6 *)from)->sin6_addr;
    return from->ss_family != AF_INET6 || IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
}

bool access_welcomes(nd_engine *e, int fd, const void *address, bool tls)
{
    const char *text = e->access.protect;
    if (!text || !open_to_all(e->access.default_user) || loopback(address))
        return true;
    e->m->protected_refusals++;
    if (!tls && send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        e->m->errors++;
    close(fd);
    return false;
}

void nd_engine_protect(nd_engine *e, const char *text)
{
    free(e->access.protect);
    e->access.protect = *text ? strdup(text) : NULL;
}

void nd_engine_auth_limit(nd_engine *e, uint32_t auth_ms)
{
    e->access.auth_ms = auth_ms;
}

bool access_overdue(nd_engine *e, const conn *c)
{
    bool over = e->access.auth_ms && !c->authenticated && c->python == PY_NONE &&
                e->now_us - c->opened_us > e->access.auth_ms * 1000ull;
    e->m->auth_timeouts += over;
    return over;
}

/* ---- mail between this worker and control ---- */

int nd_engine_control_send(nd_engine *e, uint32_t type, uint64_t request_id, const uint8_t *p, uint64_t n)
{
    nd_arg part = {p, (uint32_t)n};
    ND_ASSERT(type > 0 && type < 256);
    return nd_ringset_push(e->rings, 0, (uint8_t)type, request_id, &part, 1);
}

void access_mail_in(nd_engine *e, const nd_ring_msg *msg)
{
    access_mail *mail = malloc(sizeof *mail + msg->len);
    ND_ASSERT(mail);
    mail->next = NULL;
    mail->msg = *msg;
    mail->msg.data = mail->bytes;
    if (msg->len)
        memcpy(mail->bytes, msg->data, msg->len);
    if (e->access.last)
        e->access.last->next = mail;
    else
        e->access.first = mail;
    e->access.last = mail;
}

int nd_engine_control_next(nd_engine *e, nd_ring_msg *out)
{
    access_state *a = &e->access;
    free(a->taken);
    a->taken = a->first;
    if (!a->taken)
        return 0;
    a->first = a->taken->next;
    if (!a->first)
        a->last = NULL;
    *out = a->taken->msg;
    return 1;
}

void access_free(nd_engine *e)
{
    nd_ring_msg msg;
    while (nd_engine_control_next(e, &msg))
        continue;
    free(e->access.protect);
}
