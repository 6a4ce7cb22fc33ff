/* ringset.c: the ring ends of one process.
 *
 * No wakeup is lost because each pair of "store mine, then look at yours" is sequentially consistent on both sides:
 *   data   producer: head, then the consumer's sleeping word       consumer: sleeping word, then every head
 *   room   producer: want_room and sleeping word, then tail        consumer: tail, then want_room, then sleeping word
 *   table  supervisor: version, then every bell without looking    process: sleeping word, then version
 * A sleeping word is a ticket, new for each sleep. Who rings writes the bell first and then takes that ticket away by
 * compare and swap: killed or stopped between the two, it leaves a bell too many, never a sleeper whom nobody rings.
 */
#include "ringset.h"

#include <errno.h>
#include <string.h>

#define BURST_MESSAGES 64            /* from one peer before the next one's turn */
#define CALL_RECORDS_MAX 64          /* parts of large messages taken in by one call */
#define ASSEMBLY_KEEP_BYTES 1048576  /* a larger reassembly buffer is freed after use */
#define PUBLISH_TRIES 4
#define PART_HEADER_BYTES sizeof(uint64_t)   /* the first record of several begins with the message's length */

typedef struct waiting {             /* one message in a peer's overflow queue */
    struct waiting *next;
    uint64_t request_id;
    uint32_t len, sent;
    uint8_t type;
    uint8_t data[];
} waiting;

typedef struct assembly {            /* one message of several records, being put together */
    uint8_t *buf;
    uint64_t cap, len, total;
    uint64_t request_id;
    uint8_t type;
    bool active;
} assembly;

typedef struct peer {
    nd_ring_tx tx;
    nd_ring_rx rx;
    nd_proc_mem *proc;
    uint64_t generation;
    uint32_t state;
    int bell;
    bool dirty;
    waiting *first, *last;
    uint64_t waiting_bytes;
    assembly in;
} peer;

struct nd_ringset {
    nd_shm *shm;
    nd_metrics *metrics;
    uint32_t self, n;
    uint64_t generation;
    uint64_t overflow_bytes_max;
    uint64_t table_version, scan_version;
    uint32_t scan;                   /* next process to compare with the table; n = none */
    uint32_t ticket;
    uint32_t cursor, burst;
    uint32_t dirty_count;
    uint32_t *dirty;
    peer *peers;
};

/* ---- life ---- */

static void peer_attach(nd_ringset *set, uint32_t number)
{
    peer *p = &set->peers[number];
    uint64_t size = nd_shm_ring_bytes(set->shm);
    nd_proc_info info;
    nd_shm_proc_get(set->shm, number, &info);
    p->proc = nd_shm_proc(set->shm, number);
    p->generation = info.generation;
    p->state = info.state;
    nd_ring_tx_attach(&p->tx, nd_shm_ring(set->shm, set->self, number), size, (uint32_t)set->generation,
                      (uint32_t)p->generation);
    nd_ring_rx_attach(&p->rx, nd_shm_ring(set->shm, number, set->self), size, (uint32_t)set->generation,
                      (uint32_t)p->generation);
}

int nd_ringset_open(nd_shm *shm, uint32_t self, const int *bells, uint64_t overflow_bytes_max, nd_ringset **out)
{
    uint32_t n = nd_shm_processes(shm);
    if (self >= n)
        return -EINVAL;
    nd_ringset *set = calloc(1, sizeof *set);
    if (set == NULL)
        return -ENOMEM;
    set->peers = calloc(n, sizeof *set->peers);
    set->dirty = calloc(n, sizeof *set->dirty);
    if (set->peers == NULL || set->dirty == NULL) {
        free(set->peers);
        free(set->dirty);
        free(set);
        return -ENOMEM;
    }
    nd_proc_info info;
    nd_shm_proc_get(shm, self, &info);
    set->shm = shm;
    set->metrics = nd_shm_metrics(shm, self);
    set->self = self;
    set->n = n;
    set->generation = info.generation;
    set->overflow_bytes_max = overflow_bytes_max;
    set->scan = n;
    /* Before the entries are read: a change in between is then met once more as an event. */
    set->table_version = nd_shm_table_version(shm);
    for (uint32_t i = 0; i < n; i++) {
        set->peers[i].bell = bells[i];
        if (i != self)
            peer_attach(set, i);
    }
    nd_ringset_wake(set, 0);
    *out = set;
    return 0;
}

