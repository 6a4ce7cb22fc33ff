/* walbook.h: what a log holds, rebuilt from its segments at start: each group's hard state, configuration and live entries.
 *
 * Pure: the caller reads segment files, oldest first, and hands each one's bytes over twice: nd_walbook_segment learns (eight
 * bytes per live entry), then nd_walbook_entries gives the live entries out in log order, thousands per call. One thread; no
 * buffer is kept. Entries that compaction wrote again stand out of order in the file (`reordered`): those groups are read by
 * position instead (nd_walbook_position).
 */
#ifndef ND_WALBOOK_H
#define ND_WALBOOK_H
#include "nd.h"
#include "wal.h"

/* cffi:begin */
#define ND_WALBOOK_CONFIG_BYTES_MAX 4096

typedef struct nd_walbook nd_walbook;

typedef struct nd_walbook_group {
    uint64_t first, last;            /* live entries; last = first - 1: none */
    uint64_t last_term;              /* of the entry `last`, or of the compaction mark when there is none */
    uint64_t compact_index, compact_term;
    uint64_t hard_term, hard_vote;
    uint64_t config_index, config_term;
    uint32_t config_len;
    const uint8_t *config;           /* lives as long as the book */
    uint8_t has_hard, has_config, quarantined, reordered;
} nd_walbook_group;

/* How far the chain of appends reached, and where it stopped. */
typedef struct nd_walbook_end {
    uint64_t sequence;               /* of the last valid append, 0 = none yet */
    uint64_t segment, off, bytes;    /* where it is */
    uint32_t crc, prev_crc;
    uint32_t clean;                  /* 1 = it is a clean shutdown's mark */
    uint32_t type;                   /* -ENOTSUP: the unknown record type */
    uint64_t stop_off;               /* in the segment just read: where valid appends end, or the bad one */
    uint64_t later_off;              /* -EBADMSG: a valid append after it, 0 = the chain itself is broken at stop_off */
    uint64_t appends;                /* valid ones in the segment just read */
    uint32_t torn;                   /* 1 = an append of this segment begins at stop_off but is cut */
} nd_walbook_end;

nd_walbook *nd_walbook_new(void);
void nd_walbook_free(nd_walbook *b);
/* Take in the next segment; last[group] (of ND_GROUPS_MAX) is raised to the highest entry index the segment holds, whatever
 * happened to the entry later: compaction keeps a segment until all of that is covered. 0, or: -EBADMSG = damaged (end->stop_off, later_off), -ENOTSUP = record type of a later version,
 * -ENOENT = an entry without its predecessor (end->stop_off), -ENOMEM. After a failure the book may only be freed. */
int nd_walbook_segment(nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t len,
                       uint64_t *last, nd_walbook_end *end);
const nd_walbook_group *nd_walbook_group_get(const nd_walbook *b, uint32_t group);
/* (segment << 32 | offset of the record header) of a live entry. */
uint64_t nd_walbook_position(const nd_walbook *b, uint32_t group, uint64_t index);
/* Live entries of the segment in log order, those with index > after[group] only, groups that are reordered left out. Fills at
 * most cap records (views into bytes). *off (0 = first append) is where to begin and is moved to where to go on: at `stop` (the
 * stop_off of the first reading) the segment is done. Checks the bytes again: -EIO when they are not what they were. */
int64_t nd_walbook_entries(const nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t stop,
                           const uint64_t *after, uint64_t *off, nd_wal_rec *recs, uint32_t cap);
uint32_t nd_walbook_records_max(const nd_walbook *b);   /* of any append taken in: cap must not be below it */
/* cffi:end */
#endif
