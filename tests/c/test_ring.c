/* test_ring.c: one ring: order, laps, skip records, full and empty, epochs, and every kind of damage. */
#include <errno.h>
#include <string.h>

#include "../../csrc/ring.h"

#define SIZE 262144u

static nd_ring_mem *new_mem(void)
{
    nd_ring_mem *mem = aligned_alloc(128, sizeof *mem + SIZE);
    ND_ASSERT(mem != NULL);
    memset(mem, 0, sizeof *mem + SIZE);
    return mem;
}

typedef struct pair {
    nd_ring_mem *mem;
    nd_ring_tx tx;
    nd_ring_rx rx;
} pair;

/* Attached, and the consumer has entered the first epoch. */
static pair new_pair(void)
{
    const nd_ring_rec *rec;
    const uint8_t *payload;
    pair p = {.mem = new_mem()};
    nd_ring_rx_attach(&p.rx, p.mem, SIZE, 1, 1);
    ND_ASSERT(nd_ring_next(&p.rx, &rec, &payload) == 0 && !nd_ring_pending(&p.rx));
    nd_ring_tx_attach(&p.tx, p.mem, SIZE, 1, 1);
    ND_ASSERT(nd_ring_pending(&p.rx));
    ND_ASSERT(nd_ring_next(&p.rx, &rec, &payload) == 2);
    ND_ASSERT(nd_ring_next(&p.rx, &rec, &payload) == 0);
    return p;
}

static int push(nd_ring_tx *tx, uint64_t id, uint32_t len)
{
    static uint8_t bytes[ND_RING_RECORD_BYTES_MAX];
    memset(bytes, (int)(id & 255), len);
    nd_arg iov[3] = {{bytes, len / 3}, {NULL, 0}, {bytes, len - len / 3}};
    return nd_ring_push(tx, (uint8_t)(1 + id % 255), ND_RING_FIRST, id, iov, 3);
}

static void expect(nd_ring_rx *rx, uint64_t id, uint32_t len)
{
    const nd_ring_rec *rec;
    const uint8_t *payload;
    ND_ASSERT(nd_ring_next(rx, &rec, &payload) == 1);
    ND_ASSERT(rec->request_id == id && rec->len == len && rec->type == 1 + id % 255);
    for (uint32_t i = 0; i < len; i++)
        ND_ASSERT(payload[i] == (id & 255));
}

static int next_code(nd_ring_rx *rx)
{
    const nd_ring_rec *rec;
    const uint8_t *payload;
    return nd_ring_next(rx, &rec, &payload);
}

static void invisible_until_published(void)
{
    pair p = new_pair();
    ND_ASSERT(nd_ring_publish(&p.tx) == 0);
    ND_ASSERT(push(&p.tx, 7, 100) == 1 && push(&p.tx, 8, 0) == 1);
    ND_ASSERT(next_code(&p.rx) == 0 && !nd_ring_pending(&p.rx));
    ND_ASSERT(nd_ring_publish(&p.tx) == 1);
    ND_ASSERT(nd_ring_pending(&p.rx));
    expect(&p.rx, 7, 100);
    expect(&p.rx, 8, 0);
    ND_ASSERT(next_code(&p.rx) == 0);
    free(p.mem);
}

/* Every length around the record's and the lap's edges, many laps, from every starting place modulo the alignment. */
static void laps(void)
{
    pair p = new_pair();
    uint64_t id = 0, got = 0;
    for (uint32_t len = 0; len <= ND_RING_RECORD_BYTES_MAX; len += len < 200 ? 1 : 1021) {
        for (int i = 0; i < 7; i++)
            id += (uint64_t)push(&p.tx, id, i % 2 ? len : ND_RING_RECORD_BYTES_MAX - len);
        nd_ring_publish(&p.tx);
        for (int i = 0; got < id; i++, got++) {
            const nd_ring_rec *rec;
            const uint8_t *payload;
            ND_ASSERT(nd_ring_next(&p.rx, &rec, &payload) == 1 && rec->request_id == got);
            ND_ASSERT(rec->len == 0 || (payload[0] == (got & 255) && payload[rec->len - 1] == (got & 255)));
        }
        ND_ASSERT(next_code(&p.rx) == 0);
        nd_ring_release(&p.rx);
    }
    ND_ASSERT(p.tx.head > 20 * SIZE);
    free(p.mem);
}

