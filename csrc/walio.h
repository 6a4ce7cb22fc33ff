/* walio.h: puts appends on the disk: one write in flight, two backends (io_uring, thread) behind one interface.
 *
 * Loop thread only. The caller gathers while an append is in flight; completion comes through an eventfd. The first failed
 * write or sync is final: every later call returns the same -errno, and nothing is ever synced again (the caller exits).
 */
#ifndef ND_WALIO_H
#define ND_WALIO_H
#include "nd.h"
#include "wal.h"

/* cffi:begin */
#define ND_WALIO_THREAD 1
#define ND_WALIO_URING 2
typedef struct nd_walio nd_walio;

/* Encode and submit one append. Payloads are copied before it returns. Returns the append's sequence (> 0), -EBUSY while
 * one is in flight, -ENOSPC below the free-space floor (nothing written, not fatal; `reserve` != 0 may use the reserve), or a fatal -errno. */
int64_t nd_walio_append(nd_walio *io, const nd_wal_rec *recs, uint32_t n, int reserve);
int nd_walio_fd(nd_walio *io);                       /* eventfd; clear first, then reap */
/* 1 = *seq is durable, 0 = nothing yet, -errno = failed (fatal). Clears the eventfd itself, before it looks. */
int nd_walio_reap(nd_walio *io, uint64_t *seq);
/* cffi:end */
#endif
