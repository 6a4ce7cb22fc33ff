#include "frame.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return le16toh(v); }
static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return le32toh(v); }
static uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return le64toh(v); }
static void put16(uint8_t *p, uint16_t v) { v = htole16(v); memcpy(p, &v, 2); }
static void put32(uint8_t *p, uint32_t v) { v = htole32(v); memcpy(p, &v, 4); }
static void put64(uint8_t *p, uint64_t v) { v = htole64(v); memcpy(p, &v, 8); }

int nd_frame_scan(const uint8_t *data, uint32_t len, const uint32_t *limits, nd_frame *out, uint32_t max, uint32_t *used)
{
    uint32_t at = 0, n = 0;
    while (n < max && len - at >= ND_FRAME_HEADER_BYTES) {
        const uint8_t *p = data + at;
        uint32_t body = get32(p);
        uint8_t kind = p[7];
        int bad = kind >= ND_FRAME_CLASSES ? -EPROTO : body > limits[kind] ? -EMSGSIZE : 0;
        if (bad) {
            if (n > 0)
                break;
            *used = 0;
            return bad;
        }
        if (len - at - ND_FRAME_HEADER_BYTES < body)
            break;
        out[n++] = (nd_frame){
            .id = get64(p + 8), .body = at + ND_FRAME_HEADER_BYTES, .len = body, .deadline_ms = get32(p + 16),
            .type = get16(p + 4), .flags = p[6], .kind = kind,
        };
        at += ND_FRAME_HEADER_BYTES + body;
    }
    *used = at;
    return (int)n;
}

uint64_t nd_append_bytes(uint32_t entries, const nd_arg *payloads)
{
    uint64_t total = ND_APPEND_HEADER_BYTES + (uint64_t)entries * ND_ENTRY_HEADER_BYTES;
    for (uint32_t i = 0; i < entries; i++)
        total += payloads[i].len;
    return total;
}

int64_t nd_append_put(uint8_t *out, uint64_t cap, const nd_append *head, const nd_entry *entries, const nd_arg *payloads)
{
    uint64_t total = nd_append_bytes(head->entries, payloads);
    if (total > cap)
        return -ENOSPC;
    put32(out, head->group);
    put32(out + 4, head->entries);
    put64(out + 8, head->term);
    put64(out + 16, head->prev_index);
    put64(out + 24, head->prev_term);
    put64(out + 32, head->commit);
    put64(out + 40, head->sequence);
    uint8_t *p = out + ND_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < head->entries; i++) {
        put32(p, payloads[i].len);
        put16(p + 4, (uint16_t)entries[i].kind);
        put16(p + 6, 0);
        put64(p + 8, entries[i].index);
        put64(p + 16, entries[i].term);
        if (payloads[i].len)
            memcpy(p + ND_ENTRY_HEADER_BYTES, payloads[i].ptr, payloads[i].len);
        p += ND_ENTRY_HEADER_BYTES + payloads[i].len;
    }
    return (int64_t)total;
}

int nd_append_head(const uint8_t *data, uint32_t len, nd_append *head)
{
    if (len < ND_APPEND_HEADER_BYTES)
        return -EPROTO;
    *head = (nd_append){
        .group = get32(data), .entries = get32(data + 4), .term = get64(data + 8), .prev_index = get64(data + 16),
        .prev_term = get64(data + 24), .commit = get64(data + 32), .sequence = get64(data + 40),
    };
    return head->entries > (len - ND_APPEND_HEADER_BYTES) / ND_ENTRY_HEADER_BYTES ? -EPROTO : 0;
}

int nd_append_entries(const uint8_t *data, uint32_t len, const nd_append *head, nd_entry *out)
{
    uint32_t at = ND_APPEND_HEADER_BYTES;
    for (uint32_t i = 0; i < head->entries; i++) {
        if (len - at < ND_ENTRY_HEADER_BYTES)
            return -EPROTO;
        const uint8_t *p = data + at;
        uint32_t payload = get32(p);
        uint64_t index = get64(p + 8);
        at += ND_ENTRY_HEADER_BYTES;
        if (len - at < payload || get16(p + 6) != 0 || (i > 0 && index != out[i - 1].index + 1))
            return -EPROTO;
        out[i] = (nd_entry){
            .index = index, .term = get64(p + 16), .payload = at, .len = payload, .kind = get16(p + 4),
        };
        at += payload;
    }
    return at == len ? 0 : -EPROTO;
}