static void full_refuses_and_keeps_order(void)
{
    pair p = new_pair();
    uint64_t sent = 0;
    while (push(&p.tx, sent, 1000) == 1)
        sent++;
    ND_ASSERT(sent == SIZE / 1040);
    ND_ASSERT(push(&p.tx, 999999, ND_RING_RECORD_BYTES_MAX) == 0);
    nd_ring_publish(&p.tx);
    ND_ASSERT(nd_ring_want_room(&p.tx) == 0);
    for (uint64_t i = 0; i < 100; i++)
        expect(&p.rx, i, 1000);
    ND_ASSERT(push(&p.tx, sent, 1000) == 0);   /* read is not given back yet */
    ND_ASSERT(nd_ring_release(&p.rx) == 1);    /* and giving it back tells that someone waits */
    ND_ASSERT(nd_ring_release(&p.rx) == 0);
    while (push(&p.tx, sent, 1000) == 1)
        sent++;
    nd_ring_publish(&p.tx);
    for (uint64_t i = 100; i < sent; i++)
        expect(&p.rx, i, 1000);
    ND_ASSERT(next_code(&p.rx) == 0 && nd_ring_release(&p.rx) == 0);
    free(p.mem);
}

/* The producer dies with records published, records not published, and is born again; the consumer must forget the
 * former. */
static void producer_restart(void)
{
    pair p = new_pair();
    push(&p.tx, 1, 50);
    push(&p.tx, 2, 50);
    nd_ring_publish(&p.tx);
    expect(&p.rx, 1, 50);
    push(&p.tx, 3, 50);
    nd_ring_tx reborn;
    nd_ring_tx_attach(&reborn, p.mem, SIZE, 2, 1);
    push(&reborn, 4, 60);
    nd_ring_publish(&reborn);
    expect(&p.rx, 2, 50);                      /* cached as published by the generation this end still believes in */
    ND_ASSERT(next_code(&p.rx) == 0);          /* the new generation is not known here yet */
    ND_ASSERT(!nd_ring_pending(&p.rx));
    nd_ring_rx_peer(&p.rx, 2);
    ND_ASSERT(nd_ring_pending(&p.rx));
    ND_ASSERT(next_code(&p.rx) == 2);
    expect(&p.rx, 4, 60);
    ND_ASSERT(next_code(&p.rx) == 0);
    free(p.mem);
}

static void known_death_hides_what_is_left(void)
{
    pair p = new_pair();
    push(&p.tx, 1, 50);
    push(&p.tx, 2, 50);
    nd_ring_publish(&p.tx);
    expect(&p.rx, 1, 50);
    nd_ring_rx_peer(&p.rx, 2);
    ND_ASSERT(next_code(&p.rx) == 0 && !nd_ring_pending(&p.rx));
    free(p.mem);
}

static void consumer_restart(void)
{
    pair p = new_pair();
    push(&p.tx, 1, 50);
    push(&p.tx, 2, 50);
    nd_ring_publish(&p.tx);
    expect(&p.rx, 1, 50);
    nd_ring_rx reborn;
    nd_ring_rx_attach(&reborn, p.mem, SIZE, 2, 1);
    ND_ASSERT(next_code(&reborn) == 0);        /* addressed to the dead one */
    push(&p.tx, 3, 50);
    nd_ring_publish(&p.tx);
    ND_ASSERT(next_code(&reborn) == 0 && !nd_ring_pending(&reborn));
    push(&p.tx, 4, 50);                        /* never published: the producer learns of the death before */
    nd_ring_tx_epoch(&p.tx, 2);
    push(&p.tx, 5, 50);
    nd_ring_publish(&p.tx);
    ND_ASSERT(next_code(&reborn) == 2);
    expect(&reborn, 5, 50);
    ND_ASSERT(next_code(&reborn) == 0);
    ND_ASSERT(nd_ring_release(&reborn) == 0 && p.mem->tail == p.mem->head);
    free(p.mem);
}

