/* bench_ring.c: messages per second and round trip of two processes, and the cost of one route lookup. Prints;
 * asserts nothing about time. Arguments: payload bytes (default 64), messages (default 4 million).
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "../../csrc/page.h"
#include "ring_kit.h"

#define TURN 64

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void idle(nd_ringset *set, bool spin)
{
    if (!spin)
        kit_wait(set, -1);
}

/* Answers type 2 with the same bytes and swallows type 1; type 3 asks how much has arrived. */
static void serve(kit *k, bool spin)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(1);
    nd_ringset *set = kit_open(k, 2);
    for (;;) {
        nd_ring_msg msg;
        uint32_t peer;
        bool any = false;
        while (nd_ringset_next(set, &peer, &msg) == 1) {
            nd_arg arg = {msg.data, msg.len};
            any = true;
            if (msg.type != 1)
                nd_ringset_push(set, peer, msg.type, msg.request_id, &arg, 1);
        }
        nd_ringset_publish_all(set);
        if (!any)
            idle(set, spin);
    }
}

static void await(nd_ringset *set, bool spin)
{
    nd_ring_msg msg;
    uint32_t peer;
    while (nd_ringset_next(set, &peer, &msg) == 0)
        idle(set, spin);
}

static void one_way(nd_ringset *set, uint64_t count, uint32_t len, bool spin)
{
    static uint8_t bytes[ND_RING_RECORD_BYTES_MAX];
    nd_arg arg = {bytes, len};
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        if (i % TURN == 0)
            nd_ringset_publish_all(set);
        while (nd_ringset_queued(set, 2) > KIT_RING_BYTES * 4 || nd_ringset_push(set, 2, 1, i, &arg, 1) != 1)
            nd_ringset_publish_all(set);
    }
    nd_ringset_push(set, 2, 3, 0, NULL, 0);
    nd_ringset_publish_all(set);
    nd_ring_msg msg;
    uint32_t peer;
    while (nd_ringset_next(set, &peer, &msg) == 0) {
        nd_ringset_publish_all(set);
        idle(set, spin);
    }
    double s = (double)(now_ns() - from) / 1e9;
    printf("one way, %u B, %s: %.2f M messages/s, %.2f GB/s\n", len, spin ? "spinning" : "sleeping",
           (double)count / s / 1e6, (double)count * len / s / 1e9);
}

static void round_trip(nd_ringset *set, uint64_t count, uint32_t len, bool spin)
{
    static uint8_t bytes[ND_RING_RECORD_BYTES_MAX];
    nd_arg arg = {bytes, len};
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        nd_ringset_push(set, 2, 2, i, &arg, 1);
        nd_ringset_publish_all(set);
        await(set, spin);
    }
    printf("round trip, %u B, %s: %llu ns\n", len, spin ? "spinning" : "sleeping",
           (unsigned long long)((now_ns() - from) / count));
}

static void route_lookup(kit *k)
{
    static nd_route routes[ND_VSHARDS];
    nd_page *page;
    uint64_t sum = 0, count = 50000000;
    nd_page_write(k->shm, routes);
    ND_ASSERT(nd_page_open(k->shm, &page) == 0);
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < count; i++)
        sum += nd_page_route(page, (uint32_t)(i * 7919 + sum)).worker;
    printf("route lookup: %.2f ns\n", (double)(now_ns() - from) / (double)count);
    nd_page_close(page);
}

int main(int argc, char **argv)
{
    uint32_t len = argc > 1 ? (uint32_t)atol(argv[1]) : 64;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 4000000;
    for (int spin = 1; spin >= 0; spin--) {
        kit k = kit_new();
        pid_t pid = fork();
        if (pid == 0)
            serve(&k, spin);
        pin(0);
        nd_ringset *set = kit_open(&k, 1);
        round_trip(set, 1000, len, spin);
        round_trip(set, spin ? count / 10 : count / 100, len, spin);
        one_way(set, count, len, spin);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        if (spin)
            route_lookup(&k);
        nd_ringset_close(set);
        kit_free(&k);
    }
    return 0;
}
