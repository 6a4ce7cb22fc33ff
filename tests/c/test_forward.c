/* test_forward.c: two workers in one process, their clients on sockets, a log that commits at once: what one worker forwards
 * to the other comes back whole and in order; full rings, deaths and former lives included.
 *
 * A worker takes a turn only when its descriptors say so or its last turn asked for another: if nobody may take one and the
 * clients still wait, a wakeup was lost and the test ends.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "../../csrc/engine.h"
#include "../../csrc/slot.h"
#include "ring_kit.h"

#define WORKERS 2u
#define GROUPS 8u
#define OVERFLOW_BYTES 40000000u
#define LARGE_READS 10

typedef struct worker {
    uint32_t number;
    nd_shm *shm;
    nd_ringset *rings;
    nd_page *page;
    nd_store *store;
    nd_cmdtab *tab;
    nd_engine *engine;
    int port;
    bool more, stopped;
    uint64_t index[GROUPS];
} worker;

typedef struct client {
    int fd;
    uint8_t *out, *in;
    size_t out_len, sent, in_len, in_cap;
} client;

static uint64_t now_us = 1000000;
static kit the_kit;
static char dirs[WORKERS][64];

/* ---- workers ---- */

static nd_cmdtab *new_table(void)
{
    nd_cmdtab *t = nd_cmdtab_new();
    ND_ASSERT(nd_cmdtab_add(t, "get", 1, 2, ND_CMD_READ, 1, 1, 1, "get") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "set", 2, -3, ND_CMD_WRITE, 1, 1, 1, "set") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "mget", 3, -2, ND_CMD_READ, 1, -1, 1, "mget") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "nd.expire", 48, 3, ND_CMD_WRITE | ND_CMD_INTERNAL, 1, 1, 1, "nd_expire") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "nd.flush", 49, 1, ND_CMD_WRITE | ND_CMD_INTERNAL | ND_CMD_GROUP_ALL, 0, 0, 0,
                            "nd_flush") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "nd.dbsize", 50, 1, ND_CMD_READ | ND_CMD_INTERNAL | ND_CMD_WORKER, 0, 0, 0,
                            "nd_dbsize") == 0);
    return t;
}

static int listen_on(int *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ND_ASSERT(fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(fd, 16) == 0);
    ND_ASSERT(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

static void worker_start(worker *w, uint32_t number, uint64_t generation)
{
    static const char *const texts[ND_TEXTS] = {"OVERLOAD", "NOSPACE", "UNKNOWN", "DEADLINE", "TRYAGAIN",
                                                "CROSSSLOT", "MAXCLIENTS", "LONG", "CLUSTERDOWN", "HALTED"};
    *w = (worker){.number = number, .shm = the_kit.shm, .tab = new_table()};
    nd_store_cfg store = {.path = dirs[number], .map_bytes = 64 << 20, .dirty_bytes_max = 1ull << 30,
                          .memory_bytes_max = 1ull << 32, .txn_rows_max = 1000, .txn_bytes_max = 1 << 23};
    nd_engine_cfg cfg = {.self = number, .workers = WORKERS, .groups = GROUPS, .generation = generation,
                         .connections_max = 16, .deadline_ms = 4000, .output_bytes_max = 1ull << 32,
                         .query_bytes_max = 64 << 20, .gather_bytes_max = 32 << 20,
                         .forward_bytes_max = OVERFLOW_BYTES / 2};
    ND_ASSERT(nd_store_open(&store, &w->store) == 0);
    for (uint32_t v = number * 512; v < (number + 1) * 512; v++)
        ND_ASSERT(nd_store_own(w->store, v, v * GROUPS / ND_VSHARDS) == 0);
    ND_ASSERT(nd_engine_new(&cfg, w->store, w->tab, nd_shm_metrics(w->shm, number + 1), &w->engine) == 0);
    for (uint32_t i = 0; i < ND_TEXTS; i++)
        nd_engine_text(w->engine, i, texts[i]);
    ND_ASSERT(nd_ringset_open(w->shm, number + 1, the_kit.bells, OVERFLOW_BYTES, &w->rings) == 0);
    ND_ASSERT(nd_page_open(w->shm, &w->page) == 0);
    nd_engine_rings(w->engine, w->rings, w->page);
    ND_ASSERT(nd_engine_listen(w->engine, listen_on(&w->port), ND_PORT_SHARED) == 0);
    w->more = true;
}

static void worker_end(worker *w)
{
    nd_engine_free(w->engine);
    nd_ringset_close(w->rings);
    nd_page_close(w->page);
    nd_store_close(w->store);
    nd_cmdtab_free(w->tab);
}

/* Commit what has gathered, as a log of one voter on a perfect disk does. */
static void commit(worker *w)
{
    int n;
    while ((n = nd_engine_seal(w->engine, now_us / 1000 << 16, now_us, now_us)) > 0) {
        nd_commit commits[ND_GROUPS_MAX];
        nd_wal_rec *recs = nd_engine_recs(w->engine);
        for (int i = 0; i < n; i++) {
            recs[i].term = 1;
            recs[i].index = ++w->index[recs[i].group];
            commits[i] = (nd_commit){recs[i].group, recs[i].index, recs[i].index};
        }
        nd_engine_proposed(w->engine, (uint32_t)n);
        ND_ASSERT(nd_engine_commit(w->engine, commits, (uint32_t)n, now_us) >= 0);
    }
}

static void flush(worker *w)
{
    w->more = (nd_engine_flush(w->engine, now_us) & ND_TURN_MORE) != 0;
}

static void turn(worker *w, int rung)
{
    ND_ASSERT(nd_engine_poll(w->engine, now_us, now_us / 1000 << 16, (uint32_t)rung) >= 0);
    if (!w->stopped)
        commit(w);
    flush(w);
}

/* 1 = it took a turn. */
static int turn_if_called(worker *w, int timeout_ms)
{
    struct pollfd p[2] = {{.fd = nd_engine_epoll_fd(w->engine), .events = POLLIN},
                          {.fd = nd_ringset_bell(w->rings), .events = POLLIN}};
    int ready = poll(p, 2, w->more ? 0 : timeout_ms);
    if (!w->more && ready == 0)
        return 0;
    turn(w, p[1].revents != 0);
    return 1;
}

/* ---- clients ---- */

static client connect_to(const worker *w)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)w->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .out = malloc(1 << 26)};
    ND_ASSERT(c.fd >= 0 && c.out && connect(c.fd, (struct sockaddr *)&sa, sizeof sa) == 0);
    ND_ASSERT(fcntl(c.fd, F_SETFL, O_NONBLOCK) == 0);
    return c;
}

