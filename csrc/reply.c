/* reply.c: see reply.h. */
#include "reply.h"

#include <stdarg.h>
#include <string.h>

#include "num.h"

#define HEADER_BYTES_MAX (1 + ND_I64_CHARS + 2)   /* type byte, number, CR LF */

void nd_reply_init(nd_reply *r)
{
    memset(r, 0, sizeof *r);
    r->resp = 2;
}

void nd_reply_free(nd_reply *r)
{
    free(r->buf);
    r->buf = NULL;
    r->len = r->cap = 0;
}

static __attribute__((noinline)) void grow(nd_reply *r, size_t more)
{
    size_t cap = r->cap < 512 ? 512 : r->cap;
    while (cap - r->len < more)
        cap += cap;
    uint8_t *buf = realloc(r->buf, cap);
    ND_ASSERT(buf != NULL);
    r->buf = buf;
    r->cap = cap;
}

void nd_reply_reserve(nd_reply *r, size_t more)
{
    if (r->cap - r->len < more)
        grow(r, more);
}

void nd_reply_raw(nd_reply *r, const void *p, size_t n)
{
    if (r->discard || n == 0)
        return;
    nd_reply_reserve(r, n);
    memcpy(r->buf + r->len, p, n);
    r->len += n;
}

/* Type byte, number, CR LF; room for `more` bytes behind it. */
static void put_header(nd_reply *r, char type, int64_t v, size_t more)
{
    nd_reply_reserve(r, HEADER_BYTES_MAX + more);
    uint8_t *p = r->buf + r->len;
    *p++ = (uint8_t)type;
    if (v >= 0 && v <= 9)
        *p++ = (uint8_t)('0' + v);
    else
        p += nd_print_i64((char *)p, v);
    *p++ = '\r';
    *p++ = '\n';
    r->len = (size_t)(p - r->buf);
}

void nd_reply_simple(nd_reply *r, const char *text)
{
    if (r->discard)
        return;
    size_t n = strlen(text);
    nd_reply_reserve(r, n + 3);
    uint8_t *p = r->buf + r->len;
    *p++ = '+';
    memcpy(p, text, n);
    memcpy(p + n, "\r\n", 2);
    r->len += n + 3;
}

/* An error is one line: line ends within it (they may come from a client's argument) become spaces. */
static void put_error(nd_reply *r, const char *text, size_t n)
{
    nd_reply_reserve(r, n + 3);
    uint8_t *p = r->buf + r->len;
    *p++ = '-';
    for (size_t i = 0; i < n; i++)
        p[i] = text[i] == '\r' || text[i] == '\n' ? ' ' : (uint8_t)text[i];
    memcpy(p + n, "\r\n", 2);
    r->len += n + 3;
}

void nd_reply_error(nd_reply *r, const char *text)
{
    if (!r->discard)
        put_error(r, text, strlen(text));
}

void nd_reply_errorf(nd_reply *r, const char *fmt, ...)
{
    if (r->discard)
        return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ND_ASSERT(n >= 0);
    put_error(r, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

void nd_reply_int(nd_reply *r, int64_t v)
{
    if (!r->discard)
        put_header(r, ':', v, 0);
}

void nd_reply_bulk(nd_reply *r, const void *p, size_t n)
{
    if (r->discard)
        return;
    put_header(r, '$', (int64_t)n, n + 2);
    if (n > 0)
        memcpy(r->buf + r->len, p, n);
    memcpy(r->buf + r->len + n, "\r\n", 2);
    r->len += n + 2;
}

void nd_reply_nil(nd_reply *r)
{
    if (r->resp == 3)
        nd_reply_raw(r, "_\r\n", 3);
    else
        nd_reply_raw(r, "$-1\r\n", 5);
}

void nd_reply_nil_array(nd_reply *r)
{
    if (r->resp == 3)
        nd_reply_raw(r, "_\r\n", 3);
    else
        nd_reply_raw(r, "*-1\r\n", 5);
}

void nd_reply_array(nd_reply *r, size_t n)
{
    if (!r->discard)
        put_header(r, '*', (int64_t)n, 0);
}

void nd_reply_map(nd_reply *r, size_t pairs)
{
    if (r->discard)
        return;
    if (r->resp == 3)
        put_header(r, '%', (int64_t)pairs, 0);
    else
        put_header(r, '*', (int64_t)(2 * pairs), 0);
}
