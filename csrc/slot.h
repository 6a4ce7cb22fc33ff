/* slot.h: where a key lives: CRC-16 of the key or of its hash tag -> slot (16384) -> vShard (1024 runs of 16 slots).
 *
 * Pure and total; the same figures as Redis Cluster's, so that its clients compute the owner themselves.
 */
#ifndef ND_SLOT_H
#define ND_SLOT_H
#include "nd.h"

_Static_assert(ND_SLOTS == ND_VSHARDS * ND_SLOTS_PER_VSHARD, "a vShard is a whole number of slots");

uint16_t nd_crc16(const uint8_t *p, uint32_t len);

/* cffi:begin */
/* The part between the first '{' and the first '}' after it is hashed alone, unless it is empty. */
uint32_t nd_slot_of(const uint8_t *key, uint32_t len);
/* cffi:end */

static inline uint32_t nd_vshard_of_slot(uint32_t slot)
{
    return slot / ND_SLOTS_PER_VSHARD;
}

static inline uint32_t nd_vshard_of_key(const nd_arg *key)
{
    return nd_vshard_of_slot(nd_slot_of(key->ptr, key->len));
}
#endif
