/* slab.h: the allocator of one store's records and segments.
 *
 * Objects of up to ND_SLAB_MAX bytes come from 64 KiB chunks, one size class (a multiple of 16) per chunk; a chunk that empties
 * serves any class again and, beyond a small reserve, gives its memory back. Larger objects come from malloc with a prefix that
 * holds their capacity. The caller names an object's size again when it frees it. Not thread-safe: the loop thread only.
 */
#ifndef ND_SLAB_H
#define ND_SLAB_H
#include "nd.h"

#define ND_SLAB_MAX 1024
#define ND_SLAB_SEGMENT 2112      /* the one larger class: a table segment (memtable.h) */
#define ND_SLAB_CLASSES 66        /* 16, 32, … 1024 and the segment; class 0 is unused */

typedef struct nd_chunk {
    struct nd_chunk *next, *prev; /* in its class's list of chunks with room, or (next) in the list of empty ones */
    void *free;                   /* freed objects */
    uint32_t bump;                /* offset of the first object never used */
    uint32_t size;                /* of its objects */
    uint32_t live;
    uint8_t class_no;
    uint8_t listed;               /* is in its class's list */
    uint8_t returned;             /* empty and given back to the system */
} __attribute__((aligned(ND_CACHE_LINE))) nd_chunk;

typedef struct nd_large {
    struct nd_large *next, *prev;
    uint64_t capacity;
    uint64_t pad;                 /* keeps the object 16-byte aligned */
} nd_large;

typedef struct nd_slab {
    nd_chunk *room[ND_SLAB_CLASSES];
    nd_chunk *empty;
    uint32_t empty_kept;          /* chunks in `empty` that still have their memory */
    void *regions;                /* each names the next in its first word */
    nd_large large;               /* head of the ring of large objects */
    uint64_t bytes_used;          /* objects handed out, by class size */
    uint64_t bytes_allocated;     /* chunks and large objects as taken from the system */
} nd_slab;

void nd_slab_init(nd_slab *s);
void nd_slab_destroy(nd_slab *s);             /* frees every object */
/* NULL when memory is out. 16-byte aligned; a segment is 64-byte aligned. */
void *nd_slab_alloc(nd_slab *s, size_t bytes);
void nd_slab_free(nd_slab *s, void *p, size_t bytes);

/* Bytes that an object asked for with `bytes` may grow to in place. */
static inline uint64_t nd_slab_capacity(const void *p, size_t bytes)
{
    if (bytes <= ND_SLAB_MAX)
        return (bytes + 15) & ~(uint64_t)15;
    return bytes == ND_SLAB_SEGMENT ? bytes : ((const nd_large *)p)[-1].capacity;
}
#endif
