/* memtable.c: see memtable.h.
 *
 * A slot's 20 hash bits are bits [shift, shift + 20) from the top, with shift = depth rounded down to a multiple of 5: the
 * directory has used up 0 to 4 of them, the lowest 5 choose the bucket (8 slots, one cache line) where probing starts, and the
 * 11 or more between tell keys apart. Probing goes on slot by slot until it meets an empty one.
 */
#include "memtable.h"

#include <errno.h>

#define RETAG_DEPTHS 5
#define HASH_MASK 0xffff00000000000full
#define ADDR_MASK 0x0000fffffffffff0ull
#define DEPTH_MASK 63
#define DEAD_MAX 64

_Static_assert(sizeof(nd_seg) == ND_SLAB_SEGMENT, "a segment is the slab's segment class");
_Static_assert(sizeof(nd_rec) == 16, "a record header is 16 bytes");

static unsigned shift_of(unsigned depth)
{
    return depth / RETAG_DEPTHS * RETAG_DEPTHS;
}

/* The 20 bits at their places in a slot: the upper 16 on top, the lower 4 at the bottom. */
static uint64_t slot_bits(uint64_t hash, unsigned shift)
{
    uint64_t top = hash << shift;
    return (top & 0xffff000000000000) | ((top >> 44) & 15);
}

static unsigned slot_bucket(uint64_t bits)
{
    return (unsigned)((bits & 15) | ((bits >> 44) & 16));
}

static size_t dir_index(const nd_table *t, uint64_t hash)
{
    return t->dir_bits == 0 ? 0 : hash >> (64 - t->dir_bits);
}

static nd_seg *entry_seg(uintptr_t entry)
{
    return (nd_seg *)(entry & ~(uintptr_t)DEPTH_MASK);
}

static bool rec_is(const nd_rec *r, const nd_arg *key)
{
    return r->klen == key->len && memcmp(nd_rec_key(r), key->ptr, key->len) == 0;
}

bool nd_table_find(const nd_table *t, uint64_t hash, const nd_arg *key, nd_pos *pos)
{
    if (!t->dir)
        return false;
    uintptr_t entry = t->dir[dir_index(t, hash)];
    nd_seg *seg = entry_seg(entry);
    uint64_t bits = slot_bits(hash, shift_of(entry & DEPTH_MASK));
    uint32_t at = slot_bucket(bits) * 8;
    for (unsigned n = 0; n < ND_SEG_SLOTS; n++, at = (at + 1) % ND_SEG_SLOTS) {
        uint64_t slot = seg->slot[at];
        if (slot == 0)
            return false;
        if (((slot ^ bits) & HASH_MASK) == 0 && nd_slot_live(slot) && rec_is(nd_slot_rec(slot), key)) {
            *pos = (nd_pos){seg, at, nd_slot_rec(slot)};
            return true;
        }
    }
    return false;
}

void nd_table_prefetch(const nd_table *t, uint64_t hash)
{
    if (!t->dir)
        return;
    uintptr_t entry = t->dir[dir_index(t, hash)];
    __builtin_prefetch(&entry_seg(entry)->slot[slot_bucket(slot_bits(hash, shift_of(entry & DEPTH_MASK))) * 8]);
}

/* The record that find would compare first; reads the slots, so they should have been fetched a while ago. */
void nd_table_prefetch_record(const nd_table *t, uint64_t hash)
{
    if (!t->dir)
        return;
    uintptr_t entry = t->dir[dir_index(t, hash)];
    const nd_seg *seg = entry_seg(entry);
    uint64_t bits = slot_bits(hash, shift_of(entry & DEPTH_MASK));
    uint32_t at = slot_bucket(bits) * 8;
    for (uint32_t end = at + 8; at < end && seg->slot[at] != 0; at++) {
        if (((seg->slot[at] ^ bits) & HASH_MASK) == 0 && nd_slot_live(seg->slot[at])) {
            __builtin_prefetch(nd_slot_rec(seg->slot[at]));
            __builtin_prefetch((const uint8_t *)nd_slot_rec(seg->slot[at]) + ND_CACHE_LINE);
            return;
        }
    }
}

