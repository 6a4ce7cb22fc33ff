/* test_wal.c: the log's bytes: what is encoded is read back, every torn or flipped byte is noticed, books come out right. */
#include <errno.h>

#include "crc32c.h"
#include "wal_kit.h"

#define SEGMENT (256 * 1024)

static void crc_known_values(void)
{
    uint8_t buf[1000];
    ND_ASSERT(nd_crc32c(0, "123456789", 9) == 0xe3069283);
    for (unsigned i = 0; i < sizeof buf; i++)
        buf[i] = (uint8_t)(i * 31);
    for (unsigned len = 0; len < sizeof buf; len += 7) {
        ND_ASSERT(nd_crc32c(0, buf, len) == nd_crc32c_table(0, buf, len));
        ND_ASSERT(nd_crc32c(nd_crc32c(0, buf, len / 3), buf + len / 3, len - len / 3) == nd_crc32c(0, buf, len));
    }
}

static void header_round_trip(void)
{
    uint8_t buf[ND_WAL_SEGMENT_HEADER_BYTES];
    nd_wal_segment in = {.log_id = 1, .number = 2, .segment_id = 3, .bytes = 4096}, out;
    nd_wal_segment_encode(buf, &in);
    ND_ASSERT(nd_wal_segment_read(buf, sizeof buf, &out) == 0);
    ND_ASSERT(out.log_id == 1 && out.number == 2 && out.segment_id == 3 && out.bytes == 4096);
    ND_ASSERT(nd_wal_segment_read(buf, sizeof buf - 1, &out) == -EBADMSG);
    for (unsigned i = 0; i < sizeof buf; i++) {
        buf[i] ^= 0x40;
        ND_ASSERT(nd_wal_segment_read(buf, sizeof buf, &out) == -EBADMSG);
        buf[i] ^= 0x40;
    }
}

static void append_round_trip(void)
{
    kit k;
    kit_open(&k, SEGMENT);
    nd_wal_rec in[] = {{.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 5, .term = 9, .index = 77,
                        .data = (const uint8_t *)"abc", .len = 3},
                       {.type = ND_WAL_MARK},
                       {.type = ND_WAL_REWRITE, .kind = ND_WAL_NOOP, .group = 6, .index = 1,
                        .data = (const uint8_t *)"\1xyz", .len = 4}};
    uint64_t off = kit_append(&k, in, 3), pos = 0;
    nd_wal_append at;
    nd_wal_rec rec, raw[3];
    int rewritten;
    ND_ASSERT(nd_wal_append_check(k.bytes, SEGMENT, off, KIT_SEGMENT_ID, &at) == 1 && at.records == 3 && at.bytes == 512);
    ND_ASSERT(nd_wal_record_next(k.bytes, &at, &pos, &rec, &rewritten) == 1 && rec.group == 5 && rec.index == 77);
    ND_ASSERT(rec.term == 9 && rec.len == 3 && memcmp(rec.data, "abc", 3) == 0 && !rewritten);
    ND_ASSERT(nd_wal_record_next(k.bytes, &at, &pos, &rec, &rewritten) == 1 && rec.type == ND_WAL_MARK);
    ND_ASSERT(nd_wal_record_next(k.bytes, &at, &pos, &rec, &rewritten) == 1 && rec.type == ND_WAL_ENTRY && rewritten);
    ND_ASSERT(rec.len == 3 && memcmp(rec.data, "xyz", 3) == 0);
    ND_ASSERT(nd_wal_record_next(k.bytes, &at, &pos, &rec, &rewritten) == 0);
    ND_ASSERT(nd_wal_append_raw(k.bytes, &at, raw, 3) == 3 && raw[2].type == ND_WAL_REWRITE && raw[2].len == 4);
    ND_ASSERT(nd_wal_append_check(k.bytes, SEGMENT, off, KIT_SEGMENT_ID + 1, &at) == 0);
    ND_ASSERT(nd_wal_append_encode(k.bytes, 511, &at, in, 3) == -ENOBUFS);
    ND_ASSERT(nd_wal_append_fit(in, 3, 512) == 3 && nd_wal_append_fit(in, 3, 100) == 0);
    kit_close(&k);
}

static int book_of(const kit *k, nd_walbook_end *end)
{
    static uint64_t last[ND_GROUPS_MAX];
    nd_walbook *b = nd_walbook_new();
    ND_ASSERT(b != NULL);
    int rc = nd_walbook_segment(b, &k->head, k->bytes, k->head.bytes, last, end);
    nd_walbook_free(b);
    return rc;
}

/* Every byte of a written segment, one bit of it flipped: damage in front of the last append is reported, in it the append is cut;
 * it is never taken for something else. (Header bits: header_round_trip.) */
