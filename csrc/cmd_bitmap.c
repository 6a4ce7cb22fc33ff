/* cmd_bitmap.c: strings as arrays of bits, most significant bit of each byte first. Replies are those of Redis 7.0.
 *
 * Writes go through nd_store_edit_*: they cost what they touch, not the whole value.
 */
#include "cmd_util.h"

#define ERR_BIT_OFFSET "ERR bit offset is not an integer or out of range"
#define ERR_BITFIELD_TYPE \
    "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."

/* A bit offset; with unit > 0 also "#n", which counts in fields of that many bits. false after the reply. */
static bool parse_bit_offset(nd_cmd *c, const nd_arg *arg, uint32_t unit, int64_t *out)
{
    bool counted = unit > 0 && arg->len > 0 && arg->ptr[0] == '#';
    int64_t offset;
    if (!nd_parse_i64(arg->ptr + counted, arg->len - counted, &offset) ||
        (counted && __builtin_mul_overflow(offset, (int64_t)unit, &offset)) ||
        offset < 0 || offset >> 3 >= ND_VALUE_BYTES_MAX) {
        nd_reply_error(c->reply, ERR_BIT_OFFSET);
        return false;
    }
    *out = offset;
    return true;
}

static void cmd_setbit(nd_cmd *c)
{
    int64_t offset, on;
    nd_row row;
    if (!parse_bit_offset(c, &c->argv[2], 0, &offset))
        return;
    if (!nd_parse_i64(c->argv[3].ptr, c->argv[3].len, &on) || (on & ~1) != 0) {
        nd_reply_error(c->reply, "ERR bit is not an integer or out of range");
        return;
    }
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    uint32_t at = (uint32_t)(offset >> 3), shift = 7 - (uint32_t)(offset & 7);
    uint32_t len_old = found == 1 ? row.len : 0;
    uint8_t byte_old = at < len_old ? row.val[at] : 0;
    int64_t bit_old = byte_old >> shift & 1;
    if (at >= len_old || bit_old != on) {
        uint8_t *p = cmd_edit(c, &c->argv[1], found, at, at + 1, at < len_old ? len_old : at + 1);
        if (p == NULL)
            return;
        p[at] = (uint8_t)((byte_old & ~(1u << shift)) | (uint32_t)on << shift);
        nd_store_edit_end(c->store);
    }
    nd_reply_int(c->reply, bit_old);
}

static void cmd_getbit(nd_cmd *c)
{
    int64_t offset;
    nd_row row;
    if (!parse_bit_offset(c, &c->argv[2], 0, &offset))
        return;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    bool inside = found == 1 && offset >> 3 < row.len;
    nd_reply_int(c->reply, inside ? row.val[offset >> 3] >> (7 - (offset & 7)) & 1 : 0);
}

/* ---- ranges ---- */

/* The set bits among [lo, hi], in bits; lo <= hi, both inside p. */
static int64_t count_bits(const uint8_t *p, int64_t lo, int64_t hi)
{
    int64_t first = lo >> 3, last = hi >> 3, count = 0;
    count -= __builtin_popcount(p[first] & ~(0xffu >> (lo & 7)) & 0xffu);
    count -= __builtin_popcount(p[last] & 0x7fu >> (hi & 7));
    for (; last - first >= 7; first += 8) {
        uint64_t word;
        memcpy(&word, p + first, 8);
        count += __builtin_popcountll(word);
    }
    for (; first <= last; first++)
        count += __builtin_popcount(p[first]);
    return count;
}

/* The first bit among [lo, hi] that equals `bit`, or -1. */
static int64_t find_bit(const uint8_t *p, int64_t lo, int64_t hi, int bit)
{
    const uint64_t flip = bit == 1 ? 0 : ~(uint64_t)0;
    while (lo <= hi) {
        if ((lo & 7) == 0 && hi - lo >= 63) {
            uint64_t word;
            memcpy(&word, p + (lo >> 3), 8);
            word = __builtin_bswap64(word) ^ flip;
            if (word != 0)
                return lo + __builtin_clzll(word);
            lo += 64;
        } else {
            if ((p[lo >> 3] >> (7 - (lo & 7)) & 1) == bit)
                return lo;
            lo++;
        }
    }
    return -1;
}

