/* cmd_util.h: what the command families share: argument words, typed look-ups, the error texts of Redis.
 *
 * Used by cmd_*.c only. Every function that can fail has already written its reply (or set c->fatal) when it says so: the
 * caller just returns.
 */
#ifndef ND_CMD_UTIL_H
#define ND_CMD_UTIL_H
#include <string.h>

#include "cmd.h"
#include "num.h"

#define ERR_SYNTAX "ERR syntax error"
#define ERR_NOT_INTEGER "ERR value is not an integer or out of range"
#define ERR_WRONG_TYPE "WRONGTYPE Operation against a key holding the wrong kind of value"
#define ERR_TOO_LONG "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

/* The store failed: the worker stops, so no reply is due. Returns rc. */
static inline int cmd_failed(nd_cmd *c, int rc)
{
    if (c->fatal == 0)
        c->fatal = rc;
    return rc;
}

/* 1 = found, 0 = absent or expired, < 0 = fatal. The row is valid until the next call on the store. */
static inline int cmd_lookup(nd_cmd *c, const nd_arg *key, nd_row *row)
{
    int found = nd_store_get(c->store, c->vshard, key, c->now_ms, true, row);
    return __builtin_expect(found < 0, 0) ? cmd_failed(c, found) : found;
}

/* The same for commands that look without using (TTL, TYPE, OBJECT). */
static inline int cmd_peek(nd_cmd *c, const nd_arg *key, nd_row *row)
{
    int found = nd_store_get(c->store, c->vshard, key, c->now_ms, false, row);
    return __builtin_expect(found < 0, 0) ? cmd_failed(c, found) : found;
}

/* As cmd_lookup, but a row that is not a string is answered with WRONGTYPE and counts as a failure (< 0). */
static inline int cmd_lookup_string(nd_cmd *c, const nd_arg *key, nd_row *row)
{
    int found = cmd_lookup(c, key, row);
    if (found == 1 && __builtin_expect(row->type != ND_TYPE_STRING, 0)) {
        nd_reply_error(c->reply, ERR_WRONG_TYPE);
        return -1;
    }
    return found;
}

/* true = done; false = fatal. */
static inline bool cmd_put(nd_cmd *c, const nd_arg *key, const void *val, uint32_t len, int64_t expire_ms)
{
    int rc = nd_store_put(c->store, c->vshard, key, ND_TYPE_STRING, val, len, expire_ms);
    return __builtin_expect(rc < 0, 0) ? cmd_failed(c, rc) >= 0 : true;
}

/* 1 = was there, 0 = was not, < 0 = fatal. */
static inline int cmd_del(nd_cmd *c, const nd_arg *key)
{
    int rc = nd_store_del(c->store, c->vshard, key);
    return rc < 0 ? cmd_failed(c, rc) : rc;
}

/* Case-insensitive equality with a word given in lower case. */
static inline bool cmd_word(const nd_arg *arg, const char *lower)
{
    size_t len = strlen(lower);
    if (arg->len != len)
        return false;
    for (size_t i = 0; i < len; i++) {
        uint8_t b = arg->ptr[i];
        if ((b >= 'A' && b <= 'Z' ? b + 32 : b) != (uint8_t)lower[i])
            return false;
    }
    return true;
}

/* The name that TYPE gives. */
static inline const char *cmd_type_name(uint8_t type)
{
    return type == ND_TYPE_STRING ? "string" : "none";
}

/* An integer argument; false after the reply "value is not an integer or out of range". */
static inline bool cmd_int(nd_cmd *c, const nd_arg *arg, int64_t *out)
{
    if (nd_parse_i64(arg->ptr, arg->len, out))
        return true;
    nd_reply_error(c->reply, ERR_NOT_INTEGER);
    return false;
}

/* How an expiry argument is meant. */
typedef enum cmd_unit { CMD_SECONDS, CMD_MILLISECONDS, CMD_AT_SECONDS, CMD_AT_MILLISECONDS } cmd_unit;

/* SET/GETEX/SETEX: a positive time to an absolute one; false after the reply. `name` is the command's, for the error. */
bool cmd_positive_expire(nd_cmd *c, const nd_arg *arg, cmd_unit unit, const char *name, int64_t *expire_ms);
/* Gives an existing row another expiry, 0 = none; false = fatal. */
bool cmd_retime(nd_cmd *c, const nd_arg *key, int64_t expire_ms);
/* The same for a time a client named: if it has passed, the row is deleted. */
bool cmd_expire_at(nd_cmd *c, const nd_arg *key, int64_t expire_ms);
/* nd_store_edit_begin, with the row (its expiry passed) deleted first when `found` is 0. NULL = fatal. */
uint8_t *cmd_edit(nd_cmd *c, const nd_arg *key, int found, uint32_t lo, uint32_t hi, uint32_t len_new);
/* Glob as Redis matches keys: * ? [a-z] [^a] and \ to quote; bytes, case-sensitive. */
bool cmd_glob(const uint8_t *pattern, uint32_t pattern_len, const uint8_t *text, uint32_t text_len);
#endif
