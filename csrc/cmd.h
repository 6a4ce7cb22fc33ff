/* cmd.h: what a command is to C, and the table that the frontend looks names up in.
 *
 * One row per command lives in Python (workers/commands/<family>.py): name, arity, flags, key positions, family, a stable log
 * id, and the C function's name. At start the worker fills an nd_cmdtab from these rows; C only ever sees the table.
 * A command function reads (store, stamp, seed, arguments) and nothing else: no clock, no configuration, no randomness, so
 * that every replica reaches the same rows. A write runs when its entry is committed, a read when its worker may serve it.
 */
#ifndef ND_CMD_H
#define ND_CMD_H
#include "nd.h"
#include "reply.h"
#include "store.h"

/* cffi:begin */
#define ND_CMD_WRITE 1        /* goes through the log */
#define ND_CMD_READ 2         /* served from the store once the connection's earlier writes on the vShard are applied */
#define ND_CMD_PYTHON 4       /* handed to Python when the connection has nothing pending; parsing waits for the reply */
#define ND_CMD_FAST 8         /* answered by C at once, no key: PING, ECHO */
#define ND_CMD_GROUP_ALL 16   /* internal: runs on every vShard of one group (FLUSHALL) */
#define ND_CMD_INTERNAL 32    /* never accepted from a client */
#define ND_CMD_DENYOOM 128    /* refused with -NOSPACE / -OVERLOAD when the disk floor or memory limit is reached */
#define ND_CMD_WORKER 256     /* read over every vShard of the executing worker (DBSIZE, KEYS pieces) */
#define ND_CMD_NO_AUTH 512    /* allowed to everyone, also before authentication: AUTH, HELLO, QUIT, RESET */
#define ND_CMD_VARIABLE_ACCESS 1024 /* whether its keys are read, written or both follows from the arguments (acl.c) */
#define ND_CMD_IDS_MAX 1024
#define ND_ACL_READ 1         /* what a command does to a key, as access rules see it */
#define ND_ACL_WRITE 2

typedef struct nd_cmdtab nd_cmdtab;
nd_cmdtab *nd_cmdtab_new(void);
void nd_cmdtab_free(nd_cmdtab *t);
/* name: lower case, "container|sub" for a subcommand. arity counts the name, negative = at least. Keys: first, last (negative
 * counts from the end), step as in COMMAND INFO; first 0 = none. fn: name of a C function registered in cmd.c, or "" .
 * id: the number the log carries, never reused. Returns 0, -EEXIST (name or id taken), -ENOENT (no such C function). */
int nd_cmdtab_add(nd_cmdtab *t, const char *name, uint16_t id, int16_t arity, uint32_t flags, int16_t key_first,
                  int16_t key_last, int16_t key_step, const char *fn);
/* What a command does to its first key and to the others: ND_ACL_READ | ND_ACL_WRITE; 0 = it only looks whether they exist. */
void nd_cmdtab_key_access(nd_cmdtab *t, uint16_t id, uint8_t first, uint8_t others);
/* cffi:end */

typedef struct nd_cmd nd_cmd;
typedef void (*nd_cmd_fn)(nd_cmd *c);

typedef struct nd_cmdrow {
    char name[32];
    uint16_t id;
    int16_t arity, key_first, key_last, key_step;
    uint32_t flags;
    nd_cmd_fn fn;
    uint8_t key_access[2];       /* of the first key, of the others */
} nd_cmdrow;

struct nd_cmd {
    nd_store *store;
    uint32_t vshard;             /* the vShard of the command's keys */
    uint32_t vshard_first, vshard_last; /* of the group (GROUP_ALL) or of the worker (WORKER): inclusive, contiguous */
    uint64_t stamp;              /* HLC of the entry (writes) or of the reading turn (reads): ms << 16 | logical */
    int64_t now_ms;              /* stamp >> 16 */
    uint64_t seed;               /* deterministic per command */
    const nd_arg *argv;          /* argv[0] is the name as sent; borrowed for the call */
    uint32_t argc;
    nd_reply *reply;
    int fatal;                   /* set to the store's -errno when a store call fails: the worker stops */
};

/* NULL when unknown; case-insensitive. For a name that has subcommands, argv[1] is looked at too (argc >= 2). */
const nd_cmdrow *nd_cmdtab_find(const nd_cmdtab *t, const nd_arg *argv, uint32_t argc);
const nd_cmdrow *nd_cmdtab_by_id(const nd_cmdtab *t, uint16_t id);
/* The n-th key's argument number (n from 0), or 0 when there are no more. */
uint32_t nd_cmdrow_key(const nd_cmdrow *row, uint32_t argc, uint32_t n);
#define ND_CMD_ERROR_BYTES 512
/* Error texts for a name that nd_cmdtab_find did not know, and for an argument count that does not fit the arity. */
void nd_cmdtab_unknown(const nd_cmdtab *t, const nd_arg *argv, uint32_t argc, char text[ND_CMD_ERROR_BYTES]);
void nd_cmdrow_wrong_arity(const nd_cmdrow *row, char text[ND_CMD_ERROR_BYTES]);
static inline bool nd_cmdrow_arity_fits(const nd_cmdrow *row, uint32_t argc)
{
    return row->arity >= 0 ? argc == (uint32_t)row->arity : argc >= (uint32_t)-row->arity;
}

/* Registered functions, one array per family file; cmd.c joins them. */
typedef struct nd_cmd_reg { const char *name; nd_cmd_fn fn; } nd_cmd_reg;
extern const nd_cmd_reg nd_cmds_string[], nd_cmds_bitmap[], nd_cmds_generic[], nd_cmds_node[];  /* end: {NULL, NULL} */
#endif
