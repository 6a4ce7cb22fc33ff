/* fuzz_wal.c: any bytes behind a valid segment header: the scanner stays inside them, and what it takes in reads back.
 *
 * Input: rows of {op u8, where u16, value u8} that write a small valid log and then damage it, so that mutations get behind the
 * CRCs; the rest of the input is laid over the segment's end as it is.
 */
#include <errno.h>

#include "wal_kit.h"

#define SEGMENT (64 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_record(kit *k, uint8_t op, uint16_t where, uint8_t value)
{
    static const uint8_t payload[4096] = {1, 2, 3};
    nd_wal_rec rec = {.type = (uint8_t)(1 + op % 12), .kind = (uint8_t)(value >> 2 & 3), .group = value % 3u, .term = op,
                      .index = where % 64u, .data = payload, .len = where % sizeof payload};
    if (k->used + nd_wal_append_bytes(&rec, 1) <= k->head.bytes)
        kit_append(k, &rec, 1);
}

static void read_all(kit *k)
{
    static uint64_t last[ND_GROUPS_MAX], after[ND_GROUPS_MAX];
    static nd_wal_rec recs[8192];
    nd_walbook_end end;
    nd_walbook *b = nd_walbook_new();
    ND_ASSERT(b != NULL);
    int rc = nd_walbook_segment(b, &k->head, k->bytes, k->head.bytes, last, &end);
    ND_ASSERT(rc == 0 || rc == -EBADMSG || rc == -ENOTSUP || rc == -ENOENT);
    for (uint32_t group = 0; rc == 0 && group < 3; group++) {
        const nd_walbook_group *g = nd_walbook_group_get(b, group);
        nd_walbook_run runs[64];
        ND_ASSERT(g->last + 1 >= g->first && g->first > g->compact_index);
        ND_ASSERT((nd_walbook_runs(b, group, runs, 64) == 0) == (g->last < g->first));
        for (uint32_t i = 1; i < g->configs; i++)
            ND_ASSERT(nd_walbook_config(b, group, i - 1)->index < nd_walbook_config(b, group, i)->index);
    }
    if (rc == 0) {
        uint64_t off = 0, sum = 0;
        while (off < end.stop_off) {
            int64_t n = nd_walbook_entries(b, &k->head, k->bytes, end.stop_off, after, &off, recs, 8192);
            ND_ASSERT(n >= 0);
            for (int64_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < recs[i].len; j++)
                    sum += recs[i].data[j];
        }
        ND_ASSERT(sum != UINT64_MAX);
    }
    nd_walbook_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kit k;
    kit_open(&k, SEGMENT);
    for (unsigned row = 0; row < 64 && size >= 4; row++, data += 4, size -= 4) {
        uint16_t where;
        memcpy(&where, data + 1, 2);
        if (data[0] < 200)
            write_record(&k, data[0], where, data[3]);
        else
            k.bytes[ND_WAL_SEGMENT_HEADER_BYTES + where % (SEGMENT - ND_WAL_SEGMENT_HEADER_BYTES)] ^= data[3];
    }
    if (size > SEGMENT - k.used)
        size = SEGMENT - k.used;
    if (size > 0)
        memcpy(k.bytes + k.used, data, size);
    read_all(&k);
    kit_close(&k);
    return 0;
}
