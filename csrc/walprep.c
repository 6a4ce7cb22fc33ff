/* walprep.c: see walprep.h. */
#define _GNU_SOURCE
#include "walprep.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES (256 * 1024)
#define PAUSE_NS 1000000            /* between chunks: the foreground's syncs come first */
#define RETRY_NS 50000000           /* disk full: look again */
#define NAME_BYTES 40

struct nd_walprep {
    nd_walprep_cfg cfg;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    /* under mutex */
    bool stop, hurry, wanted;
    nd_wal_segment want;
    int fd;                         /* ready: >= 0 */
    int error;
    uint64_t drop_before, oldest;
    /* the thread's own */
    uint32_t spares;
};

static void segment_name(char *name, uint64_t number) { snprintf(name, NAME_BYTES, "wal-%016llu", (unsigned long long)number); }
static void spare_name(char *name, uint32_t i) { snprintf(name, NAME_BYTES, "spare-%u", i); }

/* Sleeps unless hurried or stopped: the thread's only way to wait. */
static bool pause_until(nd_walprep *p, long ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&p->mutex);
    while (!p->stop && !p->hurry)
        if (pthread_cond_timedwait(&p->wake, &p->mutex, &until) == ETIMEDOUT)
            break;
    bool go_on = !p->stop;
    pthread_mutex_unlock(&p->mutex);
    return go_on;
}

static int write_all(int fd, const uint8_t *buf, size_t len, off_t off)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, buf, len, off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        buf += n;
        len -= (size_t)n;
        off += n;
    }
    return 0;
}