/* Clips a range of units (negative counts from the end) to [0, len); it is empty when *start > *end afterwards. */
static void clip_range(int64_t len, int64_t *start, int64_t *end)
{
    *start = *start < 0 ? *start + len : *start;
    *end = *end < 0 ? *end + len : *end;
    *start = *start < 0 ? 0 : *start;
    *end = *end < 0 ? 0 : *end;
    *end = *end >= len ? len - 1 : *end;
}

/* BYTE or BIT; false after a syntax error. */
static bool parse_unit(nd_cmd *c, const nd_arg *arg, bool *bits)
{
    *bits = cmd_word(arg, "bit");
    if (*bits || cmd_word(arg, "byte"))
        return true;
    nd_reply_error(c->reply, ERR_SYNTAX);
    return false;
}

static void cmd_bitcount(nd_cmd *c)
{
    nd_row row;
    int64_t start = 0, end = -1;
    bool bits = false;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 1) {
        if (found == 0)
            nd_reply_int(c->reply, 0);
        return;
    }
    if (c->argc == 3 || c->argc > 5) {
        nd_reply_error(c->reply, ERR_SYNTAX);
        return;
    }
    if (c->argc >= 4 && (!cmd_int(c, &c->argv[2], &start) || !cmd_int(c, &c->argv[3], &end)))
        return;
    bool backwards = start < 0 && end < 0 && start > end;
    if (!backwards && c->argc == 5 && !parse_unit(c, &c->argv[4], &bits))
        return;
    clip_range(bits ? (int64_t)row.len * 8 : row.len, &start, &end);
    if (backwards || start > end)
        nd_reply_int(c->reply, 0);
    else
        nd_reply_int(c->reply, bits ? count_bits(row.val, start, end) : count_bits(row.val, start * 8, end * 8 + 7));
}

/* BITPOS's start, end and unit of a value of len bytes; false after the reply. */
static bool parse_bitpos_range(nd_cmd *c, int64_t len, int64_t *start, int64_t *end)
{
    bool bits = false;
    *start = 0;
    *end = -1;
    if (c->argc > 6) {
        nd_reply_error(c->reply, ERR_SYNTAX);
        return false;
    }
    if (c->argc >= 4 && !cmd_int(c, &c->argv[3], start))
        return false;
    if (c->argc == 6 && !parse_unit(c, &c->argv[5], &bits))
        return false;
    if (c->argc >= 5 && !cmd_int(c, &c->argv[4], end))
        return false;
    clip_range(bits ? len * 8 : len, start, end);
    if (!bits && *start <= *end) {
        *start *= 8;
        *end = *end * 8 + 7;
    }
    return true;
}

static void cmd_bitpos(nd_cmd *c)
{
    nd_row row;
    int64_t bit, start, end;
    if (!cmd_int(c, &c->argv[2], &bit))
        return;
    if (bit != 0 && bit != 1) {
        nd_reply_error(c->reply, "ERR The bit argument must be 1 or 0.");
        return;
    }
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return;
    if (found == 0) {
        nd_reply_int(c->reply, bit == 1 ? -1 : 0);
        return;
    }
    if (!parse_bitpos_range(c, row.len, &start, &end))
        return;
    int64_t at = start > end ? -1 : find_bit(row.val, start, end, (int)bit);
    /* Without an explicit end the value counts as followed by zeros. */
    if (at == -1 && bit == 0 && c->argc < 5 && start <= end)
        at = (int64_t)row.len * 8;
    nd_reply_int(c->reply, at);
}

/* ---- BITOP ---- */

typedef enum bitop { BITOP_AND, BITOP_OR, BITOP_XOR, BITOP_NOT } bitop;

