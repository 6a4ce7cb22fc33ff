/* ring.h: single-producer single-consumer byte rings in memory shared by the processes of one node.
 *
 * The supervisor creates one mapping (shm.h) with a ring for each ordered pair of processes; descriptors are inherited over exec.
 * Message: {length, type, request id, generation, crc32c} then payload, 8-byte aligned. Messages above 64 KiB are sent as chunks
 * with a MORE flag and put together by the consumer's reassembly buffer. A publish makes everything pushed since the last
 * one visible; a doorbell (eventfd of the consumer process) is rung only if the consumer said it sleeps.
 * The producer's restart bumps the ring's generation and resets it; a consumer drops what belongs to an older one, whole.
 */
#ifndef ND_RING_H
#define ND_RING_H
#include "nd.h"

#define ND_RING_MSG_BYTES_MAX 65536

typedef struct nd_ring_tx nd_ring_tx;   /* producer's end, process-local */
typedef struct nd_ring_rx nd_ring_rx;   /* consumer's end, process-local */

typedef struct nd_ring_msg {
    uint8_t type;
    uint64_t request_id;
    uint32_t generation;
    const uint8_t *data;                /* whole message; valid until the next nd_ring_next on this ring */
    uint32_t len;
} nd_ring_msg;

/* 1 = pushed (not yet visible), 0 = no room: nothing pushed, try after the consumer moved. The payload is iov[0..n) joined. */
int nd_ring_push(nd_ring_tx *tx, uint8_t type, uint64_t request_id, const nd_arg *iov, uint32_t n);
/* Make pushed messages visible; 1 = the consumer sleeps and its doorbell must be rung (nd_bell_ring does it), 0 = it does not. */
int nd_ring_publish(nd_ring_tx *tx);
/* 1 = *msg filled, 0 = empty, -EBADMSG = corrupt (ring is fenced until the producer's next generation). */
int nd_ring_next(nd_ring_rx *rx, nd_ring_msg *msg);
uint32_t nd_ring_rx_generation(const nd_ring_rx *rx);   /* the producer's current generation */
#endif