/* Zeros everywhere, so that a later sync has no block to allocate and no extent to convert. p = NULL: no pauses. */
static int zero_fill(nd_walprep *p, int fd, const uint8_t *zeros, uint64_t bytes)
{
    if (fallocate(fd, 0, 0, (off_t)bytes) != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    for (uint64_t off = 0; off < bytes; off += CHUNK_BYTES) {
        uint64_t n = bytes - off < CHUNK_BYTES ? bytes - off : CHUNK_BYTES;
        int rc = write_all(fd, zeros, n, (off_t)off);
        if (rc < 0)
            return rc;
        if (p != NULL && !pause_until(p, PAUSE_NS))
            return -ECANCELED;
    }
    return 0;
}

/* O_DIRECT keeps the zeros from pushing other data out of the page cache; some filesystems refuse it. */
static int open_new(int dirfd, const char *name)
{
    int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
    int fd = openat(dirfd, name, flags | O_DIRECT, 0640);
    if (fd < 0 && errno == EINVAL)
        fd = openat(dirfd, name, flags, 0640);
    return fd < 0 ? -errno : fd;
}

/* Header and contents into the file called `name`, synced. `fresh`: the file is new and must be filled. */
static int write_file(nd_walprep *p, int dirfd, const char *name, bool fresh, const nd_wal_segment *seg)
{
    uint8_t *zeros = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeros == MAP_FAILED)
        return -ENOMEM;
    int fd = fresh ? open_new(dirfd, name) : openat(dirfd, name, O_RDWR | O_CLOEXEC);
    int rc = fd < 0 ? (fresh ? fd : -errno) : 0;
    if (rc == 0 && fresh)
        rc = zero_fill(p, fd, zeros, seg->bytes);
    if (rc == 0) {
        nd_wal_segment_encode(zeros, seg);
        rc = write_all(fd, zeros, ND_WAL_SEGMENT_HEADER_BYTES, 0);
    }
    if (rc == 0 && fsync(fd) != 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    munmap(zeros, CHUNK_BYTES);
    return rc;
}

static int make_from(nd_walprep *p, int dirfd, const char *from, bool fresh, const nd_wal_segment *seg, int open_flags)
{
    char name[NAME_BYTES];
    segment_name(name, seg->number);
    int rc = write_file(p, dirfd, from, fresh, seg);
    if (rc == 0 && renameat2(dirfd, from, dirfd, name, RENAME_NOREPLACE) != 0)
        rc = -errno;
    if (rc < 0) {
        unlinkat(dirfd, from, 0);
        return rc;
    }
    if (fsync(dirfd) != 0)
        return -errno;
    int fd = openat(dirfd, name, open_flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int nd_walprep_make(int dirfd, const nd_wal_segment *seg, int open_flags)
{
    return make_from(NULL, dirfd, "next.tmp", true, seg, open_flags);
}

static int make_wanted(nd_walprep *p, const nd_wal_segment *seg)
{
    if (p->spares > 0 && seg->bytes == p->cfg.spare_bytes) {
        char spare[NAME_BYTES];
        spare_name(spare, --p->spares);
        return make_from(p, p->cfg.dirfd, spare, false, seg, p->cfg.open_flags);
    }
    return make_from(p, p->cfg.dirfd, "next.tmp", true, seg, p->cfg.open_flags);
}

static int retire_one(nd_walprep *p, uint64_t number)
{
    char name[NAME_BYTES], spare[NAME_BYTES];
    struct stat st;
    int dirfd = p->cfg.dirfd;
    segment_name(name, number);
    spare_name(spare, p->spares);
    bool keep = p->spares < p->cfg.spares_max && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                (uint64_t)st.st_size == p->cfg.spare_bytes;
    int rc = keep ? renameat(dirfd, name, dirfd, spare) : unlinkat(dirfd, name, 0);
    if (rc != 0 && errno != ENOENT)
        return -errno;
    if (fsync(dirfd) != 0)
        return -errno;
    p->spares += keep;
    return 0;
}

/* ---- the thread ---- */

static void finish(nd_walprep *p, int fd)
{
    uint64_t one = 1;
    pthread_mutex_lock(&p->mutex);
    p->wanted = false;
    p->hurry = false;
    if (fd >= 0)
        p->fd = fd;
    else
        p->error = fd;
    pthread_mutex_unlock(&p->mutex);
    if (write(p->cfg.eventfd, &one, sizeof(one)) != sizeof(one))
        ND_ASSERT(errno == EAGAIN);
}

static void work_prepare(nd_walprep *p, const nd_wal_segment *seg)
{
    int fd = make_wanted(p, seg);
    if (fd == -ENOSPC || fd == -EDQUOT) {
        pthread_mutex_lock(&p->mutex);
        p->hurry = false; /* or the wait would be none */
        pthread_mutex_unlock(&p->mutex);
        pause_until(p, RETRY_NS);
    } else if (fd != -ECANCELED) {
        finish(p, fd);
    }
}

static void work_retire(nd_walprep *p, uint64_t number)
{
    int rc = retire_one(p, number);
    pthread_mutex_lock(&p->mutex);
    p->oldest = number + 1;
    pthread_mutex_unlock(&p->mutex);
    if (rc < 0)
        finish(p, rc);
}

static void *prep_main(void *arg)
{
    nd_walprep *p = arg;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
    pthread_mutex_lock(&p->mutex);
    while (!p->stop) {
        bool wanted = p->wanted && p->error == 0, retire = p->oldest < p->drop_before && p->error == 0;
        nd_wal_segment seg = p->want;
        uint64_t oldest = p->oldest;
        if (!wanted && !retire) {
            pthread_cond_wait(&p->wake, &p->mutex);
            continue;
        }
        pthread_mutex_unlock(&p->mutex);
        if (retire) /* first: it frees the room that a new segment may need */
            work_retire(p, oldest);
        else
            work_prepare(p, &seg);
        pthread_mutex_lock(&p->mutex);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* ---- calls ---- */

/* spare-0, spare-1, … of the right size, from the life before. */
static uint32_t spares_found(const nd_walprep_cfg *cfg)
{
    char name[NAME_BYTES];
    struct stat st;
    uint32_t n = 0;
    for (; n < cfg->spares_max; n++) {
        spare_name(name, n);
        if (fstatat(cfg->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || (uint64_t)st.st_size != cfg->spare_bytes)
            break;
    }
    return n;
}

int nd_walprep_open(const nd_walprep_cfg *cfg, nd_walprep **out)
{
    pthread_condattr_t attr;
    sigset_t all, old;
    nd_walprep *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    p->cfg = *cfg;
    p->fd = -1;
    p->oldest = cfg->oldest;
    p->spares = spares_found(cfg);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the loop's */
    int rc = pthread_create(&p->thread, NULL, prep_main, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        free(p);
        return -rc;
    }
    *out = p;
    return 0;
}

void nd_walprep_close(nd_walprep *p)
{
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    pthread_join(p->thread, NULL);
    if (p->fd >= 0)
        close(p->fd);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

void nd_walprep_want(nd_walprep *p, const nd_wal_segment *seg)
{
    pthread_mutex_lock(&p->mutex);
    ND_ASSERT(!p->wanted && p->fd < 0);
    p->want = *seg;
    p->wanted = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

void nd_walprep_hurry(nd_walprep *p)
{
    pthread_mutex_lock(&p->mutex);
    p->hurry = p->wanted;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

int nd_walprep_take(nd_walprep *p, int *fd)
{
    pthread_mutex_lock(&p->mutex);
    int rc = p->error != 0 ? p->error : p->fd >= 0;
    if (rc == 1) {
        *fd = p->fd;
        p->fd = -1;
    }
    pthread_mutex_unlock(&p->mutex);
    return rc;
}

void nd_walprep_drop_before(nd_walprep *p, uint64_t number)
{
    pthread_mutex_lock(&p->mutex);
    if (number > p->drop_before)
        p->drop_before = number;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

uint64_t nd_walprep_oldest(nd_walprep *p)
{
    pthread_mutex_lock(&p->mutex);
    uint64_t oldest = p->oldest;
    pthread_mutex_unlock(&p->mutex);
    return oldest;
}