static void overflow_drop(peer *p)
{
    while (p->first != NULL) {
        waiting *next = p->first->next;
        free(p->first);
        p->first = next;
    }
    p->last = NULL;
    p->waiting_bytes = 0;
}

static void assembly_drop(assembly *in)
{
    if (in->cap > ASSEMBLY_KEEP_BYTES) {
        free(in->buf);
        in->buf = NULL;
        in->cap = 0;
    }
    in->active = false;
    in->len = in->total = 0;
}

void nd_ringset_close(nd_ringset *set)
{
    nd_ringset_wake(set, 0);
    for (uint32_t i = 0; i < set->n; i++) {
        overflow_drop(&set->peers[i]);
        free(set->peers[i].in.buf);
    }
    free(set->peers);
    free(set->dirty);
    free(set);
}

uint64_t nd_ringset_generation(const nd_ringset *set)
{
    return set->generation;
}

int nd_ringset_bell(const nd_ringset *set)
{
    return set->peers[set->self].bell;
}

static peer *peer_of(const nd_ringset *set, uint32_t number)
{
    ND_ASSERT(number < set->n && number != set->self);
    return &set->peers[number];
}

uint32_t nd_ringset_peer_state(const nd_ringset *set, uint32_t number)
{
    return peer_of(set, number)->state;
}

uint64_t nd_ringset_queued(const nd_ringset *set, uint32_t number)
{
    return peer_of(set, number)->waiting_bytes;
}

/* ---- sending ---- */

static void mark_dirty(nd_ringset *set, uint32_t number)
{
    if (set->peers[number].dirty)
        return;
    set->peers[number].dirty = true;
    set->dirty[set->dirty_count++] = number;
}

static int overflow_add(nd_ringset *set, peer *p, uint8_t type, uint64_t request_id, const nd_arg *iov, uint32_t n,
                        uint64_t len)
{
    uint64_t cost = sizeof(waiting) + len;
    waiting *w = NULL;
    if (p->first == NULL || p->waiting_bytes + cost <= set->overflow_bytes_max)
        w = malloc(cost);
    if (w == NULL) {
        set->metrics->ring_tx_full++;
        return 0;
    }
    *w = (waiting){.request_id = request_id, .len = (uint32_t)len, .type = type};
    uint8_t *to = w->data;
    for (uint32_t i = 0; i < n; to += iov[i].len, i++)
        if (iov[i].len != 0)
            memcpy(to, iov[i].ptr, iov[i].len);
    if (p->last != NULL)
        p->last->next = w;
    else
        p->first = w;
    p->last = w;
    p->waiting_bytes += cost;
    return 1;
}

int nd_ringset_push(nd_ringset *set, uint32_t number, uint8_t type, uint64_t request_id, const nd_arg *iov, uint32_t n)
{
    peer *p = peer_of(set, number);
    uint64_t len = 0;
    for (uint32_t i = 0; i < n; i++)
        len += iov[i].len;
    ND_ASSERT(type != 0);
    if (len > ND_RING_MESSAGE_BYTES_MAX)
        return -EMSGSIZE;
    if (p->state == ND_PROC_DOWN)
        return -EHOSTDOWN;
    bool direct = p->first == NULL && len <= ND_RING_RECORD_BYTES_MAX;
    if (!direct || !nd_ring_push(&p->tx, type, ND_RING_FIRST, request_id, iov, n))
        if (!overflow_add(set, p, type, request_id, iov, n, len))
            return 0;
    mark_dirty(set, number);
    return 1;
}

/* The next record of a waiting message; 1 = pushed, 0 = no room. */
static int push_part(nd_ring_tx *tx, waiting *w)
{
    uint64_t total = w->len;
    nd_arg parts[2] = {{.ptr = (const uint8_t *)&total, .len = 0}, {.ptr = w->data + w->sent, .len = w->len - w->sent}};
    uint8_t flags = w->sent == 0 ? ND_RING_FIRST : 0;
    if (w->sent == 0 && w->len > ND_RING_RECORD_BYTES_MAX)
        parts[0].len = PART_HEADER_BYTES;
    if (parts[0].len + parts[1].len > ND_RING_RECORD_BYTES_MAX) {
        parts[1].len = ND_RING_RECORD_BYTES_MAX - parts[0].len;
        flags |= ND_RING_MORE;
    }
    if (!nd_ring_push(tx, w->type, flags, w->request_id, parts, 2))
        return 0;
    w->sent += parts[1].len;
    return 1;
}

