/* slab.c: see slab.h.
 *
 * A region is 4 MiB aligned to 4 MiB: 64 chunks, of which number 0 holds the region's link and the headers of the others. Headers
 * lie side by side, because headers at the start of each chunk would all share one set of the cache.
 */
#include "slab.h"

#include <string.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region(p, n)
#define UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#define REGION_BYTES ((size_t)4 << 20)
#define CHUNK_BYTES ((size_t)64 << 10)
#define CHUNKS (REGION_BYTES / CHUNK_BYTES)
#define EMPTY_KEPT_MAX 8

_Static_assert(sizeof(nd_chunk) == ND_CACHE_LINE, "a chunk header is one cache line");
_Static_assert(sizeof(nd_large) == 32, "a large object stays 16-byte aligned");

static nd_chunk *chunk_of(const void *p)
{
    uintptr_t region = (uintptr_t)p & ~(REGION_BYTES - 1);
    return (nd_chunk *)region + ((uintptr_t)p - region) / CHUNK_BYTES;
}

static uint8_t *chunk_base(const nd_chunk *c)
{
    uintptr_t region = (uintptr_t)c & ~(REGION_BYTES - 1);
    return (uint8_t *)region + (c - (nd_chunk *)region) * CHUNK_BYTES;
}

static bool is_small(size_t bytes)
{
    return bytes <= ND_SLAB_MAX || bytes == ND_SLAB_SEGMENT;
}

void nd_slab_init(nd_slab *s)
{
    memset(s, 0, sizeof *s);
    s->large.next = s->large.prev = &s->large;
}

void nd_slab_destroy(nd_slab *s)
{
    while (s->large.next != &s->large) {
        nd_large *l = s->large.next;
        s->large.next = l->next;
        free(l);
    }
    while (s->regions) {
        void *region = s->regions;
        s->regions = *(void **)region;
        UNPOISON(region, REGION_BYTES);
        munmap(region, REGION_BYTES);
    }
    nd_slab_init(s);
}

/* One more region, all its chunks empty. mmap aligns to pages only: take twice as much and give the rest back. */
static int region_add(nd_slab *s)
{
    uint8_t *raw = mmap(NULL, 2 * REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return -1;
    uint8_t *region = (uint8_t *)(((uintptr_t)raw + REGION_BYTES - 1) & ~(REGION_BYTES - 1));
    if (region > raw)
        munmap(raw, (size_t)(region - raw));
    munmap(region + REGION_BYTES, (size_t)(raw + REGION_BYTES - region));
    /* Huge pages where the system allows them: they halve the time of a random get at a million rows. */
    madvise(region, REGION_BYTES, MADV_HUGEPAGE);
    *(void **)region = s->regions;
    s->regions = region;
    for (size_t i = CHUNKS - 1; i > 0; i--) {
        nd_chunk *c = (nd_chunk *)region + i;
        c->returned = 1;
        c->next = s->empty;
        s->empty = c;
    }
    return 0;
}

static nd_chunk *chunk_take(nd_slab *s, unsigned class_no, size_t size)
{
    if (!s->empty && region_add(s) < 0)
        return NULL;
    nd_chunk *c = s->empty;
    s->empty = c->next;
    if (c->returned)
        s->bytes_allocated += CHUNK_BYTES;
    else
        s->empty_kept--;
    *c = (nd_chunk){.class_no = (uint8_t)class_no, .size = (uint32_t)size, .listed = 1, .next = s->room[class_no]};
    if (c->next)
        c->next->prev = c;
    s->room[class_no] = c;
    POISON(chunk_base(c), CHUNK_BYTES);
    return c;
}

static void chunk_unlist(nd_slab *s, nd_chunk *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        s->room[c->class_no] = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->next = c->prev = NULL;
    c->listed = 0;
}

static void chunk_release(nd_slab *s, nd_chunk *c)
{
    chunk_unlist(s, c);
    if (s->empty_kept < EMPTY_KEPT_MAX) {
        s->empty_kept++;
    } else {
        UNPOISON(chunk_base(c), CHUNK_BYTES);
        madvise(chunk_base(c), CHUNK_BYTES, MADV_DONTNEED);
        c->returned = 1;
        s->bytes_allocated -= CHUNK_BYTES;
    }
    c->next = s->empty;
    s->empty = c;
}

static void *large_alloc(nd_slab *s, size_t bytes)
{
    nd_large *l = malloc(sizeof *l + bytes);
    if (!l)
        return NULL;
    *l = (nd_large){.next = s->large.next, .prev = &s->large, .capacity = bytes};
    l->next->prev = l;
    s->large.next = l;
    s->bytes_used += bytes;
    s->bytes_allocated += bytes + sizeof *l;
    return l + 1;
}

static void large_free(nd_slab *s, void *p)
{
    nd_large *l = (nd_large *)p - 1;
    l->prev->next = l->next;
    l->next->prev = l->prev;
    s->bytes_used -= l->capacity;
    s->bytes_allocated -= l->capacity + sizeof *l;
    free(l);
}

void *nd_slab_alloc(nd_slab *s, size_t bytes)
{
    if (!is_small(bytes))
        return large_alloc(s, bytes);
    size_t size = (bytes + 15) & ~(size_t)15;
    unsigned class_no = bytes == ND_SLAB_SEGMENT ? ND_SLAB_CLASSES - 1 : (unsigned)(size / 16);
    nd_chunk *c = s->room[class_no];
    if (!c) {
        c = chunk_take(s, class_no, size);
        if (!c)
            return NULL;
    }
    void *p = c->free;
    if (p) {
        UNPOISON(p, size);
        c->free = *(void **)p;
    } else {
        p = chunk_base(c) + c->bump;
        c->bump += (uint32_t)size;
        UNPOISON(p, size);
    }
    c->live++;
    s->bytes_used += size;
    if (!c->free && c->bump + size > CHUNK_BYTES)
        chunk_unlist(s, c);
    ND_ASSERT((uintptr_t)p >> 47 == 0);
    return p;
}

void nd_slab_free(nd_slab *s, void *p, size_t bytes)
{
    if (!is_small(bytes)) {
        large_free(s, p);
        return;
    }
    nd_chunk *c = chunk_of(p);
    ND_ASSERT(c->size == ((bytes + 15) & ~(size_t)15) && c->live > 0);
    *(void **)p = c->free;
    c->free = p;
    POISON(p, c->size);
    c->live--;
    s->bytes_used -= c->size;
    if (!c->listed) {
        c->listed = 1;
        c->prev = NULL;
        c->next = s->room[c->class_no];
        if (c->next)
            c->next->prev = c;
        s->room[c->class_no] = c;
    }
    if (c->live == 0)
        chunk_release(s, c);
}
