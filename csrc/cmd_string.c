/* cmd_string.c: GET, SET and their relatives. Replies and error texts are those of Redis 7.0.
 *
 * A function may rely on the arity and key positions of its table row; everything else about the arguments it checks itself.
 */
#include <errno.h>
#include <math.h>

#include "cmd_util.h"

#define ERR_NOT_FLOAT "ERR value is not a valid float"

/* SET's and GETEX's options. Repeating one is allowed, the last value counts. */
enum {
    OPT_NX = 1, OPT_XX = 2, OPT_GET = 4, OPT_KEEPTTL = 8, OPT_PERSIST = 16,
    OPT_EX = 32, OPT_PX = 64, OPT_EXAT = 128, OPT_PXAT = 256,
    OPT_TIMES = OPT_EX | OPT_PX | OPT_EXAT | OPT_PXAT,
    OPTS_OF_SET = OPT_NX | OPT_XX | OPT_GET | OPT_KEEPTTL | OPT_TIMES,
    OPTS_OF_GETEX = OPT_PERSIST | OPT_TIMES
};

typedef struct option {
    const char *word;
    uint32_t bit;
    uint32_t excludes;
    cmd_unit unit;
} option;

static const option options[] = {
    {"nx", OPT_NX, OPT_XX, 0},
    {"xx", OPT_XX, OPT_NX, 0},
    {"get", OPT_GET, 0, 0},
    {"keepttl", OPT_KEEPTTL, OPT_PERSIST | OPT_TIMES, 0},
    {"persist", OPT_PERSIST, OPT_KEEPTTL | OPT_TIMES, 0},
    {"ex", OPT_EX, OPT_KEEPTTL | OPT_PERSIST | (OPT_TIMES & ~OPT_EX), CMD_SECONDS},
    {"px", OPT_PX, OPT_KEEPTTL | OPT_PERSIST | (OPT_TIMES & ~OPT_PX), CMD_MILLISECONDS},
    {"exat", OPT_EXAT, OPT_KEEPTTL | OPT_PERSIST | (OPT_TIMES & ~OPT_EXAT), CMD_AT_SECONDS},
    {"pxat", OPT_PXAT, OPT_KEEPTTL | OPT_PERSIST | (OPT_TIMES & ~OPT_PXAT), CMD_AT_MILLISECONDS},
};

typedef struct chosen {
    uint32_t bits;
    const nd_arg *time;          /* of the one in OPT_TIMES, or NULL */
    cmd_unit unit;
} chosen;

static const option *option_named(const nd_arg *arg, uint32_t allowed)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if ((options[i].bit & allowed) != 0 && cmd_word(arg, options[i].word))
            return &options[i];
    }
    return NULL;
}

/* Reads argv[first..]; false after a syntax error. */
static bool parse_options(nd_cmd *c, uint32_t first, uint32_t allowed, chosen *out)
{
    *out = (chosen){0, NULL, CMD_SECONDS};
    for (uint32_t i = first; i < c->argc; i++) {
        const option *o = option_named(&c->argv[i], allowed);
        bool timed = o != NULL && (o->bit & OPT_TIMES) != 0;
        if (o == NULL || (out->bits & o->excludes) != 0 || (timed && i + 1 == c->argc)) {
            nd_reply_error(c->reply, ERR_SYNTAX);
            return false;
        }
        out->bits |= o->bit;
        if (timed) {
            out->time = &c->argv[++i];
            out->unit = o->unit;
        }
    }
    return true;
}

static void reply_ok(nd_cmd *c)
{
    nd_reply_raw(c->reply, "+OK\r\n", 5);
}

static void reply_value(nd_cmd *c, int found, const nd_row *row)
{
    if (found == 1)
        nd_reply_bulk(c->reply, row->val, row->len);
    else
        nd_reply_nil(c->reply);
}

/* ---- reading ---- */

static void cmd_get(nd_cmd *c)
{
    nd_row row;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found >= 0)
        reply_value(c, found, &row);
}

static void cmd_mget(nd_cmd *c)
{
    nd_reply_array(c->reply, c->argc - 1);
    for (uint32_t i = 1; i < c->argc; i++) {
        nd_row row;
        int found = cmd_lookup(c, &c->argv[i], &row);
        if (found < 0)
            return;
        reply_value(c, found == 1 && row.type == ND_TYPE_STRING, &row);
    }
}

static void cmd_strlen(nd_cmd *c)
{
    nd_row row;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found >= 0)
        nd_reply_int(c->reply, found == 1 ? row.len : 0);
}

static void cmd_getrange(nd_cmd *c)
{
    int64_t start, end;
    nd_row row;
    if (!cmd_int(c, &c->argv[2], &start) || !cmd_int(c, &c->argv[3], &end))
        return;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    int64_t len = found == 1 ? row.len : 0;
    bool backwards = start < 0 && end < 0 && start > end;
    start = start < 0 ? start + len : start;
    end = end < 0 ? end + len : end;
    start = start < 0 ? 0 : start;
    end = end < 0 ? 0 : end;
    end = end >= len ? len - 1 : end;
    if (backwards || start > end)
        nd_reply_bulk(c->reply, "", 0);
    else
        nd_reply_bulk(c->reply, row.val + start, (size_t)(end - start + 1));
}

