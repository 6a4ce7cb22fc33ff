/* ring_kit.h: what the ring tests share: a node's shared memory with bells, and messages that prove themselves. */
#ifndef RING_KIT_H
#define RING_KIT_H
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../csrc/ringset.h"

#define KIT_PROCS 3
#define KIT_RING_BYTES ND_RING_BYTES_MIN
#define KIT_MESSAGE_BYTES_MAX 20000000u
#define KIT_OVERFLOW_BYTES (2ull * KIT_MESSAGE_BYTES_MAX)

typedef struct kit {
    nd_shm *shm;
    int fd;
    int bells[KIT_PROCS];
} kit;

static inline kit kit_new(void)
{
    kit k = {.fd = nd_shm_create(KIT_PROCS, KIT_RING_BYTES)};
    ND_ASSERT(k.fd >= 0 && nd_shm_map(k.fd, &k.shm) == 0);
    for (int i = 0; i < KIT_PROCS; i++)
        ND_ASSERT((k.bells[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) >= 0);
    return k;
}

static inline void kit_free(kit *k)
{
    for (int i = 0; i < KIT_PROCS; i++)
        close(k->bells[i]);
    nd_shm_unmap(k->shm);
    close(k->fd);
}

static inline nd_ringset *kit_open(kit *k, uint32_t self)
{
    nd_ringset *set;
    ND_ASSERT(nd_ringset_open(k->shm, self, k->bells, KIT_OVERFLOW_BYTES, &set) == 0);
    return set;
}

static inline void kit_died(kit *k, uint32_t process)
{
    nd_shm_proc_died(k->shm, process);
    for (int i = 0; i < KIT_PROCS; i++)
        nd_bell_ring(k->bells[i]);
}

static inline bool kit_rung(int bell)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* One turn's waiting: sleeps on the bell unless there is something to do; fails the test after the deadline. */
static inline void kit_wait(nd_ringset *set, int deadline_ms)
{
    struct pollfd p = {.fd = nd_ringset_bell(set), .events = POLLIN};
    int rung = 0;
    if (nd_ringset_sleep(set))
        ND_ASSERT((rung = poll(&p, 1, deadline_ms)) == 1);
    nd_ringset_wake(set, rung);
}

static inline uint64_t kit_mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

/* Every word of the body follows from the seed, so a torn or mixed message cannot pass. */
static inline void kit_fill(uint8_t *to, uint32_t len, uint64_t seed)
{
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t word = kit_mix(seed + i);
        memcpy(to + i, &word, len - i < 8 ? len - i : 8);
    }
}

static inline bool kit_is(const uint8_t *bytes, uint32_t len, uint64_t seed)
{
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t word = kit_mix(seed + i);
        if (memcmp(bytes + i, &word, len - i < 8 ? len - i : 8) != 0)
            return false;
    }
    return true;
}

static inline int kit_push(nd_ringset *set, uint32_t peer, uint64_t id, uint32_t len)
{
    static _Thread_local uint8_t bytes[KIT_MESSAGE_BYTES_MAX];
    kit_fill(bytes, len, id);
    nd_arg arg = {bytes, len};
    return nd_ringset_push(set, peer, (uint8_t)(1 + id % 200), id, &arg, 1);
}
#endif
