/* walio.c: segments, sequence and free space around one write at a time; the backends make that write durable.
 *
 * An append is encoded when it is submitted, into the segment it will stand in. When that segment is still being made, the
 * encoded append waits (`parked`) and is written as soon as the file is ready: to the caller it is simply in flight longer.
 */
#define _GNU_SOURCE
#include "walio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "walio_impl.h"
#include "walprep.h"

#define SPACE_CHECK_BYTES (4u * 1024 * 1024)   /* appended between two looks at the free space */
#define SPACE_CHECK_US 100000                  /* or this much later */

struct segment {
    nd_wal_segment head;
    int fd;                        /* -1 = still being made */
};

struct nd_walio {
    nd_walio_cfg cfg;
    int dirfd, eventfd, open_flags;
    const nd_walio_ops *ops;
    void *backend;
    nd_walprep *prep;
    struct segment current;
    nd_wal_segment next;           /* asked for, perhaps made */
    uint64_t used;                 /* bytes of current */
    uint8_t *buf;                  /* registered; buf_bytes long */
    uint8_t *big;                  /* of one append above buf_bytes, NULL otherwise */
    uint64_t big_bytes;
    nd_wal_append at;              /* in flight, or durable */
    uint64_t sequence;             /* of the next append */
    uint32_t prev_crc, flags;
    bool in_flight, parked;
    int fatal;
    uint64_t submitted_us, space_checked_us, space_bytes;
    nd_walio_stats stats;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- free space ---- */

static void space_check(nd_walio *io)
{
    struct statvfs st;
    uint64_t free_bytes = UINT64_MAX;
    io->space_checked_us = now_us();
    io->space_bytes = 0;
    if (fstatvfs(io->dirfd, &st) == 0)
        free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    if (io->cfg.fault != NULL && io->cfg.fault->free_bytes != 0)
        free_bytes = io->cfg.fault->free_bytes;
    io->stats.nospace = free_bytes < io->cfg.free_floor_bytes;
}

int nd_walio_nospace(nd_walio *io)
{
    if (io->space_bytes >= SPACE_CHECK_BYTES || now_us() - io->space_checked_us >= SPACE_CHECK_US)
        space_check(io);
    return (int)io->stats.nospace;
}

/* ---- segments ---- */

static int segment_describe(nd_walio *io, uint64_t number, uint64_t bytes, nd_wal_segment *seg)
{
    *seg = (nd_wal_segment){.version = ND_WAL_VERSION, .log_id = io->cfg.log_id, .number = number, .bytes = bytes};
    while (seg->segment_id == 0) /* 0 is what unwritten bytes say */
        if (getrandom(&seg->segment_id, sizeof(seg->segment_id), 0) != sizeof(seg->segment_id))
            return -errno;
    return 0;
}

static int next_request(nd_walio *io)
{
    ND_ASSERT(io->current.head.number < UINT32_MAX);
    int rc = segment_describe(io, io->current.head.number + 1, io->cfg.segment_bytes, &io->next);
    if (rc == 0)
        nd_walprep_want(io->prep, &io->next);
    return rc;
}

/* The next segment becomes the current one, made or not; another is asked for once it is made. */
static int rotate(nd_walio *io)
{
    int fd = -1, rc = nd_walprep_take(io->prep, &fd);
    if (rc < 0)
        return rc;
    close(io->current.fd);
    io->current = (struct segment){.head = io->next, .fd = fd};
    io->used = ND_WAL_SEGMENT_HEADER_BYTES;
    if (rc == 1)
        return next_request(io);
    nd_walprep_hurry(io->prep);
    io->stats.waits++;
    return 0;
}

/* ---- appending ---- */

static uint64_t append_bytes_max(const nd_walio *io)
{
    uint64_t room = io->cfg.segment_bytes - ND_WAL_SEGMENT_HEADER_BYTES;
    return room < ND_WAL_APPEND_BYTES_MAX ? room : ND_WAL_APPEND_BYTES_MAX;
}

static uint8_t *append_buffer(nd_walio *io, uint64_t bytes)
{
    if (bytes <= io->cfg.buffer_bytes)
        return io->buf;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    io->big = p;
    io->big_bytes = bytes;
    return p;
}

static void big_free(nd_walio *io)
{
    if (io->big != NULL)
        munmap(io->big, io->big_bytes);
    io->big = NULL;
}

static void write_faults(nd_walio *io, nd_walio_write *w)
{
    const nd_walio_fault *f = io->cfg.fault;
    uint64_t n = io->stats.appends + 1;
    w->delay_us = f->delay_us;
    w->write_error = f->write_fail_at == n ? -f->error : 0;
    w->sync_error = f->sync_fail_at == n ? -f->error : 0;
    w->len_first = f->short_write_at == n ? w->len / 2 / ND_WAL_ALIGN * ND_WAL_ALIGN : 0;
}

static int submit(nd_walio *io)
{
    nd_walio_write w = {.fd = io->current.fd, .buf = io->big != NULL ? io->big : io->buf, .len = io->at.bytes,
                        .off = io->at.off, .registered = io->big == NULL, .sync = io->stats.direct == 0};
    if (io->cfg.fault != NULL)
        write_faults(io, &w);
    return io->ops->submit(io->backend, &w);
}

/* -ENOSPC means "refused, nothing written" to callers; a write that was begun and found no space is a failed disk. */
static int64_t fail(nd_walio *io, int rc)
{
    io->fatal = rc == -ENOSPC ? -EIO : rc;
    return io->fatal;
}

static int encode(nd_walio *io, const nd_wal_rec *recs, uint32_t n, uint64_t bytes)
{
    uint8_t *buf = append_buffer(io, bytes);
    if (buf == NULL)
        return -ENOMEM;
    io->at = (nd_wal_append){.segment_id = io->current.head.segment_id, .sequence = io->sequence, .off = io->used,
                             .prev_crc = io->prev_crc, .flags = io->flags};
    int64_t rc = nd_wal_append_encode(buf, bytes, &io->at, recs, n);
    ND_ASSERT(rc == (int64_t)bytes);
    io->used += bytes;
    io->sequence++;
    io->prev_crc = io->at.crc;
    io->flags = 0;
    return 0;
}

int64_t nd_walio_append(nd_walio *io, const nd_wal_rec *recs, uint32_t n, int reserve)
{
    if (io->fatal != 0)
        return io->fatal;
    if (io->in_flight)
        return -EBUSY;
    ND_ASSERT(n > 0);
    uint64_t bytes = nd_wal_append_bytes(recs, n);
    if (bytes > append_bytes_max(io))
        return -EMSGSIZE;
    if (!reserve && nd_walio_nospace(io))
        return -ENOSPC;
    int rc = bytes > io->current.head.bytes - io->used ? rotate(io) : 0;
    if (rc == 0)
        rc = encode(io, recs, n, bytes);
    if (rc < 0)
        return fail(io, rc);
    io->space_bytes += bytes;
    io->in_flight = true;
    io->submitted_us = now_us();
    io->parked = io->current.fd < 0;
    if (!io->parked && (rc = submit(io)) < 0)
        return fail(io, rc);
    return (int64_t)io->at.sequence;
}

/* The parked append's segment may be ready by now. */
static int unpark(nd_walio *io)
{
    int rc = nd_walprep_take(io->prep, &io->current.fd);
    if (rc <= 0)
        return rc;
    io->parked = false;
    rc = next_request(io);
    return rc < 0 ? rc : submit(io);
}

int nd_walio_reap(nd_walio *io, uint64_t *seq)
{
    uint64_t rung;
    if (read(io->eventfd, &rung, sizeof(rung)) < 0)
        ND_ASSERT(errno == EAGAIN || errno == EINTR);
    if (io->fatal != 0)
        return io->fatal;
    if (!io->in_flight)
        return 0;
    int rc = io->parked ? unpark(io) : 0;
    if (rc == 0 && !io->parked)
        rc = io->ops->poll(io->backend);
    if (rc < 0)
        return (int)fail(io, rc);
    if (rc == 0)
        return 0;
    io->in_flight = false;
    big_free(io);
    io->stats.appends++;
    io->stats.bytes += io->at.bytes;
    io->stats.last_us = now_us() - io->submitted_us;
    if (io->cfg.sync_us != NULL)
        nd_hist_add(io->cfg.sync_us, io->stats.last_us);
    *seq = io->at.sequence;
    return 1;
}

int nd_walio_wait(nd_walio *io, uint64_t *seq, uint32_t timeout_ms)
{
    uint64_t end = now_us() + (uint64_t)timeout_ms * 1000;
    for (;;) {
        int rc = nd_walio_reap(io, seq);
        uint64_t now = now_us();
        if (rc != 0 || !io->in_flight || now >= end)
            return rc;
        struct pollfd pfd = {.fd = io->eventfd, .events = POLLIN};
        (void)poll(&pfd, 1, (int)((end - now) / 1000 + 1)); /* interrupted or early: reap tells */
    }
}

/* ---- figures ---- */

int nd_walio_fd(nd_walio *io) { return io->eventfd; }
uint32_t nd_walio_backend(nd_walio *io) { return io->stats.backend; }
uint64_t nd_walio_last_us(nd_walio *io) { return io->stats.last_us; }
uint64_t nd_walio_segment(nd_walio *io) { return io->current.head.number; }
uint64_t nd_walio_append_off(nd_walio *io) { return io->at.off; }
uint64_t nd_walio_inflight_us(nd_walio *io) { return io->in_flight ? now_us() - io->submitted_us : 0; }
uint64_t nd_walio_append_bytes_max(nd_walio *io) { return append_bytes_max(io); }

void nd_walio_drop_before(nd_walio *io, uint64_t number)
{
    ND_ASSERT(number <= io->current.head.number);
    nd_walprep_drop_before(io->prep, number);
}

void nd_walio_stats_get(nd_walio *io, nd_walio_stats *out)
{
    *out = io->stats;
    out->segment = io->current.head.number;
    out->oldest_segment = nd_walprep_oldest(io->prep);
    out->segments = io->current.head.number - out->oldest_segment + 1;
    out->segment_bytes = io->current.head.bytes;
}

/* ---- life ---- */

/* io_uring where it is to be had; a container that forbids it (EPERM, ENOSYS) gets the thread. */
static int backend_open(nd_walio *io)
{
    int rc = -EPERM;
    if (io->cfg.backend != ND_WALIO_THREAD) {
        io->ops = &nd_walio_uring_ops;
        rc = io->ops->open(&io->backend, io->eventfd, io->buf, io->cfg.buffer_bytes);
        if (rc < 0)
            io->stats.uring_error = -rc;
    }
    if (rc < 0 && io->cfg.backend != ND_WALIO_URING) {
        io->ops = &nd_walio_thread_ops;
        rc = io->ops->open(&io->backend, io->eventfd, io->buf, io->cfg.buffer_bytes);
    }
    if (rc < 0)
        io->ops = NULL;
    else
        io->stats.backend = io->ops->id;
    return rc;
}

static int first_segment(nd_walio *io)
{
    int rc = segment_describe(io, io->cfg.next_segment, io->cfg.first_segment_bytes, &io->current.head);
    if (rc < 0)
        return rc;
    io->open_flags = O_WRONLY | (io->cfg.direct ? O_DIRECT | O_DSYNC : 0);
    int fd = nd_walprep_make(io->dirfd, &io->current.head, io->open_flags);
    if (fd == -EINVAL && io->cfg.direct) { /* made, but the filesystem has no O_DIRECT: open it the other way */
        char name[40];
        io->open_flags = O_WRONLY;
        snprintf(name, sizeof(name), "wal-%016llu", (unsigned long long)io->cfg.next_segment);
        fd = openat(io->dirfd, name, O_WRONLY | O_CLOEXEC);
        fd = fd < 0 ? -errno : fd;
    }
    if (fd < 0)
        return fd;
    io->stats.direct = (io->open_flags & O_DIRECT) != 0;
    io->current.fd = fd;
    io->used = ND_WAL_SEGMENT_HEADER_BYTES;
    return 0;
}

static int open_parts(nd_walio *io)
{
    io->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    io->dirfd = open(io->cfg.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (io->eventfd < 0 || io->dirfd < 0)
        return -errno;
    void *buf = mmap(NULL, io->cfg.buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buf == MAP_FAILED)
        return -ENOMEM;
    io->buf = buf;
    space_check(io);
    int rc = first_segment(io);
    if (rc == 0)
        rc = backend_open(io);
    if (rc < 0)
        return rc;
    nd_walprep_cfg prep = {.dirfd = io->dirfd, .eventfd = io->eventfd, .open_flags = io->open_flags,
                           .oldest = io->cfg.oldest_segment, .spares_max = io->cfg.spares_max,
                           .spare_bytes = io->cfg.segment_bytes};
    rc = nd_walprep_open(&prep, &io->prep);
    return rc < 0 ? rc : next_request(io);
}

int nd_walio_open(const nd_walio_cfg *cfg, nd_walio **out)
{
    ND_ASSERT(cfg->first_segment_bytes % 4096 == 0 && cfg->segment_bytes % 4096 == 0);
    ND_ASSERT(cfg->first_segment_bytes >= 8192 && cfg->segment_bytes >= 8192 && cfg->segment_bytes <= UINT32_MAX);
    nd_walio *io = calloc(1, sizeof(*io));
    if (io == NULL)
        return -ENOMEM;
    io->cfg = *cfg;
    io->cfg.dir = strdup(cfg->dir);
    io->eventfd = io->dirfd = io->current.fd = -1;
    io->sequence = cfg->next_sequence;
    io->prev_crc = cfg->prev_crc;
    io->flags = cfg->flags_first;
    int rc = io->cfg.dir == NULL ? -ENOMEM : open_parts(io);
    if (rc < 0) {
        nd_walio_close(io);
        return rc;
    }
    *out = io;
    return 0;
}

void nd_walio_close(nd_walio *io)
{
    if (io->ops != NULL)
        io->ops->close(io->backend);
    if (io->prep != NULL)
        nd_walprep_close(io->prep);
    int fds[] = {io->current.fd, io->eventfd, io->dirfd};
    for (unsigned i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    big_free(io);
    if (io->buf != NULL)
        munmap(io->buf, io->cfg.buffer_bytes);
    free((char *)io->cfg.dir);
    free(io);
}
