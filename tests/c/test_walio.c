/* test_walio.c: both backends on real files: durable appends, rotation, large appends, faults, floor, recycling. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wal_kit.h"
#include "walio.h"

#define SEGMENT (64 * 1024)
#define WAIT_MS 20000

static char dir[PATH_MAX];

static void clear(void)
{
    char cmd[2 * PATH_MAX + 64];
    snprintf(cmd, sizeof cmd, "rm -rf '%s' && mkdir '%s'", dir, dir);
    ND_ASSERT(system(cmd) == 0);
}

static nd_walio_cfg config(uint32_t backend, uint32_t direct, nd_walio_fault *fault)
{
    return (nd_walio_cfg){.dir = dir, .backend = backend, .direct = direct, .log_id = 5, .oldest_segment = 1, .next_segment = 1,
                          .next_sequence = 1, .first_segment_bytes = SEGMENT, .segment_bytes = SEGMENT, .buffer_bytes = 8192,
                          .spares_max = 2, .fault = fault};
}

static nd_walio *start(uint32_t backend, uint32_t direct, nd_walio_fault *fault)
{
    nd_walio_cfg cfg = config(backend, direct, fault);
    nd_walio *io = NULL;
    clear();
    ND_ASSERT(nd_walio_open(&cfg, &io) == 0);
    return io;
}

static int64_t append(nd_walio *io, uint64_t index, uint32_t len, int reserve)
{
    uint8_t *data = malloc(len + 1);
    ND_ASSERT(data != NULL);
    memset(data, (int)index, len);
    nd_wal_rec rec = {.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 1, .term = 1, .index = index, .data = data, .len = len};
    int64_t seq = nd_walio_append(io, &rec, 1, reserve);
    free(data);
    return seq;
}

static void append_durably(nd_walio *io, uint64_t index, uint32_t len)
{
    uint64_t seq = 0;
    int64_t want = append(io, index, len, 0);
    ND_ASSERT(want > 0);
    ND_ASSERT(nd_walio_wait(io, &seq, WAIT_MS) == 1 && seq == (uint64_t)want);
    ND_ASSERT(nd_walio_inflight_us(io) == 0);
}

/* What the files hold, from `oldest` on: the number of live entries of group 1. */
static uint64_t entries_on_disk(uint64_t oldest, uint64_t newest)
{
    static uint64_t last[ND_GROUPS_MAX];
    nd_walbook_end end;
    nd_walbook *b = nd_walbook_new();
    for (uint64_t number = oldest; number <= newest; number++) {
        char name[PATH_MAX + 32];
        nd_wal_segment seg;
        uint8_t *bytes = malloc(SEGMENT);
        snprintf(name, sizeof name, "%s/wal-%016llu", dir, (unsigned long long)number);
        int fd = open(name, O_RDONLY);
        ND_ASSERT(fd >= 0 && bytes != NULL && read(fd, bytes, SEGMENT) == SEGMENT);
        close(fd);
        ND_ASSERT(nd_wal_segment_read(bytes, SEGMENT, &seg) == 0 && seg.number == number && seg.bytes == SEGMENT);
        ND_ASSERT(nd_walbook_segment(b, &seg, bytes, SEGMENT, last, &end) == 0);
        free(bytes);
    }
    const nd_walbook_group *g = nd_walbook_group_get(b, 1);
    uint64_t live = g->last + 1 - g->first;
    nd_walbook_free(b);
    return live;
}

static void appends_rotate_and_stay(uint32_t backend, uint32_t direct)
{
    nd_walio *io = start(backend, direct, NULL);
    nd_walio_stats stats;
    uint64_t i;
    for (i = 1; i <= 60; i++)
        append_durably(io, i, (uint32_t)(i * 331 % 12000)); /* above and below the buffer's size */
    nd_walio_stats_get(io, &stats);
    ND_ASSERT(stats.appends == 60 && stats.segment > 4 && stats.backend == backend && stats.direct == direct);
    ND_ASSERT(append(io, i, SEGMENT, 0) == -EMSGSIZE);
    ND_ASSERT(append(io, i, 100, 0) > 0 && append(io, i + 1, 100, 0) == -EBUSY);
    nd_walio_close(io); /* with one in flight */
    ND_ASSERT(entries_on_disk(1, stats.segment) == 61);
}