/* ---- setting ---- */

/* Stores argv[value] under argv[1]; a time that is given and has passed leaves no row. */
static bool store_value(nd_cmd *c, uint32_t value, int64_t expire_ms)
{
    if (expire_ms != 0 && expire_ms <= c->now_ms)
        return cmd_del(c, &c->argv[1]) >= 0;
    return cmd_put(c, &c->argv[1], c->argv[value].ptr, c->argv[value].len, expire_ms);
}

static __attribute__((noinline)) void set_with_options(nd_cmd *c)
{
    chosen opt;
    int64_t expire_ms = 0;
    nd_row row = {0};
    int found = 0;
    if (!parse_options(c, 3, OPTS_OF_SET, &opt))
        return;
    if (opt.time != NULL && !cmd_positive_expire(c, opt.time, opt.unit, "set", &expire_ms))
        return;
    bool get = (opt.bits & OPT_GET) != 0;
    if ((opt.bits & (OPT_GET | OPT_NX | OPT_XX | OPT_KEEPTTL)) != 0) {
        found = get ? cmd_lookup_string(c, &c->argv[1], &row) : cmd_peek(c, &c->argv[1], &row);
        if (found < 0)
            return;
    }
    if (get)
        reply_value(c, found, &row);
    if (((opt.bits & OPT_NX) != 0 && found == 1) || ((opt.bits & OPT_XX) != 0 && found == 0)) {
        if (!get)
            nd_reply_nil(c->reply);
        return;
    }
    if ((opt.bits & OPT_KEEPTTL) != 0 && found == 1)
        expire_ms = row.expire_ms;
    if (store_value(c, 2, expire_ms) && !get)
        reply_ok(c);
}

static void cmd_set(nd_cmd *c)
{
    if (__builtin_expect(c->argc > 3, 0)) {
        set_with_options(c);
        return;
    }
    if (cmd_put(c, &c->argv[1], c->argv[2].ptr, c->argv[2].len, 0))
        reply_ok(c);
}

static void cmd_setnx(nd_cmd *c)
{
    nd_row row;
    int found = cmd_peek(c, &c->argv[1], &row);
    if (found == 0 && !store_value(c, 2, 0))
        return;
    if (found >= 0)
        nd_reply_int(c->reply, found == 0);
}

static void set_expiring(nd_cmd *c, cmd_unit unit, const char *name)
{
    int64_t expire_ms;
    if (cmd_positive_expire(c, &c->argv[2], unit, name, &expire_ms) && store_value(c, 3, expire_ms))
        reply_ok(c);
}

static void cmd_setex(nd_cmd *c)
{
    set_expiring(c, CMD_SECONDS, "setex");
}

static void cmd_psetex(nd_cmd *c)
{
    set_expiring(c, CMD_MILLISECONDS, "psetex");
}

static void cmd_getset(nd_cmd *c)
{
    nd_row row;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    reply_value(c, found, &row);
    store_value(c, 2, 0);
}

static void cmd_getdel(nd_cmd *c)
{
    nd_row row;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    reply_value(c, found, &row);
    if (found == 1)
        cmd_del(c, &c->argv[1]);
}

static void cmd_getex(nd_cmd *c)
{
    chosen opt;
    nd_row row;
    int64_t expire_ms = 0;
    if (!parse_options(c, 2, OPTS_OF_GETEX, &opt))
        return;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    if (found == 1 && opt.time != NULL && !cmd_positive_expire(c, opt.time, opt.unit, "getex", &expire_ms))
        return;
    reply_value(c, found, &row);
    if (found == 0 || opt.bits == 0)
        return;
    if (opt.time != NULL)
        cmd_expire_at(c, &c->argv[1], expire_ms);
    else if (row.expire_ms != 0)
        cmd_retime(c, &c->argv[1], 0);
}

/* Pairs from argv[1] on; false after the arity reply or a fatal error. */
static bool store_pairs(nd_cmd *c)
{
    for (uint32_t i = 1; i < c->argc; i += 2) {
        if (!cmd_put(c, &c->argv[i], c->argv[i + 1].ptr, c->argv[i + 1].len, 0))
            return false;
    }
    return true;
}

static void cmd_mset(nd_cmd *c)
{
    if (c->argc % 2 == 0)
        nd_reply_error(c->reply, "ERR wrong number of arguments for 'mset' command");
    else if (store_pairs(c))
        reply_ok(c);
}

static void cmd_msetnx(nd_cmd *c)
{
    if (c->argc % 2 == 0) {
        nd_reply_error(c->reply, "ERR wrong number of arguments for 'msetnx' command");
        return;
    }
    for (uint32_t i = 1; i < c->argc; i += 2) {
        nd_row row;
        int found = cmd_peek(c, &c->argv[i], &row);
        if (found != 0) {
            if (found == 1)
                nd_reply_int(c->reply, 0);
            return;
        }
    }
    if (store_pairs(c))
        nd_reply_int(c->reply, 1);
}

