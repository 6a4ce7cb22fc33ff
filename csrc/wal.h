/* wal.h: the write-ahead log's format, pure: encode a turn, check and read a segment's bytes. No IO here (walio.h does it), so
 * that the simulated disk uses the same bytes. Byte tables of segment header, append header and record are at the top of wal.c.
 *
 * One append = the records of all groups of one turn, behind one header {segment id, append sequence, previous append's CRC,
 * length, CRC}. It is valid as a whole or not at all. Buffers belong to the caller; nothing is kept; any thread may call.
 */
#ifndef ND_WAL_H
#define ND_WAL_H
#include "nd.h"

/* cffi:begin */
#define ND_WAL_ENTRY 1        /* one entry of a group: term, index, payload */
#define ND_WAL_HARD_STATE 2   /* term and vote (payload: u64 node, u64 replica id) of a group */
#define ND_WAL_TRUNCATE 3     /* the group's log ends before index */
#define ND_WAL_COMPACT 4      /* entries of the group up to index (of that term) are in a synced checkpoint */
#define ND_WAL_CONFIG 5       /* the group's configuration (payload) as of index */
#define ND_WAL_REWRITE 6      /* payload = {u8 type, payload of that type}: copied forward from the live book by compaction */
#define ND_WAL_MARK 7         /* clean shutdown: everything before is durable */
#define ND_WAL_PROBE 8        /* disk liveness of an idle worker */
#define ND_WAL_QUARANTINE 9   /* the group may neither vote nor lead: begin (payload 1) or end (payload 0) */
#define ND_WAL_REPLICA 10     /* replica `index` of the group is here (payload 1), or was removed (payload 0): a tombstone */
#define ND_WAL_TYPE_MAX 10

/* Kinds of entries: a field of the record, never guessed from the payload. 0 in records that are not entries. */
#define ND_WAL_NOOP 1         /* a leader's first entry; no payload */
#define ND_WAL_DATA 2         /* commands, for the state machine */
#define ND_WAL_MEMBERS 3      /* the group's configuration from this entry on */
#define ND_WAL_KIND_MAX 3

#define ND_WAL_VERSION 1
#define ND_WAL_SEGMENT_HEADER_BYTES 4096
#define ND_WAL_APPEND_HEADER_BYTES 64
#define ND_WAL_RECORD_HEADER_BYTES 32
#define ND_WAL_ALIGN 512              /* appends begin and end on sectors: no append shares one with another */
#define ND_WAL_APPEND_BYTES_MAX 33554432
#define ND_WAL_FLAG_AGAIN 1           /* recovery's synced copy of the last append: same sequence, it takes the old one's place */

typedef struct nd_wal_rec {
    uint8_t type;
    uint8_t kind;             /* of an entry, rewritten ones too; else 0 */
    uint32_t group;
    uint64_t term;
    uint64_t index;
    const uint8_t *data;      /* payload, borrowed for the call (encode) or a view into the scanned bytes (scan) */
    uint32_t len;
} nd_wal_rec;

typedef struct nd_wal_segment {
    uint32_t version;
    uint64_t log_id;          /* random, the same in all segments of one log */
    uint64_t number;          /* rises by one per segment; also in the file's name */
    uint64_t segment_id;      /* random per use of a file: stale bytes of an earlier use never validate */
    uint64_t bytes;           /* of the file */
} nd_wal_segment;

/* Where and after what an append is encoded (input), or what a checked one says (output). */
typedef struct nd_wal_append {
    uint64_t segment_id;
    uint64_t sequence;        /* first append of a log: 1 */
    uint64_t off;             /* of the append header in the segment */
    uint64_t bytes;           /* output: header to the end of padding; the next append begins at off + bytes */
    uint32_t prev_crc;        /* of the append before, 0 for the first */
    uint32_t crc;             /* output */
    uint32_t flags;
    uint32_t records;         /* output */
} nd_wal_append;

/* ---- segment header: exactly ND_WAL_SEGMENT_HEADER_BYTES ---- */
void nd_wal_segment_encode(uint8_t *buf, const nd_wal_segment *seg);
/* 0, -EBADMSG (not a header, or damaged), -ENOTSUP (valid, but another version: only seg->version is filled). */
int nd_wal_segment_read(const uint8_t *buf, uint64_t len, nd_wal_segment *seg);

/* ---- encode ---- */
uint64_t nd_wal_append_bytes(const nd_wal_rec *recs, uint32_t n);   /* encoded size, padding included */
/* How many records from the first on fit in one append of at most bytes_max. */
uint32_t nd_wal_append_fit(const nd_wal_rec *recs, uint32_t n, uint64_t bytes_max);
uint64_t nd_wal_record_bytes(uint32_t payload);                     /* of one record: where the next one begins */
/* Fills bytes, crc and records of *at. Bytes written, or -ENOBUFS when cap is too small (nothing written). */
int64_t nd_wal_append_encode(uint8_t *buf, uint64_t cap, nd_wal_append *at, const nd_wal_rec *recs, uint32_t n);

/* ---- check and read; seg points at the segment's first byte, len bytes of it are there ---- */
/* 1 = a valid append begins at off, 0 = nothing of this segment's use begins there, -EBADMSG = one begins but is torn or damaged. */
int nd_wal_append_check(const uint8_t *seg, uint64_t len, uint64_t off, uint64_t segment_id, nd_wal_append *out);
/* 1 = found the first valid append at or after off, 0 = none. */
int nd_wal_append_find(const uint8_t *seg, uint64_t len, uint64_t off, uint64_t segment_id, nd_wal_append *out);
/* A rewritten record becomes what it carries, and *rewritten 1. 0, -ENOTSUP = its type (rec->type) is from a later version,
 * -EBADMSG = a rewrite without content, a kind where there is none to be, an entry without one. An entry's kind may be any: one
 * above ND_WAL_KIND_MAX stops its group, not the log. */
int nd_wal_record_open(nd_wal_rec *rec, int *rewritten);
/* Next record of a checked append, opened; *pos starts at 0. 1 = filled, 0 = end, or what nd_wal_record_open found. */
int nd_wal_record_next(const uint8_t *seg, const nd_wal_append *at, uint64_t *pos, nd_wal_rec *rec, int *rewritten);

/* The records of a checked append as they were encoded, rewritten ones closed: how many (at most cap are filled). */
uint32_t nd_wal_append_raw(const uint8_t *seg, const nd_wal_append *at, nd_wal_rec *recs, uint32_t cap);

/* The record whose header is at off of a checked segment, as encoded. 0, or -EBADMSG when it does not check. */
int nd_wal_record_at(const uint8_t *seg, uint64_t len, uint64_t off, nd_wal_rec *rec);

/* ---- what the log says is committed; a sole member's share of a turn ---- */
typedef struct nd_commit {
    uint32_t group;
    uint64_t first, last;     /* indexes, inclusive */
} nd_commit;
/* Make each record the next entry of its group: last[group] is raised, term[group] is given; groups must be < n_groups. */
void nd_wal_assign(nd_wal_rec *recs, uint32_t n, uint32_t n_groups, const uint64_t *term, uint64_t *last);
/* What n assigned records amount to, neighbours of one group joined: fills out (room for n), returns how many. */
uint32_t nd_wal_commits(const nd_wal_rec *recs, uint32_t n, nd_commit *out);
/* cffi:end */
#endif
