/* test_ring_kill.c: three processes in traffic, killed at random and born again with a new generation.
 *
 * Messages carry {source generation, destination generation, number}; numbers start at 0 for each pair of
 * generations. So a receiver that sees exactly 0, 1, 2, … with the right bytes has seen nothing torn, lost,
 * duplicated or stale. Nobody polls: a lost wakeup stops the traffic and the deadline ends the test. Argument: number
 * of kills (default 60), seed.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "ring_kit.h"

#define DEADLINE_MS 20000
#define INJECT 48u

typedef struct peer_count {
    uint64_t sent, got, generation;
    uint32_t owed;                    /* messages to send: one for each that came, as a full ring may delay it */
} peer_count;

static uint64_t id_of(uint64_t src, uint64_t dst, uint64_t number)
{
    return (src & 0xffff) << 48 | (dst & 0xffff) << 32 | number;
}

static uint32_t length_of(uint64_t id)
{
    uint64_t r = kit_mix(id + 99);
    return (uint32_t)(r % 211 == 0 ? 70000 + r % 400000 : r % 20 == 0 ? r % 65537 : r % 200);
}

static void send_owed(nd_ringset *set, uint32_t peer, peer_count *c)
{
    while (c->owed > 0) {
        uint64_t id = id_of(nd_ringset_generation(set), c->generation, c->sent);
        int rc = kit_push(set, peer, id, length_of(id));
        if (rc != 1)
            return;
        c->sent++;
        c->owed--;
    }
}

static void take(nd_ringset *set, nd_metrics *metrics, peer_count *counts)
{
    nd_ring_msg msg;
    uint32_t peer;
    int rc;
    while ((rc = nd_ringset_next(set, &peer, &msg)) == 1) {
        peer_count *c = &counts[peer];
        ND_ASSERT(msg.generation == c->generation);
        ND_ASSERT(msg.request_id == id_of(c->generation, nd_ringset_generation(set), c->got));
        ND_ASSERT(msg.len == length_of(msg.request_id) && kit_is(msg.data, msg.len, msg.request_id));
        c->got++;
        c->owed++;
        __atomic_fetch_add(&metrics->commands, 1, __ATOMIC_RELAXED);
    }
    ND_ASSERT(rc == 0);
}

static void events(nd_ringset *set, peer_count *counts)
{
    nd_peer_event ev;
    int rc;
    while ((rc = nd_ringset_peer_event(set, &ev)) == 1)
        if (ev.generation != ev.generation_before)
            counts[ev.peer] = (peer_count){.generation = ev.generation, .owed = INJECT};
    ND_ASSERT(rc == 0);
}

static void child(kit *k, uint32_t self)
{
    nd_shm *shm;
    nd_ringset *set;
    peer_count counts[KIT_PROCS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ND_ASSERT(nd_shm_map(k->fd, &shm) == 0);
    ND_ASSERT(nd_ringset_open(shm, self, k->bells, KIT_OVERFLOW_BYTES, &set) == 0);
    for (uint32_t i = 0; i < KIT_PROCS; i++) {
        nd_proc_info info;
        nd_shm_proc_get(shm, i, &info);
        counts[i] = (peer_count){.generation = info.generation, .owed = i == self ? 0 : INJECT};
    }
    for (;;) {
        events(set, counts);
        take(set, nd_shm_metrics(shm, self), counts);
        for (uint32_t i = 0; i < KIT_PROCS; i++)
            send_owed(set, i, &counts[i]);
        nd_ringset_publish_all(set);
        kit_wait(set, DEADLINE_MS);
    }
}

static pid_t start(kit *k, uint32_t self)
{
    pid_t pid = fork();
    ND_ASSERT(pid >= 0);
    if (pid == 0)
        child(k, self);
    nd_shm_proc_started(k->shm, self, (uint32_t)pid);
    for (int i = 0; i < KIT_PROCS; i++)
        nd_bell_ring(k->bells[i]);
    return pid;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t received(kit *k, uint32_t process)
{
    return __atomic_load_n(&nd_shm_metrics(k->shm, process)->commands, __ATOMIC_RELAXED);
}

/* Until every process has received `more` messages since the call, and none has ended by itself. */
static void wait_for_traffic(kit *k, const pid_t *pids, uint64_t more)
{
    uint64_t from[KIT_PROCS];
    int64_t deadline = now_ms() + DEADLINE_MS;
    for (uint32_t i = 0; i < KIT_PROCS; i++)
        from[i] = received(k, i);
    for (uint32_t i = 0; i < KIT_PROCS; i++)
        while (received(k, i) - from[i] < more) {
            for (uint32_t j = 0; j < KIT_PROCS; j++)
                ND_ASSERT(waitpid(pids[j], NULL, WNOHANG) == 0);
            ND_ASSERT(now_ms() < deadline);
            poll(NULL, 0, 1);
        }
}

int main(int argc, char **argv)
{
    long kills = argc > 1 ? atol(argv[1]) : 60;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)now_ms();
    kit k = kit_new();
    pid_t pids[KIT_PROCS];
    for (uint32_t i = 0; i < KIT_PROCS; i++)
        pids[i] = start(&k, i);
    for (long n = 0; n < kills; n++) {
        uint64_t r = kit_mix(seed + (uint64_t)n);
        uint32_t victim = (uint32_t)(r % KIT_PROCS);
        wait_for_traffic(&k, pids, r / 7 % 2000);
        ND_ASSERT(kill(pids[victim], SIGKILL) == 0);
        int status;
        ND_ASSERT(waitpid(pids[victim], &status, 0) == pids[victim]);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
            fprintf(stderr, "seed %llu: process %u ended by itself\n", (unsigned long long)seed, victim);
            return 1;
        }
        kit_died(&k, victim);
        pids[victim] = start(&k, victim);
    }
    wait_for_traffic(&k, pids, 2000);
    for (uint32_t i = 0; i < KIT_PROCS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    kit_free(&k);
    return 0;
}
