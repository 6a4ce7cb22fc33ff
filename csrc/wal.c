/* wal.c: the bytes of the log. All numbers are little-endian; all reserved bytes are zero and checked to be zero.
 *
 * Segment file: header, then appends one after another, then bytes of no meaning (zeros, or a recycled file's old appends).
 *
 * Segment header, 4096 bytes                     Append, begins and ends at multiples of 512
 *   off len                                        off len
 *     0   8  "NDWALSEG"                              0   4  "NDAP"
 *     8   4  format version (1)                      4   4  CRC-32C of bytes [8, 64), then of every record header
 *    12   4  CRC-32C of the header, this = 0         8   8  segment id
 *    16   8  log id                                 16   8  sequence
 *    24   8  segment number                         24   8  offset of this header in the segment
 *    32   8  segment id                             32   8  bytes of header and records, without the padding at the end
 *    40   8  bytes of the file                      40   4  CRC of the append before (its field at 4)
 *    48      zero                                   44   4  number of records
 *                                                   48   4  flags (1 = written again by recovery)
 * Record, begins at multiples of 8                  52  12  zero
 *     0   4  CRC-32C of bytes [4, 32) and payload   64      records, then zeros up to a multiple of 512
 *     4   4  bytes of payload
 *     8   8  term
 *    16   8  index
 *    24   4  group
 *    28   1  type
 *    29   1  kind of entry (1 no-op, 2 data, 3 members); 0 = not an entry
 *    30   2  zero
 *    32      payload, then zeros up to a multiple of 8
 *
 * The append's CRC covers record headers, and each of those holds the CRC of its payload: every byte is covered, each byte of
 * payload is read once. A length is believed only as far as the bytes at hand reach, and means nothing before its CRC matched.
 */
#include "wal.h"

#include <errno.h>
#include <string.h>

#include "crc32c.h"

static const char SEGMENT_MAGIC[8] = {'N', 'D', 'W', 'A', 'L', 'S', 'E', 'G'};
static const char APPEND_MAGIC[4] = {'N', 'D', 'A', 'P'};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the put and get functions copy little-endian words");
_Static_assert(ND_WAL_SEGMENT_HEADER_BYTES % ND_WAL_ALIGN == 0, "the first append begins on a sector");
_Static_assert(ND_ENTRY_BYTES_MAX + 1024 <= ND_WAL_APPEND_BYTES_MAX, "the largest entry fits in one append");

static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint64_t round_up(uint64_t v, uint64_t unit) { return (v + unit - 1) / unit * unit; }

static bool all_zero(const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* ---- segment header ---- */

static uint32_t segment_crc(const uint8_t *buf)
{
    static const uint8_t zero[4];
    uint32_t crc = nd_crc32c(nd_crc32c(0, buf, 12), zero, 4);
    return nd_crc32c(crc, buf + 16, ND_WAL_SEGMENT_HEADER_BYTES - 16);
}

void nd_wal_segment_encode(uint8_t *buf, const nd_wal_segment *seg)
{
    memset(buf, 0, ND_WAL_SEGMENT_HEADER_BYTES);
    memcpy(buf, SEGMENT_MAGIC, 8);
    put32(buf + 8, ND_WAL_VERSION);
    put64(buf + 16, seg->log_id);
    put64(buf + 24, seg->number);
    put64(buf + 32, seg->segment_id);
    put64(buf + 40, seg->bytes);
    put32(buf + 12, segment_crc(buf));
}

int nd_wal_segment_read(const uint8_t *buf, uint64_t len, nd_wal_segment *seg)
{
    memset(seg, 0, sizeof(*seg));
    if (len < ND_WAL_SEGMENT_HEADER_BYTES || memcmp(buf, SEGMENT_MAGIC, 8) != 0 || get32(buf + 12) != segment_crc(buf))
        return -EBADMSG;
    seg->version = get32(buf + 8);
    if (seg->version != ND_WAL_VERSION)
        return -ENOTSUP;
    seg->log_id = get64(buf + 16);
    seg->number = get64(buf + 24);
    seg->segment_id = get64(buf + 32);
    seg->bytes = get64(buf + 40);
    return 0;
}

/* ---- encode ---- */

static uint64_t record_bytes(uint32_t payload) { return ND_WAL_RECORD_HEADER_BYTES + round_up(payload, 8); }
uint64_t nd_wal_record_bytes(uint32_t payload) { return record_bytes(payload); }

uint64_t nd_wal_append_bytes(const nd_wal_rec *recs, uint32_t n)
{
    uint64_t bytes = ND_WAL_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < n; i++)
        bytes += record_bytes(recs[i].len);
    return round_up(bytes, ND_WAL_ALIGN);
}

