/* tsan_ring.c: two threads on one mapping, for the thread sanitizer: both directions, sleeping, overflow, restarts;
 * the page. A lost wakeup shows as a poll that passes its deadline. */
#include <pthread.h>
#include <stdatomic.h>

#include "../../csrc/page.h"
#include "ring_kit.h"

#define MESSAGES 30000u
#define WINDOW 300u
#define DEADLINE_MS 20000

static uint32_t length_of(uint64_t id)
{
    uint64_t r = kit_mix(id * 77 + 5);
    return (uint32_t)(r % 997 == 0 ? 300000 + r % 50000 : r % 50 == 0 ? r % 60000 : r % 150);
}

/* Keeps WINDOW questions in flight to the echo and checks that the answers come back whole and in order. */
static void ask(kit *k, uint32_t self, uint32_t other, uint64_t count)
{
    nd_ringset *set = kit_open(k, self);
    uint64_t sent = 0, got = 0;
    while (got < count) {
        nd_ring_msg msg;
        uint32_t peer;
        while (nd_ringset_next(set, &peer, &msg) == 1) {
            ND_ASSERT(peer == other && msg.request_id == got && msg.len == length_of(got));
            ND_ASSERT(kit_is(msg.data, msg.len, got));
            got++;
        }
        while (sent < count && sent - got < WINDOW) {
            ND_ASSERT(kit_push(set, other, sent, length_of(sent)) == 1);
            sent++;
        }
        nd_ringset_publish_all(set);
        if (got < count)
            kit_wait(set, DEADLINE_MS);
    }
    ND_ASSERT(kit_push(set, other, UINT64_MAX, 0) == 1);
    nd_ringset_publish_all(set);
    nd_ringset_close(set);
}

typedef struct role {
    kit *k;
    uint32_t self;
} role;

static void *echo(void *arg)
{
    role *r = arg;
    nd_ringset *set = kit_open(r->k, r->self);
    for (bool end = false; !end;) {
        nd_ring_msg msg;
        nd_peer_event ev;
        uint32_t peer;
        while (nd_ringset_peer_event(set, &ev) == 1) {
        }
        while (nd_ringset_next(set, &peer, &msg) == 1) {
            nd_arg arg1 = {msg.data, msg.len};
            end = msg.request_id == UINT64_MAX;
            if (!end)
                ND_ASSERT(nd_ringset_push(set, peer, msg.type, msg.request_id, &arg1, 1) == 1);
        }
        nd_ringset_publish_all(set);
        if (!end)
            kit_wait(set, DEADLINE_MS);
    }
    nd_ringset_close(set);
    return NULL;
}

static void stress(void)
{
    kit k = kit_new();
    role r = {&k, 2};
    pthread_t thread;
    for (int round = 0; round < 5; round++) {
        ND_ASSERT(pthread_create(&thread, NULL, echo, &r) == 0);
        ask(&k, 1, 2, round == 0 ? MESSAGES : MESSAGES / 10);
        pthread_join(thread, NULL);
        kit_died(&k, 2);
        kit_died(&k, 1);
        nd_shm_proc_started(k.shm, 1, 1);
        nd_shm_proc_started(k.shm, 2, 1);
    }
    kit_free(&k);
}

/* Ping-pong: the sleeping window is as often as possible the moment in which the other side publishes. */
static void ping_pong(void)
{
    kit k = kit_new();
    role r = {&k, 2};
    pthread_t thread;
    ND_ASSERT(pthread_create(&thread, NULL, echo, &r) == 0);
    nd_ringset *set = kit_open(&k, 1);
    for (uint64_t id = 0; id < MESSAGES / 2; id++) {
        nd_ring_msg msg;
        uint32_t peer;
        ND_ASSERT(kit_push(set, 2, id, 40) == 1);
        nd_ringset_publish_all(set);
        while (nd_ringset_next(set, &peer, &msg) == 0)
            kit_wait(set, DEADLINE_MS);
        ND_ASSERT(msg.request_id == id);
    }
    ND_ASSERT(kit_push(set, 2, UINT64_MAX, 0) == 1);
    nd_ringset_publish_all(set);
    pthread_join(thread, NULL);
    nd_ringset_close(set);
    kit_free(&k);
}

typedef struct page_role {
    kit *k;
    atomic_bool *end;
} page_role;

#define VERSIONS 20000u
#define ROWS_THAT_TELL 8

/* Some rows of version v, spread over the table, say so: a mixed table is seen. */
static void *write_pages(void *arg)
{
    page_role *r = arg;
    static nd_route routes[ND_VSHARDS];
    for (uint32_t version = 1; version <= VERSIONS; version++) {
        for (uint32_t i = 0; i < ROWS_THAT_TELL; i++)
            routes[i * (ND_VSHARDS - 1) / (ROWS_THAT_TELL - 1)].epoch = version;
        ND_ASSERT(nd_page_write(r->k->shm, routes) == version);
    }
    atomic_store(r->end, true);
    return NULL;
}

static void pages(void)
{
    kit k = kit_new();
    atomic_bool end = false;
    page_role r = {&k, &end};
    pthread_t thread;
    nd_page *page;
    ND_ASSERT(nd_page_open(k.shm, &page) == 0 && nd_page_version(page) == 0);
    ND_ASSERT(nd_page_route(page, 7).state == ND_ROUTE_NONE);
    ND_ASSERT(pthread_create(&thread, NULL, write_pages, &r) == 0);
    uint64_t before = 0;
    for (bool last = false; !last;) {
        last = atomic_load(&end);
        nd_route first = nd_page_route(page, 0);
        uint64_t version = nd_page_version(page);
        ND_ASSERT(version >= before && first.epoch == version);
        before = version;
        for (uint32_t i = 0; i < ROWS_THAT_TELL; i++)
            ND_ASSERT(nd_page_routes(page)[i * (ND_VSHARDS - 1) / (ROWS_THAT_TELL - 1)].epoch == version);
    }
    ND_ASSERT(nd_page_version(page) == VERSIONS);
    pthread_join(thread, NULL);
    nd_page_close(page);
    kit_free(&k);
}

int main(void)
{
    stress();
    ping_pong();
    pages();
    return 0;
}
