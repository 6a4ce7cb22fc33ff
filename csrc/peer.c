/* peer.c: commands for, and from, the other workers of the node.
 *
 * Ring messages (type, then any number of items, little-endian, unaligned):
 *
 *   COMMANDS  u32 conn, u32 gen, u32 seq, u8 resp, u8 0, u16 command id, u16 vShard, u16 0, u32 argc, argc × {u32 length, bytes}
 *   REPLIES   u32 conn, u32 gen, u32 seq, u32 length, bytes
 *
 * conn, gen and seq come back as they were sent. What was sent to a process that died is answered UNKNOWN when it was a write
 * (it may or may not have been logged) and TRYAGAIN when it was a read; what could not be sent was certainly not done.
 */
#include "engine_int.h"

#include <errno.h>
#include <string.h>

#define MSG_COMMANDS 1
#define MSG_REPLIES 2
#define COMMAND_PREFIX 20
#define REPLY_PREFIX 16
#define REPLIES_WAITING_MAX 8388608
#define MESSAGES_PER_POLL 256

static uint8_t *add(bytes *b, size_t n)
{
    uint8_t *p = bytes_room(b, n);
    b->len += n;
    return p;
}

static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }

/* ---- out ---- */

static void push_commands(nd_engine *e, uint32_t worker)
{
    peer *p = &e->peers[worker];
    if (p->commands.len == 0)
        return;
    nd_arg part = {p->commands.p, (uint32_t)p->commands.len};
    int rc = nd_ringset_push(e->rings, worker + 1, MSG_COMMANDS, 0, &part, 1);
    if (rc != 1) {
        uint32_t text = rc == 0 || rc == -EMSGSIZE ? ND_TEXT_OVERLOAD : ND_TEXT_TRYAGAIN;
        for (size_t at = 0; at < p->commands.len;) {
            const uint8_t *q = p->commands.p + at;
            deliver_text(e, &(dest){.conn = get32(q), .gen = get32(q + 4), .seq = get32(q + 8), .src = SRC_LOCAL}, e->texts[text]);
            size_t args = at + COMMAND_PREFIX;
            ND_ASSERT(decode_args(e, p->commands.p, p->commands.len, &args));
            at = args;
        }
    }
    p->commands.len = 0;
}

void peer_forward(nd_engine *e, uint32_t worker, const nd_cmdrow *row, uint32_t vshard, const nd_arg *argv, uint32_t argc,
                  const dest *to)
{
    peer *p = &e->peers[worker];
    size_t size = COMMAND_PREFIX + 4;
    for (uint32_t i = 0; i < argc; i++)
        size += 4 + argv[i].len;
    if (p->commands.len && p->commands.len + size > PEER_MSG_BYTES)
        push_commands(e, worker);
    uint8_t *q = add(&p->commands, size);
    memcpy(q, &to->conn, 4);
    memcpy(q + 4, &to->gen, 4);
    memcpy(q + 8, &to->seq, 4);
    q[12] = to->resp;
    q[13] = 0;
    memcpy(q + 14, &row->id, 2);
    memcpy(q + 16, &(uint16_t){(uint16_t)vshard}, 2);
    memset(q + 18, 0, 2);
    memcpy(q + COMMAND_PREFIX, &argc, 4);
    q += COMMAND_PREFIX + 4;
    for (uint32_t i = 0; i < argc; i++) {
        memcpy(q, &argv[i].len, 4);
        memcpy(q + 4, argv[i].ptr, argv[i].len);
        q += 4 + argv[i].len;
    }
    e->m->commands_forwarded++;
}

static void push_replies(nd_engine *e, uint32_t worker)
{
    peer *p = &e->peers[worker];
    if (p->replies.len == 0)
        return;
    nd_arg part = {p->replies.p, (uint32_t)p->replies.len};
    int rc = nd_ringset_push(e->rings, worker + 1, MSG_REPLIES, 0, &part, 1);
    if (rc != 0) /* sent, or nobody is there to read it; what found no room is offered again */
        p->replies.len = 0;
}

