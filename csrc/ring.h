/* ring.h: a single-producer single-consumer ring of records in memory that two processes share.
 *
 * Positions (head, tail, start) are byte counts that only grow; position & (size - 1) is the place in the ring.
 * Records are 16-byte aligned, contiguous (a skip record fills the end of a lap) and carry {length, type, flags,
 * sequence = position / 16, crc32c over header and payload, request id, both generations}. One push is invisible
 * until nd_ring_publish.
 *
 * Epochs. Everything after position `start` was written by generation `src` for generation `dst` of the consumer. The
 * producer begins an epoch when it attaches and whenever it learns that the consumer died; the consumer reads only an
 * epoch whose two generations are the ones it knows, from its start. So nothing older than either process is ever
 * delivered, and neither side has to wait for the other to reset anything. A record that fails its checks fences the
 * ring until the next epoch.
 *
 * Each end belongs to one thread. Nothing here allocates, blocks or makes a system call.
 */
#ifndef ND_RING_H
#define ND_RING_H
#include "nd.h"

/* cffi:begin */
#define ND_RING_RECORD_BYTES_MAX 65536   /* payload of one record; larger messages travel as several (ringset.h) */
/* cffi:end */

#define ND_RING_FIRST 1                  /* first or only record of a message */
#define ND_RING_MORE 2                   /* the message goes on in the next record */

typedef struct nd_ring_mem {
    uint64_t head;                       /* written by the producer: records before it are whole */
    uint64_t stamp;                      /* written by the producer: src generation << 32 | dst generation */
    uint64_t start;                      /* written by the producer: where this epoch begins */
    uint8_t pad_producer[104];
    uint64_t tail;                       /* written by the consumer: bytes before it may be overwritten */
    uint32_t want_room;                  /* set by the producer that waits for tail, cleared by who wakes it */
    uint8_t pad_consumer[116];
} nd_ring_mem;
_Static_assert(sizeof(nd_ring_mem) == 256, "shared layout; the ring's bytes follow");

typedef struct nd_ring_rec {
    uint32_t len;                        /* payload bytes; of a skip record: all bytes to the end of the lap */
    uint8_t type;                        /* 0 = skip record, of which only these first 16 bytes exist */
    uint8_t flags;
    uint16_t zero;
    uint32_t seq;
    uint32_t crc;
    uint64_t request_id;
    uint32_t src, dst;
} nd_ring_rec;
_Static_assert(sizeof(nd_ring_rec) == 32, "shared layout");

typedef struct nd_ring_tx {              /* the producer's end */
    nd_ring_mem *mem;
    uint8_t *data;
    uint64_t size;
    uint64_t head;                       /* next byte to write, ahead of mem->head by what is not published */
    uint64_t published;
    uint64_t tail;                       /* last seen mem->tail */
    uint32_t src, dst;
} nd_ring_tx;

typedef struct nd_ring_rx {              /* the consumer's end */
    nd_ring_mem *mem;
    const uint8_t *data;
    uint64_t size;
    uint64_t pos;                        /* next byte to read */
    uint64_t released;                   /* last stored mem->tail */
    uint64_t head;                       /* last seen mem->head */
    uint64_t stamp;                      /* epoch being read, 0 = none */
    uint32_t self, peer;                 /* the generations this end knows */
    bool fenced;
} nd_ring_rx;

void nd_ring_tx_attach(nd_ring_tx *tx, nd_ring_mem *mem, uint64_t size, uint32_t src, uint32_t dst);
/* The consumer is another process now: forget what is unpublished, begin an epoch. */
void nd_ring_tx_epoch(nd_ring_tx *tx, uint32_t dst);
/* 1 = pushed, not yet visible; 0 = no room and nothing written. type > 0; the payload is iov[0..n) joined. */
int nd_ring_push(nd_ring_tx *tx, uint8_t type, uint8_t flags, uint64_t request_id, const nd_arg *iov, uint32_t n);
int nd_ring_publish(nd_ring_tx *tx);     /* 1 = something became visible, 0 = there was nothing */
/* Say that this end waits for room; 1 = room has appeared meanwhile. */
int nd_ring_want_room(nd_ring_tx *tx);

void nd_ring_rx_attach(nd_ring_rx *rx, nd_ring_mem *mem, uint64_t size, uint32_t self, uint32_t peer);
void nd_ring_rx_peer(nd_ring_rx *rx, uint32_t peer);   /* the producer is of this generation now */
/* 1 = *rec and *payload point into the ring, valid until nd_ring_release; 0 = nothing to read; 2 = a new epoch was
 * entered (forget half a message, call again); -EBADMSG = the ring is corrupt and was fenced just now. */
int nd_ring_next(nd_ring_rx *rx, const nd_ring_rec **rec, const uint8_t **payload);
void nd_ring_fence(nd_ring_rx *rx);      /* a message made no sense: read nothing more of this epoch */
int nd_ring_pending(const nd_ring_rx *rx);             /* 1 = nd_ring_next has something to do */
int nd_ring_release(nd_ring_rx *rx);     /* give back what was read; 1 = the producer waits for that: wake it */
#endif
