/* test_cmd.c: the command table, numbers, slots, patterns and replies, without a store. Silent on success. */
#include <errno.h>
#include <string.h>

#include "cmd.h"
#include "cmd_util.h"
#include "num.h"
#include "slot.h"

static nd_arg arg(const char *text)
{
    return (nd_arg){(const uint8_t *)text, (uint32_t)strlen(text)};
}

static const nd_cmdrow *find(const nd_cmdtab *t, const char *name, const char *sub)
{
    nd_arg argv[2] = {arg(name), arg(sub ? sub : "")};
    return nd_cmdtab_find(t, argv, sub ? 2 : 1);
}

static nd_cmdtab *table_of_a_few(void)
{
    nd_cmdtab *t = nd_cmdtab_new();
    ND_ASSERT(nd_cmdtab_add(t, "get", 2, 2, ND_CMD_READ, 1, 1, 1, "get") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "mset", 10, -3, ND_CMD_WRITE, 1, -1, 2, "mset") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "bitop", 11, -4, ND_CMD_WRITE, 2, -1, 1, "bitop") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "incrbyfloat", 21, 3, ND_CMD_WRITE, 1, 1, 1, "incrbyfloat") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "cluster", 30, -2, ND_CMD_PYTHON, 0, 0, 0, "") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "cluster|countkeysinslot", 31, 3, ND_CMD_PYTHON, 0, 0, 0, "") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "cluster|get", 32, 3, ND_CMD_PYTHON, 0, 0, 0, "") == 0);
    return t;
}

static void test_find(void)
{
    nd_cmdtab *t = table_of_a_few();
    ND_ASSERT(nd_cmdtab_add(t, "GET", 3, 2, ND_CMD_READ, 1, 1, 1, "get") == -EEXIST);
    ND_ASSERT(nd_cmdtab_add(t, "other", 2, 2, ND_CMD_READ, 1, 1, 1, "get") == -EEXIST);
    ND_ASSERT(nd_cmdtab_add(t, "other", 3, 2, ND_CMD_READ, 1, 1, 1, "nosuch") == -ENOENT);
    ND_ASSERT(find(t, "get", NULL)->id == 2 && find(t, "GeT", NULL)->id == 2 && find(t, "GET", "x")->id == 2);
    ND_ASSERT(find(t, "IncrByFloat", NULL)->id == 21 && find(t, "incrbyfloa", NULL) == NULL);
    ND_ASSERT(find(t, "", NULL) == NULL && find(t, "ge", NULL) == NULL && find(t, "gett", NULL) == NULL);
    ND_ASSERT(find(t, "a name that is much longer than any", NULL) == NULL);
    ND_ASSERT(find(t, "cluster", NULL)->id == 30 && find(t, "CLUSTER", "COUNTKEYSINSLOT")->id == 31);
    ND_ASSERT(find(t, "cluster", "get")->id == 32 && find(t, "cluster", "set") == NULL);
    ND_ASSERT(find(t, "cluster|get", NULL) == NULL && find(t, "countkeysinslot", NULL) == NULL);
    nd_arg zero = {(const uint8_t *)"get\0", 4}, odd = {(const uint8_t *)"\xe7\xe5\xf4", 3};
    ND_ASSERT(nd_cmdtab_find(t, &zero, 1) == NULL && nd_cmdtab_find(t, &odd, 1) == NULL);
    ND_ASSERT(nd_cmdtab_by_id(t, 21) == find(t, "incrbyfloat", NULL) && nd_cmdtab_by_id(t, 22) == NULL);
    ND_ASSERT(nd_cmdtab_by_id(t, 65535) == NULL);
    nd_cmdtab_free(t);
}

