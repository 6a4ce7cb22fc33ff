/* page.h: the routing page: vShard -> {group, node, worker, epoch, state}, written by control, read by everyone.
 *
 * Two copies and an index in shared memory. The writer (one process at a time) fills the copy that is not in use and
 * switches by one store; a writer that dies half-way has switched nothing. A reader keeps its own copy of the last
 * whole table and compares one number per lookup; when that has changed it takes the new table over, with a bounded
 * number of tries, and otherwise goes on with the last good one. The page only routes: what a group owns is state of
 * its own log.
 */
#ifndef ND_PAGE_H
#define ND_PAGE_H
#include "nd.h"
#include "shm.h"

/* cffi:begin */
#define ND_ROUTE_NONE 0          /* nobody serves this vShard */
#define ND_ROUTE_SERVING 1

typedef struct nd_route {
    uint32_t epoch;              /* grows with each change of this vShard's place */
    uint32_t node;               /* topology number of the group's leader node */
    uint16_t group;
    uint16_t worker;             /* of that node, from 0 */
    uint8_t state;               /* ND_ROUTE_… */
    uint8_t zero[3];
} nd_route;

typedef struct nd_page nd_page;  /* a reader; belongs to one thread */
int nd_page_open(nd_shm *shm, nd_page **out);       /* 0 or -ENOMEM; all routes are NONE until the first write */
void nd_page_close(nd_page *page);
/* Take a newer table over if there is one: 1 = done, 0 = none, -EAGAIN = the writer was faster each time (old kept). */
int nd_page_refresh(nd_page *page);
uint64_t nd_page_version(const nd_page *page);      /* of the table the reader holds; 0 = never written */
const nd_route *nd_page_routes(const nd_page *page);/* ND_VSHARDS rows as held, until the next refresh or route */
/* Publish a table of ND_VSHARDS rows; one writer at a time. Returns its version. */
uint64_t nd_page_write(nd_shm *shm, const nd_route *routes);
/* cffi:end */
_Static_assert(sizeof(nd_route) == 16, "shared layout");

struct nd_page_mem {
    uint64_t index;              /* version of the current table; version & 1 = its copy */
    uint8_t pad[120];
    struct {
        uint64_t seq;            /* the version it holds; 0 while it is being written */
        uint8_t pad[120];
        nd_route routes[ND_VSHARDS];
    } copy[2];
};

struct nd_page {
    nd_page_mem *mem;
    uint64_t version;
    nd_route routes[ND_VSHARDS];
};

/* The hot path: one load of a line that hardly ever changes, one local row. */
static inline nd_route nd_page_route(nd_page *page, uint32_t vshard)
{
    /* Relaxed is enough to notice a change; nd_page_refresh reads it again with acquire before it reads rows. */
    if (__builtin_expect(__atomic_load_n(&page->mem->index, __ATOMIC_RELAXED) != page->version, 0))
        nd_page_refresh(page);
    return page->routes[vshard & (ND_VSHARDS - 1)];
}
#endif
