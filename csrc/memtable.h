/* memtable.h: the resident records of one vShard, an extendible hash over 64-bit key hashes.
 *
 * A directory indexed by the hash's top bits names segments of 256 slots; a full segment splits in two, so that growth is
 * bounded work. A segment covers a contiguous range of hashes, which gives scans their order. A slot is one word: 44 bits of
 * the record's address (16-byte aligned) and 20 bits of the hash, enough to split five times without touching the records.
 * Loop thread only. The checkpoint thread reads records of a frozen generation (never segments): of these it reads klen, type,
 * flags, vlen and data, which do not change any more; dirty and state belong to the loop.
 */
#ifndef ND_MEMTABLE_H
#define ND_MEMTABLE_H
#include "hash.h"
#include "slab.h"

#define ND_REC_EXPIRY 1           /* flags: data starts with an i64 (0 = never) */
#define ND_REC_TOMB 2             /* flags: the row is deleted, LMDB may hold it */

#define ND_REC_CLEAN UINT32_MAX   /* dirty: in no vector */
#define ND_REC_GEN 1u             /* state: lowest bit of its generation, while dirty */
#define ND_REC_RETIRED 2u         /* state: frozen and replaced, freed when its generation is done */
#define ND_REC_USED 4u            /* state: touched since the eviction clock passed */
#define ND_REC_DISK 8u            /* state: LMDB may hold a row of this key */
#define ND_REC_CLOCK_SHIFT 4      /* state: seconds since the store was opened, at the last use */

typedef struct nd_rec {
    uint16_t klen;
    uint8_t type;
    uint8_t flags;
    uint32_t vlen;
    uint32_t dirty;               /* index in the dirty vector of its generation */
    uint32_t state;
    uint8_t data[];               /* [i64 expire_ms] key value */
} nd_rec;

#define ND_SEG_SLOTS 256
#define ND_SEG_FULL 224
#define ND_DIR_BITS_MAX 30

typedef struct nd_seg {
    uint64_t slot[ND_SEG_SLOTS];
    uint16_t live, dead;          /* slots with a record; slots that only keep a probe going */
    int64_t expire_min;           /* no record here expires before it; INT64_MAX = none expires */
} __attribute__((aligned(ND_CACHE_LINE))) nd_seg;

typedef struct nd_table {
    uintptr_t *dir;               /* segment | its depth; NULL while empty */
    uint32_t dir_bits;
    uint32_t segments;
} nd_table;

typedef struct nd_pos {
    nd_seg *seg;
    uint32_t slot;
    nd_rec *rec;
} nd_pos;

/* A record with its hash, for walks in hash order. */
typedef struct nd_href {
    uint64_t hash;
    nd_rec *rec;
} nd_href;

/* A large record always has room for an expiry, so that setting one never copies it. */
static inline bool nd_rec_has_expiry_field(uint32_t klen, uint32_t vlen, int64_t expire_ms)
{
    return expire_ms != 0 || sizeof(nd_rec) + klen + vlen > ND_SLAB_MAX - 8;
}

static inline size_t nd_rec_bytes(const nd_rec *r)
{
    size_t bytes = sizeof *r + (r->flags & ND_REC_EXPIRY ? 8 : 0) + r->klen + (size_t)r->vlen;
    return bytes == ND_SLAB_SEGMENT ? bytes + 16 : bytes;   /* that size means a segment to the slab */
}

static inline uint8_t *nd_rec_key(const nd_rec *r)
{
    return (uint8_t *)r->data + (r->flags & ND_REC_EXPIRY ? 8 : 0);
}

static inline uint8_t *nd_rec_val(const nd_rec *r)
{
    return nd_rec_key(r) + r->klen;
}

static inline int64_t nd_rec_expire(const nd_rec *r)
{
    int64_t at = 0;
    if (r->flags & ND_REC_EXPIRY)
        memcpy(&at, r->data, 8);
    return at;
}

static inline nd_rec *nd_slot_rec(uint64_t slot)
{
    return (nd_rec *)(uintptr_t)(slot & 0x0000fffffffffff0);
}

#define ND_SLOT_DEAD 16           /* an address that no record has */

static inline bool nd_slot_live(uint64_t slot)
{
    return (slot & 0x0000fffffffffff0) > ND_SLOT_DEAD;
}

/* true and *pos when the table holds the key (a tombstone too). */
bool nd_table_find(const nd_table *t, uint64_t hash, const nd_arg *key, nd_pos *pos);
void nd_table_prefetch(const nd_table *t, uint64_t hash);
void nd_table_prefetch_record(const nd_table *t, uint64_t hash);
/* Add a key that is not there: 0 and *pos, or -ENOMEM with the table unchanged. */
int nd_table_insert(nd_table *t, nd_slab *slab, const nd_sip *sip, uint64_t hash, nd_rec *rec, nd_pos *pos);
void nd_table_replace(nd_pos *pos, nd_rec *rec);
void nd_table_remove(nd_pos *pos);
/* The segment that covers `hash`, with the first hash after its range (0 = the range ends the table); NULL when empty. */
nd_seg *nd_table_segment(const nd_table *t, uint64_t hash, uint64_t *next);
/* A slot chosen by `random`, every slot as likely as any other: its record, or NULL (an empty slot, or try again). */
nd_rec *nd_table_pick(const nd_table *t, uint64_t random);
/* Free the segments and the directory, not the records. */
void nd_table_free(nd_table *t, nd_slab *slab);
/* Sort by hash, in place. */
void nd_href_sort(nd_href *a, size_t n);
#endif