static void test_keys(void)
{
    nd_cmdtab *t = table_of_a_few();
    const nd_cmdrow *get = find(t, "get", NULL), *mset = find(t, "mset", NULL), *bitop = find(t, "bitop", NULL);
    ND_ASSERT(nd_cmdrow_key(get, 2, 0) == 1 && nd_cmdrow_key(get, 2, 1) == 0);
    ND_ASSERT(nd_cmdrow_key(mset, 5, 0) == 1 && nd_cmdrow_key(mset, 5, 1) == 3 && nd_cmdrow_key(mset, 5, 2) == 0);
    ND_ASSERT(nd_cmdrow_key(bitop, 5, 0) == 2 && nd_cmdrow_key(bitop, 5, 2) == 4 && nd_cmdrow_key(bitop, 5, 3) == 0);
    ND_ASSERT(nd_cmdrow_key(find(t, "cluster", NULL), 2, 0) == 0);
    ND_ASSERT(nd_cmdrow_arity_fits(get, 2) && !nd_cmdrow_arity_fits(get, 3));
    ND_ASSERT(nd_cmdrow_arity_fits(mset, 3) && nd_cmdrow_arity_fits(mset, 9) && !nd_cmdrow_arity_fits(mset, 2));
    nd_cmdtab_free(t);
}

static void test_error_texts(void)
{
    nd_cmdtab *t = table_of_a_few();
    char text[ND_CMD_ERROR_BYTES], many[400];
    nd_arg unknown[] = {arg("nosuch"), arg("a"), arg("b c")};
    nd_cmdtab_unknown(t, unknown, 3, text);
    ND_ASSERT(!strcmp(text, "ERR unknown command 'nosuch', with args beginning with: 'a' 'b c' "));
    nd_arg sub[] = {arg("cluster"), arg("nosuch")};
    nd_cmdtab_unknown(t, sub, 2, text);
    ND_ASSERT(!strcmp(text, "ERR unknown subcommand 'nosuch'. Try CLUSTER HELP."));
    memset(many, 'y', sizeof many);
    nd_arg large[] = {{(uint8_t *)many, sizeof many}, {(uint8_t *)many, sizeof many}, {(uint8_t *)many, sizeof many}};
    nd_cmdtab_unknown(t, large, 3, text);
    ND_ASSERT(strlen(text) == strlen("ERR unknown command '', with args beginning with: '' ") + 256);
    nd_cmdtab_free(t);
}

static void test_integers(void)
{
    static const char *const good[] = {"0", "1", "-1", "9", "10", "9223372036854775807", "-9223372036854775808"};
    static const char *const bad[] = {"", "-", "-0", "00", "01", "+1", " 1", "1 ", "1.0", "9223372036854775808",
                                      "-9223372036854775809", "99999999999999999999", "18446744073709551616", "x"};
    char buf[ND_I64_CHARS];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t v;
        nd_arg a = arg(good[i]);
        ND_ASSERT(nd_parse_i64(a.ptr, a.len, &v));
        ND_ASSERT(nd_print_i64(buf, v) == a.len && memcmp(buf, a.ptr, a.len) == 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t v = 7;
        nd_arg a = arg(bad[i]);
        ND_ASSERT(!nd_parse_i64(a.ptr, a.len, &v) && v == 7);
    }
    uint64_t u;
    ND_ASSERT(nd_parse_u64((const uint8_t *)"18446744073709551615", 20, &u) && u == UINT64_MAX);
    ND_ASSERT(!nd_parse_u64((const uint8_t *)"-1", 2, &u));
}

static void print_as(const char *text, const char *expected)
{
    static char buf[ND_LONG_DOUBLE_CHARS];
    long double v;
    nd_arg a = arg(text);
    ND_ASSERT(nd_parse_long_double(a.ptr, a.len, &v));
    ND_ASSERT(nd_print_long_double(buf, v) == strlen(expected) && memcmp(buf, expected, strlen(expected)) == 0);
}

static void test_long_doubles(void)
{
    static const char *const bad[] = {"", " 1", "1 ", "nan", "1e5000", "1e-5000", "x", "1,5", "0x"};
    print_as("3.0", "3");
    print_as("-0", "0");
    print_as("1e5", "100000");
    print_as("5.0e3", "5000");
    print_as("0.1", "0.1");
    print_as("-1.50", "-1.5");
    print_as("0x10", "16");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        long double v;
        nd_arg a = arg(bad[i]);
        ND_ASSERT(!nd_parse_long_double(a.ptr, a.len, &v));
    }
}

