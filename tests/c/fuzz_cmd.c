/* fuzz_cmd.c: command functions on a store, with arguments made from bytes. Each line of the input is a command, its words
 * separated by blanks; the first byte of a line chooses the command, so that most inputs get past the name.
 * Checked: no sanitizer complaint, nothing fatal, exactly one well-formed reply.
 */
#include <string.h>
#include <unistd.h>

#include "cmd.h"

#define ARGS_MAX 12

static const struct { const char *name; int arity; const char *function; } rows[] = {
    {"set", -3, "set"}, {"get", 2, "get"}, {"setnx", 3, "setnx"}, {"setex", 4, "setex"}, {"psetex", 4, "psetex"},
    {"getset", 3, "getset"}, {"getdel", 2, "getdel"}, {"getex", -2, "getex"}, {"mget", -2, "mget"},
    {"mset", -3, "mset"}, {"msetnx", -3, "msetnx"}, {"append", 3, "append"}, {"strlen", 2, "strlen"},
    {"getrange", 4, "getrange"}, {"substr", 4, "getrange"}, {"setrange", 4, "setrange"}, {"incr", 2, "incr"},
    {"decr", 2, "decr"}, {"incrby", 3, "incrby"}, {"decrby", 3, "decrby"}, {"incrbyfloat", 3, "incrbyfloat"},
    {"setbit", 4, "setbit"}, {"getbit", 3, "getbit"}, {"bitcount", -2, "bitcount"}, {"bitpos", -3, "bitpos"},
    {"bitop", -4, "bitop"}, {"bitfield", -2, "bitfield"}, {"bitfield_ro", -2, "bitfield_ro"}, {"del", -2, "delete"},
    {"unlink", -2, "delete"}, {"exists", -2, "exists"}, {"type", 2, "type"}, {"ttl", 2, "ttl"}, {"pttl", 2, "pttl"},
    {"expire", -3, "expire"}, {"pexpire", -3, "pexpire"}, {"expireat", -3, "expireat"},
    {"pexpireat", -3, "pexpireat"}, {"expiretime", 2, "expiretime"}, {"pexpiretime", 2, "pexpiretime"},
    {"persist", 2, "persist"}, {"rename", 3, "rename"}, {"renamenx", 3, "renamenx"}, {"copy", -3, "copy"},
    {"touch", -2, "touch"}, {"object|encoding", 3, "object_encoding"}, {"object|freq", 3, "object_freq"},
    {"object|idletime", 3, "object_idletime"}, {"object|refcount", 3, "object_refcount"},
    {"object|help", 2, "object_help"}, {"ping", -1, "ping"}, {"echo", 2, "echo"}, {"nd.expire", 3, "nd_expire"},
    {"nd.flush", 1, "nd_flush"}, {"nd.dbsize", 1, "nd_dbsize"}, {"nd.randomkey", 1, "nd_randomkey"},
    {"nd.scan", -2, "nd_scan"},
};
#define ROWS (sizeof rows / sizeof *rows)

static nd_store *store;
static nd_cmdtab *table;
static nd_reply reply;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static char path[] = "/tmp/fuzz-cmd-XXXXXX";
    nd_store_cfg cfg = {.path = path, .map_bytes = 16u << 20, .dirty_bytes_max = 64u << 20,
                        .memory_bytes_max = 64u << 20, .txn_rows_max = 4096, .txn_bytes_max = 1 << 23};
    ND_ASSERT(mkdtemp(path) != NULL);
    ND_ASSERT(nd_store_open(&cfg, &store) == 0 && nd_store_own(store, 0, 0) == 0);
    char file[64];
    static const char *const files[] = {"data.mdb", "lock.mdb"};
    for (int i = 0; i < 2; i++) { /* open files outlive their names: nothing stays behind */
        snprintf(file, sizeof file, "%s/%s", path, files[i]);
        unlink(file);
    }
    rmdir(path);
    table = nd_cmdtab_new();
    for (size_t i = 0; i < ROWS; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s", rows[i].name);
        for (char *p = name; *p; p++)
            *p = *p == '|' ? '.' : *p;   /* the subcommands without their containers */
        ND_ASSERT(nd_cmdtab_add(table, name, (uint16_t)i, (int16_t)rows[i].arity, 0, 0, 0, 0, rows[i].function) == 0);
    }
    nd_reply_init(&reply);
    return 0;
}

/* The end of the reply that begins at `at`. */
static size_t reply_end(size_t at)
{
    const uint8_t *end = memchr(reply.buf + at, '\n', reply.len - at);
    ND_ASSERT(end != NULL && end > reply.buf + at && end[-1] == '\r');
    size_t next = (size_t)(end - reply.buf) + 1;
    long n = strtol((const char *)reply.buf + at + 1, NULL, 10);
    switch (reply.buf[at]) {
    case '+': case '-': case ':': case '_':
        return next;
    case '$':
        next += n < 0 ? 0 : (size_t)n + 2;
        ND_ASSERT(next <= reply.len);
        return next;
    default:
        ND_ASSERT(reply.buf[at] == '*');
        for (long i = 0; i < n; i++)
            next = reply_end(next);
        return next;
    }
}

static void run(const nd_arg *argv, uint32_t argc, int64_t now_ms)
{
    const nd_cmdrow *row = nd_cmdtab_by_id(table, (uint16_t)(argv[0].ptr[0] % ROWS));
    if (!nd_cmdrow_arity_fits(row, argc))
        return;
    nd_cmd c = {.store = store, .vshard = 0, .vshard_first = 0, .vshard_last = 0, .stamp = (uint64_t)now_ms << 16,
                .now_ms = now_ms, .seed = argc, .argv = argv, .argc = argc, .reply = &reply};
    reply.len = 0;
    reply.resp = now_ms & 1 ? 2 : 3;
    row->fn(&c);
    ND_ASSERT(c.fatal == 0 && reply.len > 0 && reply_end(0) == reply.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nd_arg argv[ARGS_MAX];
    uint32_t argc = 0;
    int64_t now_ms = 1000000;
    size_t start = 0;
    for (size_t i = 0; i <= size; i++) {
        if (i < size && data[i] != ' ' && data[i] != '\n')
            continue;
        if (argc < ARGS_MAX && (argc > 0 || i > start))
            argv[argc++] = (nd_arg){data + start, (uint32_t)(i - start)};
        start = i + 1;
        if (argc > 0 && (i == size || data[i] == '\n')) {
            run(argv, argc, now_ms++);
            argc = 0;
        }
    }
    ND_ASSERT(nd_store_flush(store, 0) == 0);
    return 0;
}
