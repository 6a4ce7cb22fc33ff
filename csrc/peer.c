/* peer.c: commands for, and from, the other workers of the node.
 *
 * Ring messages (type, then any number of items, little-endian, unaligned):
 *
 *   COMMANDS  u32 conn, u32 gen, u32 seq, u8 resp, u8 0, u16 command id, u16 vShard, u16 0, u32 argc, argc × {u32 length, bytes}
 *   REPLIES   u32 conn, u32 gen, u32 seq, u32 length, bytes
 *
 * conn, gen and seq come back as they were sent. What was sent to a process that died is answered UNKNOWN when it was a write
 * (it may or may not have been logged) and TRYAGAIN when it was a read; what could not be sent was certainly not done.
 *
 * Room. A worker goes on reading its rings whatever happens, or two that wait for each other's reading would wait for ever.
 * So the sender counts the bytes of commands that a peer has not answered, and above forward_bytes_max the connections that have
 * more for it are held: they are not read until half of that is answered (every command is, by its deadline). The peer keeps
 * commands that it has no room to do now, in order, as many as its senders may have outstanding. What is beyond all that is
 * refused.
 */
#include "engine_int.h"

#include <errno.h>
#include <string.h>

#define MSG_COMMANDS 1
#define MSG_REPLIES 2
#define COMMAND_PREFIX 20
#define REPLY_PREFIX 16
#define REPLIES_WAITING_MAX 8388608    /* more of these, and a peer's commands wait */
#define REPLIES_BEHIND_MAX 67108864    /* more of these, and a read that cannot wait is refused */
#define BUFFER_KEEP 1048576            /* a larger buffer is freed when it is empty */
#define WAITING_HEADER 8               /* u32 bytes of the command, u32 time in ms */
#define MESSAGES_PER_POLL 256

static uint8_t *add(bytes *b, size_t n)
{
    uint8_t *p = bytes_room(b, n);
    b->len += n;
    return p;
}

static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }

/* Bytes up to *at are done with. */
static void consumed(bytes *b, size_t *at)
{
    if (*at == 0 || *at < b->len / 2)
        return;
    b->len -= *at;
    memmove(b->p, b->p + *at, b->len);
    *at = 0;
    if (b->len == 0 && b->cap > BUFFER_KEEP) {
        free(b->p);
        *b = (bytes){0};
    }
}

/* ---- room ---- */

size_t peer_command_bytes(const nd_arg *argv, uint32_t argc)
{
    size_t size = COMMAND_PREFIX + 4;
    for (uint32_t i = 0; i < argc; i++)
        size += 4 + argv[i].len;
    return size;
}

bool peer_has_room(nd_engine *e, uint32_t worker, size_t more)
{
    uint64_t outstanding = e->peers[worker].outstanding;
    return outstanding == 0 || outstanding + more <= e->cfg.forward_bytes_max;
}

void peer_hold(nd_engine *e, uint32_t worker, conn *c)
{
    c->held = (uint16_t)(worker + 1);
    list_push(&e->peers[worker].held, c->idx);
}

void peer_answered(nd_engine *e, slot *s)
{
    if (s->forwarded == 0)
        return;
    peer *p = &e->peers[s->peer - 1];
    ND_ASSERT(p->outstanding >= s->forwarded);
    p->outstanding -= s->forwarded;
    s->forwarded = 0;
    if (p->held.n == 0 || p->outstanding > e->cfg.forward_bytes_max / 2)
        return;
    for (uint32_t i = 0; i < p->held.n; i++) { /* in the order they came; who finds no room is held again */
        conn *c = e->conns[p->held.v[i]];
        if (!c || c->held != s->peer)
            continue;
        c->held = 0;
        conn_resume(e, c);
    }
    p->held.n = 0;
}

bool peer_is_behind(const nd_engine *e, const dest *to)
{
    return to->src != SRC_LOCAL && e->peers[to->src - 1].replies.len > REPLIES_BEHIND_MAX;
}

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
            dest to = {.conn = get32(q), .gen = get32(q + 4), .seq = get32(q + 8), .src = SRC_LOCAL};
            deliver_text(e, &to, e->texts[text]);
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
    size_t size = peer_command_bytes(argv, argc);
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

/* Whole replies from *at on, of about PEER_MSG_BYTES or one; returns where they end. */
static size_t replies_end(const bytes *b, size_t at)
{
    size_t end = at;
    do
        end += REPLY_PREFIX + get32(b->p + end + 12);
    while (end < b->len && end + REPLY_PREFIX + get32(b->p + end + 12) <= at + PEER_MSG_BYTES);
    return end;
}

