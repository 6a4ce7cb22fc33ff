/* test_ringset.c: several ends in one process: sizes, overflow, bells, fairness, deaths. */
#include "ring_kit.h"

static void expect(nd_ringset *set, uint32_t from, uint64_t id, uint32_t len)
{
    nd_ring_msg msg;
    uint32_t peer;
    ND_ASSERT(nd_ringset_next(set, &peer, &msg) == 1);
    ND_ASSERT(peer == from && msg.request_id == id && msg.len == len && msg.type == 1 + id % 200);
    ND_ASSERT(kit_is(msg.data, len, id));
}

static void expect_none(nd_ringset *set)
{
    nd_ring_msg msg;
    uint32_t peer;
    ND_ASSERT(nd_ringset_next(set, &peer, &msg) == 0);
}

static void sizes(void)
{
    static const uint32_t lens[] = {0,     1,      15,     16,     17,     65504,   65527,   65528,
                                    65529, 65536,  65537,  65544,  131064, 131065,  200000,  262144,
                                    0,     999999, 262145, 1 << 20, 1,     5000000, 17825792,
                                    KIT_MESSAGE_BYTES_MAX};
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        nd_ring_msg msg = {0};
        uint32_t peer = 0;
        ND_ASSERT(kit_push(a, 2, i, lens[i]) == 1);
        do {
            nd_ringset_publish_all(a);
        } while (nd_ringset_next(b, &peer, &msg) == 0);
        ND_ASSERT(peer == 1 && msg.request_id == i && msg.len == lens[i] && kit_is(msg.data, lens[i], i));
    }
    nd_arg too_large = {NULL, ND_RING_MESSAGE_BYTES_MAX + 1};
    ND_ASSERT(nd_ringset_push(a, 2, 1, 1, &too_large, 1) == -EMSGSIZE);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

