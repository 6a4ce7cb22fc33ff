/* front.c: accept, read, scan, and the way of each command: answer, run, gather, forward, redirect, or hand to Python. */
#define _GNU_SOURCE 1 /* accept4 */
#include "engine_int.h"
#include "slot.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTENER 0xFFFFFF00u       /* epoll data of listening sockets: LISTENER | port kind */
#define EVENTS_PER_POLL 512
#define LOOK_AHEAD 16              /* reads of a pipeline whose rows are fetched together */
#define ACCEPTS_PER_POLL 64

/* ---- refusals in Redis's words ---- */

static void unknown_command(nd_engine *e, conn *c, const nd_arg *argv, uint32_t argc)
{
    char text[ND_CMD_ERROR_BYTES];
    nd_cmdtab_unknown(e->tab, argv, argc, text);
    conn_reply_text(e, c, text);
}

static void wrong_arity(nd_engine *e, conn *c, const nd_cmdrow *row)
{
    char text[ND_CMD_ERROR_BYTES];
    nd_cmdrow_wrong_arity(row, text);
    conn_reply_text(e, c, text);
}

static void moved(nd_engine *e, conn *c, uint32_t slot_number, uint32_t worker)
{
    char host[64], text[160];
    snprintf(host, sizeof host, "%s", e->hosts[worker]);
    if (!host[0]) { /* the address the client reached us by reaches our neighbours too */
        struct sockaddr_storage sa;
        socklen_t len = sizeof sa;
        const void *address = NULL;
        if (getsockname(c->fd, (struct sockaddr *)&sa, &len) == 0)
            address = sa.ss_family == AF_INET6 ? (const void *)&((struct sockaddr_in6 *)&sa)->sin6_addr
                                               : (const void *)&((struct sockaddr_in *)&sa)->sin_addr;
        if (!address || !inet_ntop(sa.ss_family, address, host, sizeof host))
            host[0] = 0;
    }
    uint32_t port = c->ssl ? e->tls.ports[worker] : e->ports[worker];
    snprintf(text, sizeof text, "MOVED %u %s:%u", slot_number, host, port);
    conn_reply_text(e, c, text);
}

/* ---- one command ---- */

static void answer_now(nd_engine *e, conn *c, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc)
{
    if (c->head == c->tail) {
        run(e, row, 0, argv, argc, e->stamp, e->stamp, &c->out);
        conn_dirty(e, c);
        return;
    }
    uint32_t seq = c->tail;
    conn_slot(e, c, false, 0);
    e->reply.len = 0;
    e->reply.resp = c->resp;
    run(e, row, 0, argv, argc, e->stamp, e->stamp, &e->reply);
    conn_complete(e, c, seq, e->reply.buf, e->reply.len);
}

/* A read that nothing precedes goes straight into the output: no slot, no copy. */
static bool read_now(nd_engine *e, conn *c, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc)
{
    if (!(row->flags & ND_CMD_READ) || c->head != c->tail || halted_text(e, vshard))
        return false;
    ND_ASSERT(c->origin.pending == 0 || c->origin.vshards);
    if (c->origin.pending && (c->origin.vshards >> (vshard & 63) & 1))
        return false;
    size_t before = c->out.len;
    run(e, row, vshard, argv, argc, e->stamp, e->stamp, &c->out);
    if (c->out.buf[before] == '-')
        e->m->errors++;
    e->m->commands_read++;
    conn_dirty(e, c);
    return true;
}

/* False: not now. The command stays in the input, and nothing after it is read. (Inline words are unescaped in place and cannot
 * be scanned again: they are short, and always taken.) */
static bool forward(nd_engine *e, conn *c, const nd_cmdrow *row, uint32_t worker, uint32_t vshard, const nd_arg *argv,
                    uint32_t argc)
{
    size_t size = peer_command_bytes(argv, argc);
    if (c->scan.want > 0 && !peer_has_room(e, worker, size)) {
        peer_hold(e, worker, c);
        return false;
    }
    dest to = {.conn = c->idx, .gen = c->origin.gen, .seq = c->tail, .src = SRC_LOCAL, .resp = c->resp};
    slot *s = conn_slot(e, c, (row->flags & ND_CMD_WRITE) != 0, worker + 1);
    s->forwarded = (uint32_t)size;
    e->peers[worker].outstanding += size;
    peer_forward(e, worker, row, vshard, argv, argc, &to);
    return true;
}

