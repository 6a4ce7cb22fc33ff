/* The scanner: whole commands, every split of them, inline words, and what is refused. Silent when all holds. */
#include "../../csrc/resp.h"

#include <string.h>

static void scan_whole(const char *bytes, size_t len, uint32_t argc, const char **want)
{
    /* at every split: nothing before the last byte, then the same arguments, from memory that moved meanwhile */
    for (size_t cut = 0; cut <= len; cut++) {
        nd_resp r;
        nd_resp_init(&r);
        uint8_t *first = malloc(cut + 1), *all = malloc(len + 1);
        memcpy(first, bytes, cut);
        memcpy(all, bytes, len);
        if (cut < len)
            ND_ASSERT(nd_resp_scan(&r, first, cut) == 0);
        free(first);
        ND_ASSERT(nd_resp_scan(&r, all, len) == (int64_t)len);
        ND_ASSERT(r.argc == argc);
        for (uint32_t i = 0; i < argc; i++)
            ND_ASSERT(r.argv[i].len == strlen(want[i]) && memcmp(r.argv[i].ptr, want[i], r.argv[i].len) == 0);
        nd_resp_next(&r);
        ND_ASSERT(!nd_resp_partial(&r));
        free(all);
        nd_resp_free(&r);
    }
}

static void refused(const char *bytes, const char *error)
{
    nd_resp r;
    nd_resp_init(&r);
    uint8_t copy[256];
    memcpy(copy, bytes, strlen(bytes));
    ND_ASSERT(nd_resp_scan(&r, copy, strlen(bytes)) < 0);
    ND_ASSERT(strcmp(r.error, error) == 0);
    nd_resp_free(&r);
}

static void pipeline(void)
{
    char bytes[] = "*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n";
    size_t len = sizeof bytes - 1, at = 0;
    uint32_t argcs[3] = {1, 2, 1};
    nd_resp r;
    nd_resp_init(&r);
    for (int i = 0; i < 3; i++) {
        int64_t n = nd_resp_scan(&r, (uint8_t *)bytes + at, len - at);
        ND_ASSERT(n > 0 && r.argc == argcs[i]);
        at += (size_t)n;
        nd_resp_next(&r);
    }
    ND_ASSERT(at == len);
    nd_resp_free(&r);
}

static void huge_argument_table_is_returned(void)
{
    nd_resp r;
    nd_resp_init(&r);
    size_t cap = 5000 * 8 + 32, len = 0;
    uint8_t *bytes = malloc(cap);
    len += (size_t)snprintf((char *)bytes, cap, "*5000\r\n");
    for (int i = 0; i < 5000; i++)
        len += (size_t)snprintf((char *)bytes + len, cap - len, "$1\r\nx\r\n");
    ND_ASSERT(nd_resp_scan(&r, bytes, len) == (int64_t)len && r.argc == 5000);
    nd_resp_next(&r);
    ND_ASSERT(r.cap == 0);
    nd_resp_free(&r);
    free(bytes);
}

int main(void)
{
#define WHOLE(bytes, ...) \
    do { \
        const char *want[] = {__VA_ARGS__}; \
        scan_whole(bytes, sizeof(bytes) - 1, sizeof want / sizeof *want, want); \
    } while (0)
    WHOLE("*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n", "GET", "key:1");
    WHOLE("*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n", "SET", "", "\r\n\r\n");
    WHOLE("SET a  \"b c\\x41\\n\" 'd\\'e'\r\n", "SET", "a", "b cA\n", "d'e");
    WHOLE("PING\n", "PING");
    scan_whole("*0\r\n", 4, 0, NULL);
    scan_whole("*-1\r\n", 5, 0, NULL);
    scan_whole("\r\n", 2, 0, NULL);
    pipeline();
    huge_argument_table_is_returned();
    refused("*x\r\n", "Protocol error: invalid multibulk length");
    refused("*1048577\r\n", "Protocol error: invalid multibulk length");
    refused("*1\r\n:1\r\n", "Protocol error: expected '$', got ':'");
    refused("*1\r\n$-1\r\n", "Protocol error: invalid bulk length");
    refused("*1\r\n$99999999999999999999\r\n", "Protocol error: invalid bulk length");
    refused("*1\r\n$16777217\r\n", "Protocol error: bulk string longer than 16777216 bytes");
    refused("*1\r\n$1\r\nabc\r\n", "Protocol error: bulk string not ended by CRLF");
    refused("SET \"a\r\n", "Protocol error: unbalanced quotes in request");
    refused("SET \"a\"b\r\n", "Protocol error: unbalanced quotes in request");
    return 0;
}