/* Put a slot at the first free place of its probe; the segment has one. */
static uint32_t seg_place(nd_seg *seg, uint64_t slot)
{
    uint32_t at = slot_bucket(slot & HASH_MASK) * 8;
    while (nd_slot_live(seg->slot[at]))
        at = (at + 1) % ND_SEG_SLOTS;
    if (seg->slot[at] != 0)
        seg->dead--;
    seg->slot[at] = slot;
    seg->live++;
    return at;
}

/* Empty the segment into out[]: its live slots. */
static unsigned seg_drain(nd_seg *seg, uint64_t out[ND_SEG_SLOTS])
{
    unsigned n = 0;
    for (unsigned i = 0; i < ND_SEG_SLOTS; i++)
        if (nd_slot_live(seg->slot[i]))
            out[n++] = seg->slot[i];
    memset(seg->slot, 0, sizeof seg->slot);
    seg->live = seg->dead = 0;
    return n;
}

static nd_seg *seg_new(nd_slab *slab)
{
    nd_seg *seg = nd_slab_alloc(slab, ND_SLAB_SEGMENT);
    if (seg) {
        memset(seg, 0, sizeof *seg);
        seg->expire_min = INT64_MAX;
    }
    return seg;
}

static int dir_double(nd_table *t)
{
    if (t->dir_bits == ND_DIR_BITS_MAX)
        return -ENOMEM;
    size_t n = (size_t)1 << t->dir_bits;
    uintptr_t *dir = malloc(2 * n * sizeof *dir);
    if (!dir)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        dir[2 * i] = dir[2 * i + 1] = t->dir[i];
    free(t->dir);
    t->dir = dir;
    t->dir_bits++;
    return 0;
}

/* Split the segment that covers `hash`: its upper half of hashes moves to a new one. */
static int seg_split(nd_table *t, nd_slab *slab, const nd_sip *sip, uint64_t hash)
{
    unsigned depth = t->dir[dir_index(t, hash)] & DEPTH_MASK;
    if (depth == t->dir_bits) {
        int rc = dir_double(t);
        if (rc < 0)
            return rc;
    }
    nd_seg *high = seg_new(slab);
    if (!high)
        return -ENOMEM;
    size_t span = (size_t)1 << (t->dir_bits - depth), first = dir_index(t, hash) & ~(span - 1);
    nd_seg *low = entry_seg(t->dir[first]);
    unsigned shift = shift_of(depth), shift_new = shift_of(depth + 1);
    uint64_t half = 1ull << (63 - (depth - shift)), old[ND_SEG_SLOTS];
    unsigned n = seg_drain(low, old);
    for (unsigned i = 0; i < n; i++) {
        nd_seg *to = old[i] & half ? high : low;
        if (shift_new != shift) {
            nd_rec *r = nd_slot_rec(old[i]);
            old[i] = (old[i] & ADDR_MASK) | slot_bits(nd_sip13(sip, nd_rec_key(r), r->klen), shift_new);
        }
        seg_place(to, old[i]);
    }
    high->expire_min = low->expire_min;
    for (size_t i = 0; i < span; i++)
        t->dir[first + i] = (uintptr_t)(i < span / 2 ? low : high) | (depth + 1);
    t->segments++;
    return 0;
}

static int table_start(nd_table *t, nd_slab *slab)
{
    uintptr_t *dir = malloc(sizeof *dir);
    nd_seg *seg = dir ? seg_new(slab) : NULL;
    if (!seg) {
        free(dir);
        return -ENOMEM;
    }
    dir[0] = (uintptr_t)seg;
    *t = (nd_table){.dir = dir, .segments = 1};
    return 0;
}

/* Make room in the segment that covers `hash`: sweep out dead slots where they are many, else split. */
static int seg_relieve(nd_table *t, nd_slab *slab, const nd_sip *sip, uint64_t hash)
{
    nd_seg *seg = entry_seg(t->dir[dir_index(t, hash)]);
    if (seg->dead <= DEAD_MAX)
        return seg_split(t, slab, sip, hash);
    uint64_t live[ND_SEG_SLOTS];
    unsigned n = seg_drain(seg, live);
    for (unsigned i = 0; i < n; i++)
        seg_place(seg, live[i]);
    return 0;
}

