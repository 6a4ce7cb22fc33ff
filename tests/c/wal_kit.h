/* wal_kit.h: segments built in memory for the WAL's C tests, and files to put them in. */
#ifndef WAL_KIT_H
#define WAL_KIT_H
#include <string.h>

#include "wal.h"
#include "walbook.h"

#define KIT_SEGMENT_ID 0x1122334455667788ull

typedef struct kit {
    nd_wal_segment head;
    uint8_t *bytes;
    uint64_t used;
    uint64_t sequence;
    uint32_t prev_crc;
} kit;

static inline void kit_open(kit *k, uint64_t bytes)
{
    *k = (kit){.head = {.log_id = 7, .number = 3, .segment_id = KIT_SEGMENT_ID, .bytes = bytes}};
    k->bytes = calloc(1, bytes);
    ND_ASSERT(k->bytes != NULL);
    nd_wal_segment_encode(k->bytes, &k->head);
    k->used = ND_WAL_SEGMENT_HEADER_BYTES;
}

static inline void kit_close(kit *k) { free(k->bytes); }

/* Appends the records; returns where the append begins. */
static inline uint64_t kit_append(kit *k, const nd_wal_rec *recs, uint32_t n)
{
    nd_wal_append at = {.segment_id = k->head.segment_id, .sequence = ++k->sequence, .off = k->used, .prev_crc = k->prev_crc};
    int64_t written = nd_wal_append_encode(k->bytes + k->used, k->head.bytes - k->used, &at, recs, n);
    ND_ASSERT(written > 0);
    k->prev_crc = at.crc;
    k->used += (uint64_t)written;
    return at.off;
}

/* One entry of group 1 with a payload of `len` times `fill`. */
static inline uint64_t kit_entry(kit *k, uint64_t index, uint32_t len, uint8_t fill)
{
    uint8_t *data = malloc(len + 1);
    ND_ASSERT(data != NULL);
    memset(data, fill, len);
    nd_wal_rec rec = {.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 1, .term = 1, .index = index, .data = data, .len = len};
    uint64_t off = kit_append(k, &rec, 1);
    free(data);
    return off;
}
#endif
