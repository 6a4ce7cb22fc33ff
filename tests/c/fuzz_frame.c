/* Any bytes as frames and as an append: scans end, stay inside the bytes (malloc'd to their exact size), report what a
 * cut input reports, and a decoded append encodes to the same bytes. */
#include "../../csrc/frame.h"

#include <string.h>

static const uint32_t limits[ND_FRAME_CLASSES] = { 64, 1024, 1024, 256 };

static uint64_t frames(const uint8_t *data, uint32_t size, uint32_t max)
{
    nd_frame out[64];
    uint64_t digest = 14695981039346656037ull;
    uint32_t at = 0, used;
    for (;;) {
        int n = nd_frame_scan(data + at, size - at, limits, out, max, &used);
        if (n <= 0)
            return n < 0 ? digest ^ (uint64_t)(unsigned)-n : digest;
        for (int i = 0; i < n; i++) {
            ND_ASSERT(out[i].kind < ND_FRAME_CLASSES && out[i].len <= limits[out[i].kind]);
            ND_ASSERT((uint64_t)at + out[i].body + out[i].len <= size);
            for (uint32_t k = 0; k < out[i].len; k++)
                digest = (digest ^ data[at + out[i].body + k]) * 1099511628211ull;
            digest = (digest ^ out[i].id ^ out[i].type ^ out[i].flags) * 1099511628211ull;
        }
        at += used;
    }
}

static void append(const uint8_t *data, uint32_t size)
{
    nd_append head;
    if (nd_append_head(data, size, &head) != 0)
        return;
    nd_entry *entries = calloc(head.entries + 1, sizeof *entries);
    nd_arg *payloads = calloc(head.entries + 1, sizeof *payloads);
    ND_ASSERT(entries && payloads);
    if (nd_append_entries(data, size, &head, entries) == 0) {
        for (uint32_t i = 0; i < head.entries; i++)
            payloads[i] = (nd_arg){ data + entries[i].payload, entries[i].len };
        uint8_t *again = malloc(size);
        ND_ASSERT(again && nd_append_put(again, size, &head, entries, payloads) == (int64_t)size);
        ND_ASSERT(memcmp(again, data, size) == 0);
        ND_ASSERT(nd_append_put(again, size - 1, &head, entries, payloads) < 0);
        free(again);
    }
    free(entries);
    free(payloads);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);
    ND_ASSERT(exact);
    if (size)
        memcpy(exact, data, size);
    ND_ASSERT(frames(exact, (uint32_t)size, 64) == frames(exact, (uint32_t)size, 1));
    append(exact, (uint32_t)size);
    free(exact);
    return 0;
}