static void flip_everywhere(void)
{
    kit k;
    nd_walbook_end end;
    uint64_t off[4];
    kit_open(&k, 16 * 1024);
    for (unsigned i = 0; i < 4; i++)
        off[i] = kit_entry(&k, i + 1, 100 + 300 * i, (uint8_t)(0xa0 + i));
    for (uint64_t at = ND_WAL_SEGMENT_HEADER_BYTES; at < k.head.bytes; at++) {
        uint8_t bit = (uint8_t)(1u << at % 8);
        k.bytes[at] ^= bit;
        int rc = book_of(&k, &end);
        if (at < off[3])
            ND_ASSERT(rc == -EBADMSG && end.stop_off <= at && end.later_off > at && end.sequence < 4);
        else if (at < k.used)
            ND_ASSERT(rc == 0 && end.sequence == 3 && end.stop_off == off[3]);
        else
            ND_ASSERT(rc == 0 && end.sequence == 4);
        k.bytes[at] ^= bit;
    }
    kit_close(&k);
}

/* Of the last append, every subset of its sectors reached the disk, over zeros and over a recycled file's old append. */
static void every_sector_subset(void)
{
    kit k, old;
    nd_walbook_end end;
    kit_open(&k, 32 * 1024);
    kit_open(&old, 32 * 1024);
    old.head.segment_id = 99;
    kit_entry(&k, 1, 10, 1);
    uint64_t off = kit_entry(&k, 2, 4500, 2), sectors = (k.used - off) / ND_WAL_ALIGN;
    kit_entry(&old, 1, 10, 1);
    kit_entry(&old, 2, 4500, 3);
    uint8_t *whole = malloc(k.head.bytes);
    ND_ASSERT(whole != NULL && sectors == 9);
    memcpy(whole, k.bytes, k.head.bytes);
    for (unsigned recycled = 0; recycled < 2; recycled++) {
        for (unsigned subset = 0; subset < 1u << sectors; subset++) {
            for (unsigned i = 0; i < sectors; i++) {
                const uint8_t *from = subset >> i & 1 ? whole : recycled ? old.bytes : NULL;
                uint64_t at = off + i * ND_WAL_ALIGN;
                if (from != NULL)
                    memcpy(k.bytes + at, from + at, ND_WAL_ALIGN);
                else
                    memset(k.bytes + at, 0, ND_WAL_ALIGN);
            }
            ND_ASSERT(book_of(&k, &end) == 0);
            ND_ASSERT(end.sequence == (subset == (1u << sectors) - 1 ? 2 : 1));
        }
    }
    free(whole);
    kit_close(&k);
    kit_close(&old);
}

static void unknown_type_stops(void)
{
    kit k;
    nd_walbook_end end;
    kit_open(&k, 16 * 1024);
    nd_wal_rec rec = {.type = ND_WAL_TYPE_MAX + 1, .group = 1};
    uint64_t off = kit_append(&k, &rec, 1);
    ND_ASSERT(book_of(&k, &end) == -ENOTSUP && end.type == ND_WAL_TYPE_MAX + 1 && end.stop_off == off);
    kit_close(&k);
}

static void kinds_stand_where_they_belong(void)
{
    static const struct { nd_wal_rec rec; int rc; } rows[] = {
        {{.type = ND_WAL_ENTRY, .kind = ND_WAL_KIND_MAX + 1, .group = 1, .index = 1}, 0},
        {{.type = ND_WAL_ENTRY, .group = 1, .index = 1}, -EBADMSG},
        {{.type = ND_WAL_TRUNCATE, .kind = ND_WAL_DATA, .group = 1, .index = 1}, -EBADMSG},
        {{.type = ND_WAL_ENTRY, .kind = ND_WAL_NOOP, .group = 1, .index = 1}, 0},
    };
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        kit k;
        nd_walbook_end end;
        kit_open(&k, 16 * 1024);
        kit_append(&k, &rows[i].rec, 1);
        ND_ASSERT(book_of(&k, &end) == rows[i].rc);
        kit_close(&k);
    }
}

static void hole_stops(void)
{
    kit k;
    nd_walbook_end end;
    kit_open(&k, 16 * 1024);
    kit_entry(&k, 1, 1, 1);
    uint64_t off = kit_entry(&k, 3, 1, 1);
    ND_ASSERT(book_of(&k, &end) == -ENOENT && end.stop_off == off);
    kit_close(&k);
}

static void small(kit *k, uint8_t type, uint64_t term, uint64_t index, const void *data, uint32_t len)
{
    nd_wal_rec rec = {.type = type, .group = 1, .term = term, .index = index, .data = data, .len = len};
    rec.kind = type == ND_WAL_ENTRY || type == ND_WAL_REWRITE ? ND_WAL_DATA : 0;
    kit_append(k, &rec, 1);
}

