/* walio_uring.c: a write linked to fdatasync in one io_uring submission; with an O_DSYNC descriptor the write alone.
 *
 * Completions are told through the eventfd registered with the ring. The caller clears the eventfd before it polls: a
 * completion that arrives after the poll then signals again; the other way round its signal would be eaten (seen: a hung loop).
 */
#include <errno.h>
#include <liburing.h>
#include <string.h>

#include "walio_impl.h"

#define QUEUE_ENTRIES 8

enum { TAG_DELAY = 1, TAG_WRITE, TAG_SYNC };

struct uring_backend {
    struct io_uring ring;
    bool fixed;                  /* the buffer could be registered (RLIMIT_MEMLOCK may forbid it) */
    nd_walio_write write;
    uint64_t done;               /* bytes written so far */
    uint64_t asked;              /* of the write under way */
    uint32_t pending;            /* completions to come */
    bool synced;                 /* everything written so far */
    int result, error;
    struct __kernel_timespec delay;
};

static int ring_open(struct io_uring *ring)
{
    /* The completion needs no interrupt of a loop that is about to enter the kernel anyway; older kernels refuse the flags. */
    int rc = io_uring_queue_init(QUEUE_ENTRIES, ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN);
    return rc == -EINVAL ? io_uring_queue_init(QUEUE_ENTRIES, ring, 0) : rc;
}

static int uring_open(void **self, int eventfd, uint8_t *buf, uint64_t buf_bytes)
{
    struct uring_backend *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return -ENOMEM;
    int rc = ring_open(&u->ring);
    if (rc < 0) {
        free(u);
        return rc;
    }
    struct iovec iov = {.iov_base = buf, .iov_len = buf_bytes};
    u->fixed = io_uring_register_buffers(&u->ring, &iov, 1) == 0;
    rc = io_uring_register_eventfd(&u->ring, eventfd);
    if (rc < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return rc;
    }
    u->result = 1;
    *self = u;
    return 0;
}

static struct io_uring_sqe *next_sqe(struct uring_backend *u, uint64_t tag)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    ND_ASSERT(sqe != NULL); /* one write, three entries at most */
    u->pending++;
    sqe->user_data = tag;
    return sqe;
}

static void tag(struct io_uring_sqe *sqe, uint64_t tag, uint8_t flags)
{
    sqe->user_data = tag;
    sqe->flags |= flags;
}

static void queue_delay(struct uring_backend *u)
{
    u->delay.tv_sec = u->write.delay_us / 1000000;
    u->delay.tv_nsec = (long long)(u->write.delay_us % 1000000) * 1000;
    struct io_uring_sqe *sqe = next_sqe(u, TAG_DELAY);
    io_uring_prep_timeout(sqe, &u->delay, 0, 0);
    tag(sqe, TAG_DELAY, IOSQE_IO_HARDLINK); /* its end is -ETIME, which would break a plain link */
}

/* Queue the rest of the write and its sync. */
static int submit_rest(struct uring_backend *u)
{
    const nd_walio_write *w = &u->write;
    u->synced = !w->sync;
    u->asked = u->done == 0 && w->len_first != 0 ? w->len_first : w->len - u->done;
    if (w->delay_us != 0 && u->done == 0)
        queue_delay(u);
    struct io_uring_sqe *sqe = next_sqe(u, TAG_WRITE);
    const uint8_t *from = w->buf + u->done;
    if (w->registered && u->fixed)
        io_uring_prep_write_fixed(sqe, w->fd, from, (unsigned)u->asked, w->off + u->done, 0);
    else
        io_uring_prep_write(sqe, w->fd, from, (unsigned)u->asked, w->off + u->done);
    tag(sqe, TAG_WRITE, w->sync ? IOSQE_IO_LINK : 0);
    if (w->sync) {
        sqe = next_sqe(u, TAG_SYNC);
        io_uring_prep_fsync(sqe, w->fd, IORING_FSYNC_DATASYNC);
        tag(sqe, TAG_SYNC, 0);
    }
    int rc;
    do
        rc = io_uring_submit(&u->ring);
    while (rc == -EINTR);
    return rc < 0 ? rc : 0;
}

static int uring_submit(void *self, const nd_walio_write *w)
{
    struct uring_backend *u = self;
    ND_ASSERT(u->pending == 0);
    u->write = *w;
    u->done = 0;
    u->result = 0;
    u->error = 0;
    return submit_rest(u);
}

static void take_completion(struct uring_backend *u, uint64_t tag, int res)
{
    u->pending--;
    if (tag == TAG_WRITE) {
        if (u->write.write_error != 0)
            res = u->write.write_error;
        if (res > 0)
            u->done += (uint64_t)res;
        else if (u->error == 0)
            u->error = res < 0 ? res : -EIO;
    } else if (tag == TAG_SYNC) {
        if (u->write.sync_error != 0)
            res = u->write.sync_error;
        /* A short or failed write cancels its sync; the write's own result says what to do. */
        if (res < 0 && res != -ECANCELED && u->error == 0)
            u->error = res;
        u->synced = res == 0;
    }
}

static int uring_poll(void *self)
{
    struct uring_backend *u = self;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        take_completion(u, cqe->user_data, cqe->res);
        io_uring_cqe_seen(&u->ring, cqe);
    }
    if (u->pending > 0)
        return 0;
    if (u->result == 0 && u->error == 0 && u->done < u->write.len) {
        u->error = submit_rest(u);
        if (u->error == 0)
            return 0;
    }
    if (u->result == 0)
        u->result = u->error != 0 ? u->error : u->synced ? 1 : -EIO;
    return u->result;
}

static void uring_close(void *self)
{
    struct uring_backend *u = self;
    struct io_uring_cqe *cqe;
    while (u->pending > 0 && io_uring_wait_cqe(&u->ring, &cqe) == 0)
        uring_poll(u);
    io_uring_queue_exit(&u->ring);
    free(u);
}

const nd_walio_ops nd_walio_uring_ops = {ND_WALIO_URING, uring_open, uring_submit, uring_poll, uring_close};