/* One bit at a time, as the standard defines it. */
static uint16_t crc_by_bits(const uint8_t *p, uint32_t len)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < len; i++) {
        crc ^= (uint32_t)p[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
    return (uint16_t)crc;
}

static uint32_t slot(const char *key)
{
    return nd_slot_of((const uint8_t *)key, (uint32_t)strlen(key));
}

static void test_slots(void)
{
    uint8_t bytes[64];
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 167 + 13);
    for (uint32_t len = 0; len <= sizeof bytes; len++)
        ND_ASSERT(nd_crc16(bytes, len) == crc_by_bits(bytes, len));
    ND_ASSERT(nd_crc16((const uint8_t *)"123456789", 9) == 0x31c3);
    ND_ASSERT(slot("") == 0 && slot("foo") == 12182 && slot("somekey") == 11058);
    ND_ASSERT(slot("{foo}bar") == slot("foo") && slot("a{foo}{bar}") == slot("foo") && slot("a{foo}}") == slot("foo"));
    ND_ASSERT(slot("foo{}bar") == crc_by_bits((const uint8_t *)"foo{}bar", 8) % ND_SLOTS);
    ND_ASSERT(slot("foo{{bar}}") == slot("{bar") && slot("{a") == crc_by_bits((const uint8_t *)"{a", 2) % ND_SLOTS);
}

static bool glob(const char *pattern, const char *text)
{
    return cmd_glob((const uint8_t *)pattern, (uint32_t)strlen(pattern), (const uint8_t *)text, (uint32_t)strlen(text));
}

static void test_glob(void)
{
    ND_ASSERT(glob("*", "") && glob("", "") && !glob("", "a") && glob("a*b*c", "axxbxxc") && !glob("a*b*c", "axxbxx"));
    ND_ASSERT(glob("h?llo", "hello") && glob("h[ae]llo", "hallo") && !glob("h[^e]llo", "hello"));
    ND_ASSERT(glob("[b-a]", "a") && glob("\\*", "*") && !glob("\\*", "a") && glob("[a", "a") && glob("a\\", "a\\"));
    char many[3000];
    memset(many, 'a', sizeof many);   /* exponential for a matcher that retries every star */
    ND_ASSERT(!cmd_glob((const uint8_t *)"*a*a*a*a*a*a*a*a*a*b", 20, (const uint8_t *)many, sizeof many));
}

static void expect(nd_reply *r, const char *bytes)
{
    ND_ASSERT(r->len == strlen(bytes) && memcmp(r->buf, bytes, r->len) == 0);
    r->len = 0;
}

static void test_replies(void)
{
    nd_reply r;
    nd_reply_init(&r);
    nd_reply_simple(&r, "OK");
    nd_reply_int(&r, -12);
    nd_reply_bulk(&r, "", 0);
    nd_reply_bulk(&r, "ab", 2);
    expect(&r, "+OK\r\n:-12\r\n$0\r\n\r\n$2\r\nab\r\n");
    nd_reply_nil(&r);
    nd_reply_nil_array(&r);
    nd_reply_map(&r, 2);
    nd_reply_errorf(&r, "ERR %s", "a\r\nb");
    expect(&r, "$-1\r\n*-1\r\n*4\r\n-ERR a  b\r\n");
    r.resp = 3;
    nd_reply_nil(&r);
    nd_reply_nil_array(&r);
    nd_reply_map(&r, 2);
    nd_reply_array(&r, 10);
    expect(&r, "_\r\n_\r\n%2\r\n*10\r\n");
    r.discard = true;
    nd_reply_simple(&r, "OK");
    nd_reply_error(&r, "ERR x");
    nd_reply_bulk(&r, "ab", 2);
    ND_ASSERT(r.len == 0);
    nd_reply_free(&r);
}

int main(void)
{
    test_find();
    test_keys();
    test_error_texts();
    test_integers();
    test_long_doubles();
    test_slots();
    test_glob();
    test_replies();
    return 0;
}
