/* What the store does when the process is killed, when the disk is full, and when its files are not what they should be. */
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <lmdb.h>

#include "store_test.h"

#define VSHARDS 8

/* The row of step i, whose number is also its log index: replaying the steps after a vShard's applied index must end right. */
static void step(nd_store *s, uint64_t i, uint64_t only_after[VSHARDS])
{
    uint32_t v = (uint32_t)(i * 7 % VSHARDS), k = (uint32_t)(i * 13 % 97);
    nd_arg key = {(const uint8_t *)&k, sizeof k};
    uint8_t *p;
    if (only_after && i <= only_after[v])
        return;
    if (i % 5 == 0) {
        ND_ASSERT(nd_store_del(s, v, &key) >= 0);
    } else {
        nd_row row;
        int there = nd_store_get(s, v, &key, 0, false, &row);
        ND_ASSERT(there >= 0);
        uint32_t len = there ? row.len : 0;
        ND_ASSERT(nd_store_edit_begin(s, v, &key, ND_TYPE_STRING, len, len + 8, len + 8, &p) == 0);
        memcpy(p + len, &i, 8);   /* an append: applied twice, it shows */
        nd_store_edit_end(s);
    }
}

static void child_write(const nd_store_cfg *cfg, int progress)
{
    nd_store *s = open_store(cfg, VSHARDS);
    for (uint64_t i = 1;; i++) {
        step(s, i, NULL);
        if (i % 500 == 0 && nd_store_checkpoint_end(s) == 1)
            ND_ASSERT(checkpoint_begin(s, VSHARDS, i) == 0);
        if (i % 10 == 0)
            nd_store_housekeep(s, 100);
        if (i % 100 == 0) {
            ND_ASSERT(write(progress, &i, sizeof i) == sizeof i);
            if (cfg->pause_us)                        /* checkpoints keep up, and later ones find rows to delete */
                usleep(2000);
        }
    }
}

static bool has_meta(const char *path, char name)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    MDB_cursor *c;
    MDB_val key = {1, &name}, val;
    ND_ASSERT(mdb_env_create(&env) == 0 && mdb_env_set_maxdbs(env, 2) == 0);
    if (mdb_env_open(env, path, MDB_RDONLY, 0600) != 0 || mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) != 0) {
        mdb_env_close(env);
        return false;
    }
    bool found = mdb_dbi_open(txn, "meta", 0, &meta) == 0 && mdb_cursor_open(txn, meta, &c) == 0;
    if (found) {
        found = mdb_cursor_get(c, &key, &val, MDB_SET_RANGE) == 0 && *(const char *)key.mv_data == name;
        mdb_cursor_close(c);
    }
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return found;
}

static uint32_t died_staging, died_merging;

