/* walbook.c: rebuilds the groups' books; see walbook.h.
 *
 * A group's live entries are a run first..last; pos[i] is where entry first+i stands. An entry at or below `last` cuts the run
 * there (a new leader wrote over it); a rewritten one only moves its position.
 */
#include "walbook.h"

#include <errno.h>
#include <string.h>

struct group {
    nd_walbook_group pub;
    uint8_t *config;
    uint64_t *pos;
    uint64_t head, count, cap;   /* pos[head .. head+count) are entries first .. last */
};

struct nd_walbook {
    struct group *group[ND_GROUPS_MAX];   /* NULL = the log says nothing of it */
    nd_walbook_end end;
    uint32_t records_max;
};

nd_walbook *nd_walbook_new(void) { return calloc(1, sizeof(nd_walbook)); }

void nd_walbook_free(nd_walbook *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; i < ND_GROUPS_MAX; i++) {
        if (b->group[i] == NULL)
            continue;
        free(b->group[i]->pos);
        free(b->group[i]->config);
        free(b->group[i]);
    }
    free(b);
}

static struct group *group_touch(nd_walbook *b, uint32_t group)
{
    if (b->group[group] == NULL) {
        b->group[group] = calloc(1, sizeof(struct group));
        if (b->group[group] != NULL)
            b->group[group]->pub.first = 1;
    }
    return b->group[group];
}

const nd_walbook_group *nd_walbook_group_get(const nd_walbook *b, uint32_t group)
{
    static const nd_walbook_group nothing = {.first = 1};
    ND_ASSERT(group < ND_GROUPS_MAX);
    return b->group[group] != NULL ? &b->group[group]->pub : &nothing;
}

uint64_t nd_walbook_position(const nd_walbook *b, uint32_t group, uint64_t index)
{
    ND_ASSERT(group < ND_GROUPS_MAX && b->group[group] != NULL);
    const struct group *g = b->group[group];
    ND_ASSERT(index >= g->pub.first && index <= g->pub.last);
    return g->pos[g->head + (index - g->pub.first)];
}

uint32_t nd_walbook_records_max(const nd_walbook *b) { return b->records_max; }

/* ---- a group's run ---- */

static bool run_push(struct group *g, uint64_t pos)
{
    if (g->head + g->count == g->cap) {
        if (g->head > g->count) {
            memmove(g->pos, g->pos + g->head, g->count * sizeof(*g->pos));
            g->head = 0;
        } else {
            uint64_t cap = g->cap == 0 ? 64 : g->cap * 2;
            uint64_t *grown = realloc(g->pos, cap * sizeof(*grown));
            if (grown == NULL)
                return false;
            g->pos = grown;
            g->cap = cap;
        }
    }
    g->pos[g->head + g->count++] = pos;
    g->pub.last++;
    return true;
}

/* Entries from `index` on are gone. */
static void run_cut(struct group *g, uint64_t index)
{
    if (index <= g->pub.compact_index)
        index = g->pub.compact_index + 1;
    if (index > g->pub.last)
        return;
    if (index < g->pub.first)
        g->pub.first = index;
    g->pub.last = index - 1;
    g->count = g->pub.last + 1 - g->pub.first;
}

/* Entries up to `index` are covered by a checkpoint. */
static void run_compact(struct group *g, uint64_t index, uint64_t term)
{
    if (index < g->pub.compact_index)
        return;
    g->pub.compact_index = index;
    g->pub.compact_term = term;
    if (index >= g->pub.last) {
        g->head = g->count = 0;
        g->pub.first = index + 1;
        g->pub.last = index;
        g->pub.last_term = term;
    } else if (index >= g->pub.first) {
        uint64_t gone = index + 1 - g->pub.first;
        g->head += gone;
        g->count -= gone;
        g->pub.first = index + 1;
    }
}

/* A group's rewritten entries stand together, first to last. They move the run; when the originals are gone already (their
 * segments died), the first of them begins it anew. */
