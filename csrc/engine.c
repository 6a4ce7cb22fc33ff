#include "engine_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- small containers ---- */

void list_push(list *l, uint32_t v)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->v = realloc(l->v, l->cap * sizeof *l->v);
        ND_ASSERT(l->v);
    }
    l->v[l->n++] = v;
}

/* Room for `more` bytes behind b->len; returns where they go. */
uint8_t *bytes_room(bytes *b, size_t more)
{
    if (b->cap - b->len < more) {
        size_t cap = b->cap ? b->cap : 512;
        while (cap - b->len < more)
            cap *= 2;
        b->p = realloc(b->p, cap);
        ND_ASSERT(b->p);
        b->cap = cap;
    }
    return b->p + b->len;
}

/* ---- life ---- */

static int check_cfg(const nd_engine_cfg *cfg)
{
    if (cfg->workers == 0 || cfg->workers > ND_WORKERS_MAX || cfg->self >= cfg->workers || cfg->connections_max == 0)
        return -EINVAL;
    if (cfg->groups < cfg->workers || cfg->groups > ND_GROUPS_MAX || (cfg->groups & (cfg->groups - 1)))
        return -EINVAL;
    return 0;
}

static void init_groups(nd_engine *e)
{
    uint32_t per = ND_VSHARDS / e->cfg.groups;
    e->vshard_first = ND_VSHARD_NONE;
    for (uint32_t i = 0; i < e->cfg.groups; i++) {
        group *g = &e->groups[i];
        g->first = i * per;
        g->last = g->first + per - 1;
        g->mine = g->first * e->cfg.workers / ND_VSHARDS == e->cfg.self;
        if (!g->mine)
            continue;
        if (e->vshard_first == ND_VSHARD_NONE)
            e->vshard_first = g->first;
        e->vshard_last = g->last;
    }
    ND_ASSERT(e->vshard_first != ND_VSHARD_NONE);
}

static const nd_cmdrow *find_row(nd_cmdtab *tab, const char *name)
{
    nd_arg arg = {(const uint8_t *)name, (uint32_t)strlen(name)};
    return nd_cmdtab_find(tab, &arg, 1);
}

int nd_engine_new(const nd_engine_cfg *cfg, nd_store *store, nd_cmdtab *tab, nd_metrics *metrics, nd_engine **out)
{
    int rc = check_cfg(cfg);
    if (rc < 0)
        return rc;
    nd_engine *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->cfg = *cfg;
    e->store = store;
    e->tab = tab;
    e->m = metrics;
    e->refuse = -1;
    memset(e->listen_fd, -1, sizeof e->listen_fd);
    /* A connection's number and generation must not meet those of a former life of this process. */
    e->life = e->next_gen = (uint32_t)(cfg->generation * 2654435761u);
    e->conns = calloc(cfg->connections_max, sizeof *e->conns);
    e->recs = calloc(ND_GROUPS_MAX, sizeof *e->recs);
    e->rec_batches = calloc(ND_GROUPS_MAX, sizeof *e->rec_batches);
    e->peers = calloc(cfg->workers, sizeof *e->peers);
    e->rbuf = malloc(READ_BYTES);
    ND_ASSERT(e->conns && e->recs && e->rec_batches && e->peers && e->rbuf);
    nd_reply_init(&e->reply);
    e->reply.resp = 2;
    for (uint32_t i = cfg->connections_max; i-- > 0;)
        list_push(&e->free_conns, i);
    init_groups(e);
    e->expire_row = find_row(tab, "nd.expire");
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (e->epoll_fd < 0) {
        rc = -errno;
        nd_engine_free(e);
        return rc;
    }
    *out = e;
    return 0;
}

void nd_engine_free(nd_engine *e)
{
    nd_engine_close_all(e);
    nd_engine_unlisten(e);
    if (e->epoll_fd >= 0)
        close(e->epoll_fd);
    batches_free(e);
    peers_free(e);
    access_free(e);
    tls_free(e);
    for (uint32_t i = 0; i < e->done_n; i++)
        free(e->done[(e->done_head + i) % e->done_cap].p);
    free(e->done_last);
    free(e->done);
    free(e->calls);
    free(e->conns);
    free(e->recs);
    free(e->rec_batches);
    free(e->free_conns.v);
    free(e->dirty.v);
    free(e->resume.v);
    free(e->py_queue.v);
    free(e->open_groups.v);
    free(e->argv);
    free(e->rbuf);
    nd_reply_free(&e->reply);
    free(e);
}

void nd_engine_text(nd_engine *e, uint32_t kind, const char *text)
{
    ND_ASSERT(kind < ND_TEXTS);
    snprintf(e->texts[kind], sizeof e->texts[kind], "%s", text);
}

void nd_engine_advertise(nd_engine *e, uint32_t worker, const char *host, uint32_t port)
{
    ND_ASSERT(worker < e->cfg.workers);
    snprintf(e->hosts[worker], sizeof e->hosts[worker], "%s", host);
    e->ports[worker] = port;
}

void nd_engine_rings(nd_engine *e, nd_ringset *rings, nd_page *page)
{
    e->rings = rings;
    e->page = page;
}

int nd_engine_epoll_fd(nd_engine *e) { return e->epoll_fd; }

void nd_engine_refuse_writes(nd_engine *e, int text)
{
    ND_ASSERT(text < ND_TEXTS);
    e->refuse = text;
}

