/* walbook.c: the groups' books; see walbook.h.
 *
 * A group's live entries are a run first..last; entries[i] tells of entry first+i. An entry at or below `last` cuts the run
 * there (a new leader wrote over it); a rewritten one only moves its place.
 */
#include "walbook.h"

#include <errno.h>
#include <string.h>

struct group {
    nd_walbook_group pub;
    nd_walbook_config_row *configs;
    uint32_t configs_cap;
    nd_walbook_entry_row *entries;
    uint64_t head, count, cap;   /* entries[head .. head+count) are first .. last */
};

struct nd_walbook {
    struct group *group[ND_GROUPS_MAX];   /* NULL = the log says nothing of it */
    nd_walbook_end end;
    uint32_t records_max;
};

nd_walbook *nd_walbook_new(void) { return calloc(1, sizeof(nd_walbook)); }

/* Configurations from number `from` on are forgotten. */
static void configs_cut(struct group *g, uint32_t from)
{
    while (g->pub.configs > from)
        free(g->configs[--g->pub.configs].bytes);
}

static void group_free(struct group *g)
{
    configs_cut(g, 0);
    free(g->configs);
    free(g->entries);
    free(g);
}

void nd_walbook_free(nd_walbook *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; i < ND_GROUPS_MAX; i++)
        if (b->group[i] != NULL)
            group_free(b->group[i]);
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

/* ---- questions ---- */

const nd_walbook_group *nd_walbook_group_get(const nd_walbook *b, uint32_t group)
{
    static const nd_walbook_group nothing = {.first = 1};
    ND_ASSERT(group < ND_GROUPS_MAX);
    return b->group[group] != NULL ? &b->group[group]->pub : &nothing;
}

const nd_walbook_config_row *nd_walbook_config(const nd_walbook *b, uint32_t group, uint32_t i)
{
    ND_ASSERT(group < ND_GROUPS_MAX && b->group[group] != NULL && i < b->group[group]->pub.configs);
    return &b->group[group]->configs[i];
}

static nd_walbook_entry_row *entry_at(const struct group *g, uint64_t index)
{
    ND_ASSERT(index >= g->pub.first && index <= g->pub.last);
    return &g->entries[g->head + (index - g->pub.first)];
}

const nd_walbook_entry_row *nd_walbook_entry(const nd_walbook *b, uint32_t group, uint64_t index)
{
    ND_ASSERT(group < ND_GROUPS_MAX && b->group[group] != NULL);
    return entry_at(b->group[group], index);
}

uint32_t nd_walbook_runs(const nd_walbook *b, uint32_t group, nd_walbook_run *out, uint32_t cap)
{
    const nd_walbook_group *pub = nd_walbook_group_get(b, group);
    uint32_t n = 0;
    uint64_t term = 0;
    for (uint64_t index = pub->first; index <= pub->last; index++) {
        const nd_walbook_entry_row *e = entry_at(b->group[group], index);
        if (n == 0 || e->term != term) {
            if (n < cap)
                out[n] = (nd_walbook_run){.first = index, .term = e->term};
            term = e->term;
            n++;
        }
        if (n <= cap)
            out[n - 1].last = index;
    }
    return n;
}

uint32_t nd_walbook_records_max(const nd_walbook *b) { return b->records_max; }

/* ---- configurations ---- */

static bool configs_room(struct group *g)
{
    if (g->pub.configs < g->configs_cap)
        return true;
    uint32_t cap = g->configs_cap == 0 ? 2 : g->configs_cap * 2;
    nd_walbook_config_row *grown = realloc(g->configs, cap * sizeof(*grown));
    if (grown == NULL)
        return false;
    g->configs = grown;
    g->configs_cap = cap;
    return true;
}

/* Into its place by index, instead of one that is there. */
static int config_put(struct group *g, const nd_wal_rec *rec)
{
    if (rec->len > ND_WALBOOK_CONFIG_BYTES_MAX)
        return -EBADMSG;
    uint8_t *copy = malloc(rec->len + 1);
    if (copy == NULL || !configs_room(g)) {
        free(copy);
        return -ENOMEM;
    }
    if (rec->len != 0)
        memcpy(copy, rec->data, rec->len);
    uint32_t at = g->pub.configs;
    while (at > 0 && g->configs[at - 1].index >= rec->index)
        at--;
    if (at < g->pub.configs && g->configs[at].index == rec->index) {
        free(g->configs[at].bytes);
    } else {
        memmove(g->configs + at + 1, g->configs + at, (g->pub.configs - at) * sizeof(*g->configs));
        g->pub.configs++;
    }
    g->configs[at] = (nd_walbook_config_row){.index = rec->index, .term = rec->term, .len = rec->len, .bytes = copy};
    return 0;
}

/* The base is the newest one at or below the compaction mark. */
static void configs_compact(struct group *g)
{
    uint32_t gone = 0;
    while (gone + 1 < g->pub.configs && g->configs[gone + 1].index <= g->pub.compact_index)
        free(g->configs[gone++].bytes);
    g->pub.configs -= gone;
    if (gone != 0)
        memmove(g->configs, g->configs + gone, g->pub.configs * sizeof(*g->configs));
}

/* ---- a group's run ---- */

