/* cmd_generic.c: commands on keys of any type. Replies and error texts are those of Redis 7.0. */
#include "cmd_util.h"

/* ---- existence ---- */

/* DEL and UNLINK are one: a row is dropped at once, its memory goes back in pieces of bounded size. */
static void cmd_delete(nd_cmd *c)
{
    int64_t deleted = 0;
    for (uint32_t i = 1; i < c->argc; i++) {
        nd_row row;
        int found = cmd_peek(c, &c->argv[i], &row);
        if (found < 0 || (found == 1 && cmd_del(c, &c->argv[i]) < 0))
            return;
        deleted += found;
    }
    nd_reply_int(c->reply, deleted);
}

static void count_present(nd_cmd *c, bool touch)
{
    int64_t present = 0;
    for (uint32_t i = 1; i < c->argc; i++) {
        nd_row row;
        int found = touch ? cmd_lookup(c, &c->argv[i], &row) : cmd_peek(c, &c->argv[i], &row);
        if (found < 0)
            return;
        present += found;
    }
    nd_reply_int(c->reply, present);
}

static void cmd_exists(nd_cmd *c)
{
    count_present(c, false);
}

static void cmd_touch(nd_cmd *c)
{
    count_present(c, true);
}

static void cmd_type(nd_cmd *c)
{
    nd_row row;
    int found = cmd_peek(c, &c->argv[1], &row);
    if (found >= 0)
        nd_reply_simple(c->reply, found == 1 ? cmd_type_name(row.type) : "none");
}

/* ---- expiry ---- */

static void reply_expiry(nd_cmd *c, bool seconds, bool absolute)
{
    nd_row row;
    int found = cmd_peek(c, &c->argv[1], &row);
    if (found < 0)
        return;
    int64_t ms = -2;
    if (found == 1 && row.expire_ms == 0)
        ms = -1;
    else if (found == 1)
        ms = absolute ? row.expire_ms : row.expire_ms - c->now_ms;
    nd_reply_int(c->reply, seconds && ms >= 0 ? ms / 1000 + (ms % 1000 >= 500) : ms);
}

static void cmd_ttl(nd_cmd *c)
{
    reply_expiry(c, true, false);
}

static void cmd_pttl(nd_cmd *c)
{
    reply_expiry(c, false, false);
}

static void cmd_expiretime(nd_cmd *c)
{
    reply_expiry(c, true, true);
}

static void cmd_pexpiretime(nd_cmd *c)
{
    reply_expiry(c, false, true);
}

enum { EXPIRE_NX = 1, EXPIRE_XX = 2, EXPIRE_GT = 4, EXPIRE_LT = 8 };

static bool parse_conditions(nd_cmd *c, uint32_t *conditions)
{
    static const char *const words[] = {"nx", "xx", "gt", "lt"};
    *conditions = 0;
    for (uint32_t i = 3; i < c->argc; i++) {
        uint32_t w = 0;
        while (w < 4 && !cmd_word(&c->argv[i], words[w]))
            w++;
        if (w == 4) {
            int len = (int)strnlen((const char *)c->argv[i].ptr, c->argv[i].len);
            nd_reply_errorf(c->reply, "ERR Unsupported option %.*s", len, (const char *)c->argv[i].ptr);
            return false;
        }
        *conditions |= 1u << w;
    }
    if ((*conditions & EXPIRE_NX) != 0 && *conditions != EXPIRE_NX) {
        nd_reply_error(c->reply, "ERR NX and XX, GT or LT options at the same time are not compatible");
        return false;
    }
    if ((*conditions & EXPIRE_GT) != 0 && (*conditions & EXPIRE_LT) != 0) {
        nd_reply_error(c->reply, "ERR GT and LT options at the same time are not compatible");
        return false;
    }
    return true;
}

/* No expiry counts as infinitely late. */
static bool conditions_hold(uint32_t conditions, int64_t now, int64_t then)
{
    if ((conditions & EXPIRE_NX) != 0 && now != 0)
        return false;
    if ((conditions & EXPIRE_XX) != 0 && now == 0)
        return false;
    if ((conditions & EXPIRE_GT) != 0 && (now == 0 || then <= now))
        return false;
    return (conditions & EXPIRE_LT) == 0 || now == 0 || then < now;
}