uint64_t nd_engine_pending(nd_engine *e) { return e->pending; }

/* False: nobody serves the vShard now. */
bool worker_of(nd_engine *e, uint32_t vshard, uint32_t *worker)
{
    nd_route route = nd_page_route(e->page, vshard);
    *worker = route.worker;
    return route.state == ND_ROUTE_SERVING && route.worker < e->cfg.workers;
}

/* ---- things to log ---- */

static bool about_a_client(uint32_t kind)
{
    return kind == ND_EVENT_OUTPUT_LIMIT || kind == ND_EVENT_PROTOCOL || kind == ND_EVENT_QUERY_LIMIT || kind == ND_EVENT_TLS;
}

static void write_address(const conn *c, char *to, socklen_t n)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    if (getpeername(c->fd, (struct sockaddr *)&sa, &len) != 0)
        return;
    const void *address = sa.ss_family == AF_INET6 ? (const void *)&((struct sockaddr_in6 *)&sa)->sin6_addr
                                                   : (const void *)&((struct sockaddr_in *)&sa)->sin_addr;
    inet_ntop(sa.ss_family, address, to, n);
}

void nd_engine_note(nd_engine *e, uint32_t kind, uint32_t conn_idx, uint64_t value, const char *text)
{
    const uint32_t cap = sizeof e->events / sizeof *e->events;
    ND_ASSERT(kind < ND_EVENT_KINDS);
    if (e->events_n == cap) {
        e->events_dropped[kind]++;
        return;
    }
    nd_event *ev = &e->events[(e->events_head + e->events_n++) % cap];
    *ev = (nd_event){.kind = kind, .conn = conn_idx, .value = value};
    snprintf(ev->text, sizeof ev->text, "%s", text);
    if (about_a_client(kind) && e->conns[conn_idx])
        write_address(e->conns[conn_idx], ev->address, sizeof ev->address);
}

int nd_engine_event_next(nd_engine *e, nd_event *out)
{
    if (e->events_n == 0)
        return 0;
    *out = e->events[e->events_head];
    e->events_head = (e->events_head + 1) % (sizeof e->events / sizeof *e->events);
    e->events_n--;
    return 1;
}

uint64_t nd_engine_events_dropped(nd_engine *e, uint32_t kind)
{
    ND_ASSERT(kind < ND_EVENT_KINDS);
    uint64_t n = e->events_dropped[kind];
    e->events_dropped[kind] = 0;
    return n;
}

/* ---- calls made by Python ---- */

int nd_engine_call(nd_engine *e, uint32_t token, uint32_t worker, uint32_t vshard, const nd_arg *argv, uint32_t argc,
                   uint32_t resp, uint64_t now_us)
{
    ND_ASSERT(worker < e->cfg.workers && vshard < ND_VSHARDS && !(token & CONN_CALL));
    const nd_cmdrow *row = nd_cmdtab_find(e->tab, argv, argc);
    if (!row || !row->fn)
        return -ENOENT;
    if (e->calls_n == e->calls_cap) {
        e->calls_cap = e->calls_cap ? e->calls_cap * 2 : 16;
        e->calls = realloc(e->calls, e->calls_cap * sizeof *e->calls);
        ND_ASSERT(e->calls);
    }
    e->now_us = now_us;
    bool here = worker == e->cfg.self;
    e->calls[e->calls_n++] = (call){.token = token, .peer = (uint16_t)(here ? 0 : worker + 1),
                                    .write = (row->flags & ND_CMD_WRITE) != 0, .start_ms = (uint32_t)(now_us / 1000)};
    dest to = {.conn = CONN_CALL | token, .gen = e->life, .src = SRC_LOCAL, .resp = (uint8_t)resp};
    if (here)
        submit(e, row, vshard, argv, argc, &to, NULL);
    else
        peer_forward(e, worker, row, vshard, argv, argc, &to);
    return 0;
}

void call_finish(nd_engine *e, uint32_t token, const uint8_t *p, size_t n)
{
    uint32_t i = 0;
    while (i < e->calls_n && e->calls[i].token != token)
        i++;
    if (i == e->calls_n)
        return; /* answered by the deadline, or nobody asked (expiry deletes) */
    e->calls[i] = e->calls[--e->calls_n];
    if (e->done_n == e->done_cap) {
        uint32_t cap = e->done_cap ? e->done_cap * 2 : 16;
        call_done *bigger = malloc(cap * sizeof *bigger);
        ND_ASSERT(bigger);
        for (uint32_t k = 0; k < e->done_n; k++)
            bigger[k] = e->done[(e->done_head + k) % e->done_cap];
        free(e->done);
        e->done = bigger;
        e->done_cap = cap;
        e->done_head = 0;
    }
    uint8_t *copy = malloc(n + 1);
    ND_ASSERT(copy);
    memcpy(copy, p, n);
    e->done[(e->done_head + e->done_n++) % e->done_cap] = (call_done){token, copy, n};
}

int nd_engine_call_next(nd_engine *e, uint32_t *token, const uint8_t **p, uint64_t *n)
{
    free(e->done_last);
    e->done_last = NULL;
    if (e->done_n == 0)
        return 0;
    call_done d = e->done[e->done_head];
    e->done_head = (e->done_head + 1) % e->done_cap;
    e->done_n--;
    e->done_last = d.p;
    *token = d.token;
    *p = d.p;
    *n = d.n;
    return 1;
}
