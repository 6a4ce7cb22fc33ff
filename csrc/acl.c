/* acl.c: see acl.h. */
#include "acl.h"

#include <string.h>
#include <strings.h>

#include "cmd_util.h"

#define MAP_BYTES 128

_Static_assert(MAP_BYTES * 8 == ND_CMD_IDS_MAX, "one bit per command id");

typedef struct acl_pattern {
    uint8_t access;
    uint32_t len;
    const uint8_t *bytes;
} acl_pattern;

typedef struct acl_first {
    uint16_t id;
    uint32_t len;
    const uint8_t *bytes;
} acl_first;

struct acl_selector {
    uint8_t flags;
    uint8_t allowed[MAP_BYTES];
    uint32_t patterns_n, firsts_n;
    acl_pattern *patterns;
    acl_first *firsts;
};

/* ---- the byte form ---- */

typedef struct reader {
    const uint8_t *p;
    uint64_t left;
    bool good;
} reader;

static const uint8_t *take(reader *r, uint64_t n)
{
    if (!r->good || r->left < n) {
        r->good = false;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

static uint32_t take_number(reader *r, uint32_t bytes)
{
    uint32_t v = 0;
    const uint8_t *p = take(r, bytes);
    for (uint32_t i = 0; p && i < bytes; i++)
        v |= (uint32_t)p[i] << 8 * i;
    return v;
}

static uint8_t *take_copy(reader *r, uint32_t n)
{
    const uint8_t *p = take(r, n);
    uint8_t *copy = p ? malloc(n + 1) : NULL;
    ND_ASSERT(copy || !p);
    if (p) {
        memcpy(copy, p, n);
        copy[n] = 0;
    }
    return copy;
}

/* How many items of at least `bytes` each may follow; a count that the bytes cannot hold is refused before allocation. */
static uint32_t take_count(reader *r, uint32_t width, uint32_t bytes)
{
    uint32_t n = take_number(r, width);
    if ((uint64_t)n * bytes > r->left)
        r->good = false;
    return r->good ? n : 0;
}

static void read_selector(reader *r, acl_selector *s)
{
    s->flags = (uint8_t)take_number(r, 1);
    const uint8_t *map = take(r, MAP_BYTES);
    if (map)
        memcpy(s->allowed, map, MAP_BYTES);
    s->patterns_n = take_count(r, 4, 5);
    s->patterns = calloc(s->patterns_n + 1, sizeof *s->patterns);
    ND_ASSERT(s->patterns);
    for (uint32_t i = 0; i < s->patterns_n && r->good; i++) {
        s->patterns[i].access = (uint8_t)take_number(r, 1);
        s->patterns[i].len = take_number(r, 4);
        s->patterns[i].bytes = take_copy(r, s->patterns[i].len);
    }
    s->firsts_n = take_count(r, 4, 6);
    s->firsts = calloc(s->firsts_n + 1, sizeof *s->firsts);
    ND_ASSERT(s->firsts);
    for (uint32_t i = 0; i < s->firsts_n && r->good; i++) {
        s->firsts[i].id = (uint16_t)take_number(r, 2);
        s->firsts[i].len = take_number(r, 4);
        s->firsts[i].bytes = take_copy(r, s->firsts[i].len);
    }
}

nd_acl_user *nd_acl_user_new(const uint8_t *p, uint64_t n)
{
    reader r = {p, n, true};
    nd_acl_user *u = calloc(1, sizeof *u);
    ND_ASSERT(u);
    u->refs = 1;
    u->flags = (uint8_t)take_number(&r, 1);
    u->name_len = take_number(&r, 2);
    u->name = take_copy(&r, u->name_len);
    u->selectors_n = take_count(&r, 2, 1 + MAP_BYTES + 8);
    u->selectors = calloc(u->selectors_n + 1, sizeof *u->selectors);
    ND_ASSERT(u->selectors);
    for (uint32_t i = 0; i < u->selectors_n && r.good; i++)
        read_selector(&r, &u->selectors[i]);
    if (!r.good || r.left) {
        nd_acl_user_free(u);
        return NULL;
    }
    const uint8_t all = ND_ACL_ALL_COMMANDS | ND_ACL_ALL_KEYS;
    for (uint32_t i = 0; i < u->selectors_n; i++)
        u->unrestricted |= (u->selectors[i].flags & all) == all;
    return u;
}

nd_acl_user *nd_acl_user_ref(nd_acl_user *u)
{
    u->refs++;
    return u;
}

void nd_acl_user_free(nd_acl_user *u)
{
    ND_ASSERT(u->refs > 0);
    if (--u->refs)
        return;
    for (uint32_t i = 0; i < u->selectors_n; i++) {
        acl_selector *s = &u->selectors[i];
        for (uint32_t k = 0; k < s->patterns_n; k++)
            free((void *)s->patterns[k].bytes);
        for (uint32_t k = 0; k < s->firsts_n; k++)
            free((void *)s->firsts[k].bytes);
        free(s->patterns);
        free(s->firsts);
    }
    free(u->selectors);
    free(u->name);
    free(u);
}

/* ---- what a command does to its keys, where that depends on its arguments ---- */

static bool is_word(const nd_arg *arg, const char *word)
{
    return arg->len == strlen(word) && strncasecmp((const char *)arg->ptr, word, arg->len) == 0;
}

static uint8_t access_of_set(const nd_arg *argv, uint32_t argc)
{
    for (uint32_t i = 3; i < argc; i++)
        if (is_word(&argv[i], "get"))
            return ND_ACL_READ | ND_ACL_WRITE;
    return ND_ACL_WRITE;
}

/* GET alone only reads; what is not understood may write. */
static uint8_t access_of_bitfield(const nd_arg *argv, uint32_t argc)
{
    for (uint32_t i = 2; i < argc; i++) {
        uint32_t behind = argc - i - 1;
        if (is_word(&argv[i], "get") && behind >= 2)
            i += 2;
        else if (is_word(&argv[i], "overflow") && behind >= 1)
            i += 1;
        else
            return ND_ACL_READ | ND_ACL_WRITE;
    }
    return ND_ACL_READ;
}

static uint8_t access_of(const nd_cmdrow *row, const nd_arg *argv, uint32_t argc, uint32_t n)
{
    if (row->flags & ND_CMD_VARIABLE_ACCESS)
        return row->name[0] == 's' ? access_of_set(argv, argc) : access_of_bitfield(argv, argc);
    return row->key_access[n > 0];
}

/* ---- the check ---- */

static bool first_argument(const acl_selector *s, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc)
{
    for (uint32_t i = 0; i < s->firsts_n && argc >= 2; i++) {
        const acl_first *f = &s->firsts[i];
        bool same = f->len == argv[1].len && strncasecmp((const char *)f->bytes, (const char *)argv[1].ptr, f->len) == 0;
        if (f->id == row->id && same)
            return true;
    }
    return false;
}

static bool key_allowed(const acl_selector *s, uint8_t access, const nd_arg *key)
{
    for (uint32_t i = 0; i < s->patterns_n; i++) {
        const acl_pattern *p = &s->patterns[i];
        if ((p->access & access) == access && cmd_glob(p->bytes, p->len, key->ptr, key->len))
            return true;
    }
    return false;
}

static int judge(const acl_selector *s, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc, uint32_t *at)
{
    bool allowed = (s->flags & ND_ACL_ALL_COMMANDS) || (s->allowed[row->id >> 3] >> (row->id & 7) & 1);
    if (!allowed && !(row->flags & ND_CMD_NO_AUTH) && !first_argument(s, row, argv, argc))
        return ND_ACL_DENIED_COMMAND;
    if (s->flags & ND_ACL_ALL_KEYS)
        return ND_ACL_OK;
    uint32_t k = nd_cmdrow_key(row, argc, 0);
    for (uint32_t n = 0; k; k = nd_cmdrow_key(row, argc, ++n)) {
        if (!key_allowed(s, access_of(row, argv, argc, n), &argv[k])) {
            *at = k;
            return ND_ACL_DENIED_KEY;
        }
    }
    return ND_ACL_OK;
}

/* Of several refusals the one that came furthest is told, as Redis does. */
int acl_judge(const nd_acl_user *u, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc, uint32_t *at)
{
    int worst = ND_ACL_DENIED_COMMAND;
    *at = 0;
    for (uint32_t i = 0; i < u->selectors_n; i++) {
        uint32_t key = 0;
        int verdict = judge(&u->selectors[i], row, argv, argc, &key);
        if (verdict == ND_ACL_OK) {
            *at = 0;
            return ND_ACL_OK;
        }
        if (verdict > worst || (verdict == worst && key > *at)) {
            worst = verdict;
            *at = key;
        }
    }
    return worst;
}

int nd_acl_check(const nd_acl_user *u, const nd_cmdtab *tab, const nd_arg *argv, uint32_t argc, uint32_t *at)
{
    const nd_cmdrow *row = nd_cmdtab_find(tab, argv, argc);
    ND_ASSERT(row);
    return acl_judge(u, row, argv, argc, at);
}
