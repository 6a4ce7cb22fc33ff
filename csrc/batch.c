/* batch.c: open batches, the entry format, apply.
 *
 * Entry (little-endian, unaligned):
 *
 *   offset size
 *        0    2  version (1)
 *        2    2  flags (0)
 *        4    4  number of commands
 *        8    8  stamp: hybrid logical clock, milliseconds << 16 | logical
 *       16    8  seed: the only randomness a command may use
 *       24       commands
 *
 * Command:
 *        0    2  id of the command (workers/commands; never reused)
 *        2    2  vShard, 65535 = every vShard of the group
 *        4    4  number of arguments, the name included
 *        8       arguments: u32 length, bytes
 */
#include "engine_int.h"

#include <errno.h>
#include <string.h>

#define ENTRY_VERSION 1
#define ENTRY_HEADER 24
#define COMMAND_HEADER 8
#define POOL_MAX 64
#define LOOK_AHEAD 16              /* commands whose rows are fetched together */
#define POOL_BYTES_MAX 2097152

static void put16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
static uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

/* ---- batches ---- */

static batch *batch_new(nd_engine *e, uint32_t group_number)
{
    batch *b = e->pool;
    if (b) {
        e->pool = b->next;
        e->pool_n--;
    } else {
        b = calloc(1, sizeof *b);
        ND_ASSERT(b);
    }
    b->next = NULL;
    b->group = group_number;
    b->n_ops = b->commands = 0;
    b->needs_space = false;
    b->reads.len = 0;
    b->opened_us = e->now_us;
    b->entry.len = 0;
    bytes_room(&b->entry, ENTRY_HEADER);
    b->entry.len = ENTRY_HEADER;
    return b;
}

static void batch_drop(batch *b)
{
    free(b->entry.p);
    free(b->reads.p);
    free(b->ops);
    free(b);
}

static void batch_done(nd_engine *e, batch *b)
{
    if (e->pool_n >= POOL_MAX || b->entry.cap > POOL_BYTES_MAX || b->reads.cap > POOL_BYTES_MAX) {
        batch_drop(b);
        return;
    }
    b->next = e->pool;
    e->pool = b;
    e->pool_n++;
}

static void chain_free(batch *b)
{
    while (b) {
        batch *next = b->next;
        batch_drop(b);
        b = next;
    }
}

void batches_free(nd_engine *e)
{
    for (uint32_t i = 0; i < e->cfg.groups; i++) {
        chain_free(e->groups[i].open);
        chain_free(e->groups[i].sealed);
        chain_free(e->groups[i].flying);
        free(e->groups[i].halted);
    }
    chain_free(e->pool);
}

static op *batch_op(batch *b)
{
    if (b->n_ops == b->cap_ops) {
        b->cap_ops = b->cap_ops ? b->cap_ops * 2 : 64;
        b->ops = realloc(b->ops, b->cap_ops * sizeof *b->ops);
        ND_ASSERT(b->ops);
    }
    return &b->ops[b->n_ops++];
}

static size_t encoded_size(const nd_arg *argv, uint32_t argc)
{
    size_t n = COMMAND_HEADER + 4 * (size_t)argc;
    for (uint32_t i = 0; i < argc; i++)
        n += argv[i].len;
    return n;
}

static uint32_t encode(bytes *b, uint16_t id, uint16_t vshard, const nd_arg *argv, uint32_t argc, size_t size)
{
    uint8_t *p = bytes_room(b, size);
    uint32_t offset = (uint32_t)b->len;
    put16(p, id);
    put16(p + 2, vshard);
    put32(p + 4, argc);
    p += COMMAND_HEADER;
    for (uint32_t i = 0; i < argc; i++) {
        put32(p, argv[i].len);
        memcpy(p + 4, argv[i].ptr, argv[i].len);
        p += 4 + argv[i].len;
    }
    b->len += size;
    return offset;
}