static int run_rewritten(struct group *g, uint64_t index, uint64_t pos)
{
    g->pub.reordered = 1;
    if (index >= g->pub.first && index <= g->pub.last) {
        g->pos[g->head + (index - g->pub.first)] = pos;
        return 0;
    }
    if (index < g->pub.first || g->count == 0) {
        g->head = g->count = 0;
        g->pub.first = index;
        g->pub.last = index - 1;
    }
    if (index > g->pub.last + 1)
        return -ENOENT;
    return run_push(g, pos) ? 0 : -ENOMEM;
}

static int run_entry(struct group *g, const nd_wal_rec *rec, uint64_t pos, int rewritten)
{
    if (rec->index <= g->pub.compact_index)
        return 0;
    if (rewritten) {
        if (rec->index >= g->pub.last)
            g->pub.last_term = rec->term;
        return run_rewritten(g, rec->index, pos);
    }
    if (g->pub.last == 0) {
        g->pub.first = rec->index; /* the log may begin anywhere: its oldest segments died */
        g->pub.last = rec->index - 1;
    }
    if (rec->index > g->pub.last + 1)
        return -ENOENT;
    run_cut(g, rec->index);
    if (!run_push(g, pos))
        return -ENOMEM;
    g->pub.last_term = rec->term;
    return 0;
}

/* ---- records ---- */

static int take_config(struct group *g, const nd_wal_rec *rec)
{
    if (rec->len > ND_WALBOOK_CONFIG_BYTES_MAX)
        return -EBADMSG;
    uint8_t *copy = realloc(g->config, rec->len + 1);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, rec->data, rec->len);
    g->config = copy;
    g->pub.config = copy;
    g->pub.config_len = rec->len;
    g->pub.config_index = rec->index;
    g->pub.config_term = rec->term;
    g->pub.has_config = 1;
    return 0;
}

static int take_hard_state(struct group *g, const nd_wal_rec *rec)
{
    if (rec->len != sizeof(g->pub.hard_vote))
        return -EBADMSG;
    memcpy(&g->pub.hard_vote, rec->data, sizeof(g->pub.hard_vote));
    g->pub.hard_term = rec->term;
    g->pub.has_hard = 1;
    return 0;
}

static int take_record(nd_walbook *b, const nd_wal_rec *rec, uint64_t pos, int rewritten)
{
    if (rec->type == ND_WAL_MARK || rec->type == ND_WAL_PROBE)
        return 0;
    if (rec->group >= ND_GROUPS_MAX)
        return -EBADMSG;
    struct group *g = group_touch(b, rec->group);
    if (g == NULL)
        return -ENOMEM;
    switch (rec->type) {
    case ND_WAL_ENTRY:
        return run_entry(g, rec, pos, rewritten);
    case ND_WAL_TRUNCATE:
        run_cut(g, rec->index);
        return 0;
    case ND_WAL_COMPACT:
        run_compact(g, rec->index, rec->term);
        return 0;
    case ND_WAL_HARD_STATE:
        return take_hard_state(g, rec);
    case ND_WAL_CONFIG:
        return take_config(g, rec);
    case ND_WAL_QUARANTINE:
        g->pub.quarantined = rec->len == 1 && rec->data[0] != 0;
        return rec->len == 1 ? 0 : -EBADMSG;
    default:
        return -ENOTSUP;
    }
}

static int take_append(nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, const nd_wal_append *at,
                       uint64_t *last)
{
    nd_wal_rec rec = {0};
    uint64_t pos = 0, begin = ND_WAL_APPEND_HEADER_BYTES;
    int rewritten, rc;
    b->end.clean = 0;
    while ((rc = nd_wal_record_next(bytes, at, &pos, &rec, &rewritten)) == 1) {
        b->end.clean = rec.type == ND_WAL_MARK && at->records == 1;
        rc = take_record(b, &rec, seg->number << 32 | (at->off + begin), rewritten);
        if (rc < 0)
            break;
        if (rec.type == ND_WAL_ENTRY && rec.index > last[rec.group])
            last[rec.group] = rec.index;
        begin = pos;
    }
    b->end.type = rec.type;
    if (at->records > b->records_max)
        b->records_max = at->records;
    return rc;
}

