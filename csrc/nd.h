/* nd.h: the words every C file shares: limits, the argument view, production assertions.
 *
 * Errors are 0 or a count on success and -errno (or one of the ND_E codes below) on failure.
 * Nothing here allocates, and no file keeps global mutable state.
 */
#ifndef ND_H
#define ND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define ND_CACHE_LINE 64

/* Programmer errors end the process, in production too: a wrong answer costs more than a restart. */
#define ND_ASSERT(cond) \
    do { \
        if (__builtin_expect(!(cond), 0)) { \
            fprintf(stderr, "level=fatal msg=\"assertion failed\" cond=\"%s\" at=%s:%d\n", #cond, __FILE__, __LINE__); \
            abort(); \
        } \
    } while (0)

/* cffi:begin */
#define ND_SLOTS 16384
#define ND_VSHARDS 1024
#define ND_SLOTS_PER_VSHARD 16
#define ND_GROUPS_MAX 1024
#define ND_VSHARD_NONE 65535
#define ND_KEY_BYTES_MAX 65535
#define ND_VALUE_BYTES_MAX 16777216
#define ND_ENTRY_BYTES_MAX 17825792
#define ND_BATCH_BYTES_MAX 1048576
#define ND_WORKERS_MAX 64
#define ND_BATCH_COMMANDS_MAX 4096

/* A borrowed view of bytes; who lends it, and until when, is said by each function that takes one. */
typedef struct nd_arg {
    const uint8_t *ptr;
    uint32_t len;
} nd_arg;
/* cffi:end */

#endif