void peer_reply(nd_engine *e, const dest *to, const uint8_t *bytes_, size_t n)
{
    peer *p = &e->peers[to->src - 1];
    if (p->replies.len && p->replies.len + n > PEER_MSG_BYTES)
        push_replies(e, to->src - 1u);
    uint8_t *q = add(&p->replies, REPLY_PREFIX + n);
    memcpy(q, &to->conn, 4);
    memcpy(q + 4, &to->gen, 4);
    memcpy(q + 8, &to->seq, 4);
    memcpy(q + 12, &(uint32_t){(uint32_t)n}, 4);
    memcpy(q + REPLY_PREFIX, bytes_, n);
}

bool peers_flush(nd_engine *e)
{
    for (uint32_t w = 0; w < e->cfg.workers; w++) {
        if (w == e->cfg.self)
            continue;
        push_commands(e, w);
        push_replies(e, w);
    }
    nd_ringset_publish_all(e->rings);
    return nd_ringset_sleep(e->rings) == 0;
}

/* ---- in ---- */

static origin *peer_origin(nd_engine *e, uint32_t worker, uint32_t conn_idx, uint32_t gen)
{
    peer *p = &e->peers[worker];
    if (conn_idx & CONN_CALL)
        return NULL;
    if (conn_idx >= p->origins_cap) {
        uint32_t cap = p->origins_cap ? p->origins_cap : 256;
        while (cap <= conn_idx)
            cap *= 2;
        p->origins = realloc(p->origins, cap * sizeof *p->origins);
        ND_ASSERT(p->origins);
        memset(p->origins + p->origins_cap, 0, (cap - p->origins_cap) * sizeof *p->origins);
        p->origins_cap = cap;
    }
    origin *o = &p->origins[conn_idx];
    if (o->gen != gen)
        *o = (origin){.gen = gen};
    return o;
}

/* A worker goes on reading its rings whatever happens, or two that wait for each other's reading would wait for ever; what
 * it has no room for is refused instead. */
static bool overloaded(nd_engine *e, uint32_t worker)
{
    bool full = e->peers[worker].replies.len > REPLIES_WAITING_MAX || e->gathered_bytes > 2 * e->cfg.gather_bytes_max;
    e->m->overload_refusals += full;
    return full;
}

static bool take_command(nd_engine *e, uint32_t worker, const nd_ring_msg *msg, size_t *at)
{
    const uint8_t *q = msg->data + *at;
    if (msg->len - *at < COMMAND_PREFIX)
        return false;
    dest to = {.conn = get32(q), .gen = get32(q + 4), .seq = get32(q + 8), .src = (uint16_t)(worker + 1), .resp = q[12]};
    const nd_cmdrow *row = nd_cmdtab_by_id(e->tab, get16(q + 14));
    uint32_t vshard = get16(q + 16);
    *at += COMMAND_PREFIX;
    uint32_t argc = decode_args(e, msg->data, msg->len, at);
    if (!argc || !row || !row->fn || vshard >= ND_VSHARDS || (!(to.conn & CONN_CALL) && to.conn >= e->cfg.connections_max))
        return false;
    e->m->commands_served_for_peers++;
    if (vshard < e->vshard_first || vshard > e->vshard_last)
        deliver_text(e, &to, e->texts[ND_TEXT_TRYAGAIN]); /* sent by an older table */
    else if (overloaded(e, worker))
        deliver_text(e, &to, e->texts[ND_TEXT_OVERLOAD]);
    else
        submit(e, row, vshard, e->argv, argc, &to, peer_origin(e, worker, to.conn, to.gen));
    return true;
}