/* Truncation, overwriting by a later term, compaction, rewriting: which entries live, and which copy of each. */
static void book_of_a_life(void)
{
    kit k;
    nd_walbook_end end;
    uint64_t last[ND_GROUPS_MAX] = {0}, after[ND_GROUPS_MAX] = {0}, off = 0, vote[2] = {42, 7};
    nd_wal_rec recs[64];
    kit_open(&k, 64 * 1024);
    small(&k, ND_WAL_HARD_STATE, 3, 0, vote, 16);
    for (uint64_t i = 1; i <= 10; i++)
        small(&k, ND_WAL_ENTRY, 1, i, "o", 1);
    small(&k, ND_WAL_TRUNCATE, 0, 9, NULL, 0);
    small(&k, ND_WAL_ENTRY, 2, 7, "n", 1);
    small(&k, ND_WAL_ENTRY, 2, 8, "n", 1);
    small(&k, ND_WAL_COMPACT, 1, 4, NULL, 0);
    small(&k, ND_WAL_CONFIG, 2, 8, "cfg", 3);
    small(&k, ND_WAL_QUARANTINE, 0, 0, "\1", 1);
    nd_walbook *b = nd_walbook_new();
    ND_ASSERT(nd_walbook_segment(b, &k.head, k.bytes, k.head.bytes, last, &end) == 0);
    const nd_walbook_group *g = nd_walbook_group_get(b, 1);
    ND_ASSERT(g->first == 5 && g->last == 8 && g->last_term == 2 && g->compact_index == 4 && g->compact_term == 1);
    ND_ASSERT(g->hard_term == 3 && g->hard_vote[0] == 42 && g->hard_vote[1] == 7 && g->configs == 1);
    const nd_walbook_config_row *c = nd_walbook_config(b, 1, 0);
    ND_ASSERT(c->len == 3 && memcmp(c->bytes, "cfg", 3) == 0 && c->index == 8 && c->term == 2);
    nd_walbook_run runs[2];
    ND_ASSERT(nd_walbook_runs(b, 1, runs, 2) == 2 && runs[0].first == 5 && runs[0].last == 6 && runs[1].last == 8);
    ND_ASSERT(runs[0].term == 1 && runs[1].term == 2);
    ND_ASSERT(g->quarantined && !g->reordered && last[1] == 10);
    after[1] = 5;
    ND_ASSERT(nd_walbook_entries(b, &k.head, k.bytes, end.stop_off, after, &off, recs, 64) == 3 && off == end.stop_off);
    ND_ASSERT(recs[0].index == 6 && recs[0].data[0] == 'o' && recs[1].index == 7 && recs[1].data[0] == 'n');
    k.bytes[k.used - 600] ^= 1;
    off = 0;
    ND_ASSERT(nd_walbook_entries(b, &k.head, k.bytes, end.stop_off, after, &off, recs, 64) == -EIO);
    nd_walbook_free(b);
    kit_close(&k);
}

static void book_of_rewritten_entries(void)
{
    kit k;
    nd_walbook_end end;
    uint64_t last[ND_GROUPS_MAX] = {0};
    kit_open(&k, 64 * 1024);
    for (uint64_t i = 5; i <= 7; i++)
        small(&k, ND_WAL_ENTRY, 1, i, "o", 1);
    for (uint64_t i = 4; i <= 7; i++) /* the segment with the first 4 died */
        small(&k, ND_WAL_REWRITE, 1, i, "\1r", 2);
    small(&k, ND_WAL_ENTRY, 1, 8, "o", 1);
    nd_walbook *b = nd_walbook_new();
    ND_ASSERT(nd_walbook_segment(b, &k.head, k.bytes, k.head.bytes, last, &end) == 0);
    const nd_walbook_group *g = nd_walbook_group_get(b, 1);
    ND_ASSERT(g->first == 4 && g->last == 8 && g->reordered);
    for (uint64_t i = 4; i <= 8; i++) {
        nd_wal_rec rec;
        uint64_t at = nd_walbook_entry(b, 1, i)->at & 0xffffffff;
        ND_ASSERT(nd_wal_record_at(k.bytes, k.head.bytes, at, &rec) == 0 && rec.index == i);
        ND_ASSERT(rec.type == (i == 8 ? ND_WAL_ENTRY : ND_WAL_REWRITE));
    }
    nd_walbook_free(b);
    kit_close(&k);
}

static nd_wal_rec member(uint8_t type, uint64_t term, uint64_t index, const char *who)
{
    return (nd_wal_rec){.type = type, .kind = type == ND_WAL_ENTRY ? ND_WAL_MEMBERS : 0, .group = 1, .term = term,
                        .index = index, .data = (const uint8_t *)who, .len = (uint32_t)strlen(who)};
}