/* Small messages pushed after a large one wait for it: order is the push order whatever the path. */
static void order_through_overflow(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    for (uint64_t id = 0; id < 3000; id++)
        ND_ASSERT(kit_push(a, 2, id, id % 100 == 50 ? 150000 : 333) == 1);
    uint64_t got = 0;
    for (int turns = 0; got < 3000; turns++) {
        nd_ring_msg msg;
        uint32_t peer;
        ND_ASSERT(turns < 3000);
        nd_ringset_publish_all(a);
        while (nd_ringset_next(b, &peer, &msg) == 1) {
            ND_ASSERT(msg.request_id == got && kit_is(msg.data, msg.len, got));
            got++;
        }
    }
    nd_ringset_publish_all(b);
    nd_ringset_publish_all(a);
    expect_none(a);
    ND_ASSERT(nd_ringset_sleep(a) == 1 && nd_ringset_sleep(b) == 1);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

static void overflow_is_bounded(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    uint64_t sent = 0, got = 0;
    while (kit_push(a, 2, sent, 500000) == 1)
        sent++;
    ND_ASSERT(sent == (KIT_OVERFLOW_BYTES - 1) / 500000);
    ND_ASSERT(nd_shm_metrics(k.shm, 1)->ring_tx_full == 1);
    ND_ASSERT(nd_ringset_queued(a, 2) >= sent * 500000);
    while (got < sent) {
        nd_ring_msg msg;
        uint32_t peer;
        nd_ringset_publish_all(a);
        while (nd_ringset_next(b, &peer, &msg) == 1)
            ND_ASSERT(msg.request_id == got++ && msg.len == 500000);
        /* A call takes in a bounded number of parts; whoever would sleep now is told that there is more. */
        ND_ASSERT(got == sent || nd_ringset_sleep(a) == 0 || nd_ringset_sleep(b) == 0);
    }
    ND_ASSERT(kit_push(a, 2, sent, 500000) == 1);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

static void bells(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    kit_push(a, 2, 1, 10);
    ND_ASSERT(nd_ringset_publish_all(a) == 0 && !kit_rung(k.bells[2]));   /* awake: no bell */
    ND_ASSERT(nd_ringset_sleep(b) == 0);
    expect(b, 1, 1, 10);
    ND_ASSERT(nd_ringset_sleep(b) == 1);
    kit_push(a, 2, 2, 10);
    ND_ASSERT(!kit_rung(k.bells[2]));
    ND_ASSERT(nd_ringset_publish_all(a) == 1 && kit_rung(k.bells[2]));
    kit_push(a, 2, 3, 10);
    ND_ASSERT(nd_ringset_publish_all(a) == 0);                            /* rung already: once per sleep */
    nd_ringset_wake(b, 1);
    ND_ASSERT(!kit_rung(k.bells[2]));
    expect(b, 1, 2, 10);
    expect(b, 1, 3, 10);
    expect_none(b);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

/* A producer that sleeps on a full ring is woken by the consumer that makes room. */
static void room_wakes_the_producer(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    kit_push(a, 2, 1, 1000000);
    nd_ringset_publish_all(a);
    expect_none(a);
    ND_ASSERT(nd_ringset_sleep(a) == 1 && !kit_rung(k.bells[1]));
    expect_none(b);
    ND_ASSERT(kit_rung(k.bells[1]));
    for (int i = 0; i < 10; i++) {
        nd_ring_msg msg;
        uint32_t peer;
        kit_wait(a, 0);
        nd_ringset_publish_all(a);
        if (nd_ringset_next(b, &peer, &msg) == 1) {
            ND_ASSERT(msg.len == 1000000 && kit_is(msg.data, msg.len, 1));
            nd_ringset_close(a);
            nd_ringset_close(b);
            kit_free(&k);
            return;
        }
    }
    ND_ASSERT(!"the large message never arrived");
}

static void fairness(void)
{
    kit k = kit_new();
    nd_ringset *c = kit_open(&k, 0), *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    for (uint64_t id = 0; id < 1000; id++)
        ND_ASSERT(kit_push(a, 0, id, 20) == 1 && kit_push(b, 0, id, 20) == 1);
    nd_ringset_publish_all(a);
    nd_ringset_publish_all(b);
    uint32_t run = 0, longest = 0, before = 0, count = 0, peer;
    nd_ring_msg msg;
    for (; nd_ringset_next(c, &peer, &msg) == 1; count++) {
        run = peer == before ? run + 1 : 1;
        before = peer;
        longest = run > longest && count < 1800 ? run : longest;
    }
    ND_ASSERT(count == 2000 && longest <= 64);
    nd_ringset_close(a);
    nd_ringset_close(b);
    nd_ringset_close(c);
    kit_free(&k);
}

static nd_peer_event event(nd_ringset *set)
{
    nd_peer_event ev;
    ND_ASSERT(nd_ringset_peer_event(set, &ev) == 1);
    return ev;
}

static void states_are_told(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1);
    nd_peer_event ev;
    ND_ASSERT(nd_ringset_peer_event(a, &ev) == 0 && nd_ringset_peer_state(a, 2) == ND_PROC_NONE);
    nd_shm_proc_started(k.shm, 2, 4711);
    ND_ASSERT(nd_ringset_sleep(a) == 0);
    ev = event(a);
    ND_ASSERT(ev.peer == 2 && ev.state == ND_PROC_STARTING && ev.generation == 1 && ev.generation_before == 1);
    ND_ASSERT(nd_ringset_peer_event(a, &ev) == 0 && nd_ringset_sleep(a) == 1);
    nd_shm_proc_ready(k.shm, 2, (uint16_t[]){6379, 7001, 0, 0});
    nd_shm_proc_started(k.shm, 2, 4711);                        /* late news of the birth takes nothing back */
    ND_ASSERT(event(a).state == ND_PROC_READY);
    nd_proc_info info;
    nd_shm_proc_get(k.shm, 2, &info);
    ND_ASSERT(info.pid == 4711 && info.ports[ND_PORT_WORKER] == 7001 && info.generation == 1);
    nd_ringset_close(a);
    kit_free(&k);
}

static void death_of_the_consumer(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    kit_push(a, 2, 1, 100);
    kit_push(a, 2, 2, 1000000);
    nd_ringset_publish_all(a);
    kit_push(a, 2, 3, 100);
    nd_ringset_close(b);
    kit_died(&k, 2);
    nd_peer_event ev = event(a);
    ND_ASSERT(ev.peer == 2 && ev.state == ND_PROC_DOWN && ev.generation == 2 && ev.generation_before == 1);
    ND_ASSERT(kit_push(a, 2, 4, 10) == -EHOSTDOWN);
    nd_shm_proc_started(k.shm, 2, 1);
    b = kit_open(&k, 2);
    ND_ASSERT(nd_ringset_generation(b) == 2);
    expect_none(b);
    ND_ASSERT(event(a).state == ND_PROC_STARTING && kit_push(a, 2, 5, 10) == 1);
    nd_ringset_publish_all(a);
    expect(b, 1, 5, 10);
    expect_none(b);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

/* The producer dies with half a large message in the ring: it is never delivered, not even together with its
 * successor's. */
static void death_of_the_producer(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    nd_ring_msg msg;
    kit_push(a, 2, 1, 1000000);
    nd_ringset_publish_all(a);
    expect_none(b);                                             /* half of it is in b's hands now */
    nd_ringset_publish_all(a);                                  /* and some more in the ring */
    nd_ringset_close(a);
    kit_died(&k, 1);
    a = kit_open(&k, 1);
    kit_push(a, 2, 1, 1000001);
    kit_push(a, 2, 2, 10);
    nd_ringset_publish_all(a);
    expect_none(b);
    ND_ASSERT(nd_ringset_sleep(b) == 0);                        /* because the table changed */
    ND_ASSERT(event(b).generation == 2);
    uint32_t peer;
    while (nd_ringset_next(b, &peer, &msg) == 0)
        nd_ringset_publish_all(a);
    ND_ASSERT(msg.len == 1000001 && msg.generation == 2 && kit_is(msg.data, msg.len, 1));
    nd_ringset_publish_all(a);
    expect(b, 1, 2, 10);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

static void declared_dead_is_told_so(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1);
    nd_peer_event ev;
    kit_died(&k, 1);
    ND_ASSERT(nd_ringset_peer_event(a, &ev) == -ESTALE);
    nd_ringset_close(a);
    kit_free(&k);
}

static void damage_names_the_peer(void)
{
    kit k = kit_new();
    nd_ringset *a = kit_open(&k, 1), *b = kit_open(&k, 2);
    nd_ring_msg msg;
    uint32_t peer;
    kit_push(a, 2, 1, 100);
    nd_ringset_publish_all(a);
    ((uint8_t *)(nd_shm_ring(k.shm, 1, 2) + 1))[50] ^= 4;
    ND_ASSERT(nd_ringset_next(b, &peer, &msg) == -EBADMSG && peer == 1);
    expect_none(b);
    ND_ASSERT(nd_ringset_sleep(b) == 1);
    nd_ringset_close(a);
    nd_ringset_close(b);
    kit_free(&k);
}

static void arguments(void)
{
    nd_shm *shm;
    nd_ringset *set;
    ND_ASSERT(nd_shm_bytes(0, KIT_RING_BYTES) == 0 && nd_shm_bytes(ND_PROCS_MAX + 1, KIT_RING_BYTES) == 0);
    ND_ASSERT(nd_shm_bytes(2, KIT_RING_BYTES + 1) == 0 && nd_shm_create(2, 4096) == -EINVAL);
    kit k = kit_new();
    ND_ASSERT(ftruncate(k.fd, 4096) != 0 && errno == EPERM);
    ND_ASSERT(nd_ringset_open(k.shm, KIT_PROCS, k.bells, KIT_OVERFLOW_BYTES, &set) == -EINVAL);
    *(volatile uint8_t *)nd_shm_metrics(k.shm, 0) = 1;
    uint8_t *header = (uint8_t *)nd_shm_metrics(k.shm, 0) - 4096;
    header[8] = 99;                                             /* another version */
    ND_ASSERT(nd_shm_map(k.fd, &shm) == -EPROTO);
    kit_free(&k);
}

int main(void)
{
    sizes();
    order_through_overflow();
    overflow_is_bounded();
    bells();
    room_wakes_the_producer();
    fairness();
    states_are_told();
    death_of_the_consumer();
    death_of_the_producer();
    declared_dead_is_told_so();
    damage_names_the_peer();
    arguments();
    return 0;
}
