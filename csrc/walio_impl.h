/* walio_impl.h: between walio.c (segments, encoding, order) and its two backends (one write made durable). Not for callers.
 *
 * A backend has at most one write. It signals the eventfd after the write is durable or has failed, and not before its result
 * can be seen by poll. It retries short writes, never a failed write or sync.
 */
#ifndef ND_WALIO_IMPL_H
#define ND_WALIO_IMPL_H
#include "walio.h"

typedef struct nd_walio_write {
    int fd;
    const uint8_t *buf;          /* the backend's until poll says it is done */
    uint64_t len, off;
    bool registered;             /* buf is the registered buffer */
    bool sync;                   /* fdatasync after it; false when the descriptor is O_DSYNC */
    /* faults, 0 outside tests */
    uint32_t delay_us;
    int write_error, sync_error; /* negative errno to give instead of the call's result */
    uint64_t len_first;          /* != 0: the first write call takes only this much */
} nd_walio_write;

typedef struct nd_walio_ops {
    uint32_t id;
    /* 0 or -errno. buf is what most writes will come from; eventfd is borrowed until close. */
    int (*open)(void **self, int eventfd, uint8_t *buf, uint64_t buf_bytes);
    int (*submit)(void *self, const nd_walio_write *w);
    int (*poll)(void *self);     /* 1 = durable, 0 = not yet, -errno = failed */
    void (*close)(void *self);   /* waits for the write in flight */
} nd_walio_ops;

extern const nd_walio_ops nd_walio_thread_ops, nd_walio_uring_ops;
#endif
