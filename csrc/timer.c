/* timer.c: see timer.h. */
#include "timer.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct timespec span(uint64_t us)
{
    return (struct timespec){.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
}

static uint64_t us_of(struct timespec t)
{
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int nd_timer_open(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int nd_timer_set(int fd, uint64_t period_us)
{
    struct itimerspec every = {.it_interval = span(period_us), .it_value = span(period_us)};
    return timerfd_settime(fd, 0, &every, NULL) < 0 ? -errno : 0;
}

uint64_t nd_timer_observe(int fd, nd_hist *late)
{
    uint64_t n;
    struct itimerspec now;
    if (read(fd, &n, sizeof n) != sizeof n)
        return 0; /* stopped or set anew since it became readable */
    int rc = timerfd_gettime(fd, &now);
    ND_ASSERT(rc == 0);
    /* The last of the n expired one period before the next one will. One that fell between the two calls is the next read's. */
    uint64_t period = us_of(now.it_interval), since_last = period - us_of(now.it_value);
    for (uint64_t i = 0; i < n && i < ND_TIMER_OBSERVED_MAX; i++)
        nd_hist_add(late, since_last + i * period);
    return n;
}