static void client_end(client *c)
{
    close(c->fd);
    free(c->out);
    free(c->in);
}

static void say(client *c, const char *name, const char *key, const void *value, size_t len)
{
    char *p = (char *)c->out + c->out_len;
    p += sprintf(p, "*%d\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", value ? 3 : 2, strlen(name), name, strlen(key), key);
    if (value) {
        p += sprintf(p, "$%zu\r\n", len);
        memcpy(p, value, len);
        p += len;
        p += sprintf(p, "\r\n");
    }
    c->out_len = (size_t)(p - (char *)c->out);
}

static int client_io(client *c)
{
    int moved = 0;
    ssize_t n;
    if (c->sent < c->out_len && (n = send(c->fd, c->out + c->sent, c->out_len - c->sent, MSG_NOSIGNAL)) > 0) {
        c->sent += (size_t)n;
        moved = 1;
    }
    if (c->in_cap - c->in_len < 1 << 20)
        ND_ASSERT((c->in = realloc(c->in, c->in_cap = c->in_cap * 2 + (1 << 21))) != NULL);
    if ((n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0)) > 0) {
        c->in_len += (size_t)n;
        moved = 1;
    }
    ND_ASSERT(n != 0);
    return moved;
}

/* Whole replies at the beginning of what came: bulk strings, lines. */
static uint32_t replies(const client *c)
{
    uint32_t count = 0;
    for (size_t at = 0; at < c->in_len; count++) {
        const uint8_t *end = memchr(c->in + at, '\n', c->in_len - at);
        if (!end)
            break;
        size_t next = (size_t)(end - c->in) + 1;
        if (c->in[at] == '$' && c->in[at + 1] != '-')
            next += strtoull((const char *)c->in + at + 1, NULL, 10) + 2;
        if (next > c->in_len)
            break;
        at = next;
    }
    return count;
}

/* Soon; a client may be: what a worker wrote takes its time through the loopback of a loaded machine. */
static bool somebody_is_called(worker *ws, client *cs, uint32_t n_clients)
{
    struct pollfd p[2 * WORKERS + 16];
    uint32_t n = 0;
    for (uint32_t i = 0; i < WORKERS; i++) {
        p[n++] = (struct pollfd){.fd = nd_engine_epoll_fd(ws[i].engine), .events = POLLIN};
        p[n++] = (struct pollfd){.fd = nd_ringset_bell(ws[i].rings), .events = POLLIN};
    }
    ND_ASSERT(n_clients <= 16);
    for (uint32_t i = 0; i < n_clients; i++)
        p[n++] = (struct pollfd){.fd = cs[i].fd, .events = (short)(POLLIN | (cs[i].sent < cs[i].out_len ? POLLOUT : 0))};
    return poll(p, n, 2000) > 0;
}

