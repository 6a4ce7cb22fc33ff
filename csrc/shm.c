/* shm.c: layout, creation and mapping of the shared block; the process table; bells. */
#define _GNU_SOURCE
#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "page.h"
#include "ring.h"

#define ND_SHM_MAGIC 0x314d48534e444f4eull /* "NODNSHM1", little-endian */
#define ND_SHM_VERSION 1
#define ND_SHM_PAGE 4096ull

typedef struct nd_shm_header {
    uint64_t magic;
    uint32_t version;
    uint32_t processes;
    uint32_t ring_bytes;
    uint32_t metrics_bytes;          /* distance from one process's metrics to the next */
    uint64_t bytes;
    uint8_t pad[96];
    uint64_t table_version;          /* on its own line: read once per turn by everyone */
    uint8_t pad_table[120];
} nd_shm_header;
_Static_assert(sizeof(nd_shm_header) == 256 && offsetof(nd_shm_header, table_version) == 128, "shared layout");

struct nd_shm {
    uint8_t *base;
    nd_shm_header *header;
    uint32_t processes;              /* copies: a stray write into the header must not move an address */
    uint32_t ring_bytes;
    uint64_t bytes;
};

static uint64_t round_up(uint64_t v, uint64_t unit)
{
    return (v + unit - 1) / unit * unit;
}

static uint64_t metrics_stride(void)
{
    return round_up(sizeof(nd_metrics), ND_SHM_PAGE);
}

static uint64_t ring_stride(uint32_t ring_bytes)
{
    return round_up(sizeof(nd_ring_mem) + (uint64_t)ring_bytes, ND_SHM_PAGE);
}

static uint64_t metrics_offset(uint32_t processes)
{
    return round_up(sizeof(nd_shm_header) + (uint64_t)processes * sizeof(nd_proc_mem), ND_SHM_PAGE);
}

static uint64_t page_offset(uint32_t processes)
{
    return metrics_offset(processes) + processes * metrics_stride();
}

static uint64_t rings_offset(uint32_t processes)
{
    return page_offset(processes) + round_up(sizeof(nd_page_mem), ND_SHM_PAGE);
}

uint64_t nd_shm_bytes(uint32_t processes, uint32_t ring_bytes)
{
    if (processes < 1 || processes > ND_PROCS_MAX)
        return 0;
    if (ring_bytes < ND_RING_BYTES_MIN || ring_bytes > ND_RING_BYTES_MAX || (ring_bytes & (ring_bytes - 1)) != 0)
        return 0;
    return rings_offset(processes) + (uint64_t)processes * processes * ring_stride(ring_bytes);
}

static void header_init(nd_shm_header *h, uint32_t processes, uint32_t ring_bytes)
{
    nd_proc_mem *table = (nd_proc_mem *)(h + 1);
    h->version = ND_SHM_VERSION;
    h->processes = processes;
    h->ring_bytes = ring_bytes;
    h->metrics_bytes = (uint32_t)metrics_stride();
    h->bytes = nd_shm_bytes(processes, ring_bytes);
    for (uint32_t i = 0; i < processes; i++)
        table[i].generation = 1;
    /* Last, so that a block whose creator died half-way is never taken for a whole one. */
    __atomic_store_n(&h->magic, ND_SHM_MAGIC, __ATOMIC_RELEASE);
}