static void overflow_drain(peer *p)
{
    while (p->first != NULL) {
        waiting *w = p->first;
        do {
            if (!push_part(&p->tx, w))
                return;
        } while (w->sent < w->len);
        p->waiting_bytes -= sizeof *w + w->len;
        p->first = w->next;
        if (p->first == NULL)
            p->last = NULL;
        free(w);
    }
}

static int wake_peer(peer *p)
{
    uint32_t ticket = __atomic_load_n(&p->proc->sleeping, __ATOMIC_SEQ_CST);
    if (ticket == 0)
        return 0;
    nd_bell_ring(p->bell);
    /* Fails when it slept anew meanwhile: that sleep looked at the rings after its own ticket was set. */
    __atomic_compare_exchange_n(&p->proc->sleeping, &ticket, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    return 1;
}

/* 1 = something became visible. The peer stays dirty while its queue is not empty. */
static int publish_peer(nd_ringset *set, peer *p)
{
    int visible = 0;
    for (int i = 0; i < PUBLISH_TRIES; i++) {
        overflow_drain(p);
        visible |= nd_ring_publish(&p->tx);
        if (p->first == NULL || !nd_ring_want_room(&p->tx))
            break;
    }
    if (visible)
        nd_hist_add(&set->metrics->ring_depth_bytes, p->tx.head - p->tx.tail);
    return visible;
}

static int release_all(nd_ringset *set)
{
    int rung = 0;
    for (uint32_t i = 0; i < set->n; i++)
        if (i != set->self && nd_ring_release(&set->peers[i].rx))
            rung += wake_peer(&set->peers[i]);
    return rung;
}

int nd_ringset_publish_all(nd_ringset *set)
{
    int rung = release_all(set);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->dirty_count; i++) {
        peer *p = &set->peers[set->dirty[i]];
        if (publish_peer(set, p))
            rung += wake_peer(p);
        p->dirty = p->first != NULL;
        if (p->dirty)
            set->dirty[kept++] = set->dirty[i];
    }
    set->dirty_count = kept;
    return rung;
}

/* ---- receiving ---- */

static int assembly_begin(assembly *in, const nd_ring_rec *rec, const uint8_t *payload)
{
    uint64_t total;
    if (rec->len < PART_HEADER_BYTES)
        return -EBADMSG;
    memcpy(&total, payload, sizeof total);
    if (total > ND_RING_MESSAGE_BYTES_MAX || total <= rec->len - PART_HEADER_BYTES)
        return -EBADMSG;
    if (in->cap < total) {
        free(in->buf);
        in->buf = malloc(total);
        ND_ASSERT(in->buf != NULL);
        in->cap = total;
    }
    in->total = total;
    in->len = rec->len - PART_HEADER_BYTES;
    memcpy(in->buf, payload + PART_HEADER_BYTES, in->len);
    in->request_id = rec->request_id;
    in->type = rec->type;
    in->active = true;
    return 0;
}

static int assembly_add(assembly *in, const nd_ring_rec *rec, const uint8_t *payload)
{
    if (!in->active || rec->request_id != in->request_id || rec->type != in->type || rec->len > in->total - in->len)
        return -EBADMSG;
    memcpy(in->buf + in->len, payload, rec->len);
    in->len += rec->len;
    if ((rec->flags & ND_RING_MORE) != 0)
        return 0;
    in->active = false;
    return in->len == in->total ? 1 : -EBADMSG;
}

/* 1 = *msg is whole, 0 = more records must come, -EBADMSG = it makes no sense. */
static int take_record(peer *p, const nd_ring_rec *rec, const uint8_t *payload, nd_ring_msg *msg)
{
    int rc = 1;
    *msg = (nd_ring_msg){.type = rec->type, .generation = rec->src, .len = rec->len, .request_id = rec->request_id,
                         .data = payload};
    if (rec->flags == ND_RING_FIRST)
        return p->in.active ? -EBADMSG : 1;
    if (rec->flags == (ND_RING_FIRST | ND_RING_MORE))
        return p->in.active ? -EBADMSG : assembly_begin(&p->in, rec, payload);
    rc = assembly_add(&p->in, rec, payload);
    msg->data = p->in.buf;
    msg->len = (uint32_t)p->in.len;
    return rc;
}

