/* walio.h: puts appends on the disk: one write in flight, two backends (io_uring, thread) behind one interface.
 *
 * Loop thread only. The caller gathers while an append is in flight; completion comes through an eventfd. The first failed
 * write or sync is final: every later call returns the same -errno, and nothing is ever synced again (the caller exits).
 * The directory is the caller's (exists, locked, scanned); files in it are made, recycled and removed here only.
 */
#ifndef ND_WALIO_H
#define ND_WALIO_H
#include "metrics.h"
#include "nd.h"
#include "wal.h"

/* cffi:begin */
#define ND_WALIO_AUTO 0
#define ND_WALIO_THREAD 1
#define ND_WALIO_URING 2
typedef struct nd_walio nd_walio;

/* Faults for tests, looked at on every append when given; appends count from 1 after open, 0 = never. */
typedef struct nd_walio_fault {
    uint64_t write_fail_at, sync_fail_at;   /* these append numbers fail with `error` */
    uint64_t short_write_at;                /* the first write call of this append takes half of it */
    int32_t error;                          /* positive errno */
    uint32_t delay_us;                      /* each append takes this much longer */
    uint64_t free_bytes;                    /* instead of what the filesystem says; 0 = ask it */
} nd_walio_fault;

typedef struct nd_walio_cfg {
    const char *dir;               /* copied */
    uint32_t backend;              /* AUTO = io_uring where the kernel lets us, else the thread */
    uint32_t direct;               /* 1 = O_DIRECT | O_DSYNC writes where the filesystem has it, 0 = page cache and fdatasync */
    uint64_t log_id;
    uint64_t oldest_segment;       /* number of the oldest file there; next_segment when there is none */
    uint64_t next_segment;         /* the log goes on in a new file of this number, at most UINT32_MAX */
    uint64_t next_sequence;        /* of the next append; prev_crc belongs to the one before */
    uint32_t prev_crc;
    uint32_t flags_first;          /* of the first append: ND_WAL_FLAG_AGAIN or 0 */
    uint64_t first_segment_bytes;  /* small, so that a start does not wait for zeros; multiples of 4096 */
    uint64_t segment_bytes;
    uint64_t buffer_bytes;         /* appends up to this go through the registered buffer */
    uint64_t free_floor_bytes;     /* below this much free space only `reserve` appends are taken */
    uint32_t spares_max;           /* segment files kept for recycling */
    nd_hist *sync_us;              /* gets the duration of each append; NULL = nobody counts; borrowed */
    nd_walio_fault *fault;         /* NULL outside tests; borrowed until close */
} nd_walio_cfg;

typedef struct nd_walio_stats {
    uint64_t appends, bytes;       /* durable since open; bytes as written, padding included */
    uint64_t segment;              /* number of the one appended to */
    uint64_t oldest_segment;
    uint64_t segments;             /* files, the one being made ready not counted */
    uint64_t segment_bytes;        /* of the one appended to */
    uint64_t last_us;              /* last append, from call to reap */
    uint64_t waits;                /* appends that had to wait for a segment to be made */
    uint32_t backend, direct;
    int32_t uring_error;           /* why io_uring is not used (positive errno), 0 = it is, or was not asked for */
    uint32_t nospace;              /* 1 = below the floor */
} nd_walio_stats;

/* Makes and syncs the first segment before it returns. 0, or -errno with nothing running (-ENOSPC, -EEXIST, -EPERM when io_uring
 * was demanded and is refused, …). */
int nd_walio_open(const nd_walio_cfg *cfg, nd_walio **out);
/* Waits for the write in flight, not for its reap. Writes no mark: the log does, before. */
void nd_walio_close(nd_walio *io);
/* Encode and submit one append. Payloads are copied before it returns. Returns the append's sequence (> 0), -EBUSY while
 * one is in flight, -ENOSPC below the free-space floor (nothing written, not fatal; `reserve` != 0 may use the reserve),
 * -EMSGSIZE above nd_walio_append_bytes_max (nd_wal_append_fit tells how many fit), or a fatal -errno. */
int64_t nd_walio_append(nd_walio *io, const nd_wal_rec *recs, uint32_t n, int reserve);
int nd_walio_fd(nd_walio *io);                       /* eventfd; clear first, then reap */
/* 1 = *seq is durable, 0 = nothing yet, -errno = failed (fatal). Clears the eventfd itself, before it looks. */
int nd_walio_reap(nd_walio *io, uint64_t *seq);
/* Block until the append in flight is durable (start and shutdown): as reap, and 0 after timeout_ms. */
int nd_walio_wait(nd_walio *io, uint64_t *seq, uint32_t timeout_ms);
uint64_t nd_walio_inflight_us(nd_walio *io);         /* age of the append in flight, 0 = none; for a watchdog */
uint64_t nd_walio_last_us(nd_walio *io);             /* duration of the append reaped last */
uint32_t nd_walio_backend(nd_walio *io);
uint64_t nd_walio_segment(nd_walio *io);             /* number of the segment the last append went to */
uint64_t nd_walio_append_off(nd_walio *io);          /* where in it that append stands */
uint64_t nd_walio_append_bytes_max(nd_walio *io);    /* what nd_wal_append_fit is to be asked for */
/* 1 = below the floor. Asks the filesystem after 100 ms or 4 MiB, so that the state also ends without an append. */
int nd_walio_nospace(nd_walio *io);
/* Give up all segments before `number`: removed or recycled in the background, oldest first. */
void nd_walio_drop_before(nd_walio *io, uint64_t number);
void nd_walio_stats_get(nd_walio *io, nd_walio_stats *out);
/* cffi:end */
#endif