/* A configuration goes with the entry that carried it, the base stays; a tombstone leaves nothing but the replica's id. */
static void configurations_follow_the_log(void)
{
    uint64_t last[ND_GROUPS_MAX] = {0};
    nd_walbook *b = nd_walbook_new();
    nd_wal_rec life[] = {{.type = ND_WAL_REPLICA, .group = 1, .data = (const uint8_t *)"\1", .len = 1},
                         member(ND_WAL_CONFIG, 0, 0, "a"), member(ND_WAL_ENTRY, 1, 1, "ab"), member(ND_WAL_ENTRY, 1, 2, "abc")};
    ND_ASSERT(nd_walbook_take(b, life, 4, 3, 4096, last) == 0);
    ND_ASSERT(nd_walbook_group_get(b, 1)->configs == 3 && nd_walbook_entry(b, 1, 1)->at == (3ull << 32 | (4096 + 64 + 40 + 40)));
    nd_wal_rec over[] = {{.type = ND_WAL_ENTRY, .kind = ND_WAL_NOOP, .group = 1, .term = 2, .index = 2}};
    ND_ASSERT(nd_walbook_take(b, over, 1, 3, 8192, last) == 0);
    ND_ASSERT(nd_walbook_group_get(b, 1)->configs == 2 && nd_walbook_group_get(b, 1)->last_term == 2);
    nd_wal_rec mark[] = {{.type = ND_WAL_COMPACT, .group = 1, .term = 1, .index = 1},
                         {.type = ND_WAL_TRUNCATE, .group = 1, .index = 2}};
    ND_ASSERT(nd_walbook_take(b, mark, 2, 4, 4096, last) == 0);
    const nd_walbook_group *g = nd_walbook_group_get(b, 1);
    ND_ASSERT(g->configs == 1 && nd_walbook_config(b, 1, 0)->len == 2 && g->first == 2 && g->last == 1 && g->last_term == 1);
    nd_wal_rec gone[] = {{.type = ND_WAL_REPLICA, .group = 1, .index = 0, .data = (const uint8_t *)"\0", .len = 1}};
    ND_ASSERT(nd_walbook_take(b, gone, 1, 4, 8192, last) == 0 && g->removed && g->configs == 0 && g->first == 1 && g->last == 0);
    nd_walbook_free(b);
}

/* The segment with a replica's first records died: what compaction wrote again comes after entries that live. */
static void a_rewritten_replica_keeps_entries_before_it(void)
{
    uint64_t last[ND_GROUPS_MAX] = {0};
    nd_walbook *b = nd_walbook_new();
    nd_wal_rec recs[] = {{.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 1, .term = 1, .index = 7},
                         {.type = ND_WAL_REWRITE, .group = 1, .data = (const uint8_t *)"\12\1", .len = 2},
                         {.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 1, .term = 1, .index = 8}};
    _Static_assert(ND_WAL_REPLICA == 10, "the octal escape above");
    ND_ASSERT(nd_walbook_take(b, recs, 3, 3, 4096, last) == 0);
    const nd_walbook_group *g = nd_walbook_group_get(b, 1);
    ND_ASSERT(g->first == 7 && g->last == 8 && g->has_replica && !g->removed && last[1] == 8);
    nd_walbook_free(b);
}

/* An old mark survives in a segment whose predecessors died by a newer one: the entries between the two are gone. */
static void entries_between_two_marks_may_be_gone(void)
{
    uint64_t last[ND_GROUPS_MAX] = {0};
    nd_walbook *b = nd_walbook_new();
    nd_wal_rec recs[] = {{.type = ND_WAL_REWRITE, .group = 1, .term = 1, .index = 61, .data = (const uint8_t *)"\4", .len = 1},
                         {.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 1, .term = 1, .index = 102},
                         {.type = ND_WAL_REWRITE, .group = 1, .term = 1, .index = 101, .data = (const uint8_t *)"\4", .len = 1}};
    ND_ASSERT(nd_walbook_take(b, recs, 3, 3, 4096, last) == 0);
    const nd_walbook_group *g = nd_walbook_group_get(b, 1);
    ND_ASSERT(g->first == 102 && g->last == 102 && g->compact_index == 101);
    nd_walbook_free(b);
}

int main(void)
{
    crc_known_values();
    header_round_trip();
    append_round_trip();
    flip_everywhere();
    every_sector_subset();
    unknown_type_stops();
    kinds_stand_where_they_belong();
    hole_stops();
    book_of_a_life();
    book_of_rewritten_entries();
    configurations_follow_the_log();
    entries_between_two_marks_may_be_gone();
    a_rewritten_replica_keeps_entries_before_it();
    return 0;
}
