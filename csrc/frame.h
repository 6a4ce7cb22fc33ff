/* frame.h: the fixed layouts of lane traffic: frame headers, and log entries in the body of an append.
 *
 * Pure: reads the bytes it is given and writes into the buffer it is given, allocates nothing, keeps nothing. All
 * integers are little-endian. What a scan reports are offsets into the caller's bytes, which the caller keeps; nothing
 * beyond `len` is read, whatever the bytes say. docs/formats/lanes.md has the tables, tests/rpc the golden bytes.
 *
 * A frame:  0 u32 body bytes · 4 u16 type · 6 u8 flags · 7 u8 class · 8 u64 id · 16 u32 deadline, remaining ms · 20 body
 * An entry: 0 u32 payload bytes · 4 u16 kind · 6 u16 zero · 8 u64 index · 16 u64 term · 24 payload
 * An append: 0 u32 group · 4 u32 entries · 8 u64 term · 16 u64 previous index · 24 u64 previous term · 32 u64 commit ·
 *            40 u64 sequence · 48 entries, one after the other
 */
#ifndef ND_FRAME_H
#define ND_FRAME_H
#include "nd.h"

/* cffi:begin */
#define ND_FRAME_HEADER_BYTES 20
#define ND_ENTRY_HEADER_BYTES 24
#define ND_APPEND_HEADER_BYTES 48
#define ND_FRAME_CLASSES 4

typedef struct nd_frame {
    uint64_t id;
    uint32_t body, len;            /* where the body begins, how long it is */
    uint32_t deadline_ms;
    uint16_t type;
    uint8_t flags, kind;           /* kind = class */
} nd_frame;

typedef struct nd_entry {
    uint64_t index, term;
    uint32_t payload, len;         /* where the payload begins, how long it is */
    uint32_t kind;
    uint32_t zero;
} nd_entry;

typedef struct nd_append {
    uint64_t term, prev_index, prev_term, commit, sequence;
    uint32_t group, entries;
} nd_append;

/* Whole frames at the start of data. Returns how many were written to out (at most max), *used = bytes they take; the rest is
 * a beginning. limits[class] bounds a body: -EMSGSIZE when a header names more, -EPROTO for a class that does not exist; frames
 * before the bad one are reported by a first call with max = their number. */
int nd_frame_scan(const uint8_t *data, uint32_t len, const uint32_t *limits, nd_frame *out, uint32_t max, uint32_t *used);

/* Append header and entries: payloads are read from where they lie. Returns the bytes written, -ENOSPC when cap is too small. */
int64_t nd_append_put(uint8_t *out, uint64_t cap, const nd_append *head, const nd_entry *entries, const nd_arg *payloads);
uint64_t nd_append_bytes(uint32_t entries, const nd_arg *payloads);
/* Reads the header; 0 or -EPROTO when there is none, or when it names more entries than the bytes could hold. */
int nd_append_head(const uint8_t *data, uint32_t len, nd_append *head);
/* All entries of an append into out[head->entries]; payload offsets count from data. 0, or -EPROTO: an entry is cut, bytes are
 * left over, a reserved field is not zero, or an index does not follow the one before. out is then undefined. */
int nd_append_entries(const uint8_t *data, uint32_t len, const nd_append *head, nd_entry *out);
/* cffi:end */
#endif