/* False: not now, as above. */
static bool keyed(nd_engine *e, conn *c, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc)
{
    uint32_t k = nd_cmdrow_key(row, argc, 0), slot_number = 0, vshard = ND_VSHARD_NONE;
    c->writes = (row->flags & ND_CMD_WRITE) != 0;
    for (uint32_t n = 0; k; k = nd_cmdrow_key(row, argc, ++n)) {
        if (argv[k].len > ND_KEY_BYTES_MAX) {
            conn_reply_text(e, c, e->texts[ND_TEXT_KEY_TOO_LONG]);
            return true;
        }
        uint32_t s = nd_slot_of(argv[k].ptr, argv[k].len);
        if (vshard == ND_VSHARD_NONE) {
            slot_number = s;
            vshard = nd_vshard_of_slot(s);
        } else if (vshard != nd_vshard_of_slot(s)) {
            conn_reply_text(e, c, e->texts[ND_TEXT_CROSSSLOT]);
            return true;
        }
    }
    if (vshard == ND_VSHARD_NONE) {
        wrong_arity(e, c, row);
        return true;
    }
    uint32_t worker;
    if (!worker_of(e, vshard, &worker)) {
        conn_reply_text(e, c, e->texts[ND_TEXT_CLUSTERDOWN]);
        return true;
    }
    if (worker != e->cfg.self && (c->port_kind == ND_PORT_WORKER || e->cfg.moved)) {
        moved(e, c, slot_number, worker);
        return true;
    }
    if (worker != e->cfg.self)
        return forward(e, c, row, worker, vshard, argv, argc);
    if (read_now(e, c, row, vshard, argv, argc))
        return true;
    dest to = {.conn = c->idx, .gen = c->origin.gen, .seq = c->tail, .src = SRC_LOCAL, .resp = c->resp};
    conn_slot(e, c, (row->flags & ND_CMD_WRITE) != 0, 0);
    submit(e, row, vshard, argv, argc, &to, &c->origin);
    return true;
}

/* False: not now, as above. */
static bool dispatch(nd_engine *e, conn *c, const nd_arg *argv, uint32_t argc)
{
    const nd_cmdrow *row = nd_cmdtab_find(e->tab, argv, argc);
    if (!row || (row->flags & ND_CMD_INTERNAL)) {
        unknown_command(e, c, argv, argc);
        return true;
    }
    if (row->arity >= 0 ? argc != (uint32_t)row->arity : argc < (uint32_t)-row->arity) {
        wrong_arity(e, c, row);
        return true;
    }
    if (__builtin_expect(!c->unrestricted, 0) && !access_permits(e, c, row, argv, argc))
        return true;
    if (row->flags & ND_CMD_PYTHON)
        conn_python(e, c, row, argv, argc);
    else if (row->flags & ND_CMD_FAST)
        answer_now(e, c, row, argv, argc);
    else
        return keyed(e, c, row, argv, argc);
    return true;
}

/* ---- bytes of one connection ---- */

static void protocol_error(nd_engine *e, conn *c)
{
    char text[96];
    e->m->protocol_errors++;
    snprintf(text, sizeof text, "ERR %s", c->scan.error);
    conn_reply_text(e, c, text);
    nd_engine_note(e, ND_EVENT_PROTOCOL, c->idx, 0, c->scan.error);
    c->closing = true;
    c->in.len = 0;
    conn_dirty(e, c);
}

/* The room is looked at before each command: a pipeline's replies are never made for a connection that does not read them. */
static bool may_scan(nd_engine *e, conn *c)
{
    if (c->closing || c->cut || c->held || c->python != PY_NONE || c->tail - c->head >= SLOTS_MAX)
        return false;
    c->full = !conn_has_room(e, c);
    return !c->full;
}

/* The number of a header line "*12\r\n" or "$12\r\n" at *at, of at most 5 digits; -1 = anything else. */
static int64_t peek_number(const uint8_t *p, size_t n, size_t *at, uint8_t kind)
{
    size_t i = *at;
    if (i >= n || p[i++] != kind)
        return -1;
    int64_t value = 0;
    size_t first = i;
    for (; i < n && i - first < 5 && p[i] >= '0' && p[i] <= '9'; i++)
        value = value * 10 + (p[i] - '0');
    if (i == first || i + 1 >= n || p[i] != '\r')
        return -1;
    *at = i + 2;
    return value;
}

/* Where the first key of the command at *at would be, and *at behind the command; false = not a plain whole command. */
static bool peek_key(uint8_t *p, size_t n, size_t *at, nd_arg *key)
{
    int64_t argc = peek_number(p, n, at, '*');
    if (argc < 2 || argc > 8)
        return false;
    for (int64_t i = 0; i < argc; i++) {
        int64_t len = peek_number(p, n, at, '$');
        if (len < 0 || *at + (size_t)len + 2 > n)
            return false;
        if (i == 1)
            *key = (nd_arg){p + *at, (uint32_t)len};
        *at += (size_t)len + 2;
    }
    return true;
}

