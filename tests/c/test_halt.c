/* test_halt.c: a group is halted while commands of it are gathered, sealed and under way: each is answered, once, and the other
 * groups of the engine go on.
 */
#include <stdlib.h>
#include <string.h>

#include "../../csrc/engine.h"

#define GROUPS 8u
#define HERE 0u                      /* the vShard of a group that is halted, and one of a group that is not */
#define THERE 200u
#define GONE "CLUSTERDOWN gone"

static nd_engine *e;
static nd_metrics metrics;
static uint64_t now_us = 1000000, last[GROUPS];

static uint32_t group_of(uint32_t vshard) { return vshard * GROUPS / ND_VSHARDS; }

static nd_cmdtab *new_table(void)
{
    nd_cmdtab *t = nd_cmdtab_new();
    ND_ASSERT(nd_cmdtab_add(t, "get", 1, 2, ND_CMD_READ, 1, 1, 1, "get") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "set", 2, -3, ND_CMD_WRITE, 1, 1, 1, "set") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "nd.expire", 48, 3, ND_CMD_WRITE | ND_CMD_INTERNAL, 1, 1, 1, "nd_expire") == 0);
    ND_ASSERT(nd_cmdtab_add(t, "nd.dbsize", 50, 1, ND_CMD_READ | ND_CMD_INTERNAL | ND_CMD_WORKER, 0, 0, 0,
                            "nd_dbsize") == 0);
    return t;
}

static nd_arg text(const char *s) { return (nd_arg){(const uint8_t *)s, (uint32_t)strlen(s)}; }

static void ask(uint32_t token, uint32_t vshard, const char *a, const char *b, const char *c)
{
    nd_arg argv[3] = {text(a), text(b ? b : ""), text(c ? c : "")};
    ND_ASSERT(nd_engine_call(e, token, 0, vshard, argv, b ? c ? 3 : 2 : 1, 2, now_us) == 0);
}

/* The next answer is this one. */
static void answered(uint32_t token, const char *reply)
{
    uint32_t got;
    const uint8_t *p;
    uint64_t n;
    ND_ASSERT(nd_engine_call_next(e, &got, &p, &n) == 1);
    ND_ASSERT(got == token && n == strlen(reply) && memcmp(p, reply, n) == 0);
}

static void nothing_more(void)
{
    uint32_t got;
    const uint8_t *p;
    uint64_t n;
    ND_ASSERT(nd_engine_call_next(e, &got, &p, &n) == 0);
}

/* Seal and propose; records of `refused` (a group) are not taken. */
static int propose(uint32_t refused, nd_commit *commits)
{
    int n = nd_engine_seal(e, now_us / 1000 << 16, now_us, now_us), taken = 0;
    nd_wal_rec *recs = nd_engine_recs(e);
    for (int i = 0; i < n; i++) {
        uint32_t g = recs[i].group;
        recs[i].index = g == refused ? 0 : ++last[g];
        recs[i].term = g == refused ? ND_TEXT_HALTED : 1;
        if (g != refused)
            commits[taken++] = (nd_commit){g, recs[i].index, recs[i].index};
    }
    ND_ASSERT(nd_engine_proposed(e, (uint32_t)n) == (uint32_t)(n - taken));
    return taken;
}

static void commit(const nd_commit *commits, int n) { ND_ASSERT(nd_engine_commit(e, commits, (uint32_t)n, now_us) >= 0); }

static void what_is_on_its_way_is_answered(void)
{
    nd_commit commits[GROUPS];
    ask(1, HERE, "set", "k", "1");
    ask(2, THERE, "set", "k", "1");
    commit(commits, propose(GROUPS, commits));
    answered(1, "+OK\r\n");
    answered(2, "+OK\r\n");
    ask(3, HERE, "set", "k", "2"); /* under way, in vain */
    ask(4, THERE, "set", "k", "2");
    int n = propose(GROUPS, commits);
    ask(5, HERE, "set", "k", "3"); /* gathered */
    ask(6, THERE, "set", "k", "3");
    nothing_more();
    for (int i = 0; i < n; i++)
        if (commits[i].group == group_of(THERE))
            commit(&commits[i], 1);
    answered(4, "+OK\r\n");
    nd_engine_halt(e, group_of(HERE), GONE);
    answered(3, "-UNKNOWN\r\n");
    ask(7, HERE, "get", "k", NULL);
    ask(8, HERE, "set", "k", "4");
    answered(7, "-" GONE "\r\n");
    answered(8, "-" GONE "\r\n");
    n = propose(group_of(HERE), commits);
    ND_ASSERT(n == 1);
    answered(5, "-" GONE "\r\n");
    nothing_more();
    commit(commits, n);
    answered(6, "+OK\r\n");
}