int nd_table_insert(nd_table *t, nd_slab *slab, const nd_sip *sip, uint64_t hash, nd_rec *rec, nd_pos *pos)
{
    int rc = t->dir ? 0 : table_start(t, slab);
    uintptr_t entry = 0;
    while (rc == 0) {
        entry = t->dir[dir_index(t, hash)];
        if (entry_seg(entry)->live + entry_seg(entry)->dead < ND_SEG_FULL)
            break;
        rc = seg_relieve(t, slab, sip, hash);
    }
    if (rc < 0)
        return rc;
    nd_seg *seg = entry_seg(entry);
    uint64_t slot = (uint64_t)(uintptr_t)rec | slot_bits(hash, shift_of(entry & DEPTH_MASK));
    *pos = (nd_pos){seg, seg_place(seg, slot), rec};
    return 0;
}

void nd_table_replace(nd_pos *pos, nd_rec *rec)
{
    uint64_t *slot = &pos->seg->slot[pos->slot];
    *slot = (*slot & HASH_MASK) | (uint64_t)(uintptr_t)rec;
    pos->rec = rec;
}

/* A slot before an empty one can be empty itself; any other must keep probes going. */
void nd_table_remove(nd_pos *pos)
{
    nd_seg *seg = pos->seg;
    uint32_t at = pos->slot;
    seg->live--;
    seg->slot[at] = ND_SLOT_DEAD;
    seg->dead++;
    if (seg->slot[(at + 1) % ND_SEG_SLOTS] != 0)
        return;
    for (; seg->slot[at] == ND_SLOT_DEAD; at = (at + ND_SEG_SLOTS - 1) % ND_SEG_SLOTS) {
        seg->slot[at] = 0;
        seg->dead--;
    }
}

nd_seg *nd_table_segment(const nd_table *t, uint64_t hash, uint64_t *next)
{
    *next = 0;
    if (!t->dir)
        return NULL;
    uintptr_t entry = t->dir[dir_index(t, hash)];
    unsigned depth = entry & DEPTH_MASK;
    if (depth > 0)
        *next = ((hash >> (64 - depth)) + 1) << (64 - depth);
    return entry_seg(entry);
}

nd_rec *nd_table_pick(const nd_table *t, uint64_t random)
{
    if (!t->dir)
        return NULL;
    size_t at = random & (((size_t)1 << t->dir_bits) - 1);
    size_t span = (size_t)1 << (t->dir_bits - (t->dir[at] & DEPTH_MASK));
    uint64_t slot = entry_seg(t->dir[at])->slot[random >> 56];
    return at % span == 0 && nd_slot_live(slot) ? nd_slot_rec(slot) : NULL;   /* a segment counts once, at its first entry */
}

void nd_table_free(nd_table *t, nd_slab *slab)
{
    size_t n = t->dir ? (size_t)1 << t->dir_bits : 0;
    for (size_t i = 0; i < n;) {
        size_t span = (size_t)1 << (t->dir_bits - (t->dir[i] & DEPTH_MASK));
        nd_slab_free(slab, entry_seg(t->dir[i]), ND_SLAB_SEGMENT);
        i += span;
    }
    free(t->dir);
    *t = (nd_table){0};
}

static void href_swap(nd_href *a, nd_href *b)
{
    nd_href x = *a;
    *a = *b;
    *b = x;
}

/* Quicksort that recurses into the smaller half only, insertion sort below 16; hashes are uniform, the middle is a fair pivot. */
void nd_href_sort(nd_href *a, size_t n)
{
    while (n > 16) {
        uint64_t pivot = a[n / 2].hash;
        size_t i = 0, j = n - 1;
        for (;; i++, j--) {
            while (a[i].hash < pivot)
                i++;
            while (a[j].hash > pivot)
                j--;
            if (i >= j)
                break;
            href_swap(&a[i], &a[j]);
        }
        size_t left = j + 1;
        if (left < n - left) {
            nd_href_sort(a, left);
            a += left, n -= left;
        } else {
            nd_href_sort(a + left, n - left);
            n = left;
        }
    }
    for (size_t i = 1; i < n; i++)
        for (size_t j = i; j > 0 && a[j - 1].hash > a[j].hash; j--)
            href_swap(&a[j - 1], &a[j]);
}