/* Arguments at p[*at..n) into e->argv; *at moves behind them. Returns argc, 0 = malformed. */
uint32_t decode_args(nd_engine *e, const uint8_t *p, size_t n, size_t *at)
{
    if (n - *at < 4)
        return 0;
    uint32_t argc = get32(p + *at);
    if (argc == 0 || argc > ND_RESP_ARGS_MAX)
        return 0;
    if (argc > e->argv_cap) {
        e->argv = realloc(e->argv, argc * sizeof *e->argv);
        ND_ASSERT(e->argv);
        e->argv_cap = argc;
    }
    size_t i = *at + 4;
    for (uint32_t a = 0; a < argc; a++) {
        if (n - i < 4)
            return 0;
        uint32_t len = get32(p + i);
        i += 4;
        if (len > n - i)
            return 0;
        e->argv[a] = (nd_arg){p + i, len};
        i += len;
    }
    *at = i;
    return argc;
}

/* ---- submit ---- */

static void seal_open(group *g)
{
    batch *b = g->open;
    g->open = NULL;
    if (g->sealed)
        g->sealed_last->next = b;
    else
        g->sealed = b;
    g->sealed_last = b;
}

static batch *open_batch(nd_engine *e, group *g, uint32_t number, size_t size)
{
    if (g->open && g->open->commands > 0 &&
        (g->open->entry.len + size > ND_BATCH_BYTES_MAX || g->open->commands >= ND_BATCH_COMMANDS_MAX))
        seal_open(g);
    if (!g->open)
        g->open = batch_new(e, number);
    if (!g->listed) {
        g->listed = true;
        list_push(&e->open_groups, number);
    }
    return g->open;
}

static void submit_write(nd_engine *e, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc,
                         const dest *to, origin *from)
{
    uint32_t number = vshard * e->cfg.groups / ND_VSHARDS;
    group *g = &e->groups[number];
    size_t size = encoded_size(argv, argc);
    batch *b = open_batch(e, g, number, size);
    uint16_t written = row->flags & ND_CMD_GROUP_ALL ? ND_VSHARD_NONE : (uint16_t)vshard;
    op *o = batch_op(b);
    *o = (op){.to = *to, .read = false, .vshard = written, .row = row};
    o->offset = encode(&b->entry, row->id, written, argv, argc, size);
    b->commands++;
    b->needs_space |= (row->flags & ND_CMD_DENYOOM) != 0;
    e->gathered_bytes += size;
    e->pending++;
    if (from) {
        from->pending++;
        from->vshards |= 1ull << (vshard & 63);
    }
    e->m->commands_write++;
}

static void defer_read(nd_engine *e, group *g, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc,
                       const dest *to)
{
    /* The newest batch of the group is behind every write the read must see. */
    batch *b = g->open ? g->open : g->sealed ? g->sealed_last : g->flying_last;
    ND_ASSERT(b);
    op *o = batch_op(b);
    *o = (op){.to = *to, .read = true, .vshard = (uint16_t)vshard, .row = row};
    o->offset = encode(&b->reads, row->id, (uint16_t)vshard, argv, argc, encoded_size(argv, argc));
    e->pending++;
}

static void scope(nd_engine *e, const nd_cmdrow *row, nd_cmd *c)
{
    if (row->flags & ND_CMD_WORKER) {
        c->vshard_first = e->vshard_first;
        c->vshard_last = e->vshard_last;
    } else {
        c->vshard_first = c->vshard_last = c->vshard;
    }
}

void run(nd_engine *e, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc, uint64_t stamp, uint64_t seed,
         nd_reply *reply)
{
    nd_cmd c = {.store = e->store, .vshard = vshard, .stamp = stamp, .now_ms = (int64_t)(stamp >> 16), .seed = seed,
                .argv = argv, .argc = argc, .reply = reply};
    scope(e, row, &c);
    size_t before = reply->len;
    row->fn(&c);
    e->made += reply->len - before;
    if (c.fatal && !e->fatal)
        e->fatal = c.fatal;
}

