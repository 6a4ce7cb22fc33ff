/* test_acl.c: the byte form of users, every truncation of it, and what the check says. */
#include <string.h>

#include "acl.h"

static nd_cmdtab *table(void)
{
    nd_cmdtab *t = nd_cmdtab_new();
    ND_ASSERT(nd_cmdtab_add(t, "get", 2, 2, ND_CMD_READ, 1, 1, 1, "get") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "set", 1, -3, ND_CMD_WRITE | ND_CMD_VARIABLE_ACCESS, 1, 1, 1, "set") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "bitfield", 9, -2, ND_CMD_WRITE | ND_CMD_VARIABLE_ACCESS, 1, 1, 1, "bitfield") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "copy", 94, -3, ND_CMD_WRITE, 1, 2, 1, "copy") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "mget", 3, -2, ND_CMD_READ, 1, -1, 1, "mget") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "exists", 82, -2, ND_CMD_READ, 1, -1, 1, "exists") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "select", 261, 2, ND_CMD_PYTHON, 0, 0, 0, "") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "auth", 262, -2, ND_CMD_PYTHON | ND_CMD_NO_AUTH, 0, 0, 0, "") == 0);
    nd_cmdtab_key_access(t, 2, ND_ACL_READ, ND_ACL_READ);
    nd_cmdtab_key_access(t, 94, ND_ACL_READ, ND_ACL_WRITE);
    nd_cmdtab_key_access(t, 3, ND_ACL_READ, ND_ACL_READ);
    return t;
}

/* ---- the byte form ---- */

static uint8_t form[4096];
static size_t form_n, map_at;

static void put(uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        form[form_n++] = (uint8_t)(v >> 8 * i);
}

static void text(const char *s) { memcpy(form + form_n, s, strlen(s)), form_n += strlen(s); }

static void begin(uint8_t flags, uint16_t selectors)
{
    form_n = 0;
    put(flags, 1), put(3, 2), text("bob"), put(selectors, 2);
}

static void selector(uint8_t flags, const uint16_t *ids, size_t n)
{
    put(flags, 1);
    map_at = form_n;
    memset(form + form_n, 0, 128);
    form_n += 128;
    for (size_t i = 0; i < n; i++)
        form[map_at + ids[i] / 8] |= (uint8_t)(1 << ids[i] % 8);
}

static void pattern(uint8_t access, const char *glob) { put(access, 1), put(strlen(glob), 4), text(glob); }

static int check(nd_cmdtab *t, const nd_acl_user *u, const char *line, uint32_t *at)
{
    char words[256];
    nd_arg argv[16];
    uint32_t argc = 0;
    snprintf(words, sizeof words, "%s", line);
    for (char *w = strtok(words, " "); w; w = strtok(NULL, " "))
        argv[argc++] = (nd_arg){(uint8_t *)w, (uint32_t)strlen(w)};
    return nd_acl_check(u, t, argv, argc, at);
}

static void expect(nd_cmdtab *t, const nd_acl_user *u, const char *line, int verdict, uint32_t where)
{
    uint32_t at;
    ND_ASSERT(check(t, u, line, &at) == verdict && at == where);
}

static void test_rules(nd_cmdtab *t)
{
    begin(ND_ACL_ENABLED, 2);
    selector(0, (uint16_t[]){2, 1, 94, 3, 82, 9}, 6);
    put(3, 4), pattern(ND_ACL_READ | ND_ACL_WRITE, "a*"), pattern(ND_ACL_READ, "r*"), pattern(ND_ACL_WRITE, "w*");
    put(1, 4), put(261, 2), put(1, 4), text("0");
    selector(ND_ACL_ALL_COMMANDS, NULL, 0);
    put(1, 4), pattern(ND_ACL_READ | ND_ACL_WRITE, "s"), put(0, 4);
    nd_acl_user *u = nd_acl_user_new(form, form_n);
    ND_ASSERT(u && u->flags == ND_ACL_ENABLED && !u->unrestricted && u->name_len == 3 && !memcmp(u->name, "bob", 3));
    expect(t, u, "get a1", ND_ACL_OK, 0);
    expect(t, u, "get w1", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "GET r1", ND_ACL_OK, 0);
    expect(t, u, "set r1 x", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "set w1 x EX 10", ND_ACL_OK, 0);
    expect(t, u, "set w1 x EX 10 gEt", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "set w1 get", ND_ACL_OK, 0);
    expect(t, u, "bitfield r1 get u8 0 overflow fail", ND_ACL_OK, 0);
    expect(t, u, "bitfield r1 get u8 0 set u8 0 1", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "bitfield w1 get u8", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "copy r1 w1", ND_ACL_OK, 0);
    expect(t, u, "copy w1 r1", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "copy r1 r2", ND_ACL_DENIED_KEY, 2);
    expect(t, u, "mget a1 a2 zz a3", ND_ACL_DENIED_KEY, 3);
    expect(t, u, "mget s s", ND_ACL_OK, 0);
    expect(t, u, "mget a1 s", ND_ACL_DENIED_KEY, 2);
    expect(t, u, "exists w1 r1", ND_ACL_OK, 0); /* looking whether a key exists needs neither */
    expect(t, u, "select 0", ND_ACL_OK, 0);
    nd_acl_user_free(u);
    begin(0, 1);
    selector(0, (uint16_t[]){2}, 1);
    put(0, 4), put(1, 4), put(261, 2), put(1, 4), text("0");
    u = nd_acl_user_new(form, form_n);
    expect(t, u, "select 0", ND_ACL_OK, 0);
    expect(t, u, "select 1", ND_ACL_DENIED_COMMAND, 0);
    expect(t, u, "auth x", ND_ACL_OK, 0);
    expect(t, u, "get a", ND_ACL_DENIED_KEY, 1);
    expect(t, u, "set a x", ND_ACL_DENIED_COMMAND, 0);
    nd_acl_user_free(u);
}

static void test_counting(void)
{
    begin(ND_ACL_ENABLED | ND_ACL_NOPASS, 1);
    selector(ND_ACL_ALL_COMMANDS | ND_ACL_ALL_KEYS, NULL, 0);
    put(0, 4), put(0, 4);
    nd_acl_user *u = nd_acl_user_new(form, form_n);
    ND_ASSERT(u->unrestricted && nd_acl_user_ref(u) == u);
    nd_acl_user_free(u);
    ND_ASSERT(u->refs == 1);
    nd_acl_user_free(u);
}

/* Every length but the right one is refused, and so are counts that the bytes cannot hold. */
static void test_broken_forms(void)
{
    begin(ND_ACL_ENABLED, 2);
    for (int i = 0; i < 2; i++) {
        selector(0, (uint16_t[]){2}, 1);
        put(1, 4), pattern(ND_ACL_READ, "abc"), put(1, 4), put(261, 2), put(1, 4), text("0");
    }
    for (size_t n = 0; n < form_n; n++) {
        uint8_t *exact = malloc(n + 1); /* so that a read behind the end is seen */
        memcpy(exact, form, n);
        ND_ASSERT(!nd_acl_user_new(exact, n));
        free(exact);
    }
    form[form_n] = 0;
    ND_ASSERT(!nd_acl_user_new(form, form_n + 1));
    memset(form + map_at + 128, 0xff, 4);
    ND_ASSERT(!nd_acl_user_new(form, form_n));
}

int main(void)
{
    nd_cmdtab *t = table();
    test_rules(t);
    test_counting();
    test_broken_forms();
    nd_cmdtab_free(t);
    return 0;
}
