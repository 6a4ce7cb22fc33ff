/* ring.c: one ring; see ring.h for the contract and docs/formats/shm.md for the bytes. */
#include "ring.h"

#include <errno.h>
#include <string.h>

#include "crc32c.h"

#define UNIT 16ull
#define SKIP_BYTES offsetof(nd_ring_rec, request_id)
_Static_assert(sizeof(nd_ring_mem) % UNIT == 0 && SKIP_BYTES == UNIT, "any rest of a lap holds a skip record");

static uint64_t align_up(uint64_t v)
{
    return (v + UNIT - 1) & ~(UNIT - 1);
}

static uint64_t make_stamp(uint32_t src, uint32_t dst)
{
    return (uint64_t)src << 32 | dst;
}

/* Over the header, its crc field taken as 0, and the payload. */
static uint32_t record_crc(const nd_ring_rec *rec, const uint8_t *payload)
{
    nd_ring_rec head = *rec;
    head.crc = 0;
    return nd_crc32c(nd_crc32c(0, &head, sizeof head), payload, rec->len);
}

/* ---- producer ---- */

void nd_ring_tx_attach(nd_ring_tx *tx, nd_ring_mem *mem, uint64_t size, uint32_t src, uint32_t dst)
{
    *tx = (nd_ring_tx){.mem = mem, .data = (uint8_t *)(mem + 1), .size = size, .src = src};
    /* The former owner of this end was reaped before this process got its number: its last store is visible. */
    tx->published = __atomic_load_n(&mem->head, __ATOMIC_ACQUIRE);
    tx->tail = __atomic_load_n(&mem->tail, __ATOMIC_ACQUIRE);
    if (tx->published - tx->tail > size || tx->published % UNIT != 0) {
        tx->published = align_up(tx->tail);
        __atomic_store_n(&mem->head, tx->published, __ATOMIC_RELEASE);
    }
    nd_ring_tx_epoch(tx, dst);
}

void nd_ring_tx_epoch(nd_ring_tx *tx, uint32_t dst)
{
    tx->dst = dst;
    tx->head = tx->published;
    __atomic_store_n(&tx->mem->start, tx->published, __ATOMIC_RELAXED);
    /* Release: who sees the stamp sees where its epoch starts, and a head that is not before it. Sequentially
     * consistent because it may be what a consumer about to sleep looks for. */
    __atomic_store_n(&tx->mem->stamp, make_stamp(tx->src, dst), __ATOMIC_SEQ_CST);
}

static bool has_room(nd_ring_tx *tx, uint64_t bytes)
{
    uint64_t used = tx->head - tx->tail;
    return used <= tx->size && tx->size - used >= bytes;
}

static void write_skip(nd_ring_tx *tx, uint64_t bytes)
{
    nd_ring_rec skip = {.len = (uint32_t)bytes, .seq = (uint32_t)(tx->head / UNIT)};
    memcpy(tx->data + (tx->head & (tx->size - 1)), &skip, SKIP_BYTES);
    tx->head += bytes;
}

int nd_ring_push(nd_ring_tx *tx, uint8_t type, uint8_t flags, uint64_t request_id, const nd_arg *iov, uint32_t n)
{
    uint64_t len = 0;
    for (uint32_t i = 0; i < n; i++)
        len += iov[i].len;
    ND_ASSERT(type != 0 && len <= ND_RING_RECORD_BYTES_MAX);
    uint64_t need = align_up(sizeof(nd_ring_rec) + len);
    uint64_t lap_left = tx->size - (tx->head & (tx->size - 1));
    uint64_t skip = need <= lap_left ? 0 : lap_left;
    if (!has_room(tx, skip + need)) {
        /* Acquire: the consumer has done with the bytes before tail; only now may they be overwritten. */
        tx->tail = __atomic_load_n(&tx->mem->tail, __ATOMIC_ACQUIRE);
        if (!has_room(tx, skip + need))
            return 0;
    }
    if (skip != 0)
        write_skip(tx, skip);
    uint8_t *at = tx->data + (tx->head & (tx->size - 1));
    nd_ring_rec rec = {.len = (uint32_t)len, .type = type, .flags = flags, .seq = (uint32_t)(tx->head / UNIT),
                       .request_id = request_id, .src = tx->src, .dst = tx->dst};
    uint8_t *to = at + sizeof rec;
    for (uint32_t i = 0; i < n; to += iov[i].len, i++)
        if (iov[i].len != 0)
            memcpy(to, iov[i].ptr, iov[i].len);
    rec.crc = record_crc(&rec, at + sizeof rec);
    memcpy(at, &rec, sizeof rec);
    tx->head += need;
    return 1;
}

int nd_ring_publish(nd_ring_tx *tx)
{
    if (tx->head == tx->published)
        return 0;
    /* Release: the records are written before they can be seen. Sequentially consistent: the caller looks at the
     * consumer's sleeping word next, while the consumer sets that word and then looks at head; one of the two must
     * see the other. */
    __atomic_store_n(&tx->mem->head, tx->head, __ATOMIC_SEQ_CST);
    tx->published = tx->head;
    return 1;
}

int nd_ring_want_room(nd_ring_tx *tx)
{
    /* Sequentially consistent pair: flag then tail here, tail then flag in nd_ring_release. */
    __atomic_store_n(&tx->mem->want_room, 1, __ATOMIC_SEQ_CST);
    uint64_t tail = __atomic_load_n(&tx->mem->tail, __ATOMIC_SEQ_CST);
    return tail != tx->tail;
}