static void combine(uint8_t *into, const uint8_t *p, uint32_t len, bitop op)
{
    uint32_t i = 0;
    for (; len - i >= 8; i += 8) {
        uint64_t a, b;
        memcpy(&a, into + i, 8);
        memcpy(&b, p + i, 8);
        a = op == BITOP_AND ? a & b : op == BITOP_OR ? a | b : op == BITOP_XOR ? a ^ b : ~b;
        memcpy(into + i, &a, 8);
    }
    for (; i < len; i++) {
        uint8_t a = into[i], b = p[i];
        into[i] = (uint8_t)(op == BITOP_AND ? a & b : op == BITOP_OR ? a | b : op == BITOP_XOR ? a ^ b : ~b);
    }
}

/* The longest source's length, 0 if none exists; < 0 after a reply or a fatal error. */
static int64_t longest_source(nd_cmd *c)
{
    int64_t longest = 0;
    for (uint32_t i = 3; i < c->argc; i++) {
        nd_row row;
        int found = cmd_lookup_string(c, &c->argv[i], &row);
        if (found < 0)
            return -1;
        if (found == 1 && row.len > longest)
            longest = row.len;
    }
    return longest;
}

/* Combines all sources into out[0..len), which is zero; false = fatal. */
static bool combine_sources(nd_cmd *c, bitop op, uint8_t *out, uint32_t len)
{
    for (uint32_t i = 3; i < c->argc; i++) {
        nd_row row = {0};
        int found = cmd_lookup(c, &c->argv[i], &row);
        if (found < 0)
            return false;
        uint32_t have = found == 1 ? row.len : 0;
        combine(out, row.val, have, i == 3 && op != BITOP_NOT ? BITOP_OR : op);
        if (op == BITOP_AND)
            memset(out + have, 0, len - have);
    }
    return true;
}

static void cmd_bitop(nd_cmd *c)
{
    static const char *const names[] = {"and", "or", "xor", "not"};
    uint32_t op = 0;
    while (op < 4 && !cmd_word(&c->argv[1], names[op]))
        op++;
    if (op == 4) {
        nd_reply_error(c->reply, ERR_SYNTAX);
        return;
    }
    if (op == BITOP_NOT && c->argc != 4) {
        nd_reply_error(c->reply, "ERR BITOP NOT must be called with a single source key.");
        return;
    }
    int64_t len = longest_source(c);
    if (len < 0)
        return;
    if (len == 0) {
        if (cmd_del(c, &c->argv[2]) >= 0)
            nd_reply_int(c->reply, 0);
        return;
    }
    /* The sources' bytes do not outlive the next look-up, so the result is gathered outside the store. */
    uint8_t *out = calloc(1, (size_t)len);
    ND_ASSERT(out != NULL);
    if (combine_sources(c, (bitop)op, out, (uint32_t)len) && cmd_put(c, &c->argv[2], out, (uint32_t)len, 0))
        nd_reply_int(c->reply, len);
    free(out);
}

/* ---- BITFIELD ---- */

typedef enum overflow { OVERFLOW_WRAP, OVERFLOW_SAT, OVERFLOW_FAIL } overflow;

/* One operation; parsed twice (once to check all, once to run), so that nothing is allocated. */
typedef struct field_op {
    enum { FIELD_GET, FIELD_SET, FIELD_INCRBY } kind;
    bool is_signed;
    uint32_t bits;
    int64_t offset;
    int64_t operand;
    overflow overflow;
} field_op;

static bool parse_field_type(nd_cmd *c, const nd_arg *arg, field_op *op)
{
    int64_t bits;
    op->is_signed = arg->len > 0 && arg->ptr[0] == 'i';
    if (arg->len == 0 || (arg->ptr[0] != 'i' && arg->ptr[0] != 'u') ||
        !nd_parse_i64(arg->ptr + 1, arg->len - 1, &bits) || bits < 1 || bits > (op->is_signed ? 64 : 63)) {
        nd_reply_error(c->reply, ERR_BITFIELD_TYPE);
        return false;
    }
    op->bits = (uint32_t)bits;
    return true;
}