static void dropped_files_are_used_again(uint32_t backend)
{
    nd_walio *io = start(backend, 1, NULL);
    nd_walio_stats stats;
    for (uint64_t i = 1; i <= 100; i++) {
        append_durably(io, i, 30000);
        nd_walio_drop_before(io, nd_walio_segment(io));
    }
    nd_walio_stats_get(io, &stats);
    nd_walio_close(io);
    ND_ASSERT(stats.segment == 50 && entries_on_disk(stats.segment, stats.segment) == 2);
}

static void short_writes_go_on(uint32_t backend)
{
    nd_walio_fault fault = {.short_write_at = 2};
    nd_walio *io = start(backend, 0, &fault);
    for (uint64_t i = 1; i <= 3; i++)
        append_durably(io, i, 5000);
    nd_walio_close(io);
    ND_ASSERT(entries_on_disk(1, 1) == 3);
}

static void failures_are_final(uint32_t backend, bool in_sync, int error, int seen)
{
    nd_walio_fault fault = {.error = error};
    *(in_sync ? &fault.sync_fail_at : &fault.write_fail_at) = 3;
    nd_walio *io = start(backend, 0, &fault);
    uint64_t seq;
    append_durably(io, 1, 10);
    append_durably(io, 2, 10);
    ND_ASSERT(append(io, 3, 10, 0) == 3);
    ND_ASSERT(nd_walio_wait(io, &seq, WAIT_MS) == seen);
    fault = (nd_walio_fault){0}; /* the disk is well again, and it is not believed */
    ND_ASSERT(append(io, 4, 10, 0) == seen && nd_walio_reap(io, &seq) == seen);
    nd_walio_close(io);
}

static void floor_refuses_all_but_the_reserve(uint32_t backend)
{
    nd_walio_fault fault = {.free_bytes = 1 << 20};
    nd_walio_cfg cfg = config(backend, 1, &fault);
    nd_walio *io;
    uint64_t seq;
    cfg.free_floor_bytes = 2 << 20;
    clear();
    ND_ASSERT(nd_walio_open(&cfg, &io) == 0);
    ND_ASSERT(append(io, 1, 10, 0) == -ENOSPC && nd_walio_nospace(io) == 1);
    ND_ASSERT(append(io, 1, 10, 1) == 1 && nd_walio_wait(io, &seq, WAIT_MS) == 1);
    fault.free_bytes = 3 << 20;
    while (nd_walio_nospace(io)) /* asked again within 100 ms */
        usleep(1000);
    append_durably(io, 2, 10);
    nd_walio_close(io);
}

static void slow_appends_show_their_age(uint32_t backend)
{
    nd_walio_fault fault = {.delay_us = 50000};
    nd_walio *io = start(backend, 1, &fault);
    uint64_t seq;
    ND_ASSERT(append(io, 1, 10, 0) == 1 && nd_walio_reap(io, &seq) == 0);
    ND_ASSERT(nd_walio_wait(io, &seq, 1) == 0 && nd_walio_inflight_us(io) >= 1000);
    ND_ASSERT(nd_walio_wait(io, &seq, WAIT_MS) == 1 && nd_walio_last_us(io) >= 50000);
    nd_walio_close(io);
}

int main(void)
{
    char cwd[PATH_MAX / 2];
    ND_ASSERT(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(dir, sizeof dir, "%s/walio-%d", cwd, (int)getpid());
    nd_walio_cfg cfg = config(ND_WALIO_URING, 0, NULL);
    nd_walio *io = NULL;
    clear();
    uint32_t backends = nd_walio_open(&cfg, &io) == 0 ? ND_WALIO_URING : ND_WALIO_THREAD; /* where io_uring is forbidden */
    if (backends == ND_WALIO_URING)
        nd_walio_close(io);
    for (uint32_t backend = ND_WALIO_THREAD; backend <= backends; backend++) {
        appends_rotate_and_stay(backend, 0);
        appends_rotate_and_stay(backend, 1);
        dropped_files_are_used_again(backend);
        short_writes_go_on(backend);
        failures_are_final(backend, false, EIO, -EIO);
        failures_are_final(backend, true, EIO, -EIO);
        failures_are_final(backend, false, ENOSPC, -EIO);
        floor_refuses_all_but_the_reserve(backend);
        slow_appends_show_their_age(backend);
    }
    clear();
    rmdir(dir);
    return 0;
}
