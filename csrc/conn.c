/* conn.c: one client connection: what it is owed (slots), what it is sent (out), when it ends. */
#include "engine_int.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_KEEP 16384          /* an idle connection keeps no larger buffers than this */

static void watch(nd_engine *e, conn *c, int action)
{
    struct epoll_event ev = {.data.u32 = c->idx};
    ev.events = (c->muted ? 0 : EPOLLIN) | (c->watch_out ? EPOLLOUT : 0);
    int rc = epoll_ctl(e->epoll_fd, action, c->fd, &ev);
    ND_ASSERT(rc == 0);
}

void conn_watch(nd_engine *e, conn *c) { watch(e, c, EPOLL_CTL_MOD); }

conn *conn_new(nd_engine *e, int fd, uint32_t port_kind, bool tls)
{
    if (e->free_conns.n == 0)
        return NULL;
    uint32_t idx = e->free_conns.v[--e->free_conns.n];
    conn *c = calloc(1, sizeof *c);
    ND_ASSERT(c);
    c->fd = fd;
    c->idx = idx;
    c->origin.gen = ++e->next_gen;
    c->port_kind = (uint8_t)port_kind;
    c->resp = 2;
    c->opened_us = c->last_us = c->took_us = e->now_us;
    nd_resp_init(&c->scan);
    nd_reply_init(&c->out);
    access_begin(e, c);
    if (tls)
        tls_begin(e, c);
    e->conns[idx] = c;
    e->conns_open++;
    e->m->connections_accepted++;
    e->m->connections = e->conns_open;
    watch(e, c, EPOLL_CTL_ADD);
    return c;
}

static void slot_clear(conn *c, slot *s)
{
    if (s->state == SLOT_READY && s->len > sizeof s->u.small) {
        c->ready -= s->len;
        free(s->u.big);
    }
    s->state = 0;
}

/* ---- output ---- */

static size_t unsent(const conn *c) { return c->out.len - c->sent + c->ready; }

bool conn_has_room(const nd_engine *e, const conn *c) { return unsent(c) + REPLY_ROOM <= e->cfg.output_bytes_max; }

bool dest_is_gone(const nd_engine *e, const dest *to)
{
    if (to->src != SRC_LOCAL || (to->conn & CONN_CALL))
        return false;
    const conn *c = e->conns[to->conn];
    return !c || c->origin.gen != to->gen || c->cut;
}

/* As much as the socket takes; false = the connection is broken. What was sent does not stay in memory beside what was not: a
 * client that never catches up would make the buffer grow for ever. */
static bool send_some(nd_engine *e, conn *c)
{
    size_t left = c->out.len - c->sent;
    if (left == 0)
        return true;
    const uint8_t *from = c->out.buf + c->sent;
    ssize_t n = __builtin_expect(!c->ssl, 1) ? send(c->fd, from, left, MSG_NOSIGNAL) : tls_send(c, from, left);
    if (n <= 0)
        return n == 0 || errno == EAGAIN || errno == EINTR;
    c->sent += (size_t)n;
    c->took_us = e->now_us;
    e->m->bytes_out += (uint64_t)n;
    left -= (size_t)n;
    if (c->sent >= left && left > 0) {
        memmove(c->out.buf, c->out.buf + c->sent, left);
        c->out.len = left;
        c->sent = 0;
    }
    return true;
}

/* After a reply was added: a connection above its limit even after sending gets no more, and is closed at the flush. */
static void hold_to_limit(nd_engine *e, conn *c)
{
    if (unsent(c) <= e->cfg.output_bytes_max || (send_some(e, c) && unsent(c) <= e->cfg.output_bytes_max))
        return;
    c->cut = true;
    conn_dirty(e, c);
}

void conn_close(nd_engine *e, conn *c)
{
    for (uint32_t q = c->head; q != c->tail; q++) {
        slot *s = &c->slots[q & (c->slots_cap - 1)];
        peer_answered(e, s);
        slot_clear(c, s);
    }
    if (c->ssl)
        tls_end(e, c);
    close(c->fd); /* leaves the epoll set with its last descriptor */
    access_end(c);
    nd_resp_free(&c->scan);
    nd_reply_free(&c->out);
    free(c->in.p);
    free(c->slots);
    free(c->py_argv);
    free(c->py_bytes);
    e->conns[c->idx] = NULL;
    list_push(&e->free_conns, c->idx);
    e->conns_open--;
    e->m->connections = e->conns_open;
    e->m->connections_closed++;
    free(c);
}

