/* timer.h: a periodic timer for an event loop that says how late the loop looked at it.
 *
 * Every expiration is one observation, also those a stalled loop slept through: a stall of 50 ms of a 1 ms timer is 50 of them,
 * from 49 ms down. The kernel keeps the schedule, so what a loop library rounds does not show. Loop thread only.
 */
#ifndef ND_TIMER_H
#define ND_TIMER_H
#include "metrics.h"

/* cffi:begin */
int nd_timer_open(void);                                      /* a timerfd, stopped; -errno */
int nd_timer_set(int fd, uint64_t period_us);                 /* first expiration after one period; 0 stops; 0 or -errno */
/* The descriptor is readable: add the lateness in µs of every expiration to `late` and forget them; returns how many there were,
 * at most ND_TIMER_OBSERVED_MAX of which were added (the latest ones). */
#define ND_TIMER_OBSERVED_MAX 10000
uint64_t nd_timer_observe(int fd, nd_hist *late);
/* cffi:end */
#endif