/* Bring the rows of the next commands of a pipeline nearer: a miss costs more than all else a GET does. Guesses the key's
 * place, reads nothing of the command's meaning, and a wrong guess costs a cache line. Returns how many commands it saw. */
static uint32_t look_ahead(nd_engine *e, uint8_t *p, size_t n)
{
    uint64_t place[LOOK_AHEAD];
    uint32_t vshard[LOOK_AHEAD], seen = 0, worker;
    nd_arg key[LOOK_AHEAD];
    for (size_t at = 0; seen < LOOK_AHEAD && peek_key(p, n, &at, &key[seen]);)
        seen++;
    if (seen < 2)
        return seen; /* nothing to do meanwhile: the command itself is as quick */
    for (uint32_t i = 0; i < seen; i++) {
        vshard[i] = nd_vshard_of_slot(nd_slot_of(key[i].ptr, key[i].len));
        if (!worker_of(e, vshard[i], &worker) || worker != e->cfg.self)
            vshard[i] = ND_VSHARD_NONE;
        else
            place[i] = nd_store_prefetch(e->store, vshard[i], &key[i]);
    }
    for (uint32_t i = 0; i < seen; i++)
        if (vshard[i] != ND_VSHARD_NONE)
            nd_store_prefetch_row(e->store, vshard[i], place[i]);
    return seen;
}

/* Scan p[0..n) into commands; returns the bytes used up. */
static size_t scan(nd_engine *e, conn *c, uint8_t *p, size_t n)
{
    size_t at = 0;
    uint32_t near = 0; /* commands whose rows were brought nearer and that are not done yet */
    while (at < n && may_scan(e, c)) {
        if (e->made > OUTPUT_PER_TURN) { /* others have their turn first */
            conn_resume(e, c);
            break;
        }
        if (near == 0 && !c->writes && !nd_resp_partial(&c->scan))
            near = look_ahead(e, p + at, n - at);
        near -= near > 0;
        int64_t used = nd_resp_scan(&c->scan, p + at, n - at);
        if (used == 0)
            break;
        if (used < 0) {
            protocol_error(e, c);
            return n;
        }
        if (c->scan.argc) { /* an empty line or array is no command */
            if (!dispatch(e, c, c->scan.argv, c->scan.argc)) {
                nd_resp_next(&c->scan); /* to be scanned from its first byte again */
                break;
            }
            e->m->commands++;
        }
        at += (size_t)used;
        nd_resp_next(&c->scan);
    }
    return c->closing ? n : at;
}

static void keep(conn *c, const uint8_t *p, size_t n)
{
    memcpy(bytes_room(&c->in, n), p, n);
    c->in.len += n;
}

static void scan_kept(nd_engine *e, conn *c)
{
    size_t used = scan(e, c, c->in.p, c->in.len);
    if (used) {
        c->in.len -= used;
        memmove(c->in.p, c->in.p + used, c->in.len);
    }
    if (c->in.len == 0 && c->in.cap > READ_BYTES) {
        free(c->in.p);
        c->in = (bytes){0};
    }
}

/* False: the connection is gone. */
static bool read_some(nd_engine *e, conn *c)
{
    bool fresh = c->in.len == 0;
    size_t room = READ_BYTES;
    if (!fresh && c->scan.bulk > (int64_t)room) /* the rest of a large value in as few reads as the socket allows */
        room = (size_t)c->scan.bulk;
    uint8_t *to = fresh ? e->rbuf : bytes_room(&c->in, room);
    ssize_t n = __builtin_expect(!c->ssl, 1) ? recv(c->fd, to, room, 0) : tls_recv(c, to, room);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return true;
        conn_close(e, c);
        return false;
    }
    e->m->bytes_in += (uint64_t)n;
    c->last_us = e->now_us;
    if (fresh) {
        size_t used = scan(e, c, to, (size_t)n);
        if (used < (size_t)n)
            keep(c, to + used, (size_t)n - used);
    } else {
        c->in.len += (size_t)n;
        scan_kept(e, c);
    }
    if (c->in.len > e->cfg.query_bytes_max) {
        nd_engine_note(e, ND_EVENT_QUERY_LIMIT, c->idx, c->in.len, "");
        conn_close(e, c);
        return false;
    }
    if (c->more) /* the socket may have nothing more to tell */
        conn_resume(e, c);
    return true;
}