/* Kill a writer at some moment, reopen, replay what each vShard lacks: all equals a store that never stopped. */
static void test_kill(uint64_t until, uint64_t txn_bytes_max)
{
    scratch dir = scratch_new(), dir2 = scratch_new();
    nd_store_cfg cfg = cfg_of(&dir), cfg2 = cfg_of(&dir2);
    uint64_t last = 0, after[VSHARDS];
    int fd[2];
    cfg.txn_rows_max = 20;
    cfg.txn_bytes_max = txn_bytes_max;
    cfg.pause_us = txn_bytes_max < 10000 ? 50 : 0;    /* so that most of the time some vShard is half written */
    ND_ASSERT(pipe(fd) == 0);
    pid_t pid = fork();
    if (pid == 0)
        child_write(&cfg, fd[1]);
    while (last < until)
        ND_ASSERT(read(fd[0], &last, sizeof last) == sizeof last);
    ND_ASSERT(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    close(fd[0]);
    close(fd[1]);
    died_staging += has_meta(dir.path, 'I');
    died_merging += has_meta(dir.path, 'M');
    nd_store_close(open_store(&cfg, VSHARDS));
    ND_ASSERT(!has_meta(dir.path, 'I') && !has_meta(dir.path, 'M'));
    nd_store *s = open_store(&cfg, VSHARDS), *model = open_store(&cfg2, VSHARDS);
    for (uint32_t v = 0; v < VSHARDS; v++) {
        after[v] = nd_store_applied_index(s, v);
        last = after[v] > last ? after[v] : last;
    }
    for (uint64_t i = 1; i <= last; i++) {
        step(s, i, after);
        step(model, i, NULL);
    }
    for (uint32_t v = 0; v < VSHARDS; v++) {
        ND_ASSERT(nd_store_hash(s, v) == nd_store_hash(model, v) && nd_store_count(s, v) == nd_store_count(model, v));
    }
    checkpoint(s, VSHARDS, last);                     /* and what it writes now is the same again */
    nd_store_close(s);
    s = open_store(&cfg, VSHARDS);
    for (uint32_t v = 0; v < VSHARDS; v++)
        ND_ASSERT(nd_store_hash(s, v) == nd_store_hash(model, v) && nd_store_applied_index(s, v) == last);
    for (uint32_t k = 0; k < 97; k++) {
        for (uint32_t v = 0; v < VSHARDS; v++) {
            nd_arg key = {(const uint8_t *)&k, sizeof k};
            nd_row a, b;
            int there = nd_store_get(s, v, &key, 0, false, &a);
            ND_ASSERT(there == nd_store_get(model, v, &key, 0, false, &b));
            ND_ASSERT(!there || (a.len == b.len && memcmp(a.val, b.val, a.len) == 0));
        }
    }
    nd_store_close(s);
    nd_store_close(model);
    scratch_remove(&dir);
    scratch_remove(&dir2);
}

static void put_many(nd_store *s, uint32_t first, uint32_t n, uint32_t len)
{
    static uint8_t val[4096];
    for (uint32_t i = first; i < first + n; i++) {
        nd_arg key = {(const uint8_t *)&i, sizeof i};
        memset(val, (int)i, len);
        ND_ASSERT(nd_store_put(s, i % VSHARDS, &key, ND_TYPE_STRING, val, len, 0) == 0);
    }
}

static void check_many(nd_store *s, uint32_t n, uint32_t len)
{
    for (uint32_t i = 0; i < n; i++) {
        nd_arg key = {(const uint8_t *)&i, sizeof i};
        nd_row row;
        ND_ASSERT(nd_store_get(s, i % VSHARDS, &key, 0, false, &row) == 1);
        ND_ASSERT(row.len == len && row.val[0] == (uint8_t)i && row.val[len - 1] == (uint8_t)i);
    }
}

/* A disk of 2 MiB: the checkpoint fails with ENOSPC and nothing else, reads go on, and room makes the next one succeed. */
static void test_full_disk(void)
{
    scratch dir = scratch_new();
    if (mount("none", dir.path, "tmpfs", 0, "size=2m") != 0) {
        fprintf(stderr, "skipped: full disk (mounting needs root)\n");
        ND_ASSERT(rmdir(dir.path) == 0);
        return;
    }
    nd_store_cfg cfg = cfg_of(&dir);
    cfg.txn_rows_max = 100;
    nd_store *s = open_store(&cfg, VSHARDS);
    uint64_t hash[VSHARDS];
    nd_store_stats stats;
    put_many(s, 0, 1500, 2500);
    for (uint32_t v = 0; v < VSHARDS; v++)
        hash[v] = nd_store_hash(s, v);
    for (uint64_t i = 1; i <= 3; i++) {
        ND_ASSERT(checkpoint_begin(s, VSHARDS, i) == 0);
        ND_ASSERT(checkpoint_await(s) == -ENOSPC);
        housekeep_all(s);
        check_many(s, 1500, 2500);
    }
    nd_store_stats_get(s, &stats);
    ND_ASSERT(stats.dirty_rows > 0 && stats.dirty_rows < 1500);   /* some vShards went through */
    ND_ASSERT(mount("none", dir.path, "tmpfs", MS_REMOUNT, "size=64m") == 0);
    checkpoint(s, VSHARDS, 9);
    nd_store_stats_get(s, &stats);
    ND_ASSERT(stats.dirty_rows == 0);
    nd_store_close(s);
    s = open_store(&cfg, VSHARDS);
    check_many(s, 1500, 2500);
    for (uint32_t v = 0; v < VSHARDS; v++)
        ND_ASSERT(nd_store_hash(s, v) == hash[v] && nd_store_applied_index(s, v) == 9);
    nd_store_close(s);
    ND_ASSERT(umount(dir.path) == 0);
    ND_ASSERT(rmdir(dir.path) == 0);
}

/* A disk too small for a stage and its merge: the stage is given back, a merge waits for room; nothing is lost or mixed. */
static void test_full_disk_while_staging(uint32_t megabytes)
{
    scratch dir = scratch_new();
    char size[16];
    snprintf(size, sizeof size, "size=%um", megabytes);
    if (mount("none", dir.path, "tmpfs", 0, size) != 0) {
        ND_ASSERT(rmdir(dir.path) == 0);
        return;
    }
    nd_store_cfg cfg = cfg_of(&dir);
    cfg.txn_bytes_max = 50000;
    nd_store *s = open_store(&cfg, VSHARDS);
    put_many(s, 0, 1500, 2500);
    ND_ASSERT(checkpoint_begin(s, VSHARDS, 1) == 0);
    struct pollfd p = {nd_store_checkpoint_fd(s), POLLIN, 0};
    bool waits = poll(&p, 1, 1000) == 0;
    ND_ASSERT(waits ? nd_store_checkpoint_end(s) == 0 : nd_store_checkpoint_end(s) == -ENOSPC);
    check_many(s, 1500, 2500);
    ND_ASSERT(mount("none", dir.path, "tmpfs", MS_REMOUNT, "size=64m") == 0);
    if (waits)
        ND_ASSERT(checkpoint_await(s) == 1);
    housekeep_all(s);
    checkpoint(s, VSHARDS, 2);
    nd_store_close(s);
    s = open_store(&cfg, VSHARDS);
    check_many(s, 1500, 2500);
    for (uint32_t v = 0; v < VSHARDS; v++)
        ND_ASSERT(nd_store_applied_index(s, v) == 2);
    nd_store_close(s);
    ND_ASSERT(umount(dir.path) == 0);
    ND_ASSERT(rmdir(dir.path) == 0);
}

/* More rows than memory: housekeeping keeps to the limit, everything can be read. */
static void test_small_memory(void)
{
    scratch dir = scratch_new();
    nd_store_cfg cfg = cfg_of(&dir);
    cfg.memory_bytes_max = 300000;
    nd_store *s = open_store(&cfg, VSHARDS);
    nd_store_stats stats;
    for (uint32_t i = 0; i < 20; i++) {
        put_many(s, i * 1000, 1000, 100);
        checkpoint(s, VSHARDS, i + 1);
    }
    for (int i = 0; i < 2; i++) {
        check_many(s, 20000, 100);
        housekeep_all(s);
        nd_store_stats_get(s, &stats);
        ND_ASSERT(stats.rows == 20000 && stats.resident_rows < 3000 && stats.evictions > 10000 && stats.cold_reads > 10000);
    }
    nd_store_close(s);
    scratch_remove(&dir);
}

static void set_format_version(const char *path, uint32_t version)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    uint8_t bytes[52];
    ND_ASSERT(mdb_env_create(&env) == 0 && mdb_env_set_maxdbs(env, 2) == 0 && mdb_env_open(env, path, 0, 0600) == 0);
    ND_ASSERT(mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, "meta", 0, &meta) == 0);
    MDB_val key = {1, "F"}, val;
    ND_ASSERT(mdb_get(txn, meta, &key, &val) == 0 && val.mv_size == sizeof bytes);
    memcpy(bytes, val.mv_data, sizeof bytes);
    memcpy(bytes, &version, 4);
    val = (MDB_val){sizeof bytes, bytes};
    ND_ASSERT(mdb_put(txn, meta, &key, &val, 0) == 0 && mdb_txn_commit(txn) == 0);
    mdb_env_close(env);
}

