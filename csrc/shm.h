/* shm.h: the one block of memory that all processes of a node share, and who may write which part of it.
 *
 * The supervisor creates it before it starts anything (nd_shm_create: a memfd sealed against a change of size), every
 * process inherits the descriptor over exec and maps it (nd_shm_map). Layout, byte by byte: docs/formats/shm.md. In
 * short: header, process table, nd_metrics per process, routing page (page.h), one ring for each ordered pair of
 * processes (ring.h).
 *
 * Process 0 is control, process i is worker i - 1. A process's generation starts at 1 and moves on when the
 * supervisor has REAPED it (nd_shm_proc_died), never while it may still run: at any moment each number has at most
 * one live owner, so each end of a ring has too. After any nd_shm_proc_* call that others must learn of, the caller
 * rings every process's bell; this also wakes a consumer whose only bell-ringer died between its publish and its
 * ring.
 *
 * Writers: supervisor: started, died. The process itself: ready, its metrics, its sleeping word, its ends of the
 * rings. Control: the routing page. All of it only through C, because the order of the stores is part of the
 * contract.
 */
#ifndef ND_SHM_H
#define ND_SHM_H
#include "metrics.h"
#include "nd.h"

/* cffi:begin */
#define ND_PROCS_MAX 65              /* control + ND_WORKERS_MAX */
#define ND_RING_BYTES_MIN 262144     /* four records of the largest size always fit */
#define ND_RING_BYTES_MAX 67108864
#define ND_PROC_NONE 0               /* never started */
#define ND_PROC_STARTING 1           /* its rings take messages; it reads them once it has attached */
#define ND_PROC_READY 2
#define ND_PROC_DOWN 3               /* reaped; its generation has moved on already */
#define ND_PORT_SHARED 0
#define ND_PORT_WORKER 1
#define ND_PORT_HTTP 2
#define ND_PORT_QUIC 3
#define ND_PORTS 4

typedef struct nd_shm nd_shm;        /* process-local handle of the mapping */

typedef struct nd_proc_info {
    uint64_t generation;
    uint32_t pid;
    uint32_t state;                  /* ND_PROC_… */
    uint16_t ports[4];               /* by ND_PORT_…, 0 = none; as bound, so right for ephemeral ports too */
} nd_proc_info;

/* 0 when the arguments are out of range. ring_bytes: a power of two. */
uint64_t nd_shm_bytes(uint32_t processes, uint32_t ring_bytes);
/* A new, initialised memfd (close-on-exec) or -errno (-EINVAL: arguments out of range). */
int nd_shm_create(uint32_t processes, uint32_t ring_bytes);
/* The descriptor stays the caller's and may be closed afterwards. -EPROTO: not such a block, or of another version. */
int nd_shm_map(int fd, nd_shm **out);
void nd_shm_unmap(nd_shm *shm);
uint32_t nd_shm_processes(const nd_shm *shm);
uint32_t nd_shm_ring_bytes(const nd_shm *shm);
nd_metrics *nd_shm_metrics(nd_shm *shm, uint32_t process);

void nd_shm_proc_get(const nd_shm *shm, uint32_t process, nd_proc_info *out);
void nd_shm_proc_started(nd_shm *shm, uint32_t process, uint32_t pid);
void nd_shm_proc_ready(nd_shm *shm, uint32_t process, const uint16_t *ports);   /* ND_PORTS numbers */
uint64_t nd_shm_proc_died(nd_shm *shm, uint32_t process);                       /* the new generation */

/* One eventfd per process, created (non-blocking) by the supervisor. 0 or -errno. */
int nd_bell_ring(int fd);
/* Consume what was rung. Clear first, look for data afterwards: the other order loses wakeups. */
void nd_bell_clear(int fd);
/* cffi:end */

/* ---- for ring.c, ringset.c and page.c ---- */
typedef struct nd_ring_mem nd_ring_mem;
typedef struct nd_page_mem nd_page_mem;

typedef struct nd_proc_mem {
    uint64_t generation;
    uint32_t pid;
    uint32_t state;
    uint16_t ports[ND_PORTS];
    uint8_t pad[104];
    uint32_t sleeping;               /* 0 = awake, else the ticket of this sleep; on its own line, see ringset.c */
    uint8_t pad_sleeping[124];
} nd_proc_mem;
_Static_assert(sizeof(nd_proc_mem) == 256 && offsetof(nd_proc_mem, sleeping) == 128, "shared layout");

nd_proc_mem *nd_shm_proc(nd_shm *shm, uint32_t process);
nd_ring_mem *nd_shm_ring(nd_shm *shm, uint32_t from, uint32_t to);
nd_page_mem *nd_shm_page(nd_shm *shm);
uint64_t nd_shm_table_version(const nd_shm *shm);   /* changes with every change of the process table */
#endif
