#include "resp.h"

#include <errno.h>
#include <string.h>

void nd_resp_init(nd_resp *r)
{
    memset(r, 0, sizeof *r);
    r->bulk = -1;
}

void nd_resp_free(nd_resp *r)
{
    free(r->argv);
    free(r->offset);
    nd_resp_init(r);
}

void nd_resp_next(nd_resp *r)
{
    r->argc = r->want = r->pos = 0;
    r->bulk = -1;
    if (r->cap > 1024) /* one huge command must not pin its table for the life of the connection */
        nd_resp_free(r);
}

static int64_t fail(nd_resp *r, const char *text)
{
    r->error = text;
    return -EPROTO;
}

static void grow(nd_resp *r, uint32_t want)
{
    uint32_t cap = r->cap ? r->cap : 8;
    while (cap < want)
        cap *= 2;
    r->argv = realloc(r->argv, cap * sizeof *r->argv);
    r->offset = realloc(r->offset, cap * sizeof *r->offset);
    ND_ASSERT(r->argv && r->offset);
    r->cap = cap;
}

static void add_arg(nd_resp *r, uint32_t offset, uint32_t len)
{
    if (r->argc == r->cap)
        grow(r, r->argc + 1);
    r->offset[r->argc] = offset;
    r->argv[r->argc++].len = len;
}

/* A decimal line "<digits>\r\n" at buf[at..len). 1 = *value and *next filled, 0 = incomplete, -1 = not a number. */
static int number_line(const uint8_t *buf, size_t len, size_t at, int64_t *value, size_t *next)
{
    size_t i = at;
    bool negative = i < len && buf[i] == '-';
    int64_t v = 0;
    unsigned digits = 0;
    for (i += negative; i < len && buf[i] >= '0' && buf[i] <= '9'; i++) {
        if (++digits > 18)
            return -1;
        v = v * 10 + (buf[i] - '0');
    }
    if (i == len)
        return 0;
    if (buf[i] != '\r' || digits == 0)
        return -1;
    if (i + 1 >= len)
        return 0;
    if (buf[i + 1] != '\n')
        return -1;
    *value = negative ? -v : v;
    *next = i + 2;
    return 1;
}

static int64_t array_header(nd_resp *r, const uint8_t *buf, size_t len)
{
    int64_t n;
    size_t next;
    int rc = number_line(buf, len, 1, &n, &next);
    if (rc == 0)
        return len > ND_RESP_INLINE_BYTES_MAX ? fail(r, "Protocol error: too big mbulk count string") : 0;
    if (rc < 0 || n > ND_RESP_ARGS_MAX)
        return fail(r, "Protocol error: invalid multibulk length");
    if (r->strict && n > ND_RESP_STRICT_ARGS_MAX)
        return fail(r, "Protocol error: unauthenticated multibulk length");
    if (n <= 0) {
        r->pos = (uint32_t)next;
        return (int64_t)next;
    }
    r->want = (uint32_t)n;
    r->pos = (uint32_t)next;
    return 0;
}

static int64_t bulk_header(nd_resp *r, const uint8_t *buf, size_t len)
{
    if (buf[r->pos] != '$') {
        snprintf(r->errbuf, sizeof r->errbuf, "Protocol error: expected '$', got '%c'", buf[r->pos]);
        return fail(r, r->errbuf);
    }
    int64_t n;
    size_t next;
    int rc = number_line(buf, len, r->pos + 1, &n, &next);
    if (rc == 0)
        return len - r->pos > 64 ? fail(r, "Protocol error: too big bulk count string") : 0;
    if (rc < 0 || n < 0)
        return fail(r, "Protocol error: invalid bulk length");
    if (r->strict && n > ND_RESP_STRICT_BULK_BYTES_MAX)
        return fail(r, "Protocol error: unauthenticated bulk length");
    if (n > ND_VALUE_BYTES_MAX)
        return fail(r, "Protocol error: bulk string longer than 16777216 bytes");
    if (next + (size_t)n > ND_ENTRY_BYTES_MAX)
        return fail(r, "Protocol error: command longer than 17825792 bytes");
    r->bulk = n;
    r->pos = (uint32_t)next;
    return 1;
}