/* What finds no room is offered again. Replies leave the queue's other half to commands, which are refused when it is full. */
static void push_replies(nd_engine *e, uint32_t worker)
{
    peer *p = &e->peers[worker];
    while (p->replies_at < p->replies.len) {
        size_t end = replies_end(&p->replies, p->replies_at);
        nd_arg part = {p->replies.p + p->replies_at, (uint32_t)(end - p->replies_at)};
        uint64_t queued = nd_ringset_queued(e->rings, worker + 1);
        if (queued && queued + part.len > e->cfg.forward_bytes_max)
            break;
        if (nd_ringset_push(e->rings, worker + 1, MSG_REPLIES, 0, &part, 1) == 0)
            break;
        p->replies_at = end; /* sent, or nobody is there to read it */
    }
    consumed(&p->replies, &p->replies_at);
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

static bool crowded(const nd_engine *e, uint32_t worker)
{
    const peer *p = &e->peers[worker];
    return p->replies.len - p->replies_at > REPLIES_WAITING_MAX || e->gathered_bytes > e->cfg.gather_bytes_max;
}

bool peers_flush(nd_engine *e)
{
    bool more = false;
    for (uint32_t w = 0; w < e->cfg.workers; w++) {
        if (w == e->cfg.self)
            continue;
        push_commands(e, w);
        push_replies(e, w);
        more |= e->peers[w].waiting_n && !crowded(e, w);
    }
    nd_ringset_publish_all(e->rings);
    return nd_ringset_sleep(e->rings) == 0 || more;
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

/* Keep a command until there is room to do it. False: too many wait. */
static bool keep_waiting(nd_engine *e, uint32_t worker, const uint8_t *bytes_, size_t n)
{
    peer *p = &e->peers[worker];
    if (p->waiting.len - p->waiting_at + n > 2 * e->cfg.forward_bytes_max + ND_ENTRY_BYTES_MAX)
        return false;
    uint32_t head[2] = {(uint32_t)n, (uint32_t)(e->now_us / 1000)};
    uint8_t *q = add(&p->waiting, WAITING_HEADER + n);
    memcpy(q, head, WAITING_HEADER);
    memcpy(q + WAITING_HEADER, bytes_, n);
    p->waiting_n++;
    e->pending++;
    return true;
}

/* One command at data[*at..n), *at moves behind it; false = malformed. waited: it was kept, its turn has come. */
static bool take_command(nd_engine *e, uint32_t worker, const uint8_t *data, size_t n, size_t *at, bool waited)
{
    const uint8_t *q = data + *at;
    if (n - *at < COMMAND_PREFIX)
        return false;
    dest to = {.conn = get32(q), .gen = get32(q + 4), .seq = get32(q + 8), .src = (uint16_t)(worker + 1), .resp = q[12]};
    const nd_cmdrow *row = nd_cmdtab_by_id(e->tab, get16(q + 14));
    uint32_t vshard = get16(q + 16);
    *at += COMMAND_PREFIX;
    uint32_t argc = decode_args(e, data, n, at);
    if (!argc || !row || !row->fn || vshard >= ND_VSHARDS || (!(to.conn & CONN_CALL) && to.conn >= e->cfg.connections_max))
        return false;
    if (!waited && (e->peers[worker].waiting_n || crowded(e, worker))) {
        if (!keep_waiting(e, worker, q, (size_t)(data + *at - q))) {
            e->m->overload_refusals++;
            deliver_text(e, &to, e->texts[ND_TEXT_OVERLOAD]);
        }
        return true;
    }
    e->m->commands_served_for_peers++;
    if (vshard < e->vshard_first || vshard > e->vshard_last)
        deliver_text(e, &to, e->texts[ND_TEXT_TRYAGAIN]); /* sent by an older table */
    else
        submit(e, row, vshard, e->argv, argc, &to, peer_origin(e, worker, to.conn, to.gen));
    return true;
}

/* Do what was kept, oldest first, while there is room. What is past its deadline was answered by its own worker. */
static void serve_waiting(nd_engine *e, uint32_t worker)
{
    peer *p = &e->peers[worker];
    while (p->waiting_n && !crowded(e, worker) && !e->fatal) {
        const uint8_t *q = p->waiting.p + p->waiting_at;
        size_t n = get32(q), at = 0;
        p->waiting_at += WAITING_HEADER + n;
        p->waiting_n--;
        e->pending--;
        if ((uint32_t)(e->now_us / 1000) - get32(q + 4) < e->cfg.deadline_ms)
            ND_ASSERT(take_command(e, worker, q + WAITING_HEADER, n, &at, true));
    }
    consumed(&p->waiting, &p->waiting_at);
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
        good = msg->type == MSG_COMMANDS ? take_command(e, worker, msg->data, msg->len, &at, false) : take_reply(e, msg, &at);
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
    p->commands.len = p->replies.len = p->replies_at = p->waiting.len = p->waiting_at = 0;
    e->pending -= p->waiting_n;
    p->waiting_n = 0;
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
        if (ev.generation != ev.generation_before) {
            if (ev.peer > 0)
                peer_died(e, ev.peer - 1, ev.generation);
            else
                access_mail_in(e, &(nd_ring_msg){.type = 0, .generation = (uint32_t)ev.generation});
        }
    if (rc < 0)
        e->fatal = rc;
    for (uint32_t w = 0; w < e->cfg.workers; w++)
        serve_waiting(e, w);
    for (int i = 0; i < MESSAGES_PER_POLL && !e->fatal; i++) {
        rc = nd_ringset_next(e->rings, &from, &msg);
        if (rc == 0)
            return;
        if (rc < 0)
            e->fatal = rc;
        else if (from > 0)
            take(e, from - 1, &msg);
        else
            access_mail_in(e, &msg);
    }
}

void peers_free(nd_engine *e)
{
    for (uint32_t w = 0; w < e->cfg.workers; w++) {
        free(e->peers[w].commands.p);
        free(e->peers[w].replies.p);
        free(e->peers[w].waiting.p);
        free(e->peers[w].held.v);
        free(e->peers[w].origins);
    }
    free(e->peers);
}