static void client_event(nd_engine *e, conn *c, uint32_t events)
{
    if (c->shaking) {
        int rc = tls_shake(e, c);
        if (rc < 0)
            conn_close(e, c);
        if (rc <= 0)
            return;
        events |= EPOLLIN; /* what came with the last of the handshake */
    }
    if (events & EPOLLOUT)
        conn_dirty(e, c), c->watch_out = false, conn_watch(e, c);
    if (events & EPOLLIN) {
        if (!c->resuming && may_scan(e, c)) {
            if (!read_some(e, c))
                return;
        } else if (!c->muted) {
            c->muted = true; /* level-triggered: leave it unread without being called for it */
            conn_watch(e, c);
        }
    }
    if ((events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN))
        conn_close(e, c);
}

static void resume_all(nd_engine *e)
{
    uint32_t n = e->resume.n, i = 0; /* what resumes again while we are here waits for the next turn */
    for (; i < n && e->made <= OUTPUT_PER_TURN; i++) {
        conn *c = e->conns[e->resume.v[i]];
        if (!c || !c->resuming)
            continue;
        c->resuming = false;
        if (c->in.len)
            scan_kept(e, c);
        if (c->more && !c->resuming && may_scan(e, c) && !read_some(e, c))
            continue;
        if (c->muted && !c->resuming && may_scan(e, c)) {
            c->muted = false;
            conn_watch(e, c);
        }
    }
    memmove(e->resume.v, e->resume.v + i, (e->resume.n - i) * sizeof *e->resume.v);
    e->resume.n -= i;
}

/* ---- listening ---- */

static void refuse_client(nd_engine *e, int fd, bool tls)
{
    char line[176];
    int n = snprintf(line, sizeof line, "-%s\r\n", e->texts[ND_TEXT_MAXCLIENTS]);
    if (!tls && send(fd, line, (size_t)n, MSG_NOSIGNAL) < 0)
        e->m->errors++;
    close(fd);
}

static void accept_some(nd_engine *e, uint32_t listener)
{
    bool tls = listener & ND_LISTEN_TLS;
    for (int i = 0; i < ACCEPTS_PER_POLL; i++) {
        struct sockaddr_storage from = {0};
        socklen_t from_len = sizeof from;
        int fd = accept4(e->listen_fd[listener], (struct sockaddr *)&from, &from_len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return; /* EAGAIN, a client that left, or no descriptors: the next poll tries again */
        if (!access_welcomes(e, fd, &from, tls))
            continue;
        if (tls && !tls_has_room(e)) {
            close(fd);
            continue;
        }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!conn_new(e, fd, listener & ~ND_LISTEN_TLS, tls))
            refuse_client(e, fd, tls);
    }
}

int nd_engine_listen(nd_engine *e, int fd, uint32_t port_kind)
{
    ND_ASSERT(port_kind <= (ND_PORT_WORKER | ND_LISTEN_TLS) && e->listen_fd[port_kind] < 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = LISTENER | port_kind};
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return -errno;
    e->listen_fd[port_kind] = fd;
    return 0;
}

void nd_engine_unlisten(nd_engine *e)
{
    for (int i = 0; i < 4; i++) {
        if (e->listen_fd[i] >= 0)
            close(e->listen_fd[i]);
        e->listen_fd[i] = -1;
    }
}

/* ---- the turn ---- */

static void poll_clients(nd_engine *e)
{
    struct epoll_event events[EVENTS_PER_POLL];
    e->made = 0;
    e->tls.left = HANDSHAKES_PER_TURN;
    if (e->resume.n)
        resume_all(e);
    e->made = 0; /* pipelines that go on do not use up the turn of those that begin */
    int n = epoll_wait(e->epoll_fd, events, EVENTS_PER_POLL, 0);
    for (int i = 0; i < n && e->made <= OUTPUT_PER_TURN; i++) { /* level-triggered: the rest is told again */
        uint32_t id = events[i].data.u32;
        if (id >= LISTENER) {
            accept_some(e, id & 0xFF);
            continue;
        }
        conn *c = e->conns[id];
        if (c)
            client_event(e, c, events[i].events);
    }
}

int nd_engine_poll(nd_engine *e, uint64_t now_us, uint64_t stamp, uint32_t rung)
{
    e->now_us = now_us;
    e->stamp = stamp > e->stamp ? stamp : e->stamp;
    e->m->turns++;
    if (e->rings)
        peers_poll(e, rung);
    if (e->gathered_bytes <= e->cfg.gather_bytes_max)
        poll_clients(e);
    if (e->fatal)
        return e->fatal;
    return (e->open_groups.n ? ND_TURN_PROPOSE : 0) | (e->py_queue.n ? ND_TURN_PYTHON : 0) |
           (e->gathered_bytes > e->cfg.gather_bytes_max ? ND_TURN_PAUSED : 0);
}