static void test_refusals(void)
{
    scratch dir = scratch_new();
    nd_store_cfg cfg = cfg_of(&dir);
    nd_store *s = open_store(&cfg, VSHARDS);
    nd_store *other;
    nd_install *in;
    put_many(s, 0, 100, 10);
    checkpoint(s, VSHARDS, 1);
    ND_ASSERT(nd_install_begin(s, 0, 0, &in) == 0 && nd_install_chunk(in, (const uint8_t *)"short", 5) == -EBADMSG);
    ND_ASSERT(nd_install_commit(in, 1, 5, 5) == -EBADMSG);
    check_many(s, 100, 10);
    nd_store_close(s);
    ND_ASSERT(nd_store_open(&cfg, &s) == 0 && nd_store_own(s, 0, 3) == -EINVAL);   /* it belongs to group 0 */
    nd_store_close(s);
    set_format_version(dir.path, 2);
    ND_ASSERT(nd_store_open(&cfg, &other) == -ENOTSUP);
    set_format_version(dir.path, 1);
    char file[96];
    snprintf(file, sizeof file, "%s/data.mdb", dir.path);
    FILE *f = fopen(file, "r+");
    for (int i = 0; f && i < 8192; i++)
        fputc('x', f);
    ND_ASSERT(f && fclose(f) == 0 && nd_store_open(&cfg, &other) == -EUCLEAN);
    scratch_remove(&dir);
}

int main(void)
{
    for (uint64_t i = 0; i < 12; i++)
        test_kill(300 + i * i * 100, 1 << 20);
    for (uint64_t i = 0; died_staging < 8 || died_merging < 8; i++) {
        ND_ASSERT(i < 300);                           /* it must hit both phases, some times */
        test_kill(700 + i % 30 * 200, 300);
    }
    test_full_disk();
    for (uint32_t megabytes = 1; megabytes < 5; megabytes++)
        test_full_disk_while_staging(megabytes);
    test_small_memory();
    test_refusals();
    return 0;
}
