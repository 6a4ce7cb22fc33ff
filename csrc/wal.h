/* wal.h: the write-ahead log's format, pure: encode a turn, scan a segment. No IO here (walio.h does it), so that the
 * simulated disk uses the same bytes. Byte tables of segment header, append header and record are at the top of wal.c.
 *
 * One append = the records of all groups of one turn, with one header {segment id, append sequence, previous append's CRC, length,
 * CRC}. Buffers belong to the caller; nothing is kept.
 */
#ifndef ND_WAL_H
#define ND_WAL_H
#include "nd.h"

/* cffi:begin */
#define ND_WAL_ENTRY 1        /* one entry of a group: term, index, payload */
#define ND_WAL_HARD_STATE 2   /* term, vote (payload), of a group */
#define ND_WAL_TRUNCATE 3     /* the group's log ends before index */
#define ND_WAL_COMPACT 4      /* entries of the group up to index are in a synced checkpoint */
#define ND_WAL_CONFIG 5       /* the group's configuration as of index */
#define ND_WAL_REWRITE 6      /* payload = {u8 type, payload of that type}: copied forward from the live book by compaction */
#define ND_WAL_MARK 7         /* clean shutdown: everything before is durable */
#define ND_WAL_PROBE 8        /* disk liveness of an idle worker */
#define ND_WAL_QUARANTINE 9   /* the group may neither vote nor lead: begin (payload 1) or end (payload 0) */

typedef struct nd_wal_rec {
    uint8_t type;
    uint32_t group;
    uint64_t term;
    uint64_t index;
    const uint8_t *data;      /* payload, borrowed for the call (encode) or a view into the scanned bytes (scan) */
    uint32_t len;
} nd_wal_rec;
/* cffi:end */
#endif