static void serve(worker *ws, client *cs, uint32_t n_clients, uint32_t wanted)
{
    for (;;) {
        int moved = 0;
        uint32_t done = 0;
        for (uint32_t i = 0; i < WORKERS; i++)
            moved += turn_if_called(&ws[i], 0);
        for (uint32_t i = 0; i < n_clients; i++) {
            int io = client_io(&cs[i]);
            moved += io;
            done += !io && replies(&cs[i]) == wanted;
        }
        if (done == n_clients)
            return;
        if (!moved)
            ND_ASSERT(somebody_is_called(ws, cs, n_clients));
    }
}

/* Until the client has so many replies, with only this worker alive. */
static void serve_one(worker *w, client *c, uint32_t wanted)
{
    while (replies(c) < wanted) {
        int moved = client_io(c);
        moved += turn_if_called(w, moved ? 0 : 2000);
        ND_ASSERT(moved);
    }
}

/* Until everything the client said has been read and the worker rests. */
static void listen_only(worker *w, client *c)
{
    while (c->sent < c->out_len || turn_if_called(w, 50))
        client_io(c);
}

/* A key of the worker. */
static const char *key_of(uint32_t number, uint32_t n)
{
    static char key[32];
    for (uint32_t i = n * 64;; i++) {
        nd_arg arg = {(uint8_t *)key, (uint32_t)sprintf(key, "k%u", i)};
        if (nd_vshard_of_key(&arg) / 512 == number)
            return key;
    }
}

static void start_both(worker *ws)
{
    static nd_route routes[ND_VSHARDS];
    the_kit = kit_new();
    for (uint32_t v = 0; v < ND_VSHARDS; v++)
        routes[v] = (nd_route){.epoch = 1, .group = (uint16_t)(v * GROUPS / ND_VSHARDS), .worker = (uint16_t)(v / 512),
                               .state = ND_ROUTE_SERVING};
    nd_page_write(the_kit.shm, routes);
    for (uint32_t i = 0; i < WORKERS; i++) {
        strcpy(dirs[i], "/tmp/test_forward.XXXXXX");
        ND_ASSERT(mkdtemp(dirs[i]) != NULL);
        worker_start(&ws[i], i, 1);
    }
}

static void end_both(worker *ws)
{
    char path[160];
    for (uint32_t i = 0; i < WORKERS; i++) {
        worker_end(&ws[i]);
        snprintf(path, sizeof path, "%s/data.mdb", dirs[i]);
        unlink(path);
        snprintf(path, sizeof path, "%s/lock.mdb", dirs[i]);
        unlink(path);
        rmdir(dirs[i]);
    }
    kit_free(&the_kit);
}

/* ---- tests ---- */

/* More commands than a connection may have in flight, the last of them read from the socket but not yet scanned. */
static void a_long_pipeline_of_foreign_reads(void)
{
    worker ws[WORKERS];
    start_both(ws);
    client c = connect_to(&ws[0]);
    for (int i = 0; i < 8400; i++)
        say(&c, "get", key_of(1, 1), NULL, 0);
    listen_only(&ws[0], &c);
    serve(ws, &c, 1, 8400);
    client_end(&c);
    end_both(ws);
}

static void order_over_both_workers(void)
{
    worker ws[WORKERS];
    char expected[1 << 18], *p = expected, value[24];
    start_both(ws);
    client c = connect_to(&ws[0]);
    for (uint32_t i = 0; i < 3000; i++) {
        int n = sprintf(value, "value-%u", i);
        const char *key = key_of(kit_mix(i) % 2, i % 10);
        say(&c, "set", key, value, (size_t)n);
        say(&c, "get", key, NULL, 0);
        p += sprintf(p, "+OK\r\n$%d\r\n%s\r\n", n, value);
    }
    serve(ws, &c, 1, 6000);
    ND_ASSERT(c.in_len == (size_t)(p - expected) && memcmp(c.in, expected, c.in_len) == 0);
    client_end(&c);
    end_both(ws);
}

