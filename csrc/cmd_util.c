/* cmd_util.c: see cmd_util.h. */
#include "cmd_util.h"

bool cmd_positive_expire(nd_cmd *c, const nd_arg *arg, cmd_unit unit, const char *name, int64_t *expire_ms)
{
    int64_t t;
    if (!cmd_int(c, arg, &t))
        return false;
    bool seconds = unit == CMD_SECONDS || unit == CMD_AT_SECONDS;
    bool relative = unit == CMD_SECONDS || unit == CMD_MILLISECONDS;
    if (t <= 0 || (seconds && __builtin_mul_overflow(t, 1000, &t)) ||
        (relative && __builtin_add_overflow(t, c->now_ms, &t))) {
        nd_reply_errorf(c->reply, "ERR invalid expire time in '%s' command", name);
        return false;
    }
    *expire_ms = t;
    return true;
}

bool cmd_retime(nd_cmd *c, const nd_arg *key, int64_t expire_ms)
{
    int rc = nd_store_set_expire(c->store, c->vshard, key, expire_ms);
    return rc < 0 ? cmd_failed(c, rc) >= 0 : true;
}

bool cmd_expire_at(nd_cmd *c, const nd_arg *key, int64_t expire_ms)
{
    return expire_ms <= c->now_ms ? cmd_del(c, key) >= 0 : cmd_retime(c, key, expire_ms);
}

uint8_t *cmd_edit(nd_cmd *c, const nd_arg *key, int found, uint32_t lo, uint32_t hi, uint32_t len_new)
{
    uint8_t *p;
    if (found == 0 && cmd_del(c, key) < 0)
        return NULL;
    int rc = nd_store_edit_begin(c->store, c->vshard, key, ND_TYPE_STRING, lo, hi, len_new, &p);
    if (rc < 0) {
        cmd_failed(c, rc);
        return NULL;
    }
    return p;
}

/* A bracket set at pattern[0]: *size = its bytes (all that is left when the bracket never closes). Ranges work in both
 * directions; a backslash quotes the next byte. */
static bool set_holds(const uint8_t *pattern, uint32_t len, uint8_t byte, uint32_t *size)
{
    uint32_t at = 1;
    bool negated = len > 1 && pattern[1] == '^';
    bool holds = false;
    at += negated;
    while (at < len && pattern[at] != ']') {
        uint32_t left = len - at;
        uint8_t lo = pattern[at], hi = lo;
        if (lo == '\\' && left >= 2) {
            lo = hi = pattern[at + 1];
            at += 2;
        } else if (left >= 3 && pattern[at + 1] == '-') {
            hi = pattern[at + 2];
            at += 3;
        } else {
            at++;
        }
        holds |= lo <= hi ? byte >= lo && byte <= hi : byte >= hi && byte <= lo;
    }
    *size = at < len ? at + 1 : len;
    return holds != negated;
}

/* One pattern element that takes exactly one byte (anything but '*'). */
static bool element_takes(const uint8_t *pattern, uint32_t len, uint8_t byte, uint32_t *size)
{
    *size = 1;
    switch (pattern[0]) {
    case '?':
        return true;
    case '[':
        return set_holds(pattern, len, byte, size);
    case '\\':
        if (len >= 2) {
            *size = 2;
            return pattern[1] == byte;
        }
        return byte == '\\';
    default:
        return pattern[0] == byte;
    }
}

/* Going back to the last '*' only is enough: what an earlier one could take, the last one can take as well. So the cost is
 * bounded by pattern times text, whatever a client sends. */
bool cmd_glob(const uint8_t *pattern, uint32_t pattern_len, const uint8_t *text, uint32_t text_len)
{
    uint32_t p = 0, t = 0, size = 0;
    uint32_t behind_star = 0, star_text = 0;   /* behind_star 0 = no star yet */
    while (t < text_len) {
        if (p < pattern_len && pattern[p] == '*') {
            behind_star = ++p;
            star_text = t;
        } else if (p < pattern_len && element_takes(pattern + p, pattern_len - p, text[t], &size)) {
            p += size;
            t++;
        } else if (behind_star != 0) {
            p = behind_star;
            t = ++star_text;
        } else {
            return false;
        }
    }
    while (p < pattern_len && pattern[p] == '*')
        p++;
    return p == pattern_len;
}