uint32_t nd_wal_append_fit(const nd_wal_rec *recs, uint32_t n, uint64_t bytes_max)
{
    uint64_t bytes = ND_WAL_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < n; i++) {
        bytes += record_bytes(recs[i].len);
        if (round_up(bytes, ND_WAL_ALIGN) > bytes_max)
            return i;
    }
    return n;
}

static uint64_t encode_record(uint8_t *p, const nd_wal_rec *rec)
{
    uint64_t bytes = record_bytes(rec->len);
    put32(p + 4, rec->len);
    put64(p + 8, rec->term);
    put64(p + 16, rec->index);
    put32(p + 24, rec->group);
    put32(p + 28, rec->type | (uint32_t)rec->kind << 8);
    if (rec->len != 0) {
        put64(p + bytes - 8, 0);
        memcpy(p + ND_WAL_RECORD_HEADER_BYTES, rec->data, rec->len);
    }
    put32(p, nd_crc32c(0, p + 4, ND_WAL_RECORD_HEADER_BYTES - 4 + rec->len));
    return bytes;
}

int64_t nd_wal_append_encode(uint8_t *buf, uint64_t cap, nd_wal_append *at, const nd_wal_rec *recs, uint32_t n)
{
    uint64_t total = nd_wal_append_bytes(recs, n), used = ND_WAL_APPEND_HEADER_BYTES;
    if (total > cap)
        return -ENOBUFS;
    for (uint32_t i = 0; i < n; i++)
        used += encode_record(buf + used, &recs[i]);
    memcpy(buf, APPEND_MAGIC, 4);
    put64(buf + 8, at->segment_id);
    put64(buf + 16, at->sequence);
    put64(buf + 24, at->off);
    put64(buf + 32, used);
    put32(buf + 40, at->prev_crc);
    put32(buf + 44, n);
    put32(buf + 48, at->flags);
    memset(buf + 52, 0, 12);
    memset(buf + used, 0, total - used);
    uint32_t crc = nd_crc32c(0, buf + 8, ND_WAL_APPEND_HEADER_BYTES - 8);
    uint64_t pos = ND_WAL_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < n; i++) {
        crc = nd_crc32c(crc, buf + pos, ND_WAL_RECORD_HEADER_BYTES);
        pos += record_bytes(recs[i].len);
    }
    put32(buf + 4, crc);
    at->bytes = total;
    at->crc = crc;
    at->records = n;
    return (int64_t)total;
}

/* ---- check ---- */

/* Records from 64 to `used`: headers folded into *crc, payloads checked against their headers. */
static bool records_valid(const uint8_t *p, uint64_t used, uint32_t records, uint32_t *crc)
{
    uint64_t pos = ND_WAL_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < records; i++) {
        if (used - pos < ND_WAL_RECORD_HEADER_BYTES)
            return false;
        uint32_t payload = get32(p + pos + 4);
        if (used - pos < record_bytes(payload))
            return false;
        *crc = nd_crc32c(*crc, p + pos, ND_WAL_RECORD_HEADER_BYTES);
        if (nd_crc32c(0, p + pos + 4, ND_WAL_RECORD_HEADER_BYTES - 4 + payload) != get32(p + pos))
            return false;
        if (!all_zero(p + pos + 30, 2))
            return false;
        uint64_t end = ND_WAL_RECORD_HEADER_BYTES + (uint64_t)payload;
        if (!all_zero(p + pos + end, record_bytes(payload) - end))
            return false;
        pos += record_bytes(payload);
    }
    return pos == used;
}

int nd_wal_append_check(const uint8_t *seg, uint64_t len, uint64_t off, uint64_t segment_id, nd_wal_append *out)
{
    if (off > len || len - off < ND_WAL_ALIGN)
        return 0;
    const uint8_t *p = seg + off;
    if (get64(p + 8) != segment_id)
        return 0; /* zeros, or an earlier use of the file; an id damaged in the middle shows by the appends after it */
    uint64_t used = get64(p + 32);
    if (memcmp(p, APPEND_MAGIC, 4) != 0 || get64(p + 24) != off)
        return -EBADMSG;
    if (used < ND_WAL_APPEND_HEADER_BYTES || used > len - off || round_up(used, ND_WAL_ALIGN) > len - off)
        return -EBADMSG;
    uint32_t crc = nd_crc32c(0, p + 8, ND_WAL_APPEND_HEADER_BYTES - 8);
    if (!records_valid(p, used, get32(p + 44), &crc) || crc != get32(p + 4) || !all_zero(p + 52, 12))
        return -EBADMSG;
    if (!all_zero(p + used, round_up(used, ND_WAL_ALIGN) - used))
        return -EBADMSG;
    *out = (nd_wal_append){.segment_id = segment_id, .sequence = get64(p + 16), .off = off,
                           .bytes = round_up(used, ND_WAL_ALIGN), .prev_crc = get32(p + 40), .crc = crc,
                           .flags = get32(p + 48), .records = get32(p + 44)};
    return 1;
}