static bool run_push(struct group *g, const nd_wal_rec *rec, uint64_t at)
{
    if (g->head + g->count == g->cap) {
        if (g->head > g->count) {
            memmove(g->entries, g->entries + g->head, g->count * sizeof(*g->entries));
            g->head = 0;
        } else {
            uint64_t cap = g->cap == 0 ? 64 : g->cap * 2;
            nd_walbook_entry_row *grown = realloc(g->entries, cap * sizeof(*grown));
            if (grown == NULL)
                return false;
            g->entries = grown;
            g->cap = cap;
        }
    }
    g->entries[g->head + g->count++] =
        (nd_walbook_entry_row){.at = at, .term = rec->term, .len = rec->len, .kind = rec->kind};
    g->pub.last++;
    g->pub.last_term = rec->term;
    return true;
}

/* Entries from `index` on are gone, and with them the configurations they carried: all of them, as the base may have been
 * in a segment that died and be written again further on. */
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
    g->pub.last_term = g->count != 0 ? entry_at(g, g->pub.last)->term : g->pub.compact_term;
    uint32_t keep = g->pub.configs;
    while (keep > 0 && g->configs[keep - 1].index >= index)
        keep--;
    configs_cut(g, keep);
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
    configs_compact(g);
}

/* A group's rewritten entries stand together, first to last. They move the run; when the originals are gone already (their
 * segments died), the first of them begins it anew. */
static int run_rewritten(struct group *g, const nd_wal_rec *rec, uint64_t at)
{
    g->pub.reordered = 1;
    if (rec->index >= g->pub.first && rec->index <= g->pub.last) {
        entry_at(g, rec->index)->at = at;
        return 0;
    }
    if (rec->index < g->pub.first || g->count == 0) {
        g->head = g->count = 0;
        g->pub.first = rec->index;
        g->pub.last = rec->index - 1;
    }
    if (rec->index > g->pub.last + 1)
        return -ENOENT;
    return run_push(g, rec, at) ? 0 : -ENOMEM;
}

static int run_entry(struct group *g, const nd_wal_rec *rec, uint64_t at, int rewritten)
{
    if (rec->index <= g->pub.compact_index)
        return 0;
    if (rewritten) {
        int rc = run_rewritten(g, rec, at);
        return rc == 0 && rec->kind == ND_WAL_MEMBERS ? config_put(g, rec) : rc;
    }
    if (g->count == 0 && g->pub.last == g->pub.compact_index) {
        /* The log may begin anywhere: its oldest segments died, and a mark that covers them comes later. If none does, the
         * caller sees that `first` is not where the checkpoint ends. */
        g->pub.first = rec->index;
        g->pub.last = rec->index - 1;
    }
    if (rec->index > g->pub.last + 1)
        return -ENOENT;
    run_cut(g, rec->index);
    if (!run_push(g, rec, at))
        return -ENOMEM;
    return rec->kind == ND_WAL_MEMBERS ? config_put(g, rec) : 0;
}

/* ---- records ---- */

/* Of a snapshot just installed (its mark stands before it), or written again: older ones below the mark are history. */
static int take_config(struct group *g, const nd_wal_rec *rec)
{
    int rc = config_put(g, rec);
    configs_compact(g);
    return rc;
}

static int take_hard_state(struct group *g, const nd_wal_rec *rec)
{
    if (rec->len != sizeof(g->pub.hard_vote))
        return -EBADMSG;
    memcpy(g->pub.hard_vote, rec->data, sizeof(g->pub.hard_vote));
    g->pub.hard_term = rec->term;
    g->pub.has_hard = 1;
    return 0;
}

/* A new replica begins with nothing; a removed one leaves nothing but its id, so that only a newer one may come after it.
 * Written again by compaction it says what was so all along: entries found before it stay. */
static int take_replica(struct group *g, const nd_wal_rec *rec, int rewritten)
{
    if (rec->len != 1)
        return -EBADMSG;
    bool removed = rec->data[0] == 0;
    if (!rewritten && !(g->pub.has_replica && g->pub.replica == rec->index && g->pub.removed == removed)) {
        configs_cut(g, 0);
        g->head = g->count = 0;
        g->pub = (nd_walbook_group){.first = 1};
    }
    if (!rewritten || !g->pub.has_replica || rec->index >= g->pub.replica) {
        g->pub.has_replica = 1;
        g->pub.replica = rec->index;
        g->pub.removed = removed;
    }
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
    case ND_WAL_REPLICA:
        return take_replica(g, rec, rewritten);
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

int nd_walbook_take(nd_walbook *b, const nd_wal_rec *recs, uint32_t n, uint64_t segment, uint64_t off, uint64_t *last)
{
    ND_ASSERT(segment <= UINT32_MAX && off <= UINT32_MAX);
    off += ND_WAL_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < n; i++) {
        nd_wal_rec rec = recs[i];
        int rewritten, rc = nd_wal_record_open(&rec, &rewritten);
        if (rc == 0)
            rc = take_record(b, &rec, segment << 32 | off, rewritten);
        if (rc < 0)
            return rc;
        if (rec.type == ND_WAL_ENTRY && rec.index > last[rec.group])
            last[rec.group] = rec.index;
        off += nd_wal_record_bytes(recs[i].len);
    }
    return 0;
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
        /* The copy of an append that was read already says nothing new; taken twice, an append that appends and truncates
         * would not follow on itself. */
        rc = at.sequence == end->sequence ? 0 : take_append(b, seg, bytes, &at, last);
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
           nd_walbook_entry(b, rec->group, rec->index)->at == pos;
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