static void give_back(peer *p)
{
    if (p->rx.pos - p->rx.released >= p->rx.size / 4 && nd_ring_release(&p->rx))
        wake_peer(p);
}

static int next_of_peer(peer *p, nd_ring_msg *msg)
{
    const nd_ring_rec *rec;
    const uint8_t *payload;
    if (!p->in.active && p->in.total != 0)
        assembly_drop(&p->in);
    for (int i = 0; i < CALL_RECORDS_MAX; i++) {
        give_back(p);
        int rc = nd_ring_next(&p->rx, &rec, &payload);
        if (rc == 2) /* half a message of the epoch before was dropped with the event that announced this one */
            continue;
        if (rc == 1)
            rc = take_record(p, rec, payload, msg);
        else if (rc == 0)
            return 0;
        if (rc < 0) {
            nd_ring_fence(&p->rx);
            assembly_drop(&p->in);
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void next_peer(nd_ringset *set)
{
    set->cursor = set->cursor + 1 == set->n ? 0 : set->cursor + 1;
    set->burst = 0;
}

int nd_ringset_next(nd_ringset *set, uint32_t *number, nd_ring_msg *msg)
{
    for (uint32_t visited = 0; visited <= set->n; visited++) {
        peer *p = &set->peers[set->cursor];
        *number = set->cursor;
        int rc = set->cursor == set->self ? 0 : next_of_peer(p, msg);
        if (rc != 0) {
            if (++set->burst == BURST_MESSAGES)
                next_peer(set);
            return rc;
        }
        if (set->cursor != set->self && nd_ring_release(&p->rx))
            wake_peer(p);
        next_peer(set);
    }
    return 0;
}

/* ---- sleeping and waking ---- */

static int something_to_do(nd_ringset *set)
{
    if (set->scan < set->n || nd_shm_table_version(set->shm) != set->table_version)
        return 1;
    for (uint32_t i = 0; i < set->n; i++) {
        peer *p = &set->peers[i];
        if (i != set->self && (nd_ring_pending(&p->rx) || (p->first != NULL && nd_ring_want_room(&p->tx))))
            return 1;
    }
    return 0;
}

int nd_ringset_sleep(nd_ringset *set)
{
    release_all(set);
    set->ticket = set->ticket + 1 == 0 ? 1 : set->ticket + 1;
    /* Sequentially consistent: from here on producers ring, and the look that follows finds what came before. */
    __atomic_store_n(&nd_shm_proc(set->shm, set->self)->sleeping, set->ticket, __ATOMIC_SEQ_CST);
    if (!something_to_do(set))
        return 1;
    nd_ringset_wake(set, 0);
    return 0;
}

void nd_ringset_wake(nd_ringset *set, int rung)
{
    if (rung)
        nd_bell_clear(nd_ringset_bell(set));
    __atomic_store_n(&nd_shm_proc(set->shm, set->self)->sleeping, 0, __ATOMIC_SEQ_CST);
}

/* ---- peers that died or started ---- */

static int compare_peer(nd_ringset *set, uint32_t number, nd_peer_event *ev)
{
    nd_proc_info info;
    nd_shm_proc_get(set->shm, number, &info);
    if (number == set->self)
        return info.generation == set->generation ? 0 : -ESTALE;
    peer *p = &set->peers[number];
    if (info.generation == p->generation && info.state == p->state)
        return 0;
    *ev = (nd_peer_event){.peer = number, .state = info.state, .generation = info.generation,
                          .generation_before = p->generation};
    p->state = info.state;
    if (info.generation == p->generation)
        return 1;
    p->generation = info.generation;
    overflow_drop(p);
    assembly_drop(&p->in);
    nd_ring_tx_epoch(&p->tx, (uint32_t)info.generation);
    nd_ring_rx_peer(&p->rx, (uint32_t)info.generation);
    return 1;
}

int nd_ringset_peer_event(nd_ringset *set, nd_peer_event *ev)
{
    if (set->scan == set->n) {
        set->scan_version = nd_shm_table_version(set->shm);
        if (set->scan_version == set->table_version)
            return 0;
        set->scan = 0;
    }
    while (set->scan < set->n) {
        int rc = compare_peer(set, set->scan++, ev);
        if (rc != 0)
            return rc;
    }
    set->table_version = set->scan_version;
    return 0;
}