void submit(nd_engine *e, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc, const dest *to, origin *from)
{
    const char *halted = halted_text(e, vshard);
    if (halted && !(row->flags & ND_CMD_WORKER)) {
        e->m->halted_refusals++;
        deliver_text(e, to, halted);
        return;
    }
    if (row->flags & ND_CMD_WRITE) {
        if (e->refuse >= 0 && (row->flags & ND_CMD_DENYOOM)) {
            e->m->overload_refusals++;
            deliver_text(e, to, e->texts[e->refuse]);
            return;
        }
        submit_write(e, row, vshard, argv, argc, to, from);
        return;
    }
    e->m->commands_read++;
    if (from && from->pending && (from->vshards >> (vshard & 63) & 1)) {
        group *g = &e->groups[vshard * e->cfg.groups / ND_VSHARDS];
        if (g->open || g->sealed || g->flying) {
            defer_read(e, g, row, vshard, argv, argc, to);
            return;
        }
    }
    nd_reply *r = &e->reply;
    r->len = 0;
    r->resp = to->resp;
    run(e, row, vshard, argv, argc, e->stamp, e->stamp, r);
    deliver(e, to, r->buf, r->len);
}

/* ---- seal, propose ---- */

static void finish_entry(batch *b, uint64_t stamp, uint64_t seed)
{
    uint8_t *p = b->entry.p;
    put16(p, ENTRY_VERSION);
    put16(p + 2, 0);
    put32(p + 4, b->commands);
    put64(p + 8, stamp);
    put64(p + 16, seed);
    b->stamp = stamp;
    b->seed = seed;
}

nd_wal_rec *nd_engine_recs(nd_engine *e) { return e->recs; }

/* One entry of every group with writes, more while the append stays small: a slow disk must not make one group wait for all
 * batches of another. */
int nd_engine_seal(nd_engine *e, uint64_t stamp, uint64_t seed, uint64_t now_us)
{
    size_t total = 0;
    uint32_t n = 0, kept = 0;
    for (uint32_t i = 0; i < e->open_groups.n; i++) {
        uint32_t number = e->open_groups.v[i];
        group *g = &e->groups[number];
        if (g->open && g->open->commands > 0 && !g->sealed)
            seal_open(g);
        batch *b = g->sealed;
        while (b && n < ND_GROUPS_MAX && (n == 0 || total + b->entry.len <= 2 * ND_BATCH_BYTES_MAX)) {
            finish_entry(b, stamp, seed + n);
            e->recs[n] = (nd_wal_rec){.type = ND_WAL_ENTRY, .kind = ND_WAL_DATA, .group = number, .data = b->entry.p,
                                      .len = (uint32_t)b->entry.len};
            e->rec_batches[n++] = b;
            total += b->entry.len;
            b = b->next;
        }
        if (b || g->open)
            e->open_groups.v[kept++] = number;
        else
            g->listed = false;
    }
    e->open_groups.n = kept;
    e->recs_n = n;
    if (n) {
        e->m->batches += n;
        e->m->batch_bytes += total;
    }
    return (int)n;
}

int nd_engine_sealed_needs_space(nd_engine *e)
{
    for (uint32_t i = 0; i < e->recs_n; i++)
        if (e->rec_batches[i]->needs_space)
            return 1;
    return 0;
}

static batch *take_sealed(group *g)
{
    batch *b = g->sealed;
    g->sealed = b->next;
    b->next = NULL;
    return b;
}

static void settle(nd_engine *e, const op *o)
{
    e->pending--;
    if (o->read)
        return;
    origin *from = NULL;
    if (o->to.src == SRC_LOCAL && !(o->to.conn & CONN_CALL)) {
        conn *c = e->conns[o->to.conn];
        from = c ? &c->origin : NULL;
    } else if (o->to.src != SRC_LOCAL && o->to.conn < e->peers[o->to.src - 1].origins_cap) {
        from = &e->peers[o->to.src - 1].origins[o->to.conn];
    }
    if (from && from->gen == o->to.gen && from->pending && --from->pending == 0)
        from->vshards = 0;
}