/* A consumer that stopped reading a full ring and died: its successor must free the producer. */
static void consumer_restart_on_a_full_ring(void)
{
    pair p = new_pair();
    while (push(&p.tx, 1, 5000) == 1) {
    }
    nd_ring_publish(&p.tx);
    nd_ring_rx reborn;
    nd_ring_rx_attach(&reborn, p.mem, SIZE, 2, 1);
    nd_ring_tx_epoch(&p.tx, 2);
    ND_ASSERT(push(&p.tx, 2, 5000) == 0);
    ND_ASSERT(next_code(&reborn) == 2);
    nd_ring_release(&reborn);
    ND_ASSERT(push(&p.tx, 2, 5000) == 1 && nd_ring_publish(&p.tx) == 1);
    expect(&reborn, 2, 5000);
    free(p.mem);
}

/* Flip one byte at a time of a record's header and payload: never delivered, ring fenced, healed by the next epoch. */
static void damage_is_fenced(void)
{
    for (size_t at = 0; at < sizeof(nd_ring_rec) + 40; at++) {
        pair p = new_pair();
        push(&p.tx, 1, 40);
        push(&p.tx, 2, 40);
        nd_ring_publish(&p.tx);
        p.tx.data[at] ^= 1 + (at * 37) % 255;
        ND_ASSERT(next_code(&p.rx) == -EBADMSG);
        ND_ASSERT(next_code(&p.rx) == 0 && !nd_ring_pending(&p.rx));
        push(&p.tx, 3, 40);
        nd_ring_publish(&p.tx);
        ND_ASSERT(next_code(&p.rx) == 0);
        nd_ring_rx reborn;
        nd_ring_rx_attach(&reborn, p.mem, SIZE, 2, 1);
        nd_ring_tx_epoch(&p.tx, 2);
        push(&p.tx, 4, 40);
        nd_ring_publish(&p.tx);
        ND_ASSERT(next_code(&reborn) == 2);
        expect(&reborn, 4, 40);
        free(p.mem);
    }
}

/* A head that ran ahead of the records uncovers those of the lap before: whole, and of the right generations, but stale. */
static void a_former_lap_is_fenced(void)
{
    pair p = new_pair();
    for (uint64_t id = 0; id < SIZE / 64; id++)
        ND_ASSERT(push(&p.tx, id, 32) == 1);
    nd_ring_publish(&p.tx);
    for (uint64_t id = 0; id < SIZE / 64; id++)
        expect(&p.rx, id, 32);
    nd_ring_release(&p.rx);
    p.mem->head += 64;
    ND_ASSERT(next_code(&p.rx) == -EBADMSG);
    free(p.mem);
}

static void damaged_positions_are_fenced(void)
{
    const uint64_t heads[] = {8, SIZE + 16, UINT64_MAX - 15};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        pair p = new_pair();
        p.mem->head = heads[i];
        ND_ASSERT(next_code(&p.rx) == -EBADMSG);
        ND_ASSERT(next_code(&p.rx) == 0);
        nd_ring_tx reborn;
        nd_ring_tx_attach(&reborn, p.mem, SIZE, 2, 1);
        nd_ring_rx_peer(&p.rx, 2);
        push(&reborn, 5, 10);
        nd_ring_publish(&reborn);
        ND_ASSERT(next_code(&p.rx) == 2);
        expect(&p.rx, 5, 10);
        free(p.mem);
    }
    pair p = new_pair();
    p.mem->start = 3;
    p.mem->stamp = (uint64_t)2 << 32 | 1;
    nd_ring_rx_peer(&p.rx, 2);
    ND_ASSERT(next_code(&p.rx) == -EBADMSG);
    ND_ASSERT(next_code(&p.rx) == 0 && !nd_ring_pending(&p.rx));
    free(p.mem);
}

int main(void)
{
    invisible_until_published();
    laps();
    full_refuses_and_keeps_order();
    producer_restart();
    known_death_hides_what_is_left();
    consumer_restart();
    consumer_restart_on_a_full_ring();
    damage_is_fenced();
    a_former_lap_is_fenced();
    damaged_positions_are_fenced();
    return 0;
}
