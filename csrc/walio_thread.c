/* walio_thread.c: pwritev's plain sister and fdatasync on one thread; works on every kernel, filesystem and container.
 *
 * The hand-over is a semaphore each way: the loop posts `work`, the thread posts the eventfd. Between the two posts the write
 * belongs to the thread, outside them to the loop, so nothing else needs a lock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "walio_impl.h"

struct thread_backend {
    pthread_t thread;
    sem_t work;
    int eventfd;
    nd_walio_write write;
    bool pending;                /* a post without it means stop */
    _Atomic int result;          /* 0 = under way, 1 = durable, -errno */
};

static void delay(uint32_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        continue;
}

static int write_all(const nd_walio_write *w)
{
    uint64_t done = 0;
    while (done < w->len) {
        uint64_t want = done == 0 && w->len_first != 0 ? w->len_first : w->len - done;
        ssize_t n = pwrite(w->fd, w->buf + done, want, (off_t)(w->off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return 0;
}

static int write_durably(const nd_walio_write *w)
{
    if (w->delay_us != 0)
        delay(w->delay_us);
    int rc = w->write_error != 0 ? w->write_error : write_all(w);
    if (rc < 0)
        return rc;
    if (w->sync_error != 0)
        return w->sync_error;
    return w->sync && fdatasync(w->fd) != 0 ? -errno : 1;
}

static void *thread_main(void *arg)
{
    struct thread_backend *t = arg;
    uint64_t one = 1;
    for (;;) {
        while (sem_wait(&t->work) != 0)
            ND_ASSERT(errno == EINTR);
        if (!t->pending)
            return NULL;
        t->pending = false;
        /* Release: who reads the result also sees everything the write did to its struct. */
        atomic_store_explicit(&t->result, write_durably(&t->write), memory_order_release);
        if (write(t->eventfd, &one, sizeof(one)) != sizeof(one))
            ND_ASSERT(errno == EAGAIN);
    }
}

static int thread_open(void **self, int eventfd, uint8_t *buf, uint64_t buf_bytes)
{
    sigset_t all, old;
    struct thread_backend *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    t->eventfd = eventfd;
    sem_init(&t->work, 0, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the loop's */
    int rc = pthread_create(&t->thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        free(t);
        return -rc;
    }
    *self = t;
    return 0;
}

static int thread_submit(void *self, const nd_walio_write *w)
{
    struct thread_backend *t = self;
    t->write = *w;
    t->pending = true;
    atomic_store_explicit(&t->result, 0, memory_order_relaxed);
    sem_post(&t->work);
    return 0;
}

static int thread_poll(void *self)
{
    struct thread_backend *t = self;
    return atomic_load_explicit(&t->result, memory_order_acquire);
}

static void thread_close(void *self)
{
    struct thread_backend *t = self;
    sem_post(&t->work); /* taken after the post of a write that is still to be done */
    pthread_join(t->thread, NULL);
    sem_destroy(&t->work);
    free(t);
}

const nd_walio_ops nd_walio_thread_ops = {ND_WALIO_THREAD, thread_open, thread_submit, thread_poll, thread_close};
