/* cmd.c: the command table (see cmd.h).
 *
 * A name is up to 32 bytes, kept as four lower-cased words, so that a look-up is one multiplication per word and one probe.
 * Invariant: entries[i].row is rows[i]; index[] holds i + 1, 0 = free, and is at most half full.
 */
#include "cmd.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define ROWS_MAX 512
#define INDEX_SIZE 1024
#define IDS_MAX ND_CMD_IDS_MAX
#define NAME_WORDS 4

_Static_assert(sizeof((nd_cmdrow *)0)->name == NAME_WORDS * sizeof(uint64_t), "a name fills its words");
_Static_assert(ROWS_MAX * 2 <= INDEX_SIZE, "a probe ends soon");

typedef struct entry {
    uint64_t word[NAME_WORDS];   /* of the name, or of the part behind '|' */
    uint32_t len;                /* a name sent with zero bytes behind it has the same words */
    uint32_t parent;             /* 1 + the container's number, 0 = none */
    bool container;              /* has subcommands */
} entry;

struct nd_cmdtab {
    uint32_t count;
    uint16_t index[INDEX_SIZE];
    uint16_t by_id[IDS_MAX];     /* 1 + row number */
    entry entries[ROWS_MAX];
    nd_cmdrow rows[ROWS_MAX];
};

/* Families that this build knows; each ends with {NULL, NULL}. */
static const nd_cmd_reg *const families[] = {nd_cmds_string, nd_cmds_bitmap, nd_cmds_generic, nd_cmds_node};

nd_cmdtab *nd_cmdtab_new(void)
{
    return calloc(1, sizeof(nd_cmdtab));
}

void nd_cmdtab_free(nd_cmdtab *t)
{
    free(t);
}

/* 'A'..'Z' to lower case in each of eight bytes. */
static inline uint64_t lower8(uint64_t x)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t low7 = x & (ones * 0x7f);
    uint64_t from_a = low7 + ones * (0x80 - 'A');
    uint64_t past_z = low7 + ones * (0x7f - 'Z');
    uint64_t upper = (from_a ^ past_z) & ~x & (ones * 0x80);
    return x | upper >> 2;
}

/* At most eight bytes, zero-filled, without reading outside them. */
static inline uint64_t load8(const uint8_t *p, uint32_t n)
{
    uint64_t x = 0;
    if (n >= 8) {
        memcpy(&x, p, 8);
    } else if (n >= 4) {
        uint32_t head, tail;
        memcpy(&head, p, 4);
        memcpy(&tail, p + n - 4, 4);
        x = head | (uint64_t)tail << 8 * (n - 4);
    } else if (n > 0) {
        x = p[0] | (uint64_t)p[n / 2] << 8 * (n / 2) | (uint64_t)p[n - 1] << 8 * (n - 1);
    }
    return x;
}

static inline void pack(const uint8_t *name, uint32_t len, uint64_t word[NAME_WORDS])
{
    word[0] = lower8(load8(name, len));
    word[1] = word[2] = word[3] = 0;
    for (uint32_t i = 1; 8 * i < len; i++)
        word[i] = lower8(load8(name + 8 * i, len - 8 * i));
}

static inline uint32_t hash_of(const uint64_t word[NAME_WORDS], uint32_t parent)
{
    uint64_t h = word[0] + parent;
    h ^= word[1] * 0x9fb21c651e98df25u ^ word[2] * 0xd6e8feb86659fd93u ^ word[3] * 0xa0761d6478bd642fu;
    return (uint32_t)(h * 0x9e3779b97f4a7c15u >> 54);
}

/* The bucket that holds the name or, if none does, the free one where it would go. */
static inline uint32_t probe(const nd_cmdtab *t, const uint64_t word[NAME_WORDS], uint32_t len, uint32_t parent)
{
    uint32_t at = hash_of(word, parent);
    for (;; at = (at + 1) % INDEX_SIZE) {
        if (t->index[at] == 0)
            return at;
        const entry *e = &t->entries[t->index[at] - 1];
        uint64_t differs = (e->word[0] ^ word[0]) | (e->word[1] ^ word[1]) | (e->word[2] ^ word[2]) |
                           (e->word[3] ^ word[3]) | (e->len ^ len) | (e->parent ^ parent);
        if (differs == 0)
            return at;
    }
}

/* 1 + the row's number, or 0. */
static inline uint32_t lookup(const nd_cmdtab *t, const nd_arg *name, uint32_t parent)
{
    uint64_t word[NAME_WORDS];
    if (name->len - 1 >= sizeof word)
        return 0;
    pack(name->ptr, name->len, word);
    return t->index[probe(t, word, name->len, parent)];
}

const nd_cmdrow *nd_cmdtab_find(const nd_cmdtab *t, const nd_arg *argv, uint32_t argc)
{
    uint32_t found = lookup(t, &argv[0], 0);
    if (found != 0 && t->entries[found - 1].container && argc >= 2)
        found = lookup(t, &argv[1], found);
    return found == 0 ? NULL : &t->rows[found - 1];
}

