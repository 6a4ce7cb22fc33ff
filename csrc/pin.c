/* pin.c: three system calls, see pin.h. set_mempolicy goes through syscall(2): libnuma would be a dependency for one call. */
#include "pin.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX 1024
#define WORD_BITS (8 * sizeof(unsigned long))

int nd_pin_die_with_parent(int parent_pid)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return -errno;
    /* A parent that died before prctl sends nothing: look after asking, not before. */
    return getppid() == parent_pid ? 0 : -ESRCH;
}

int nd_pin_name(const char *name)
{
    return prctl(PR_SET_NAME, name) == 0 ? 0 : -errno;
}

int nd_pin_memory(unsigned node)
{
    unsigned long mask[NODES_MAX / WORD_BITS];
    if (node >= NODES_MAX)
        return -EINVAL;
    memset(mask, 0, sizeof mask);
    mask[node / WORD_BITS] = 1ul << (node % WORD_BITS);
    /* The kernel reads maxnode - 1 bits. */
    return syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, (unsigned long)NODES_MAX + 1) == 0 ? 0 : -errno;
}
