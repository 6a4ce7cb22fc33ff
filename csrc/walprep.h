/* walprep.h: makes segment files ready ahead of need, and takes away those that compaction gave up, on one low-priority thread.
 *
 * A segment appears under its name only when it is whole: written under another name, synced, renamed, directory synced. So a
 * named file with a damaged header is damage, never a crash. A given-up file waits as spare-N and becomes a later segment,
 * perhaps of a later life: its bytes are allocated and written already, so only the header is renewed. Segments go oldest first,
 * with the directory synced after each, so that a gap in the numbers is never our doing.
 * Calls come from the loop thread; none of them waits for the disk except open and close.
 */
#ifndef ND_WALPREP_H
#define ND_WALPREP_H
#include "nd.h"
#include "wal.h"

typedef struct nd_walprep nd_walprep;

typedef struct nd_walprep_cfg {
    int dirfd;                   /* borrowed until close */
    int eventfd;                 /* borrowed; signalled when a segment got ready or failed */
    int open_flags;              /* of the descriptor handed out, O_CREAT never among them */
    uint64_t oldest;             /* number of the oldest segment file there is */
    uint32_t spares_max;
    uint64_t spare_bytes;        /* only files of this size are kept as spares */
} nd_walprep_cfg;

/* Make one segment in the calling thread: its append descriptor, or -errno (nothing left behind). */
int nd_walprep_make(int dirfd, const nd_wal_segment *seg, int open_flags);
int nd_walprep_open(const nd_walprep_cfg *cfg, nd_walprep **out);
void nd_walprep_close(nd_walprep *p);                     /* ends what is going on; a half-made file is removed */
void nd_walprep_want(nd_walprep *p, const nd_wal_segment *seg);   /* one at a time: the previous one was taken */
void nd_walprep_hurry(nd_walprep *p);                     /* an append waits: make no pauses */
/* 1 = *fd is the wanted segment's, now the caller's; 0 = not yet (without room on the disk it tries again until there is);
 * -errno = failed for good. */
int nd_walprep_take(nd_walprep *p, int *fd);
void nd_walprep_drop_before(nd_walprep *p, uint64_t number);
uint64_t nd_walprep_oldest(nd_walprep *p);                /* oldest segment file that is still there */
#endif