static void the_others_go_on(void)
{
    ask(10, THERE, "get", "k", NULL);
    answered(10, "$1\r\n3\r\n");
    ask(11, HERE, "nd.dbsize", NULL, NULL);
    answered(11, ":2\r\n");
    nd_engine_halt(e, group_of(HERE), "another reason");
    ask(12, HERE, "get", "k", NULL);
    answered(12, "-" GONE "\r\n");
    ND_ASSERT(nd_engine_pending(e) == 0 && metrics.halted_refusals == 4);
}

/* An entry that cannot be applied stops its group at the start, and nothing else. */
static void replay_stops_at_what_it_cannot_apply(void)
{
    static const uint8_t nonsense[64] = {1, 0, 0, 0, 1}; /* one command, of id 0 */
    nd_wal_rec recs[] = {{.type = ND_WAL_ENTRY, .kind = 9, .group = 2, .term = 1, .index = 1},
                         {.type = ND_WAL_ENTRY, .kind = ND_WAL_NOOP, .group = 2, .term = 1, .index = 2},
                         {.type = ND_WAL_ENTRY, .kind = ND_WAL_NOOP, .group = 3, .term = 1, .index = 1},
                         {.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = 3, .term = 1, .index = 2, .data = nonsense,
                          .len = sizeof nonsense},
                         {.type = ND_WAL_ENTRY, .kind = ND_WAL_NOOP, .group = 4, .term = 1, .index = 1}};
    ND_ASSERT(nd_engine_replay(e, recs, 5) == 0);
    ND_ASSERT(nd_engine_stopped_at(e, 2) == 1 && nd_engine_applied(e, 2) == 0);
    ND_ASSERT(nd_engine_stopped_at(e, 3) == 2 && nd_engine_applied(e, 3) == 1);
    ND_ASSERT(nd_engine_stopped_at(e, 4) == 0 && nd_engine_applied(e, 4) == 1);
}

int main(void)
{
    static const char *const texts[ND_TEXTS] = {"OVERLOAD", "NOSPACE", "UNKNOWN", "DEADLINE", "TRYAGAIN",
                                                "CROSSSLOT", "MAXCLIENTS", "LONG", "CLUSTERDOWN", "HALTED"};
    char dir[] = "/tmp/nd_halt_XXXXXX", command[64];
    ND_ASSERT(mkdtemp(dir));
    nd_store *store;
    nd_cmdtab *tab = new_table();
    nd_store_cfg cfg = {.path = dir, .map_bytes = 64 << 20, .dirty_bytes_max = 1ull << 30, .memory_bytes_max = 1ull << 32,
                        .txn_rows_max = 1000, .txn_bytes_max = 1 << 23};
    nd_engine_cfg engine = {.workers = 1, .groups = GROUPS, .generation = 1, .connections_max = 16, .deadline_ms = 4000,
                            .output_bytes_max = 1ull << 32, .query_bytes_max = 64 << 20, .gather_bytes_max = 32 << 20,
                            .forward_bytes_max = 1 << 20};
    ND_ASSERT(nd_store_open(&cfg, &store) == 0);
    for (uint32_t v = 0; v < ND_VSHARDS; v++)
        ND_ASSERT(nd_store_own(store, v, group_of(v)) == 0);
    ND_ASSERT(nd_engine_new(&engine, store, tab, &metrics, &e) == 0);
    for (uint32_t i = 0; i < ND_TEXTS; i++)
        nd_engine_text(e, i, texts[i]);
    what_is_on_its_way_is_answered();
    the_others_go_on();
    replay_stops_at_what_it_cannot_apply();
    nd_engine_free(e);
    nd_store_close(store);
    nd_cmdtab_free(tab);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}