/* May `at` follow the chain as it stands? `fresh`: it is the first append of its segment. */
static bool chain_fits(const nd_walbook_end *end, const nd_wal_append *at, bool fresh)
{
    if (end->sequence == 0)
        return true; /* the oldest append there is: its predecessors were compacted away */
    if (at->sequence == end->sequence + 1 && at->prev_crc == end->crc)
        return true;
    return fresh && (at->flags & ND_WAL_FLAG_AGAIN) && at->sequence == end->sequence && at->prev_crc == end->prev_crc;
}

static void chain_advance(nd_walbook_end *end, const nd_wal_segment *seg, const nd_wal_append *at)
{
    end->sequence = at->sequence;
    end->crc = at->crc;
    end->prev_crc = at->prev_crc;
    end->segment = seg->number;
    end->off = at->off;
    end->bytes = at->bytes;
    end->appends++;
}

static int read_appends(nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t len, uint64_t *last)
{
    nd_walbook_end *end = &b->end;
    nd_wal_append at;
    int rc;
    end->appends = 0;
    end->stop_off = ND_WAL_SEGMENT_HEADER_BYTES;
    end->later_off = 0;
    while ((rc = nd_wal_append_check(bytes, len, end->stop_off, seg->segment_id, &at)) == 1) {
        if (!chain_fits(end, &at, end->appends == 0))
            return -EBADMSG;
        rc = take_append(b, seg, bytes, &at, last);
        if (rc < 0)
            return rc;
        chain_advance(end, seg, &at);
        end->stop_off += at.bytes;
    }
    end->torn = rc < 0;
    if (nd_wal_append_find(bytes, len, end->stop_off, seg->segment_id, &at)) {
        end->later_off = at.off;
        return -EBADMSG;
    }
    return 0;
}

int nd_walbook_segment(nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t len,
                       uint64_t *last, nd_walbook_end *end)
{
    ND_ASSERT(len <= UINT32_MAX && seg->number <= UINT32_MAX);
    int rc = read_appends(b, seg, bytes, len, last);
    *end = b->end;
    return rc;
}

/* ---- giving out ---- */

static bool entry_wanted(const nd_walbook *b, const nd_wal_rec *rec, uint64_t pos, const uint64_t *after)
{
    if (rec->type != ND_WAL_ENTRY)
        return false;
    const nd_walbook_group *g = nd_walbook_group_get(b, rec->group);
    return !g->reordered && rec->index > after[rec->group] && rec->index >= g->first && rec->index <= g->last &&
           nd_walbook_position(b, rec->group, rec->index) == pos;
}

int64_t nd_walbook_entries(const nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t stop,
                           const uint64_t *after, uint64_t *off, nd_wal_rec *recs, uint32_t cap)
{
    nd_wal_append at;
    uint32_t n = 0;
    ND_ASSERT(cap >= b->records_max);
    if (*off == 0)
        *off = ND_WAL_SEGMENT_HEADER_BYTES;
    while (*off < stop) {
        if (nd_wal_append_check(bytes, stop, *off, seg->segment_id, &at) != 1)
            return -EIO;
        if (at.records > cap - n)
            return n;
        uint64_t pos = 0, begin = ND_WAL_APPEND_HEADER_BYTES;
        int rewritten;
        while (nd_wal_record_next(bytes, &at, &pos, &recs[n], &rewritten) == 1) {
            n += entry_wanted(b, &recs[n], seg->number << 32 | (at.off + begin), after);
            begin = pos;
        }
        *off += at.bytes;
    }
    return n;
}
