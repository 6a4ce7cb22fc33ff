/* pin.h: ties a process to its supervisor and to the memory of its core. Pinning to cores itself is os.sched_setaffinity.
 *
 * Called once by a process's main thread before it starts others (threads inherit policy and affinity). Nothing is allocated.
 * Return codes: 0 or -errno; on failure nothing changed.
 */
#ifndef ND_PIN_H
#define ND_PIN_H
#include "nd.h"

/* cffi:begin */
/* The kernel sends SIGKILL to this process when the thread that started it ends. -ESRCH: the parent is no longer
 * `parent_pid` (it died before this call; the signal will not come, so the caller must exit). */
int nd_pin_die_with_parent(int parent_pid);
/* Name in ps and top; copied, cut to 15 bytes. */
int nd_pin_name(const char *name);
/* Prefer the memory of one NUMA node (0..1023) for this process's later allocations. Preferred, not bound: a full node must
 * make a worker slower, not kill it. -ENOSYS or -EPERM where the kernel or a container forbids it. */
int nd_pin_memory(unsigned node);
/* cffi:end */
#endif
