/* command_harness.c: runs one command after another on a store in a directory, the way a worker does after commit.
 *
 * Built into a shared library by command_harness.py; for tests only. Owns all vShards as one group.
 */
#include <errno.h>
#include <string.h>

#include "cmd.h"
#include "slot.h"

#define ARGS_MAX 1024

typedef struct harness {
    nd_store *store;
    nd_cmdtab *table;
    nd_reply reply;
} harness;

void harness_close(harness *h)
{
    if (h->store != NULL)
        nd_store_close(h->store);
    nd_cmdtab_free(h->table);
    nd_reply_free(&h->reply);
    free(h);
}

harness *harness_open(const char *path)
{
    harness *h = calloc(1, sizeof *h);
    nd_store_cfg cfg = {.path = path, .map_bytes = 64u << 20, .dirty_bytes_max = 64u << 20,
                        .memory_bytes_max = 256u << 20, .txn_rows_max = 4096};
    nd_reply_init(&h->reply);
    h->table = nd_cmdtab_new();
    int rc = nd_store_open(&cfg, &h->store);
    for (uint32_t v = 0; rc == 0 && v < ND_VSHARDS; v++)
        rc = nd_store_own(h->store, v, 0);
    if (rc != 0) {
        harness_close(h);
        return NULL;
    }
    return h;
}

nd_cmdtab *harness_table(harness *h)
{
    return h->table;
}

/* The vShard of all keys, ND_VSHARD_NONE without keys, or -1 after the CROSSSLOT error. */
static int vshard_of(harness *h, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc)
{
    int vshard = ND_VSHARD_NONE;
    for (uint32_t n = 0, at; (at = nd_cmdrow_key(row, argc, n)) != 0; n++) {
        int v = (int)nd_vshard_of_key(&argv[at]);
        if (vshard != ND_VSHARD_NONE && vshard != v) {
            nd_reply_error(&h->reply, "CROSSSLOT Keys in request don't hash to the same slot");
            return -1;
        }
        vshard = v;
    }
    return vshard;
}

static int run(harness *h, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc, int64_t now_ms, uint64_t seed)
{
    int vshard = vshard_of(h, row, argv, argc);
    if (vshard < 0)
        return 0;
    nd_cmd c = {.store = h->store, .vshard = (uint32_t)vshard, .vshard_first = 0, .vshard_last = ND_VSHARDS - 1,
                .stamp = (uint64_t)now_ms << 16, .now_ms = now_ms, .seed = seed, .argv = argv, .argc = argc,
                .reply = &h->reply};
    row->fn(&c);
    return c.fatal;
}

/* Length of the reply at *out (valid until the next call), or -errno: a store failure, -ENOSYS for a Python command. */
int64_t harness_run(harness *h, uint32_t argc, const uint8_t *const *ptrs, const uint32_t *lens, int64_t now_ms,
                    uint64_t seed, uint8_t resp, const uint8_t **out)
{
    nd_arg argv[ARGS_MAX];
    if (argc == 0 || argc > ARGS_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < argc; i++)
        argv[i] = (nd_arg){ptrs[i], lens[i]};
    h->reply.len = 0;
    h->reply.resp = resp;
    const nd_cmdrow *row = nd_cmdtab_find(h->table, argv, argc);
    char text[ND_CMD_ERROR_BYTES] = "";
    int rc = 0;
    if (row == NULL)
        nd_cmdtab_unknown(h->table, argv, argc, text);
    else if (!nd_cmdrow_arity_fits(row, argc))
        nd_cmdrow_wrong_arity(row, text);
    else
        rc = row->fn == NULL ? -ENOSYS : run(h, row, argv, argc, now_ms, seed);
    if (*text != 0)
        nd_reply_error(&h->reply, text);
    *out = h->reply.buf;
    return rc < 0 ? rc : (int64_t)h->reply.len;
}