/* A deferred read runs when the writes before it are decided, whether they were taken or refused. */
static void run_read(nd_engine *e, batch *b, const op *o)
{
    if (dest_is_gone(e, &o->to))
        return;
    if (peer_is_behind(e, &o->to)) { /* it cannot wait: it must not see what comes after it */
        e->m->overload_refusals++;
        deliver_text(e, &o->to, e->texts[ND_TEXT_OVERLOAD]);
        return;
    }
    size_t at = o->offset + 4;
    uint32_t argc = decode_args(e, b->reads.p, b->reads.len, &at);
    ND_ASSERT(argc);
    e->reply.len = 0;
    e->reply.resp = o->to.resp;
    run(e, o->row, o->vshard, e->argv, argc, e->stamp, e->stamp, &e->reply);
    deliver(e, &o->to, e->reply.buf, e->reply.len);
}

/* Its commands are answered and not applied; reads in it see what is there, or are refused with a halted group. */
static void refuse_batch(nd_engine *e, batch *b, const char *text)
{
    const char *halted = e->groups[b->group].halted;
    for (uint32_t k = 0; k < b->n_ops; k++) {
        const op *o = &b->ops[k];
        settle(e, o);
        if (o->read && !halted)
            run_read(e, b, o);
        else
            deliver_text(e, &o->to, o->read ? halted : text);
    }
    e->gathered_bytes -= b->entry.len - ENTRY_HEADER;
    batch_done(e, b);
}

uint32_t nd_engine_proposed(nd_engine *e, uint32_t n)
{
    ND_ASSERT(n == e->recs_n);
    uint32_t refused = 0;
    for (uint32_t i = 0; i < n; i++) {
        batch *b = e->rec_batches[i];
        group *g = &e->groups[b->group];
        ND_ASSERT(take_sealed(g) == b);
        if (e->recs[i].index == 0) {
            uint64_t text = e->recs[i].term;
            ND_ASSERT(text < ND_TEXTS);
            if (text == ND_TEXT_HALTED)
                e->m->halted_refusals += b->commands;
            else
                e->m->overload_refusals += b->commands;
            refuse_batch(e, b, text == ND_TEXT_HALTED && g->halted ? g->halted : e->texts[text]);
            refused++;
            continue;
        }
        b->index = e->recs[i].index;
        b->term = e->recs[i].term;
        if (g->flying)
            g->flying_last->next = b;
        else
            g->flying = b;
        g->flying_last = b;
        nd_hist_add(&e->m->batch_commands, b->commands);
    }
    e->recs_n = 0;
    return refused;
}

void nd_engine_refuse_sealed(nd_engine *e, uint32_t text)
{
    for (uint32_t i = 0; i < e->recs_n; i++) {
        batch *b = e->rec_batches[i];
        ND_ASSERT(take_sealed(&e->groups[b->group]) == b);
        e->m->overload_refusals += b->commands;
        refuse_batch(e, b, e->texts[text]);
    }
    e->recs_n = 0;
}

void nd_engine_halt(nd_engine *e, uint32_t number, const char *text)
{
    ND_ASSERT(number < e->cfg.groups && e->recs_n == 0);
    group *g = &e->groups[number];
    if (g->halted)
        return;
    g->halted = strdup(text);
    ND_ASSERT(g->halted);
    e->halted_n++;
    while (g->flying) {
        batch *b = g->flying;
        g->flying = b->next;
        refuse_batch(e, b, e->texts[ND_TEXT_UNKNOWN]);
    }
}

/* ---- apply ---- */