static bool parse_overflow(nd_cmd *c, const nd_arg *arg, overflow *out)
{
    if (cmd_word(arg, "wrap")) {
        *out = OVERFLOW_WRAP;
    } else if (cmd_word(arg, "sat")) {
        *out = OVERFLOW_SAT;
    } else if (cmd_word(arg, "fail")) {
        *out = OVERFLOW_FAIL;
    } else {
        nd_reply_error(c->reply, "ERR Invalid OVERFLOW type specified");
        return false;
    }
    return true;
}

/* The next operation from argv[*at] on; op->overflow is carried from call to call. 1 = *op filled, 0 = no more, -1 = replied. */
static int next_field_op(nd_cmd *c, uint32_t *at, field_op *op)
{
    uint32_t i = *at, left = c->argc - i;
    while (left >= 2 && cmd_word(&c->argv[i], "overflow")) {
        if (!parse_overflow(c, &c->argv[i + 1], &op->overflow))
            return -1;
        i += 2;
        left -= 2;
    }
    if (left == 0)
        return 0;
    if (left >= 3 && cmd_word(&c->argv[i], "get")) {
        op->kind = FIELD_GET;
    } else if (left >= 4 && cmd_word(&c->argv[i], "set")) {
        op->kind = FIELD_SET;
    } else if (left >= 4 && cmd_word(&c->argv[i], "incrby")) {
        op->kind = FIELD_INCRBY;
    } else {
        nd_reply_error(c->reply, ERR_SYNTAX);
        return -1;
    }
    if (!parse_field_type(c, &c->argv[i + 1], op) || !parse_bit_offset(c, &c->argv[i + 2], op->bits, &op->offset))
        return -1;
    if (op->kind != FIELD_GET && !cmd_int(c, &c->argv[i + 3], &op->operand))
        return -1;
    *at = i + (op->kind == FIELD_GET ? 3 : 4);
    return 1;
}

/* `bits` bits at offset as an unsigned number; what lies behind the value's end is zero. */
static uint64_t field_load(const uint8_t *p, int64_t len, int64_t offset, uint32_t bits)
{
    int64_t last_bit = offset + bits - 1;
    unsigned __int128 window = 0;
    for (int64_t at = offset >> 3; at <= last_bit >> 3; at++)
        window = window << 8 | (at < len ? p[at] : 0);
    return (uint64_t)(window >> (7 - (last_bit & 7))) & (~(uint64_t)0 >> (64 - bits));
}

static void field_store(uint8_t *p, int64_t offset, uint32_t bits, uint64_t value)
{
    int64_t last_bit = offset + bits - 1;
    uint32_t shift = 7 - (uint32_t)(last_bit & 7);
    unsigned __int128 mask = (unsigned __int128)(~(uint64_t)0 >> (64 - bits)) << shift;
    unsigned __int128 window = (unsigned __int128)value << shift & mask;
    for (int64_t at = last_bit >> 3; at >= offset >> 3; at--) {
        p[at] = (uint8_t)((p[at] & ~(uint8_t)mask) | (uint8_t)window);
        mask >>= 8;
        window >>= 8;
    }
}