static bool take_reply(nd_engine *e, const nd_ring_msg *msg, size_t *at)
{
    const uint8_t *q = msg->data + *at;
    if (msg->len - *at < REPLY_PREFIX || msg->len - *at - REPLY_PREFIX < get32(q + 12))
        return false;
    dest to = {.conn = get32(q), .gen = get32(q + 4), .seq = get32(q + 8), .src = SRC_LOCAL};
    if (!(to.conn & CONN_CALL) && to.conn >= e->cfg.connections_max)
        return false;
    uint32_t n = get32(q + 12);
    if (!(to.conn & CONN_CALL) || to.gen == e->life) /* the number of a former life's call may be in use again */
        deliver(e, &to, q + REPLY_PREFIX, n);
    *at += REPLY_PREFIX + n;
    return true;
}

static void take(nd_engine *e, uint32_t worker, const nd_ring_msg *msg)
{
    bool good = msg->type == MSG_COMMANDS || msg->type == MSG_REPLIES;
    for (size_t at = 0; good && at < msg->len;)
        good = msg->type == MSG_COMMANDS ? take_command(e, worker, msg, &at) : take_reply(e, msg, &at);
    if (!good) { /* the ring's checksum held: its writer is broken, and nothing after this can be trusted */
        nd_engine_note(e, ND_EVENT_RING_CORRUPT, worker, msg->type, "message");
        e->fatal = -EBADMSG;
    }
}

/* ---- a peer that died ---- */

static void fail_slots(nd_engine *e, conn *c, uint32_t worker)
{
    for (uint32_t q = c->head; q != c->tail; q++) {
        slot *s = &c->slots[q & (c->slots_cap - 1)];
        if (s->state != SLOT_PENDING || s->peer != worker + 1)
            continue;
        nd_reply *r = &e->reply;
        r->len = 0;
        nd_reply_error(r, e->texts[s->write ? ND_TEXT_UNKNOWN : ND_TEXT_TRYAGAIN]);
        conn_complete(e, c, q, r->buf, r->len);
    }
}

static void peer_died(nd_engine *e, uint32_t worker, uint64_t generation)
{
    peer *p = &e->peers[worker];
    p->commands.len = p->replies.len = 0;
    if (p->origins_cap)
        memset(p->origins, 0, p->origins_cap * sizeof *p->origins);
    for (uint32_t i = 0; i < e->cfg.connections_max; i++)
        if (e->conns[i])
            fail_slots(e, e->conns[i], worker);
    for (uint32_t i = 0; i < e->calls_n;) {
        call k = e->calls[i];
        if (k.peer != worker + 1) {
            i++;
            continue;
        }
        const char *text = e->texts[k.write ? ND_TEXT_UNKNOWN : ND_TEXT_TRYAGAIN];
        deliver_text(e, &(dest){.src = SRC_LOCAL, .conn = CONN_CALL | k.token}, text); /* takes it off the list */
    }
    nd_engine_note(e, ND_EVENT_PEER_RESTARTED, worker, generation, "");
}

void peers_poll(nd_engine *e, uint32_t rung)
{
    nd_peer_event ev;
    nd_ring_msg msg;
    uint32_t from;
    int rc;
    nd_ringset_wake(e->rings, (int)rung);
    while ((rc = nd_ringset_peer_event(e->rings, &ev)) == 1)
        if (ev.peer > 0 && ev.generation != ev.generation_before)
            peer_died(e, ev.peer - 1, ev.generation);
    if (rc < 0)
        e->fatal = rc;
    for (int i = 0; i < MESSAGES_PER_POLL && !e->fatal; i++) {
        rc = nd_ringset_next(e->rings, &from, &msg);
        if (rc == 0)
            return;
        if (rc < 0)
            e->fatal = rc;
        else if (from > 0)
            take(e, from - 1, &msg);
    }
}

void peers_free(nd_engine *e)
{
    for (uint32_t w = 0; w < e->cfg.workers; w++) {
        free(e->peers[w].commands.p);
        free(e->peers[w].replies.p);
        free(e->peers[w].origins);
    }
    free(e->peers);
}