/* ---- consumer ---- */

void nd_ring_rx_attach(nd_ring_rx *rx, nd_ring_mem *mem, uint64_t size, uint32_t self, uint32_t peer)
{
    *rx = (nd_ring_rx){.mem = mem, .data = (const uint8_t *)(mem + 1), .size = size, .self = self, .peer = peer};
    rx->released = rx->pos = rx->head = __atomic_load_n(&mem->tail, __ATOMIC_ACQUIRE);
}

void nd_ring_rx_peer(nd_ring_rx *rx, uint32_t peer)
{
    rx->peer = peer;
    rx->head = rx->pos;
}

void nd_ring_fence(nd_ring_rx *rx)
{
    rx->fenced = true;
    rx->head = rx->pos;
}

/* Enter the producer's epoch if it is of the two generations this end knows: 2, else 0 (-EBADMSG: it cannot be). */
static int enter_epoch(nd_ring_rx *rx, uint64_t stamp)
{
    if (stamp != make_stamp(rx->peer, rx->self))
        return 0;
    /* Acquire: the start that is read is the one stored before a stamp at least as new; the second look at the stamp
     * makes it this one. If the producer began yet another epoch in between, that one is looked at next time. */
    uint64_t start = __atomic_load_n(&rx->mem->start, __ATOMIC_ACQUIRE);
    if (__atomic_load_n(&rx->mem->stamp, __ATOMIC_ACQUIRE) != stamp)
        return 0;
    rx->stamp = stamp;
    rx->fenced = start % UNIT != 0;
    rx->pos = rx->head = align_up(start);
    return rx->fenced ? -EBADMSG : 2;
}

/* More to read, as published: 1 = yes, 0 = no, 2 = a new epoch begins, -EBADMSG. */
static int refill(nd_ring_rx *rx)
{
    /* Acquire, head first: if head covers records of a new epoch, the stamp read after it is that epoch's. */
    uint64_t head = __atomic_load_n(&rx->mem->head, __ATOMIC_ACQUIRE);
    uint64_t stamp = __atomic_load_n(&rx->mem->stamp, __ATOMIC_ACQUIRE);
    if (stamp != rx->stamp)
        return enter_epoch(rx, stamp);
    if (rx->fenced || stamp != make_stamp(rx->peer, rx->self) || head == rx->pos)
        return 0;
    if (head - rx->pos > rx->size || head % UNIT != 0) {
        nd_ring_fence(rx);
        return -EBADMSG;
    }
    rx->head = head;
    return 1;
}

static bool record_fits(const nd_ring_rx *rx, const nd_ring_rec *rec, uint64_t lap_left)
{
    uint64_t need = align_up(sizeof *rec + (uint64_t)rec->len);
    return rec->len <= ND_RING_RECORD_BYTES_MAX && need <= lap_left && need <= rx->head - rx->pos && rec->zero == 0 &&
           make_stamp(rec->src, rec->dst) == rx->stamp;
}

int nd_ring_next(nd_ring_rx *rx, const nd_ring_rec **rec_out, const uint8_t **payload)
{
    for (;;) {
        if (rx->pos == rx->head) {
            int rc = refill(rx);
            if (rc != 1)
                return rc;
        }
        uint64_t place = rx->pos & (rx->size - 1), lap_left = rx->size - place;
        const nd_ring_rec *rec = (const nd_ring_rec *)(rx->data + place);
        bool sequence_ok = rec->seq == (uint32_t)(rx->pos / UNIT);
        if (sequence_ok && rec->type == 0 && rec->len == lap_left && lap_left <= rx->head - rx->pos) {
            rx->pos += lap_left;
            continue;
        }
        if (!sequence_ok || rec->type == 0 || !record_fits(rx, rec, lap_left) ||
            rec->crc != record_crc(rec, (const uint8_t *)(rec + 1))) {
            nd_ring_fence(rx);
            return -EBADMSG;
        }
        rx->pos += align_up(sizeof *rec + (uint64_t)rec->len);
        *rec_out = rec;
        *payload = (const uint8_t *)(rec + 1);
        return 1;
    }
}

int nd_ring_pending(const nd_ring_rx *rx)
{
    /* Sequentially consistent: looked at after this process's sleeping word was set, see nd_ring_publish. */
    uint64_t head = __atomic_load_n(&rx->mem->head, __ATOMIC_SEQ_CST);
    uint64_t stamp = __atomic_load_n(&rx->mem->stamp, __ATOMIC_SEQ_CST);
    if (stamp != make_stamp(rx->peer, rx->self))
        return 0;
    return stamp != rx->stamp || (!rx->fenced && head != rx->pos);
}

int nd_ring_release(nd_ring_rx *rx)
{
    if (rx->pos == rx->released)
        return 0;
    /* Release: reading is done before the producer may overwrite. Sequentially consistent with the flag read next: see
     * nd_ring_want_room. */
    __atomic_store_n(&rx->mem->tail, rx->pos, __ATOMIC_SEQ_CST);
    rx->released = rx->pos;
    if (__atomic_load_n(&rx->mem->want_room, __ATOMIC_SEQ_CST) == 0)
        return 0;
    return (int)__atomic_exchange_n(&rx->mem->want_room, 0, __ATOMIC_SEQ_CST);
}