int nd_wal_append_find(const uint8_t *seg, uint64_t len, uint64_t off, uint64_t segment_id, nd_wal_append *out)
{
    for (off = round_up(off, ND_WAL_ALIGN); off < len; off += ND_WAL_ALIGN)
        if (nd_wal_append_check(seg, len, off, segment_id, out) == 1)
            return 1;
    return 0;
}

static bool record_raw(const uint8_t *append, uint64_t *pos, nd_wal_rec *rec)
{
    if (*pos == 0)
        *pos = ND_WAL_APPEND_HEADER_BYTES;
    if (*pos >= get64(append + 32))
        return false;
    const uint8_t *p = append + *pos;
    *rec = (nd_wal_rec){.type = p[28], .kind = p[29], .group = get32(p + 24), .term = get64(p + 8), .index = get64(p + 16),
                        .data = p + ND_WAL_RECORD_HEADER_BYTES, .len = get32(p + 4)};
    *pos += record_bytes(rec->len);
    return true;
}

int nd_wal_record_open(nd_wal_rec *rec, int *rewritten)
{
    *rewritten = rec->type == ND_WAL_REWRITE;
    if (*rewritten) {
        if (rec->len == 0 || rec->data[0] == ND_WAL_REWRITE)
            return -EBADMSG;
        rec->type = rec->data[0];
        rec->data++;
        rec->len--;
    }
    if (rec->type == 0 || rec->type > ND_WAL_TYPE_MAX)
        return -ENOTSUP;
    return (rec->type == ND_WAL_ENTRY) == (rec->kind != 0) ? 0 : -EBADMSG;
}

int nd_wal_record_next(const uint8_t *seg, const nd_wal_append *at, uint64_t *pos, nd_wal_rec *rec, int *rewritten)
{
    if (!record_raw(seg + at->off, pos, rec))
        return 0;
    int rc = nd_wal_record_open(rec, rewritten);
    return rc < 0 ? rc : 1;
}

uint32_t nd_wal_append_raw(const uint8_t *seg, const nd_wal_append *at, nd_wal_rec *recs, uint32_t cap)
{
    nd_wal_rec rec;
    uint64_t pos = 0;
    uint32_t n = 0;
    for (; record_raw(seg + at->off, &pos, &rec); n++)
        if (n < cap)
            recs[n] = rec;
    return n;
}

int nd_wal_record_at(const uint8_t *seg, uint64_t len, uint64_t off, nd_wal_rec *rec)
{
    if (off > len || len - off < ND_WAL_RECORD_HEADER_BYTES)
        return -EBADMSG;
    const uint8_t *p = seg + off;
    *rec = (nd_wal_rec){.type = p[28], .kind = p[29], .group = get32(p + 24), .term = get64(p + 8), .index = get64(p + 16),
                        .data = p + ND_WAL_RECORD_HEADER_BYTES, .len = get32(p + 4)};
    if (rec->len > len - off - ND_WAL_RECORD_HEADER_BYTES)
        return -EBADMSG;
    return nd_crc32c(0, p + 4, ND_WAL_RECORD_HEADER_BYTES - 4 + rec->len) == get32(p) ? 0 : -EBADMSG;
}

void nd_wal_assign(nd_wal_rec *recs, uint32_t n, uint32_t n_groups, const uint64_t *term, uint64_t *last)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t group = recs[i].group;
        ND_ASSERT(group < n_groups);
        recs[i].term = term[group];
        recs[i].index = ++last[group];
    }
}

uint32_t nd_wal_commits(const nd_wal_rec *recs, uint32_t n, nd_commit *out)
{
    uint32_t commits = 0;
    for (uint32_t i = 0; i < n; i++) {
        nd_commit *joined = commits > 0 ? &out[commits - 1] : NULL;
        if (joined != NULL && joined->group == recs[i].group && joined->last + 1 == recs[i].index)
            joined->last++;
        else
            out[commits++] = (nd_commit){.group = recs[i].group, .first = recs[i].index, .last = recs[i].index};
    }
    return commits;
}