static void set_expiry(nd_cmd *c, cmd_unit unit, const char *name)
{
    uint32_t conditions;
    int64_t then;
    nd_row row;
    if (!parse_conditions(c, &conditions) || !cmd_int(c, &c->argv[2], &then))
        return;
    bool seconds = unit == CMD_SECONDS || unit == CMD_AT_SECONDS;
    bool relative = unit == CMD_SECONDS || unit == CMD_MILLISECONDS;
    if ((seconds && __builtin_mul_overflow(then, 1000, &then)) ||
        (relative && __builtin_add_overflow(then, c->now_ms, &then))) {
        nd_reply_errorf(c->reply, "ERR invalid expire time in '%s' command", name);
        return;
    }
    int found = cmd_lookup(c, &c->argv[1], &row);
    if (found < 0)
        return;
    bool applies = found == 1 && conditions_hold(conditions, row.expire_ms, then);
    if (!applies || cmd_expire_at(c, &c->argv[1], then))
        nd_reply_int(c->reply, applies);
}

static void cmd_expire(nd_cmd *c)
{
    set_expiry(c, CMD_SECONDS, "expire");
}

static void cmd_pexpire(nd_cmd *c)
{
    set_expiry(c, CMD_MILLISECONDS, "pexpire");
}

static void cmd_expireat(nd_cmd *c)
{
    set_expiry(c, CMD_AT_SECONDS, "expireat");
}

static void cmd_pexpireat(nd_cmd *c)
{
    set_expiry(c, CMD_AT_MILLISECONDS, "pexpireat");
}

static void cmd_persist(nd_cmd *c)
{
    nd_row row;
    int found = cmd_lookup(c, &c->argv[1], &row);
    if (found < 0)
        return;
    bool had = found == 1 && row.expire_ms != 0;
    if (!had || cmd_retime(c, &c->argv[1], 0))
        nd_reply_int(c->reply, had);
}

/* ---- copying ---- */

static bool same_key(const nd_arg *a, const nd_arg *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->ptr, b->ptr, a->len) == 0);
}

/* Stores a row's value and expiry under another key; false = fatal. */
static bool duplicate(nd_cmd *c, const nd_row *row, const nd_arg *key)
{
    /* A put may lend its own row's bytes to itself, not another row's: those may move while it makes room. */
    uint8_t *val = malloc(row->len > 0 ? row->len : 1);
    ND_ASSERT(val != NULL);
    memcpy(val, row->val, row->len);
    int rc = nd_store_put(c->store, c->vshard, key, row->type, val, row->len, row->expire_ms);
    free(val);
    return rc < 0 ? cmd_failed(c, rc) >= 0 : true;
}

/* Sets *row to the source; 1 = go on, 0 = the destination is taken and `replace` is false, < 0 = fatal. */
static int destination_free(nd_cmd *c, const nd_arg *key, bool replace)
{
    nd_row row;
    if (replace)
        return 1;
    int found = cmd_peek(c, key, &row);
    return found < 0 ? found : found == 0;
}

/* 1 = renamed, 0 = the destination is taken and `replace` is false, < 0 = replied or fatal. */
static int rename_key(nd_cmd *c, bool replace)
{
    const nd_arg *from = &c->argv[1], *to = &c->argv[2];
    nd_row row;
    int found = cmd_lookup(c, from, &row);
    if (found < 0)
        return found;
    if (found == 0) {
        nd_reply_error(c->reply, "ERR no such key");
        return -1;
    }
    if (same_key(from, to))
        return replace;
    int go = destination_free(c, to, replace);
    if (go <= 0)
        return go;
    found = cmd_peek(c, from, &row);   /* again: the look-up of the destination ended the row's view */
    if (found < 0 || !duplicate(c, &row, to) || cmd_del(c, from) < 0)
        return -1;
    return 1;
}

static void cmd_rename(nd_cmd *c)
{
    if (rename_key(c, true) == 1)
        nd_reply_raw(c->reply, "+OK\r\n", 5);
}

static void cmd_renamenx(nd_cmd *c)
{
    int renamed = rename_key(c, false);
    if (renamed >= 0)
        nd_reply_int(c->reply, renamed);
}

/* COPY's options; false after the reply. There is one database, number 0. */
static bool parse_copy_options(nd_cmd *c, bool *replace)
{
    *replace = false;
    for (uint32_t i = 3; i < c->argc; i++) {
        int64_t db;
        if (cmd_word(&c->argv[i], "replace")) {
            *replace = true;
        } else if (cmd_word(&c->argv[i], "db") && i + 1 < c->argc) {
            if (!cmd_int(c, &c->argv[++i], &db))
                return false;
            if (db < INT32_MIN || db > INT32_MAX) {
                nd_reply_errorf(c->reply, "ERR value is out of range, value must between %d and %d", INT32_MIN,
                                INT32_MAX);
                return false;
            }
            if (db != 0) {
                nd_reply_error(c->reply, "ERR DB index is out of range");
                return false;
            }
        } else {
            nd_reply_error(c->reply, ERR_SYNTAX);
            return false;
        }
    }
    return true;
}

