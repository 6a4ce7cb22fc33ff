/* cmd_node.c: commands that are not about one key: the node's internal ones, PING and ECHO.
 *
 * The internal ones (their names begin with "nd.") are parts that Python composes: an expiry delete, a flush of one group, and
 * pieces of DBSIZE, RANDOMKEY, KEYS and SCAN over the vShards of one worker. Each is bounded: no loop is stalled.
 */
#include "cmd_util.h"
#include "slot.h"

/* ---- internal ---- */

/* nd.expire key expiry-ms: deletes the row if it still has this expiry and the entry's stamp has reached it. */
static void cmd_nd_expire(nd_cmd *c)
{
    int64_t seen;
    nd_row row;
    if (!cmd_int(c, &c->argv[2], &seen))
        return;
    /* At the beginning of time nothing has expired, so the row shows. */
    int found = nd_store_get(c->store, c->vshard, &c->argv[1], INT64_MIN, false, &row);
    if (found < 0) {
        cmd_failed(c, found);
        return;
    }
    bool due = found == 1 && row.expire_ms != 0 && row.expire_ms == seen && seen <= c->now_ms;
    if (!due || cmd_del(c, &c->argv[1]) >= 0)
        nd_reply_int(c->reply, due);
}

/* nd.flush: drops every row of the vShards given by the caller. */
static void cmd_nd_flush(nd_cmd *c)
{
    for (uint32_t v = c->vshard_first; v <= c->vshard_last; v++) {
        int rc = nd_store_flush(c->store, v);
        if (rc < 0) {
            cmd_failed(c, rc);
            return;
        }
    }
    nd_reply_raw(c->reply, "+OK\r\n", 5);
}

static uint64_t rows_of_worker(nd_cmd *c)
{
    uint64_t rows = 0;
    for (uint32_t v = c->vshard_first; v <= c->vshard_last; v++)
        rows += nd_store_count(c->store, v);
    return rows;
}

/* nd.dbsize: rows of this worker; expired ones count until they are deleted, as in Redis. */
static void cmd_nd_dbsize(nd_cmd *c)
{
    nd_reply_int(c->reply, (int64_t)rows_of_worker(c));
}

/* nd.randomkey: [rows of this worker, a key of it or nil]; the caller draws among workers by their rows. */
static void cmd_nd_randomkey(nd_cmd *c)
{
    uint64_t rows = rows_of_worker(c);
    nd_reply_array(c->reply, 2);
    nd_reply_int(c->reply, (int64_t)rows);
    uint64_t skip = rows > 0 ? c->seed % rows : 0;
    uint32_t start = c->vshard_first, owned = c->vshard_last - c->vshard_first + 1;
    while (rows > 0 && skip >= nd_store_count(c->store, start))
        skip -= nd_store_count(c->store, start++);
    /* A vShard may hold nothing but expired rows: go on with the next, once round. */
    for (uint32_t i = 0; rows > 0 && i < owned; i++) {
        nd_arg key;
        uint32_t vshard = c->vshard_first + (start - c->vshard_first + i) % owned;
        int found = nd_store_random(c->store, vshard, c->seed * 0x9e3779b97f4a7c15u, c->now_ms, &key);
        if (found == 1)
            nd_reply_bulk(c->reply, key.ptr, key.len);
        else if (found < 0)
            cmd_failed(c, found);
        if (found != 0)
            return;
    }
    nd_reply_nil(c->reply);
}

/* ---- SCAN ---- */

#define SCAN_VSHARD_MASK (ND_VSHARDS - 1u)
#define SCAN_ROWS_MAX 8192u      /* examined per call, whatever COUNT says: it is a hint */
#define SCAN_ROWS_STEP 256u      /* between looks at the reply's size */
#define SCAN_REPLY_BYTES_MAX (1u << 20)
#define SLOT_ANY UINT32_MAX

typedef struct scan {
    nd_reply *reply;
    const nd_arg *pattern;       /* NULL = all */
    const nd_arg *type;          /* NULL = all */
    uint32_t slot;               /* SLOT_ANY = all */
    uint64_t count;
    uint64_t matched;
} scan;

static bool parse_scan_options(nd_cmd *c, scan *s)
{
    for (uint32_t i = 2; i < c->argc; i += 2) {
        const nd_arg *value = &c->argv[i + 1];
        int64_t number;
        if (i + 1 == c->argc) {
            nd_reply_error(c->reply, ERR_SYNTAX);
            return false;
        } else if (cmd_word(&c->argv[i], "match")) {
            s->pattern = value;
        } else if (cmd_word(&c->argv[i], "type")) {
            s->type = value;
        } else if (cmd_word(&c->argv[i], "count") || cmd_word(&c->argv[i], "nd.slot")) {
            bool count = cmd_word(&c->argv[i], "count");
            if (!cmd_int(c, value, &number))
                return false;
            if (number < (count ? 1 : 0) || (!count && number >= ND_SLOTS)) {
                nd_reply_error(c->reply, ERR_SYNTAX);
                return false;
            }
            if (count)
                s->count = (uint64_t)number < SCAN_ROWS_MAX ? (uint64_t)number : SCAN_ROWS_MAX;
            else
                s->slot = (uint32_t)number;
        } else {
            nd_reply_error(c->reply, ERR_SYNTAX);
            return false;
        }
    }
    return true;
}