static uint64_t command_seed(uint64_t seed, uint32_t n)
{
    uint64_t z = seed + 0x9E3779B97F4A7C15ull * (n + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* index_min: at replay, vShards whose rows already hold the entry are passed over; 0 = none are. */
static void run_write(nd_engine *e, const nd_cmdrow *row, group *g, uint32_t vshard, uint32_t argc, uint64_t stamp,
                      uint64_t seed, uint64_t replay_index, nd_reply *reply)
{
    uint32_t first = vshard, last = vshard;
    if (vshard == ND_VSHARD_NONE) {
        first = g->first;
        last = g->last;
    }
    for (uint32_t v = first; v <= last; v++) {
        if (replay_index && replay_index <= nd_store_applied_index(e->store, v))
            continue;
        reply->len = 0; /* of a command for a whole group the last vShard's reply stands for all */
        run(e, row, v, e->argv, argc, stamp, seed, reply);
    }
}

/* The argument behind the name of the command at p[at..n), as decode_args would find it. */
static bool first_key(const bytes *from, size_t at, nd_arg *key)
{
    if (get32(from->p + at) < 2)
        return false;
    at += 8 + get32(from->p + at + 4);
    *key = (nd_arg){from->p + at + 4, get32(from->p + at)};
    return true;
}

/* Bring the rows of the next commands nearer, all at once: one after the other each would wait for memory. */
static void look_ahead(nd_engine *e, const batch *b, uint32_t first)
{
    uint64_t place[LOOK_AHEAD];
    uint32_t vshard[LOOK_AHEAD], n = b->n_ops - first < LOOK_AHEAD ? b->n_ops - first : LOOK_AHEAD;
    nd_arg key;
    for (uint32_t i = 0; i < n && n > 1; i++) {
        const op *o = &b->ops[first + i];
        vshard[i] = o->vshard;
        if (o->vshard != ND_VSHARD_NONE && first_key(o->read ? &b->reads : &b->entry, o->offset + 4, &key))
            place[i] = nd_store_prefetch(e->store, o->vshard, &key);
        else
            vshard[i] = ND_VSHARD_NONE;
    }
    for (uint32_t i = 0; i < n && n > 1; i++)
        if (vshard[i] != ND_VSHARD_NONE)
            nd_store_prefetch_row(e->store, vshard[i], place[i]);
}

static void apply_batch(nd_engine *e, group *g, batch *b)
{
    uint32_t done = 0;
    for (uint32_t k = 0; k < b->n_ops && !e->fatal; k++) {
        const op *o = &b->ops[k];
        if (k % LOOK_AHEAD == 0)
            look_ahead(e, b, k);
        settle(e, o);
        if (o->read) {
            run_read(e, b, o);
            continue;
        }
        size_t at = o->offset + 4;
        uint32_t argc = decode_args(e, b->entry.p, b->entry.len, &at);
        ND_ASSERT(argc);
        e->reply.len = 0;
        e->reply.resp = o->to.resp;
        run_write(e, o->row, g, o->vshard, argc, b->stamp, command_seed(b->seed, done++), 0, &e->reply);
        deliver(e, &o->to, e->reply.buf, e->reply.len);
    }
}

int nd_engine_commit(nd_engine *e, const nd_commit *commits, uint32_t n, uint64_t now_us)
{
    e->now_us = now_us;
    for (uint32_t i = 0; i < n; i++) {
        ND_ASSERT(commits[i].group < e->cfg.groups);
        group *g = &e->groups[commits[i].group];
        for (uint64_t index = commits[i].first; index <= commits[i].last; index++) {
            batch *b = g->flying;
            ND_ASSERT(b && b->index == index && index == g->applied + 1);
            apply_batch(e, g, b);
            if (e->fatal)
                return e->fatal;
            g->applied = index;
            g->applied_term = b->term;
            g->flying = b->next;
            e->gathered_bytes -= b->entry.len - ENTRY_HEADER;
            nd_hist_add(&e->m->command_us, now_us - b->opened_us);
            batch_done(e, b);
        }
    }
    return e->open_groups.n ? ND_TURN_PROPOSE : 0;
}

/* ---- replay ---- */

static int replay_entry(nd_engine *e, const nd_wal_rec *rec)
{
    group *g = &e->groups[rec->group];
    if (rec->len < ENTRY_HEADER || get16(rec->data) != ENTRY_VERSION)
        return -EBADMSG;
    uint32_t commands = get32(rec->data + 4);
    uint64_t stamp = get64(rec->data + 8), seed = get64(rec->data + 16);
    size_t at = ENTRY_HEADER;
    for (uint32_t k = 0; k < commands; k++) {
        if (rec->len - at < COMMAND_HEADER)
            return -EBADMSG;
        const nd_cmdrow *row = nd_cmdtab_by_id(e->tab, get16(rec->data + at));
        uint32_t vshard = get16(rec->data + at + 2);
        at += 4;
        uint32_t argc = decode_args(e, rec->data, rec->len, &at);
        if (!row || !row->fn || !argc)
            return -EBADMSG;
        if (vshard != ND_VSHARD_NONE && (vshard < g->first || vshard > g->last))
            return -EBADMSG;
        e->reply.discard = true;
        run_write(e, row, g, vshard, argc, stamp, command_seed(seed, k), rec->index, &e->reply);
        e->reply.discard = false;
        if (e->fatal)
            return e->fatal;
    }
    e->stamp = stamp > e->stamp ? stamp : e->stamp;
    return 0;
}

int nd_engine_replay(nd_engine *e, const nd_wal_rec *recs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (recs[i].type != ND_WAL_ENTRY)
            continue;
        if (recs[i].group >= e->cfg.groups || !e->groups[recs[i].group].mine)
            return -EBADMSG;
        group *g = &e->groups[recs[i].group];
        if (recs[i].index <= g->applied || g->stopped_at)
            continue;
        if (recs[i].index != g->applied + 1)
            return -EBADMSG;
        int rc = recs[i].kind == ND_WAL_DATA ? replay_entry(e, &recs[i]) : recs[i].kind > ND_WAL_KIND_MAX ? -EBADMSG : 0;
        if (rc == -EBADMSG && !e->fatal) {
            g->stopped_at = recs[i].index;
            continue;
        }
        if (rc < 0)
            return rc;
        g->applied = recs[i].index;
        g->applied_term = recs[i].term;
    }
    return 0;
}

uint64_t nd_engine_stopped_at(nd_engine *e, uint32_t group_number) { return e->groups[group_number].stopped_at; }

uint64_t nd_engine_stamp(nd_engine *e) { return e->stamp; }

uint64_t nd_engine_applied(nd_engine *e, uint32_t group_number) { return e->groups[group_number].applied; }

uint64_t nd_engine_applied_term(nd_engine *e, uint32_t group_number) { return e->groups[group_number].applied_term; }

void nd_engine_applied_set(nd_engine *e, uint32_t group_number, uint64_t index, uint64_t term)
{
    e->groups[group_number].applied = index;
    e->groups[group_number].applied_term = term;
}

/* ---- expiry ---- */

typedef struct sweep_ctx {
    nd_engine *e;
    bytes found;                   /* {u32 vshard, i64 expire, u32 len, key} … */
} sweep_ctx;

static void on_expired(void *ctx, uint32_t vshard, const nd_arg *key, int64_t expire_ms)
{
    sweep_ctx *s = ctx;
    uint8_t *p = bytes_room(&s->found, 16 + key->len);
    put32(p, vshard);
    put64(p + 4, (uint64_t)expire_ms);
    put32(p + 12, key->len);
    memcpy(p + 16, key->ptr, key->len);
    s->found.len += 16 + key->len;
}

int nd_engine_sweep(nd_engine *e, uint64_t stamp, uint64_t now_us, uint32_t rows_max)
{
    ND_ASSERT(e->expire_row);
    e->now_us = now_us;
    sweep_ctx s = {.e = e};
    int examined = nd_store_sweep(e->store, (int64_t)(stamp >> 16), rows_max, on_expired, &s);
    const dest nowhere = {.conn = CONN_CALL, .src = SRC_LOCAL};
    for (size_t at = 0; at < s.found.len;) {
        const uint8_t *p = s.found.p + at;
        char text[24];
        int n = snprintf(text, sizeof text, "%lld", (long long)get64(p + 4));
        uint32_t next = 16 + get32(p + 12);
        if (halted_text(e, get32(p))) {
            at += next;
            continue;
        }
        nd_arg argv[3] = {{(const uint8_t *)e->expire_row->name, (uint32_t)strlen(e->expire_row->name)},
                          {p + 16, get32(p + 12)},
                          {(const uint8_t *)text, (uint32_t)n}};
        submit_write(e, e->expire_row, get32(p), argv, 3, &nowhere, NULL);
        e->m->store_expired++;
        at += next;
    }
    free(s.found.p);
    return examined;
}
