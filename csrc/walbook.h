/* walbook.h: what a log holds of each group: hard state, configurations, and term, kind, size and place of every live entry.
 *
 * One set of rules for two lives. At start the caller reads segment files, oldest first, and hands each one's bytes over twice:
 * nd_walbook_segment learns, then nd_walbook_entries gives the live entries out in log order, thousands per call. While the log
 * is written, nd_walbook_take learns each append as it is submitted. So the book of a running log is the book that its restart
 * will find. Pure: one thread; no buffer is kept. 24 bytes per live entry. Entries that compaction wrote again stand out of
 * order in the file (`reordered`): those groups are read by position instead (nd_walbook_entry).
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
    uint64_t hard_term, hard_vote[2]; /* node, replica id */
    uint64_t replica;                /* id of the newest replica that was here */
    uint32_t configs;                /* known ones, see nd_walbook_config */
    uint8_t has_hard, has_replica, removed, quarantined, reordered;
} nd_walbook_group;

/* A configuration: the base (as of the compaction mark, or the founders') and one per live entry that carries one, rising. */
typedef struct nd_walbook_config_row {
    uint64_t index, term;
    uint32_t len;
    uint8_t *bytes;                  /* the book's, until the next segment or append is taken in */
} nd_walbook_config_row;

typedef struct nd_walbook_entry_row {
    uint64_t at;                     /* segment << 32 | offset of the record header */
    uint64_t term;
    uint32_t len;                    /* of the payload */
    uint32_t kind;
} nd_walbook_entry_row;

typedef struct nd_walbook_run {
    uint64_t first, last, term;
} nd_walbook_run;

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
 * happened to the entry later. 0, or: -EBADMSG = damaged (end->stop_off, later_off), -ENOTSUP = record type of a later
 * version, -ENOENT = an entry without its predecessor (end->stop_off), -ENOMEM. After a failure the book may only be freed. */
int nd_walbook_segment(nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t len,
                       uint64_t *last, nd_walbook_end *end);
/* Take in an append that is being written at `off` of the segment; last[] as above. 0, or -errno as above. */
int nd_walbook_take(nd_walbook *b, const nd_wal_rec *recs, uint32_t n, uint64_t segment, uint64_t off, uint64_t *last);
const nd_walbook_group *nd_walbook_group_get(const nd_walbook *b, uint32_t group);
/* Configuration i of a group: 0 is the base. */
const nd_walbook_config_row *nd_walbook_config(const nd_walbook *b, uint32_t group, uint32_t i);
/* A live entry; those after it follow in memory. Valid until the next segment or append is taken in. */
const nd_walbook_entry_row *nd_walbook_entry(const nd_walbook *b, uint32_t group, uint64_t index);
/* Terms of the live entries by run: how many runs there are (at most cap are filled). */
uint32_t nd_walbook_runs(const nd_walbook *b, uint32_t group, nd_walbook_run *out, uint32_t cap);
/* Live entries of the segment in log order, those with index > after[group] only, groups that are reordered left out. Fills at
 * most cap records (views into bytes). *off (0 = first append) is where to begin and is moved to where to go on: at `stop` (the
 * stop_off of the first reading) the segment is done. Checks the bytes again: -EIO when they are not what they were. */
int64_t nd_walbook_entries(const nd_walbook *b, const nd_wal_segment *seg, const uint8_t *bytes, uint64_t stop,
                           const uint64_t *after, uint64_t *off, nd_wal_rec *recs, uint32_t cap);
uint32_t nd_walbook_records_max(const nd_walbook *b);   /* of any append taken in: cap must not be below it */
/* cffi:end */
#endif
