/* reply.h: the sink that commands write RESP replies into.
 *
 * A sink belongs to one command execution at a time. It grows by realloc (the only allocation on this path, amortised away
 * because the buffer is reused from command to command). `resp` is 2 or 3: the writers choose the encoding, commands do not.
 * A discarding sink (`discard`) is used when an entry is replayed: writers return at once.
 * Every writer appends; a failed allocation aborts the process (ND_ASSERT), as there is no smaller answer to give.
 */
#ifndef ND_REPLY_H
#define ND_REPLY_H
#include "nd.h"

typedef struct nd_reply {
    uint8_t *buf;
    size_t len, cap;
    uint8_t resp;
    bool discard;
} nd_reply;

void nd_reply_init(nd_reply *r);
void nd_reply_free(nd_reply *r);
void nd_reply_reserve(nd_reply *r, size_t more);
void nd_reply_raw(nd_reply *r, const void *p, size_t n);      /* bytes that are RESP already */
void nd_reply_simple(nd_reply *r, const char *text);          /* +text */
void nd_reply_error(nd_reply *r, const char *text);           /* -text, text begins with its code: "ERR …" */
void nd_reply_errorf(nd_reply *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void nd_reply_int(nd_reply *r, int64_t v);                    /* :v */
void nd_reply_bulk(nd_reply *r, const void *p, size_t n);     /* $n */
void nd_reply_nil(nd_reply *r);                               /* $-1 or _ */
void nd_reply_nil_array(nd_reply *r);                         /* *-1 or _ */
void nd_reply_array(nd_reply *r, size_t n);                   /* *n: n replies follow */
void nd_reply_map(nd_reply *r, size_t pairs);                 /* %n, or *2n in RESP2 */
#endif
