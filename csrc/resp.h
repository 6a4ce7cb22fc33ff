/* resp.h: scans client bytes into commands: RESP arrays of bulk strings, or inline words.
 *
 * Pure and incremental: it keeps no pointer into the bytes between calls, only offsets from the start of the command, so the caller
 * may move its buffer. On success argv[] are views into buf (valid as long as buf is); inline words are unescaped in place.
 * A protocol error is final for the connection: the caller answers `error` and closes.
 */
#ifndef ND_RESP_H
#define ND_RESP_H
#include "nd.h"

#define ND_RESP_ARGS_MAX 1048576
#define ND_RESP_INLINE_BYTES_MAX 65536
#define ND_RESP_STRICT_ARGS_MAX 10
#define ND_RESP_STRICT_BULK_BYTES_MAX 16384

typedef struct nd_resp {
    nd_arg *argv;            /* owned, grows; views are filled in when a command is complete */
    uint32_t *offset;        /* owned, grows with argv: where each argument begins, from the command's first byte */
    uint32_t cap;
    uint32_t argc;           /* complete arguments so far */
    uint32_t want;           /* arguments of the array, 0 = header not read yet */
    uint32_t pos;            /* bytes of the command scanned so far */
    int64_t bulk;            /* length of the bulk string being read, -1 = its header is next */
    bool strict;             /* not authenticated: only small commands */
    const char *error;       /* text after "ERR ", set with a negative return */
    char errbuf[64];
} nd_resp;

void nd_resp_init(nd_resp *r);
void nd_resp_free(nd_resp *r);
/* > 0: one command of that many bytes; argc may be 0 (empty line, empty array: skip it). 0: more bytes are needed. < 0: error. */
int64_t nd_resp_scan(nd_resp *r, uint8_t *buf, size_t len);
/* Forget the command just returned; must be called before the next scan. */
void nd_resp_next(nd_resp *r);
/* True in the middle of a command that has begun. */
static inline bool nd_resp_partial(const nd_resp *r) { return r->pos != 0; }
#endif
