/* ringset.h: all ring ends of one process: messages of any size, fair reading, bells, and what happens when a peer
 * dies.
 *
 * One loop turn: nd_ringset_wake; nd_ringset_peer_event until 0 (fail what was in flight to a changed generation);
 * nd_ringset_next until 0 or until the turn's share is used up, pushing answers; nd_ringset_publish_all once;
 * nd_ringset_sleep, and only if it says 1 wait for the bell (0: run another turn).
 *
 * A message above ND_RING_RECORD_BYTES_MAX travels as several records and is put together here: delivered whole or
 * not at all. What a full ring cannot take waits in the peer's overflow queue, in order and bounded; a consumer that
 * makes room wakes the producer. Every message is for the peer's generation at the time of the push: if the peer
 * dies, the event comes, everything pushed before it is dropped or was delivered to the dead one, everything pushed
 * after it is for the new one. All functions belong to one thread. Memory is allocated on opening, for overflow, and
 * for messages of several records.
 */
#ifndef ND_RINGSET_H
#define ND_RINGSET_H
#include "nd.h"
#include "ring.h"
#include "shm.h"

/* cffi:begin */
#define ND_RING_MESSAGE_BYTES_MAX 536870912  /* as large as a reply that Redis's clients accept */

typedef struct nd_ringset nd_ringset;

typedef struct nd_ring_msg {
    uint8_t type;                /* 1..255, the sender's word */
    uint32_t generation;         /* the sender's */
    uint32_t len;
    uint64_t request_id;
    const uint8_t *data;         /* valid until the next call of next, publish_all, sleep or peer_event */
} nd_ring_msg;

typedef struct nd_peer_event {
    uint32_t peer;
    uint32_t state;              /* ND_PROC_… now */
    uint64_t generation;         /* now */
    uint64_t generation_before;  /* differs = that process died: what was in flight to it has no answer */
} nd_peer_event;

/* bells[i] = eventfd of process i (copied, not owned). overflow_bytes_max: per peer; one message is always taken into an
 * empty queue, however large. 0, -EINVAL or -ENOMEM. The mapping must outlive the set. */
int nd_ringset_open(nd_shm *shm, uint32_t self, const int *bells, uint64_t overflow_bytes_max, nd_ringset **out);
void nd_ringset_close(nd_ringset *set);
uint64_t nd_ringset_generation(const nd_ringset *set);   /* of this process */
int nd_ringset_bell(const nd_ringset *set);              /* the descriptor to wait for */

/* 1 = accepted; 0 = ring and overflow are full (answer -OVERLOAD); -EHOSTDOWN = the peer is down; -EMSGSIZE.
 * Copies. type > 0. The payload is iov[0..n) joined. */
int nd_ringset_push(nd_ringset *set, uint32_t peer, uint8_t type, uint64_t request_id, const nd_arg *iov, uint32_t n);
/* Once per turn: move overflow into rings, make all that was pushed visible, ring sleepers. Returns bells rung. */
int nd_ringset_publish_all(nd_ringset *set);
/* 1 = *peer and *msg filled; 0 = nothing left to read now; -EBADMSG = corrupt ring from *peer, fenced until that
 * process or this one starts anew: the caller should exit, requests in flight on it have no other end. */
int nd_ringset_next(nd_ringset *set, uint32_t *peer, nd_ring_msg *msg);
/* 1 = nothing to do, peers will ring; 0 = something arrived, changed or found room meanwhile. */
int nd_ringset_sleep(nd_ringset *set);
/* After waiting, before looking: peers need not ring any more. rung: the bell was readable and is to be cleared. */
void nd_ringset_wake(nd_ringset *set, int rung);
/* 1 = *ev filled; 0 = no (more) changes; -ESTALE = this process itself was declared dead: exit. */
int nd_ringset_peer_event(nd_ringset *set, nd_peer_event *ev);
/* The peer's state as this process last saw it, and the bytes in its overflow queue: while there are any, room is told of. */
uint32_t nd_ringset_peer_state(const nd_ringset *set, uint32_t peer);
uint64_t nd_ringset_queued(const nd_ringset *set, uint32_t peer);
/* cffi:end */
#endif