int nd_shm_create(uint32_t processes, uint32_t ring_bytes)
{
    uint64_t bytes = nd_shm_bytes(processes, ring_bytes);
    if (bytes == 0)
        return -EINVAL;
    int fd = memfd_create("nodedb-node", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    void *base = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        base = mmap(NULL, metrics_offset(processes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        int error = errno;
        close(fd);
        return -error;
    }
    header_init(base, processes, ring_bytes);
    munmap(base, metrics_offset(processes));
    return fd;
}

static int header_check(const nd_shm_header *h, uint64_t file_bytes)
{
    if (__atomic_load_n(&h->magic, __ATOMIC_ACQUIRE) != ND_SHM_MAGIC || h->version != ND_SHM_VERSION)
        return -EPROTO;
    if (h->bytes != file_bytes || nd_shm_bytes(h->processes, h->ring_bytes) != file_bytes)
        return -EPROTO;
    return h->metrics_bytes == metrics_stride() ? 0 : -EPROTO;
}

int nd_shm_map(int fd, nd_shm **out)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -errno;
    if (st.st_size < (off_t)sizeof(nd_shm_header))
        return -EPROTO;
    uint8_t *base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    int rc = header_check((nd_shm_header *)base, (uint64_t)st.st_size);
    nd_shm *shm = rc == 0 ? calloc(1, sizeof *shm) : NULL;
    if (shm == NULL) {
        munmap(base, (size_t)st.st_size);
        return rc != 0 ? rc : -ENOMEM;
    }
    shm->base = base;
    shm->header = (nd_shm_header *)base;
    shm->processes = shm->header->processes;
    shm->ring_bytes = shm->header->ring_bytes;
    shm->bytes = (uint64_t)st.st_size;
    *out = shm;
    return 0;
}

void nd_shm_unmap(nd_shm *shm)
{
    munmap(shm->base, shm->bytes);
    free(shm);
}

uint32_t nd_shm_processes(const nd_shm *shm)
{
    return shm->processes;
}

uint32_t nd_shm_ring_bytes(const nd_shm *shm)
{
    return shm->ring_bytes;
}

nd_metrics *nd_shm_metrics(nd_shm *shm, uint32_t process)
{
    ND_ASSERT(process < shm->processes);
    return (nd_metrics *)(shm->base + metrics_offset(shm->processes) + process * metrics_stride());
}

nd_proc_mem *nd_shm_proc(nd_shm *shm, uint32_t process)
{
    ND_ASSERT(process < shm->processes);
    return (nd_proc_mem *)(shm->base + sizeof(nd_shm_header)) + process;
}

nd_ring_mem *nd_shm_ring(nd_shm *shm, uint32_t from, uint32_t to)
{
    ND_ASSERT(from < shm->processes && to < shm->processes);
    uint64_t number = (uint64_t)from * shm->processes + to;
    return (nd_ring_mem *)(shm->base + rings_offset(shm->processes) + number * ring_stride(shm->ring_bytes));
}

nd_page_mem *nd_shm_page(nd_shm *shm)
{
    return (nd_page_mem *)(shm->base + page_offset(shm->processes));
}

uint64_t nd_shm_table_version(const nd_shm *shm)
{
    /* Acquire: whoever sees the new version sees the entry that changed. Sequentially consistent, because a sleeper
     * stores its ticket first and looks here next, while the writer changes the version first and rings next. */
    return __atomic_load_n(&shm->header->table_version, __ATOMIC_SEQ_CST);
}

static void table_changed(nd_shm *shm)
{
    __atomic_fetch_add(&shm->header->table_version, 1, __ATOMIC_SEQ_CST);
}

void nd_shm_proc_get(const nd_shm *shm, uint32_t process, nd_proc_info *out)
{
    const nd_proc_mem *p = nd_shm_proc((nd_shm *)shm, process);
    do {
        /* Acquire, so that the words read next are not older than the generation; the second look tells whether they
         * are of that generation. Generations change only when a process dies: this ends. */
        out->generation = __atomic_load_n(&p->generation, __ATOMIC_ACQUIRE);
        out->state = __atomic_load_n(&p->state, __ATOMIC_ACQUIRE);
        out->pid = __atomic_load_n(&p->pid, __ATOMIC_ACQUIRE);
        for (uint32_t i = 0; i < ND_PORTS; i++)
            out->ports[i] = __atomic_load_n(&p->ports[i], __ATOMIC_ACQUIRE);
    } while (__atomic_load_n(&p->generation, __ATOMIC_ACQUIRE) != out->generation);
}

void nd_shm_proc_started(nd_shm *shm, uint32_t process, uint32_t pid)
{
    nd_proc_mem *p = nd_shm_proc(shm, process);
    uint32_t before = __atomic_load_n(&p->state, __ATOMIC_ACQUIRE);
    __atomic_store_n(&p->pid, pid, __ATOMIC_RELEASE);
    /* The child runs already and may have called itself ready: only a state from before its birth is replaced. */
    if (before != ND_PROC_READY)
        __atomic_compare_exchange_n(&p->state, &before, ND_PROC_STARTING, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    table_changed(shm);
}

void nd_shm_proc_ready(nd_shm *shm, uint32_t process, const uint16_t *ports)
{
    nd_proc_mem *p = nd_shm_proc(shm, process);
    for (uint32_t i = 0; i < ND_PORTS; i++)
        __atomic_store_n(&p->ports[i], ports[i], __ATOMIC_RELAXED);
    /* Release: who reads READY reads the ports. */
    __atomic_store_n(&p->state, ND_PROC_READY, __ATOMIC_RELEASE);
    table_changed(shm);
}

uint64_t nd_shm_proc_died(nd_shm *shm, uint32_t process)
{
    nd_proc_mem *p = nd_shm_proc(shm, process);
    __atomic_store_n(&p->state, ND_PROC_DOWN, __ATOMIC_RELAXED);
    /* Release: who reads the new generation does not read the dead one's state. */
    uint64_t generation = __atomic_add_fetch(&p->generation, 1, __ATOMIC_ACQ_REL);
    table_changed(shm);
    return generation;
}

int nd_bell_ring(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0) {
        if (errno == EAGAIN)
            return 0; /* the counter is full: as rung as can be */
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

void nd_bell_clear(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
}