void conn_dirty(nd_engine *e, conn *c)
{
    if (!c->dirty) {
        c->dirty = true;
        list_push(&e->dirty, c->idx);
    }
}

void conn_resume(nd_engine *e, conn *c)
{
    if (c->resuming)
        return;
    c->resuming = true;
    list_push(&e->resume, c->idx);
}

/* ---- slots ---- */

static void slots_grow(conn *c)
{
    uint32_t cap = c->slots_cap ? c->slots_cap * 2 : 16;
    slot *bigger = malloc(cap * sizeof *bigger);
    ND_ASSERT(bigger);
    for (uint32_t q = c->head; q != c->tail; q++)
        bigger[q & (cap - 1)] = c->slots[q & (c->slots_cap - 1)];
    free(c->slots);
    c->slots = bigger;
    c->slots_cap = cap;
}

/* Take the next place in the order of replies; its number is c->tail before the call. */
slot *conn_slot(nd_engine *e, conn *c, bool write, uint32_t peer_number)
{
    if (c->tail - c->head == c->slots_cap)
        slots_grow(c);
    slot *s = &c->slots[c->tail++ & (c->slots_cap - 1)];
    *s = (slot){.state = SLOT_PENDING, .write = write, .peer = (uint16_t)peer_number, .start_ms = (uint32_t)(e->now_us / 1000)};
    return s;
}

static void on_drained(nd_engine *e, conn *c)
{
    if (c->python == PY_WAITS && !c->queued) {
        c->queued = true;
        list_push(&e->py_queue, c->idx);
    }
}

static void drain_ready(nd_engine *e, conn *c)
{
    while (c->head != c->tail) {
        slot *s = &c->slots[c->head & (c->slots_cap - 1)];
        if (s->state != SLOT_READY)
            return;
        nd_reply_raw(&c->out, s->len > sizeof s->u.small ? s->u.big : s->u.small, s->len);
        slot_clear(c, s);
        c->head++;
    }
    on_drained(e, c);
}

void conn_complete(nd_engine *e, conn *c, uint32_t seq, const uint8_t *p, size_t n)
{
    if (seq - c->head >= c->tail - c->head || c->cut)
        return; /* answered already, by the deadline; or about to be closed */
    slot *s = &c->slots[seq & (c->slots_cap - 1)];
    if (s->state != SLOT_PENDING)
        return;
    peer_answered(e, s);
    if (seq == c->head) {
        nd_reply_raw(&c->out, p, n);
        s->state = 0;
        c->head++;
        drain_ready(e, c);
        conn_dirty(e, c);
    } else {
        uint8_t *to = s->u.small;
        if (n > sizeof s->u.small) {
            to = s->u.big = malloc(n);
            ND_ASSERT(to);
            c->ready += n;
        }
        memcpy(to, p, n);
        s->len = (uint32_t)n;
        s->state = SLOT_READY;
    }
    hold_to_limit(e, c);
    /* Unscanned bytes wait as well as unread ones: the socket may be empty, and then nothing else brings this back. */
    if ((c->muted || c->in.len || c->more) && c->python == PY_NONE && !c->closing && c->tail - c->head < SLOTS_MAX / 2)
        conn_resume(e, c);
}

/* ---- delivery ---- */

void deliver(nd_engine *e, const dest *to, const uint8_t *p, size_t n)
{
    if (n && p[0] == '-')
        e->m->errors++;
    if (to->src != SRC_LOCAL) {
        peer_reply(e, to, p, n);
        return;
    }
    if (to->conn & CONN_CALL) {
        call_finish(e, to->conn & ~CONN_CALL, p, n);
        return;
    }
    conn *c = e->conns[to->conn];
    if (c && c->origin.gen == to->gen)
        conn_complete(e, c, to->seq, p, n);
}