static void cmd_copy(nd_cmd *c)
{
    const nd_arg *from = &c->argv[1], *to = &c->argv[2];
    bool replace;
    nd_row row;
    if (!parse_copy_options(c, &replace))
        return;
    if (same_key(from, to)) {
        nd_reply_error(c->reply, "ERR source and destination objects are the same");
        return;
    }
    int go = destination_free(c, to, replace);
    if (go < 0)
        return;
    int found = cmd_lookup(c, from, &row);
    if (found < 0)
        return;
    bool copied = found == 1 && go == 1;
    if (!copied || duplicate(c, &row, to))
        nd_reply_int(c->reply, copied);
}

/* ---- OBJECT ---- */

#define EMBEDDED_BYTES_MAX 44    /* Redis keeps shorter strings in the object itself */
#define SHARED_INTEGERS 10000    /* Redis shares the objects of smaller integers, and counts no references to them */

/* The row of argv[2]; otherwise nil is replied (or the store failed) and the result is < 1. */
static int object_row(nd_cmd *c, nd_row *row)
{
    int found = cmd_peek(c, &c->argv[2], row);
    if (found == 0)
        nd_reply_nil(c->reply);
    return found;
}

/* What Redis would choose for a value that was set whole. */
static void cmd_object_encoding(nd_cmd *c)
{
    nd_row row;
    int64_t number;
    if (object_row(c, &row) < 1)
        return;
    const char *name = row.len <= EMBEDDED_BYTES_MAX ? "embstr" : "raw";
    if (nd_parse_i64(row.val, row.len, &number))
        name = "int";
    nd_reply_bulk(c->reply, name, strlen(name));
}

static void cmd_object_refcount(nd_cmd *c)
{
    nd_row row;
    int64_t number;
    if (object_row(c, &row) < 1)
        return;
    bool shared = nd_parse_i64(row.val, row.len, &number) && number >= 0 && number < SHARED_INTEGERS;
    nd_reply_int(c->reply, shared ? INT32_MAX : 1);
}

static void cmd_object_idletime(nd_cmd *c)
{
    nd_row row;
    if (object_row(c, &row) == 1)
        nd_reply_int(c->reply, row.idle_s);
}

static void cmd_object_freq(nd_cmd *c)
{
    nd_row row;
    if (object_row(c, &row) == 1)
        nd_reply_error(c->reply, "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note "
                                 "that when switching between policies at runtime LRU and LFU data will take some time to "
                                 "adjust.");
}

static void cmd_object_help(nd_cmd *c)
{
    static const char *const lines[] = {
        "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "ENCODING <key>",
        "    Return the kind of internal representation used in order to store the value",
        "    associated with a <key>.",
        "FREQ <key>",
        "    Return the access frequency index of the <key>. The returned integer is",
        "    proportional to the logarithm of the recent access frequency of the key.",
        "IDLETIME <key>",
        "    Return the idle time of the <key>, that is the approximated number of",
        "    seconds elapsed since the last access to the key.",
        "REFCOUNT <key>",
        "    Return the number of references of the value associated with the specified",
        "    <key>.",
        "HELP",
        "    Prints this help.",
    };
    nd_reply_array(c->reply, sizeof lines / sizeof *lines);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        nd_reply_simple(c->reply, lines[i]);
}

const nd_cmd_reg nd_cmds_generic[] = {
    {"delete", cmd_delete}, {"exists", cmd_exists}, {"touch", cmd_touch}, {"type", cmd_type}, {"ttl", cmd_ttl},
    {"pttl", cmd_pttl}, {"expiretime", cmd_expiretime}, {"pexpiretime", cmd_pexpiretime}, {"expire", cmd_expire},
    {"pexpire", cmd_pexpire}, {"expireat", cmd_expireat}, {"pexpireat", cmd_pexpireat}, {"persist", cmd_persist},
    {"rename", cmd_rename}, {"renamenx", cmd_renamenx}, {"copy", cmd_copy}, {"object_encoding", cmd_object_encoding},
    {"object_refcount", cmd_object_refcount}, {"object_idletime", cmd_object_idletime},
    {"object_freq", cmd_object_freq}, {"object_help", cmd_object_help}, {NULL, NULL},
};