static void scan_row(void *ctx, const nd_arg *key, const nd_row *row)
{
    scan *s = ctx;
    if (s->type != NULL && !cmd_word(s->type, cmd_type_name(row->type)))
        return;
    if (s->slot != SLOT_ANY && nd_slot_of(key->ptr, key->len) != s->slot)
        return;
    if (s->pattern != NULL && !cmd_glob(s->pattern->ptr, s->pattern->len, key->ptr, key->len))
        return;
    nd_reply_bulk(s->reply, key->ptr, key->len);
    s->matched++;
}

/* Examines rows from cursor on, in bounded steps; returns the next cursor, 0 behind the last vShard of all. */
static uint64_t scan_from(nd_cmd *c, scan *s, uint64_t cursor)
{
    uint32_t vshard = (uint32_t)(cursor & SCAN_VSHARD_MASK);
    uint64_t hash = cursor & ~(uint64_t)SCAN_VSHARD_MASK;
    uint64_t examined = 0;
    size_t stop_len = c->reply->len + SCAN_REPLY_BYTES_MAX;
    if (vshard < c->vshard_first) {
        vshard = c->vshard_first;
        hash = 0;
    }
    while (vshard <= c->vshard_last && examined < s->count && c->reply->len < stop_len) {
        uint64_t left = s->count - examined;
        uint32_t step = left < SCAN_ROWS_STEP ? (uint32_t)left : SCAN_ROWS_STEP;
        int rows = nd_store_scan(c->store, vshard, &hash, step, c->now_ms, scan_row, s);
        if (rows < 0) {
            cmd_failed(c, rows);
            return 0;
        }
        examined += (uint64_t)rows;
        vshard += hash == 0;
    }
    return vshard == ND_VSHARDS ? 0 : hash | vshard;
}

/* nd.scan cursor [MATCH p] [COUNT n] [TYPE t] [nd.slot n]: [next cursor, keys] over the vShards of this worker. A cursor is a
 * vShard (low 10 bits) and a position in it (the rest); behind the worker's last vShard it names the next one, which another
 * worker may own. A cursor of a vShard before this worker's begins at its first. */
static void cmd_nd_scan(nd_cmd *c)
{
    scan s = {.reply = c->reply, .slot = SLOT_ANY, .count = 10};
    uint64_t cursor;
    if (!nd_parse_u64(c->argv[1].ptr, c->argv[1].len, &cursor)) {
        nd_reply_error(c->reply, "ERR invalid cursor");
        return;
    }
    if (!parse_scan_options(c, &s))
        return;
    /* The keys are written first and moved to make room for their number, which is known last. */
    size_t at = c->reply->len;
    cursor = scan_from(c, &s, cursor);
    char head[64], text[24];
    int text_len = snprintf(text, sizeof text, "%llu", (unsigned long long)cursor);
    int head_len = snprintf(head, sizeof head, "*2\r\n$%d\r\n%s\r\n*%llu\r\n", text_len, text,
                            (unsigned long long)s.matched);
    nd_reply_reserve(c->reply, (size_t)head_len);
    memmove(c->reply->buf + at + head_len, c->reply->buf + at, c->reply->len - at);
    memcpy(c->reply->buf + at, head, (size_t)head_len);
    c->reply->len += (size_t)head_len;
}

/* ---- connection ---- */

static void cmd_ping(nd_cmd *c)
{
    if (c->argc > 2)
        nd_reply_error(c->reply, "ERR wrong number of arguments for 'ping' command");
    else if (c->argc == 2)
        nd_reply_bulk(c->reply, c->argv[1].ptr, c->argv[1].len);
    else
        nd_reply_raw(c->reply, "+PONG\r\n", 7);
}

static void cmd_echo(nd_cmd *c)
{
    nd_reply_bulk(c->reply, c->argv[1].ptr, c->argv[1].len);
}

const nd_cmd_reg nd_cmds_node[] = {
    {"nd_expire", cmd_nd_expire}, {"nd_flush", cmd_nd_flush}, {"nd_dbsize", cmd_nd_dbsize},
    {"nd_randomkey", cmd_nd_randomkey}, {"nd_scan", cmd_nd_scan}, {"ping", cmd_ping}, {"echo", cmd_echo}, {NULL, NULL},
};