/* Each worker owes the other more than the rings and their queues hold, and both go on reading. */
static void large_replies_cross(void)
{
    static uint8_t value[8000000];
    worker ws[WORKERS];
    start_both(ws);
    client cs[2] = {connect_to(&ws[0]), connect_to(&ws[1])};
    kit_fill(value, sizeof value, 5);
    for (uint32_t i = 0; i < 2; i++)
        say(&cs[i], "set", key_of(1 - i, 3), value, sizeof value);
    serve(ws, cs, 2, 1);
    for (uint32_t i = 0; i < 2; i++)
        for (int k = 0; k < LARGE_READS; k++)
            say(&cs[i], "get", key_of(1 - i, 3), NULL, 0);
    for (uint32_t i = 0; i < 2; i++) /* both read their clients before either looks at its ring */
        while (cs[i].sent < cs[i].out_len)
            client_io(&cs[i]);
    for (uint32_t i = 0; i < 2; i++)
        ND_ASSERT(nd_engine_poll(ws[i].engine, now_us, now_us / 1000 << 16, 0) >= 0);
    for (uint32_t i = 0; i < 2; i++)
        flush(&ws[i]);
    serve(ws, cs, 2, LARGE_READS + 1);
    for (uint32_t i = 0; i < 2; i++) {
        const size_t each = 10 + sizeof value + 2;
        ND_ASSERT(cs[i].in_len == 5 + LARGE_READS * each && memcmp(cs[i].in, "+OK\r\n", 5) == 0);
        for (size_t k = 0; k < LARGE_READS; k++) {
            ND_ASSERT(memcmp(cs[i].in + 5 + k * each, "$8000000\r\n", 10) == 0);
            ND_ASSERT(kit_is(cs[i].in + 15 + k * each, sizeof value, 5));
        }
        client_end(&cs[i]);
    }
    end_both(ws);
}

#define LARGE_WRITES 7

/* A client that says more than its peer may owe answers for, and the peer does not answer: the client is not read on. */
static client hold_back(worker *ws)
{
    static uint8_t value[8000000];
    client c = connect_to(&ws[0]);
    for (uint32_t i = 0; i < LARGE_WRITES; i++)
        say(&c, "set", key_of(1, i), value, sizeof value);
    ws[1].stopped = true;
    for (int still = 0; still < 20;) {
        int moved = client_io(&c) + turn_if_called(&ws[0], 0) + turn_if_called(&ws[1], 0);
        still = moved ? 0 : still + 1;
    }
    ND_ASSERT(replies(&c) == 0 && c.sent < c.out_len);
    ND_ASSERT(nd_engine_pending(ws[1].engine) == 2);  /* 16 MB of 20; a third does not fit */
    return c;
}

static void large_writes_wait_for_room(void)
{
    worker ws[WORKERS];
    start_both(ws);
    client c = hold_back(ws);
    client other = connect_to(&ws[0]);                /* of the same worker, with nothing for the crowded one */
    say(&other, "set", key_of(0, 1), "v", 1);
    serve_one(&ws[0], &other, 1);
    client_end(&other);
    ws[1].stopped = false;
    ws[1].more = true;
    serve(ws, &c, 1, LARGE_WRITES);
    for (uint32_t i = 0; i < LARGE_WRITES; i++)
        ND_ASSERT(memcmp(c.in + 5 * i, "+OK\r\n", 5) == 0);
    client_end(&c);
    end_both(ws);
}

static void death_ends_the_wait_for_room(void)
{
    worker ws[WORKERS];
    start_both(ws);
    client c = hold_back(ws);
    worker_end(&ws[1]);
    kit_died(&the_kit, 2);
    serve_one(&ws[0], &c, LARGE_WRITES);
    ND_ASSERT(memcmp(c.in, "-UNKNOWN\r\n-UNKNOWN\r\n-TRYAGAIN\r\n", 31) == 0);
    client_end(&c);
    nd_shm_proc_started(the_kit.shm, 2, 1);
    worker_start(&ws[1], 1, 2);
    end_both(ws);
}

/* What was sent is answered by its deadline, and that makes room. */
static void the_deadline_ends_the_wait_for_room(void)
{
    worker ws[WORKERS];
    start_both(ws);
    client c = hold_back(ws);
    now_us += 5000000;
    ND_ASSERT(nd_engine_expire(ws[0].engine, now_us) & ND_TURN_MORE);
    ws[0].more = true;
    while (replies(&c) < 2)
        ND_ASSERT(client_io(&c) + turn_if_called(&ws[0], 0) + turn_if_called(&ws[1], 0));
    ws[1].stopped = false;
    ws[1].more = true;
    serve(ws, &c, 1, LARGE_WRITES);
    ND_ASSERT(memcmp(c.in, "-UNKNOWN\r\n-UNKNOWN\r\n+OK\r\n", 25) == 0);
    client_end(&c);
    end_both(ws);
}