static int64_t finish(nd_resp *r, uint8_t *buf)
{
    for (uint32_t i = 0; i < r->argc; i++)
        r->argv[i].ptr = buf + r->offset[i];
    return r->pos;
}

static int64_t scan_array(nd_resp *r, uint8_t *buf, size_t len)
{
    if (r->want == 0) {
        int64_t done = array_header(r, buf, len);
        if (done != 0 || r->want == 0)
            return done;
    }
    while (r->argc < r->want) {
        if (r->bulk < 0) {
            if (r->pos >= len)
                return 0;
            int64_t rc = bulk_header(r, buf, len);
            if (rc <= 0)
                return rc;
        }
        if (r->pos + (size_t)r->bulk + 2 > len)
            return 0;
        if (buf[r->pos + r->bulk] != '\r' || buf[r->pos + r->bulk + 1] != '\n')
            return fail(r, "Protocol error: bulk string not ended by CRLF");
        add_arg(r, r->pos, (uint32_t)r->bulk);
        r->pos += (uint32_t)r->bulk + 2;
        r->bulk = -1;
    }
    return finish(r, buf);
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint8_t escaped(uint8_t c)
{
    switch (c) {
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'b': return '\b';
    case 'a': return '\a';
    default: return c;
    }
}

/* One quoted piece beginning after its quote at *i; unescapes to *out. 0 = closed properly, -1 = unbalanced. */
static int unquote(const uint8_t *buf, size_t end, size_t *i, uint8_t *dst, size_t *out, uint8_t quote)
{
    for (; *i < end; (*i)++) {
        uint8_t c = buf[*i];
        if (c == quote) {
            (*i)++;
            return *i < end && buf[*i] != ' ' && buf[*i] != '\t' ? -1 : 0;
        }
        if (quote == '"' && c == '\\' && *i + 3 < end && buf[*i + 1] == 'x' && hex_digit(buf[*i + 2]) >= 0 &&
            hex_digit(buf[*i + 3]) >= 0) {
            dst[(*out)++] = (uint8_t)(hex_digit(buf[*i + 2]) * 16 + hex_digit(buf[*i + 3]));
            *i += 3;
        } else if (quote == '"' && c == '\\' && *i + 1 < end) {
            dst[(*out)++] = escaped(buf[++*i]);
        } else if (quote == '\'' && c == '\\' && *i + 1 < end && buf[*i + 1] == '\'') {
            dst[(*out)++] = buf[++*i];
        } else {
            dst[(*out)++] = c;
        }
    }
    return -1;
}

static bool blank(uint8_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\0' || c == '\v' || c == '\f'; }

static int64_t scan_inline(nd_resp *r, uint8_t *buf, size_t len)
{
    const uint8_t *newline = memchr(buf, '\n', len < ND_RESP_INLINE_BYTES_MAX ? len : ND_RESP_INLINE_BYTES_MAX);
    if (!newline)
        return len >= ND_RESP_INLINE_BYTES_MAX ? fail(r, "Protocol error: too big inline request") : 0;
    size_t end = (size_t)(newline - buf), i = 0, out = 0;
    r->pos = (uint32_t)end + 1;
    if (end > 0 && buf[end - 1] == '\r')
        end--;
    for (;;) {
        while (i < end && blank(buf[i]))
            i++;
        if (i >= end)
            return finish(r, buf);
        /* Unescaping never lengthens, so a word is rewritten in place, behind the reader. */
        size_t start = out = i;
        while (i < end && !blank(buf[i])) {
            uint8_t c = buf[i++];
            if (c != '"' && c != '\'')
                buf[out++] = c;
            else if (unquote(buf, end, &i, buf, &out, c) < 0)
                return fail(r, "Protocol error: unbalanced quotes in request");
        }
        add_arg(r, (uint32_t)start, (uint32_t)(out - start));
    }
}

int64_t nd_resp_scan(nd_resp *r, uint8_t *buf, size_t len)
{
    if (len == 0)
        return 0;
    if (buf[0] == '*')
        return scan_array(r, buf, len);
    return scan_inline(r, buf, len);
}
