/* acl.h: what one user may do, compiled: which commands, on which keys, for reading or for writing.
 *
 * A user is made once from a byte form that Python packs (workers/acl/compile.py), never changed afterwards, and counted: the
 * maker and each connection that acts as the user hold one reference. A changed user is a new object; the engine moves the
 * connections over. Rules are those of Redis 7.0: a command is allowed if one selector allows the command and all its keys.
 *
 * Byte form, little-endian, unaligned:
 *   user      u8 flags (ND_ACL_ENABLED, ND_ACL_NOPASS), u16 length, name, u16 selectors, then each
 *   selector  u8 flags (ND_ACL_ALL_COMMANDS, ND_ACL_ALL_KEYS), 128 bytes: bit i = command id i,
 *             u32 n, n x {u8 access (ND_ACL_READ | ND_ACL_WRITE), u32 length, glob pattern},
 *             u32 n, n x {u16 command id, u32 length, the only first argument that is allowed}
 */
#ifndef ND_ACL_H
#define ND_ACL_H
#include "cmd.h"
#include "nd.h"

/* cffi:begin */
#define ND_ACL_ENABLED 1             /* of a user: may authenticate */
#define ND_ACL_NOPASS 2              /* with any password; for the user "default": without authenticating */
#define ND_ACL_ALL_COMMANDS 1        /* of a selector */
#define ND_ACL_ALL_KEYS 2

#define ND_ACL_OK 0                  /* what nd_acl_check says, in Redis's order of importance */
#define ND_ACL_DENIED_COMMAND 1
#define ND_ACL_DENIED_KEY 2

typedef struct nd_acl_user nd_acl_user;
/* A user from its byte form, with one reference for the caller. NULL: the bytes are not that form. */
nd_acl_user *nd_acl_user_new(const uint8_t *p, uint64_t n);
void nd_acl_user_free(nd_acl_user *u);                   /* gives one reference back */
/* May the user run this? *at: the argument of the key that was refused, else 0. */
int nd_acl_check(const nd_acl_user *u, const nd_cmdtab *tab, const nd_arg *argv, uint32_t argc, uint32_t *at);
/* cffi:end */

typedef struct acl_selector acl_selector;
struct nd_acl_user {
    uint32_t refs;
    uint8_t flags;
    bool unrestricted;               /* every command and every key: nothing to look at per command */
    uint32_t selectors_n;
    acl_selector *selectors;
    uint32_t name_len;
    uint8_t *name;
};

nd_acl_user *nd_acl_user_ref(nd_acl_user *u);
int acl_judge(const nd_acl_user *u, const nd_cmdrow *row, const nd_arg *argv, uint32_t argc, uint32_t *at);
#endif