static int64_t sign_extend(uint64_t value, uint32_t bits)
{
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

/* The value to store, by the overflow rule; false when the rule is FAIL and it does not fit. */
static bool field_result(const field_op *op, int64_t old, int64_t *result)
{
    __int128 max = ((__int128)1 << (op->is_signed ? op->bits - 1 : op->bits)) - 1;
    __int128 min = op->is_signed ? -max - 1 : 0;
    __int128 v;
    if (op->kind == FIELD_INCRBY)
        v = (__int128)old + op->operand;
    else   /* a negative operand of an unsigned SET is too large, not too small */
        v = op->is_signed ? (__int128)op->operand : (__int128)(uint64_t)op->operand;
    if (v >= min && v <= max) {
        *result = (int64_t)v;
    } else if (op->overflow == OVERFLOW_FAIL) {
        return false;
    } else if (op->overflow == OVERFLOW_SAT) {
        *result = (int64_t)(v > max ? max : min);
    } else {
        uint64_t low = (uint64_t)v & (~(uint64_t)0 >> (64 - op->bits));
        *result = op->is_signed ? sign_extend(low, op->bits) : (int64_t)low;
    }
    return true;
}

/* Runs one operation on the row of argv[1] and appends its reply; false = fatal. */
static bool run_field_op(nd_cmd *c, const field_op *op)
{
    nd_row row;
    int found = cmd_peek(c, &c->argv[1], &row);
    if (found < 0)
        return false;
    uint64_t raw = field_load(found == 1 ? row.val : NULL, found == 1 ? row.len : 0, op->offset, op->bits);
    int64_t old = op->is_signed ? sign_extend(raw, op->bits) : (int64_t)raw, result;
    if (op->kind == FIELD_GET) {
        nd_reply_int(c->reply, old);
        return true;
    }
    if (!field_result(op, old, &result)) {
        nd_reply_nil(c->reply);
        return true;
    }
    uint32_t lo = (uint32_t)(op->offset >> 3), hi = (uint32_t)((op->offset + op->bits - 1) >> 3) + 1;
    uint8_t *p = cmd_edit(c, &c->argv[1], 1, lo, hi, row.len);
    if (p == NULL)
        return false;
    field_store(p, op->offset, op->bits, (uint64_t)result);
    nd_store_edit_end(c->store);
    nd_reply_int(c->reply, op->kind == FIELD_SET ? old : result);
    return true;
}

/* Makes the row of argv[1] at least `bytes` long; false after a reply or a fatal error. */
static bool make_room(nd_cmd *c, int64_t bytes)
{
    nd_row row;
    int found = cmd_lookup_string(c, &c->argv[1], &row);
    if (found < 0)
        return false;
    if (bytes > ND_VALUE_BYTES_MAX) {
        nd_reply_error(c->reply, ERR_TOO_LONG);
        return false;
    }
    uint32_t len_old = found == 1 ? row.len : 0;
    if (bytes <= len_old)
        return true;
    if (cmd_edit(c, &c->argv[1], found, len_old, len_old, (uint32_t)bytes) == NULL)
        return false;
    nd_store_edit_end(c->store);
    return true;
}

static void bitfield(nd_cmd *c, bool read_only)
{
    field_op op = {.overflow = OVERFLOW_WRAP};
    int64_t ops = 0, bytes_needed = 0;
    uint32_t at = 2;
    int more;
    nd_row row;
    while ((more = next_field_op(c, &at, &op)) == 1) {
        int64_t end = (op.offset + op.bits + 7) >> 3;
        if (op.kind != FIELD_GET && end > bytes_needed)
            bytes_needed = end;
        ops++;
    }
    if (more < 0)
        return;
    if (bytes_needed == 0) {
        if (cmd_lookup_string(c, &c->argv[1], &row) < 0)
            return;
    } else if (read_only) {
        nd_reply_error(c->reply, "ERR BITFIELD_RO only supports the GET subcommand");
        return;
    } else if (!make_room(c, bytes_needed)) {
        return;
    }
    nd_reply_array(c->reply, (size_t)ops);
    at = 2;
    op.overflow = OVERFLOW_WRAP;
    while (next_field_op(c, &at, &op) == 1 && run_field_op(c, &op)) {
    }
}

static void cmd_bitfield(nd_cmd *c)
{
    bitfield(c, false);
}

static void cmd_bitfield_ro(nd_cmd *c)
{
    bitfield(c, true);
}

const nd_cmd_reg nd_cmds_bitmap[] = {
    {"setbit", cmd_setbit}, {"getbit", cmd_getbit}, {"bitcount", cmd_bitcount}, {"bitpos", cmd_bitpos},
    {"bitop", cmd_bitop}, {"bitfield", cmd_bitfield}, {"bitfield_ro", cmd_bitfield_ro}, {NULL, NULL},
};