void deliver_text(nd_engine *e, const dest *to, const char *error)
{
    nd_reply *r = &e->reply;
    r->len = 0;
    nd_reply_error(r, error);
    deliver(e, to, r->buf, r->len);
}

/* An error for the command being read, in its place. */
void conn_reply_text(nd_engine *e, conn *c, const char *error)
{
    e->m->errors++;
    if (c->head == c->tail) {
        nd_reply_error(&c->out, error);
        conn_dirty(e, c);
        return;
    }
    uint32_t seq = c->tail;
    conn_slot(e, c, false, 0);
    nd_reply *r = &e->reply;
    r->len = 0;
    nd_reply_error(r, error);
    conn_complete(e, c, seq, r->buf, r->len);
}

/* ---- commands for Python ---- */

/* Copies the command: the connection's input moves on while Python works. */
void conn_python(nd_engine *e, conn *c, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc)
{
    size_t total = 0;
    for (uint32_t i = 0; i < argc; i++)
        total += argv[i].len;
    c->py_argv = malloc(argc * sizeof *c->py_argv);
    c->py_bytes = malloc(total + 1);
    ND_ASSERT(c->py_argv && c->py_bytes);
    uint8_t *p = c->py_bytes;
    for (uint32_t i = 0; i < argc; i++) {
        memcpy(p, argv[i].ptr, argv[i].len);
        c->py_argv[i] = (nd_arg){p, argv[i].len};
        p += argv[i].len;
    }
    c->py_argc = argc;
    memcpy(c->py_name, row->name, sizeof c->py_name);
    c->python = PY_WAITS;
    e->m->commands_python++;
    if (c->head == c->tail)
        on_drained(e, c);
}

int nd_engine_python_next(nd_engine *e, nd_python_cmd *out)
{
    while (e->py_queue.n) {
        uint32_t idx = e->py_queue.v[--e->py_queue.n];
        conn *c = e->conns[idx];
        if (!c || !c->queued)
            continue;
        c->queued = false;
        c->python = PY_RUNS;
        out->conn = idx;
        out->gen = c->origin.gen;
        out->argc = c->py_argc;
        out->argv = c->py_argv;
        memcpy(out->name, c->py_name, sizeof out->name);
        return 1;
    }
    return 0;
}

void nd_engine_python_reply(nd_engine *e, uint32_t idx, uint32_t gen, const uint8_t *p, uint64_t n, uint32_t close_after)
{
    conn *c = idx < e->cfg.connections_max ? e->conns[idx] : NULL;
    if (!c || c->origin.gen != gen || c->python != PY_RUNS)
        return; /* the client has gone */
    free(c->py_argv);
    free(c->py_bytes);
    c->py_argv = NULL;
    c->py_bytes = NULL;
    c->python = PY_NONE;
    if (n && p[0] == '-')
        e->m->errors++;
    nd_reply_raw(&c->out, p, n);
    conn_dirty(e, c);
    if (close_after)
        c->closing = true;
    else
        conn_resume(e, c);
}

int nd_engine_conn(nd_engine *e, uint32_t idx, uint32_t gen, nd_conn_info *out)
{
    conn *c = idx < e->cfg.connections_max ? e->conns[idx] : NULL;
    if (!c || c->origin.gen != gen)
        return 0;
    *out = (nd_conn_info){.port_kind = c->port_kind, .resp = c->resp, .fd = c->fd, .readonly = c->readonly,
                          .opened_us = c->opened_us, .last_us = c->last_us};
    return 1;
}

int nd_engine_conn_set(nd_engine *e, uint32_t idx, uint32_t gen, uint32_t resp, uint32_t readonly)
{
    conn *c = idx < e->cfg.connections_max ? e->conns[idx] : NULL;
    if (!c || c->origin.gen != gen)
        return 0;
    c->resp = c->out.resp = (uint8_t)resp;
    c->readonly = readonly != 0;
    return 1;
}

/* ---- flush ---- */

static void shrink(nd_engine *e, conn *c)
{
    if (c->out.cap > BUFFER_KEEP) {
        nd_reply_free(&c->out);
        nd_reply_init(&c->out);
        c->out.resp = c->resp;
    }
    c->out.len = c->sent = 0;
    c->took_us = e->now_us;
}