const nd_cmdrow *nd_cmdtab_by_id(const nd_cmdtab *t, uint16_t id)
{
    return id < IDS_MAX && t->by_id[id] != 0 ? &t->rows[t->by_id[id] - 1] : NULL;
}

static nd_cmd_fn function_named(const char *name)
{
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (const nd_cmd_reg *reg = families[f]; reg->name != NULL; reg++) {
            if (strcmp(reg->name, name) == 0)
                return reg->fn;
        }
    }
    return NULL;
}

int nd_cmdtab_add(nd_cmdtab *t, const char *name, uint16_t id, int16_t arity, uint32_t flags, int16_t key_first,
                  int16_t key_last, int16_t key_step, const char *fn)
{
    ND_ASSERT(t->count < ROWS_MAX && id < IDS_MAX && strlen(name) < sizeof t->rows->name);
    nd_cmd_fn function = function_named(fn);
    if (function == NULL && *fn != 0)
        return -ENOENT;
    const char *sub = strchr(name, '|');
    nd_arg own = {(const uint8_t *)name, (uint32_t)strlen(name)};
    uint32_t parent = 0;
    if (sub != NULL) {
        nd_arg container = {own.ptr, (uint32_t)(sub - name)};
        parent = lookup(t, &container, 0);
        ND_ASSERT(parent != 0); /* a container's row comes before its subcommands' */
        own = (nd_arg){(const uint8_t *)sub + 1, (uint32_t)strlen(sub + 1)};
    }
    uint64_t word[NAME_WORDS];
    pack(own.ptr, own.len, word);
    uint32_t bucket = probe(t, word, own.len, parent);
    if (t->index[bucket] != 0 || t->by_id[id] != 0)
        return -EEXIST;
    if (parent != 0)
        t->entries[parent - 1].container = true;
    entry *e = &t->entries[t->count];
    memcpy(e->word, word, sizeof word);
    e->len = own.len;
    e->parent = parent;
    nd_cmdrow *row = &t->rows[t->count++];
    *row = (nd_cmdrow){.id = id, .arity = arity, .key_first = key_first, .key_last = key_last, .key_step = key_step,
                       .flags = flags, .fn = function};
    memcpy(row->name, name, strlen(name));
    t->index[bucket] = t->by_id[id] = (uint16_t)t->count;
    return 0;
}

void nd_cmdtab_key_access(nd_cmdtab *t, uint16_t id, uint8_t first, uint8_t others)
{
    ND_ASSERT(id < IDS_MAX && t->by_id[id] != 0);
    nd_cmdrow *row = &t->rows[t->by_id[id] - 1];
    row->key_access[0] = first;
    row->key_access[1] = others;
}

uint32_t nd_cmdrow_key(const nd_cmdrow *row, uint32_t argc, uint32_t n)
{
    if (row->key_first == 0)
        return 0;
    int64_t last = row->key_last < 0 ? (int64_t)argc + row->key_last : row->key_last;
    int64_t at = row->key_first + (int64_t)n * row->key_step;
    return at <= last && at < argc ? (uint32_t)at : 0;
}

/* Appends to a bounded error text; what does not fit is left out. */
static uint32_t append(char *text, uint32_t at, const char *format, const nd_arg *arg, uint32_t bytes_max)
{
    uint32_t shown = (uint32_t)strnlen((const char *)arg->ptr, arg->len < bytes_max ? arg->len : bytes_max);
    uint32_t room = ND_CMD_ERROR_BYTES - at;
    int n = snprintf(text + at, room, format, (int)shown, (const char *)arg->ptr);
    return (uint32_t)n < room ? at + (uint32_t)n : ND_CMD_ERROR_BYTES - 1;
}

void nd_cmdtab_unknown(const nd_cmdtab *t, const nd_arg *argv, uint32_t argc, char text[ND_CMD_ERROR_BYTES])
{
    uint32_t at = 0, found = lookup(t, &argv[0], 0);
    if (found != 0 && argc >= 2 && t->entries[found - 1].container) {
        const char *name = t->rows[found - 1].name;
        char upper[sizeof t->rows->name] = "";
        for (uint32_t i = 0; i < sizeof upper; i++)
            upper[i] = name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] - 'a' + 'A') : name[i];
        at = append(text, at, "ERR unknown subcommand '%.*s'.", &argv[1], 128);
        snprintf(text + at, ND_CMD_ERROR_BYTES - at, " Try %s HELP.", upper);
        return;
    }
    at = append(text, at, "ERR unknown command '%.*s', with args beginning with: ", &argv[0], 128);
    uint32_t start = at;
    for (uint32_t i = 1; i < argc && at - start < 128; i++)
        at = append(text, at, "'%.*s' ", &argv[i], 128 - (at - start));
}

void nd_cmdrow_wrong_arity(const nd_cmdrow *row, char text[ND_CMD_ERROR_BYTES])
{
    snprintf(text, ND_CMD_ERROR_BYTES, "ERR wrong number of arguments for '%s' command", row->name);
}
