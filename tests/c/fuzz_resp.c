/* Any bytes, in any pieces: the scanner ends, stays inside the buffer, and reports the same commands however they were cut. */
#include "../../csrc/resp.h"

#include <string.h>

static uint64_t scan_all(const uint8_t *data, size_t size, size_t piece)
{
    uint8_t *buf = malloc(size + 1);
    nd_resp r;
    nd_resp_init(&r);
    uint64_t digest = 1469598103934665603ull;
    size_t have = 0, at = 0;
    while (have < size) {
        size_t n = size - have < piece ? size - have : piece;
        memcpy(buf + have, data + have, n);
        have += n;
        int64_t used;
        while (at < have && (used = nd_resp_scan(&r, buf + at, have - at)) != 0) {
            if (used < 0) {
                digest = (digest ^ (uint64_t)'!') * 1099511628211ull;
                goto out;
            }
            ND_ASSERT((size_t)used <= have - at);
            for (uint32_t i = 0; i < r.argc; i++)
                for (uint32_t k = 0; k < r.argv[i].len; k++)
                    digest = (digest ^ r.argv[i].ptr[k]) * 1099511628211ull;
            digest = (digest ^ r.argc) * 1099511628211ull;
            at += (size_t)used;
            nd_resp_next(&r);
        }
    }
out:
    nd_resp_free(&r);
    free(buf);
    return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t whole = scan_all(data, size, size ? size : 1);
    ND_ASSERT(scan_all(data, size, 1) == whole);
    ND_ASSERT(scan_all(data, size, 7) == whole);
    return 0;
}