static void close_unread(nd_engine *e, conn *c)
{
    e->m->output_limit_closed++;
    nd_engine_note(e, ND_EVENT_OUTPUT_LIMIT, c->idx, unsent(c), "");
    conn_close(e, c);
}

static void conn_flush(nd_engine *e, conn *c)
{
    if (!c->cut && !send_some(e, c)) {
        conn_close(e, c);
        return;
    }
    size_t left = c->out.len - c->sent;
    if (c->cut || left > e->cfg.output_bytes_max) {
        close_unread(e, c);
        return;
    }
    if (left == 0) {
        shrink(e, c);
        if (c->closing && c->head == c->tail && c->python == PY_NONE) {
            conn_close(e, c);
            return;
        }
    }
    if (c->full && conn_has_room(e, c)) {
        c->full = false;
        conn_resume(e, c);
    }
    if (c->watch_out != (left > 0)) {
        c->watch_out = left > 0;
        conn_watch(e, c);
    }
}

int nd_engine_flush(nd_engine *e, uint64_t now_us)
{
    e->now_us = now_us;
    bool more = e->rings && peers_flush(e); /* first: what finds no room in a ring is answered below */
    for (uint32_t i = 0; i < e->dirty.n; i++) {
        conn *c = e->conns[e->dirty.v[i]];
        if (!c || !c->dirty)
            continue;
        c->dirty = false;
        if (!c->watch_out || c->cut || unsent(c) > e->cfg.output_bytes_max) /* a full socket says itself when it has room */
            conn_flush(e, c);
    }
    e->dirty.n = 0;
    more = more || e->resume.n;
    bool answers = e->done_n || e->access.denials_n || e->access.first;
    return (e->py_queue.n ? ND_TURN_PYTHON : 0) | (answers ? ND_TURN_CALLS : 0) | (e->events_n ? ND_TURN_EVENTS : 0) |
           (more ? ND_TURN_MORE : 0);
}

/* ---- deadlines ---- */

static void conn_expire(nd_engine *e, conn *c, uint32_t now_ms)
{
    for (uint32_t q = c->head; q != c->tail; q++) {
        slot *s = &c->slots[q & (c->slots_cap - 1)];
        if (s->state != SLOT_PENDING || now_ms - s->start_ms < e->cfg.deadline_ms)
            continue;
        e->m->deadline_refusals++;
        nd_reply *r = &e->reply;
        r->len = 0;
        nd_reply_error(r, e->texts[s->write ? ND_TEXT_UNKNOWN : ND_TEXT_DEADLINE]);
        conn_complete(e, c, q, r->buf, r->len);
    }
}

int nd_engine_expire(nd_engine *e, uint64_t now_us)
{
    e->now_us = now_us;
    uint32_t now_ms = (uint32_t)(now_us / 1000);
    for (uint32_t i = 0; i < e->cfg.connections_max && e->conns_open; i++) {
        conn *c = e->conns[i];
        if (c && c->head != c->tail)
            conn_expire(e, c, now_ms);
        if (c && c->full && c->out.len > c->sent && now_us - c->took_us > e->cfg.deadline_ms * 1000ull)
            close_unread(e, c);
        else if (c && (tls_overdue(e, c) || access_overdue(e, c)))
            conn_close(e, c);
    }
    for (uint32_t i = 0; i < e->calls_n;) {
        call k = e->calls[i];
        if (now_ms - k.start_ms < e->cfg.deadline_ms) {
            i++;
            continue;
        }
        const char *text = e->texts[k.write ? ND_TEXT_UNKNOWN : ND_TEXT_DEADLINE];
        deliver_text(e, &(dest){.src = SRC_LOCAL, .conn = CONN_CALL | k.token}, text);
    }
    return nd_engine_flush(e, now_us);
}

uint32_t nd_engine_close_all(nd_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->cfg.connections_max; i++) {
        if (e->conns[i]) {
            conn_close(e, e->conns[i]);
            n++;
        }
    }
    return n;
}