/* A reply larger than the queue of a full ring is not lost. */
static void one_reply_larger_than_the_queue(void)
{
    static uint8_t value[15000000];
    worker ws[WORKERS];
    start_both(ws);
    client c = connect_to(&ws[0]);
    char key[40];
    snprintf(key, sizeof key, "%s", key_of(1, 2));
    say(&c, "set", key, value, sizeof value);
    serve(ws, &c, 1, 1);
    say(&c, "mget", key, key, strlen(key));
    size_t whole = 5 + 4 + 2 * (strlen("$15000000\r\n") + sizeof value + 2);
    while (c.in_len < whole) {
        int moved = client_io(&c) + turn_if_called(&ws[0], 0) + turn_if_called(&ws[1], 0);
        ND_ASSERT(moved || turn_if_called(&ws[0], 2000) || turn_if_called(&ws[1], 2000));
    }
    ND_ASSERT(c.in_len == whole && memcmp(c.in + 5, "*2\r\n$15000000\r\n", 15) == 0);
    client_end(&c);
    end_both(ws);
}

static void death_answers_what_is_in_flight(void)
{
    worker ws[WORKERS];
    start_both(ws);
    client c = connect_to(&ws[0]);
    ws[1].stopped = true;
    say(&c, "set", key_of(1, 1), "v", 1);
    say(&c, "get", key_of(1, 2), NULL, 0);
    say(&c, "get", key_of(0, 1), NULL, 0);
    listen_only(&ws[0], &c);
    worker_end(&ws[1]);
    kit_died(&the_kit, 2);
    serve_one(&ws[0], &c, 3);
    ND_ASSERT(c.in_len == 26 && memcmp(c.in, "-UNKNOWN\r\n-TRYAGAIN\r\n$-1\r\n", 26) == 0);
    say(&c, "set", key_of(1, 1), "v", 1);
    serve_one(&ws[0], &c, 4);
    ND_ASSERT(memcmp(c.in + 26, "-TRYAGAIN\r\n", 11) == 0);
    nd_shm_proc_started(the_kit.shm, 2, 1);
    worker_start(&ws[1], 1, 2);
    say(&c, "set", key_of(1, 1), "v", 1);
    serve(ws, &c, 1, 5);
    ND_ASSERT(memcmp(c.in + 37, "+OK\r\n", 5) == 0);
    client_end(&c);
    end_both(ws);
}

/* The answer to a call of a former life does not answer this life's call of the same number. */
static void a_former_lifes_call(void)
{
    worker ws[WORKERS];
    nd_arg flush_name = {(const uint8_t *)"nd.flush", 8}, dbsize_name = {(const uint8_t *)"nd.dbsize", 9};
    start_both(ws);
    ws[1].stopped = true;
    ND_ASSERT(nd_engine_call(ws[0].engine, 5, 1, 512, &flush_name, 1, 2, now_us) == 0);
    flush(&ws[0]);
    turn(&ws[1], 0);                                /* gathered, not committed */
    worker_end(&ws[0]);
    kit_died(&the_kit, 1);
    nd_shm_proc_started(the_kit.shm, 1, 1);
    worker_start(&ws[0], 0, 2);
    turn(&ws[1], 1);                                /* takes notice */
    ND_ASSERT(nd_engine_call(ws[0].engine, 5, 1, 512, &dbsize_name, 1, 2, now_us) == 0);
    flush(&ws[0]);
    commit(&ws[1]);
    flush(&ws[1]);
    uint32_t token;
    uint64_t n;
    const uint8_t *p;
    while (turn_if_called(&ws[0], 0)) {
    }
    ND_ASSERT(nd_engine_call_next(ws[0].engine, &token, &p, &n) == 0);
    while (turn_if_called(&ws[1], 0) || turn_if_called(&ws[0], 0)) {
    }
    ND_ASSERT(nd_engine_call_next(ws[0].engine, &token, &p, &n) == 1 && token == 5 && n == 4);
    ND_ASSERT(memcmp(p, ":0\r\n", 4) == 0);
    end_both(ws);
}

int main(void)
{
    order_over_both_workers();
    a_long_pipeline_of_foreign_reads();
    large_replies_cross();
    large_writes_wait_for_room();
    death_ends_the_wait_for_room();
    the_deadline_ends_the_wait_for_room();
    one_reply_larger_than_the_queue();
    death_answers_what_is_in_flight();
    a_former_lifes_call();
    return 0;
}