/* ---- changing ---- */

/* Writes `bytes` at offset into the row of argv[1] and answers with the new length. */
static void write_range(nd_cmd *c, int found, uint32_t len_old, uint32_t offset, const nd_arg *bytes)
{
    uint32_t hi = offset + bytes->len;
    uint32_t len_new = hi > len_old ? hi : len_old;
    uint8_t *p = cmd_edit(c, &c->argv[1], found, offset, hi, len_new);
    if (p == NULL)
        return;
    memcpy(p + offset, bytes->ptr, bytes->len);
    nd_store_edit_end(c->store);
    nd_reply_int(c->reply, len_new);
}

static void cmd_append(nd_cmd *c)
{
    const nd_arg *more = &c->argv[2];
    nd_row row;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    if (found == 0) {
        if (store_value(c, 2, 0))
            nd_reply_int(c->reply, more->len);
    } else if ((uint64_t)row.len + more->len > ND_VALUE_BYTES_MAX) {
        nd_reply_error(c->reply, ERR_TOO_LONG);
    } else if (more->len == 0) {
        nd_reply_int(c->reply, row.len);
    } else {
        write_range(c, 1, row.len, row.len, more);
    }
}

static void cmd_setrange(nd_cmd *c)
{
    const nd_arg *bytes = &c->argv[3];
    int64_t offset;
    nd_row row;
    if (!cmd_int(c, &c->argv[2], &offset))
        return;
    if (offset < 0) {
        nd_reply_error(c->reply, "ERR offset is out of range");
        return;
    }
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    uint32_t len_old = found == 1 ? row.len : 0;
    if (bytes->len == 0)
        nd_reply_int(c->reply, len_old);
    else if (offset > ND_VALUE_BYTES_MAX - (int64_t)bytes->len)
        nd_reply_error(c->reply, ERR_TOO_LONG);
    else
        write_range(c, found, len_old, (uint32_t)offset, bytes);
}

static void add_integer(nd_cmd *c, int64_t by)
{
    nd_row row;
    int64_t value = 0;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    if (found == 1 && !nd_parse_i64(row.val, row.len, &value)) {
        nd_reply_error(c->reply, ERR_NOT_INTEGER);
        return;
    }
    if (__builtin_add_overflow(value, by, &value)) {
        nd_reply_error(c->reply, "ERR increment or decrement would overflow");
        return;
    }
    char text[ND_I64_CHARS];
    uint32_t len = nd_print_i64(text, value);
    if (cmd_put(c, &c->argv[1], text, len, found == 1 ? row.expire_ms : 0))
        nd_reply_int(c->reply, value);
}

static void cmd_incr(nd_cmd *c)
{
    add_integer(c, 1);
}

static void cmd_decr(nd_cmd *c)
{
    add_integer(c, -1);
}

static void cmd_incrby(nd_cmd *c)
{
    int64_t by;
    if (cmd_int(c, &c->argv[2], &by))
        add_integer(c, by);
}

static void cmd_decrby(nd_cmd *c)
{
    int64_t by;
    if (!cmd_int(c, &c->argv[2], &by))
        return;
    if (by == INT64_MIN)
        nd_reply_error(c->reply, "ERR decrement would overflow");
    else
        add_integer(c, -by);
}

static void cmd_incrbyfloat(nd_cmd *c)
{
    nd_row row;
    long double value = 0, by;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    if ((found == 1 && !nd_parse_long_double(row.val, row.len, &value)) ||
        !nd_parse_long_double(c->argv[2].ptr, c->argv[2].len, &by)) {
        nd_reply_error(c->reply, ERR_NOT_FLOAT);
        return;
    }
    value += by;
    if (isnan(value) || isinf(value)) {
        nd_reply_error(c->reply, "ERR increment would produce NaN or Infinity");
        return;
    }
    char text[ND_LONG_DOUBLE_CHARS];
    uint32_t len = nd_print_long_double(text, value);
    if (cmd_put(c, &c->argv[1], text, len, found == 1 ? row.expire_ms : 0))
        nd_reply_bulk(c->reply, text, len);
}

const nd_cmd_reg nd_cmds_string[] = {
    {"get", cmd_get}, {"set", cmd_set}, {"setnx", cmd_setnx}, {"setex", cmd_setex}, {"psetex", cmd_psetex},
    {"getset", cmd_getset}, {"getdel", cmd_getdel}, {"getex", cmd_getex}, {"mget", cmd_mget}, {"mset", cmd_mset},
    {"msetnx", cmd_msetnx}, {"append", cmd_append}, {"strlen", cmd_strlen}, {"getrange", cmd_getrange},
    {"setrange", cmd_setrange}, {"incr", cmd_incr}, {"decr", cmd_decr}, {"incrby", cmd_incrby},
    {"decrby", cmd_decrby}, {"incrbyfloat", cmd_incrbyfloat}, {NULL, NULL},
};
