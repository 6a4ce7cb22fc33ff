#define _GNU_SOURCE
#include "udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define SLOTS 16                   /* messages of one recvmmsg */
#define SLOT_BYTES 65536           /* the largest thing that GRO hands over */
#define ROUNDS 1                   /* recvmmsg calls of one nd_udp_recv: the loop has other work too */
#define GSO_BYTES_MAX 65000        /* the kernel's limit is 65507 with headers */
#define GSO_SEGMENTS_MAX 64

_Static_assert(sizeof(struct sockaddr_in6) <= sizeof(((nd_udp_addr *)0)->raw), "an address fits");
_Static_assert(ND_UDP_RECV_MAX >= 2 * SLOTS, "at least one round of single datagrams");

struct nd_udp {
    int fd;
    int family;
    uint32_t features;
    int errors;                    /* the kernel has said that its error queue is worth a look */
    nd_udp_stats stats;
    struct mmsghdr in[SLOTS];
    struct iovec iov[SLOTS];
    struct sockaddr_in6 names[SLOTS];
    uint8_t control[SLOTS][CMSG_SPACE(sizeof(int)) + 16];
    uint8_t *buffer;               /* ROUNDS * SLOTS slots */
};

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

/* As large as we may: past rmem_max where we have the right to. */
static uint32_t grow(int fd, int name, int force, int bytes)
{
    int got = 0;
    socklen_t size = sizeof got;
    if (set(fd, SOL_SOCKET, force, bytes) != 0)
        (void)set(fd, SOL_SOCKET, name, bytes);
    return getsockopt(fd, SOL_SOCKET, name, &got, &size) == 0 ? (uint32_t)got : 0;
}

int nd_udp_open(int fd, uint32_t features, uint32_t buffer_bytes, nd_udp **out)
{
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    if (getsockname(fd, (struct sockaddr *)&own, &size) != 0)
        return -errno;
    nd_udp *u = calloc(1, sizeof *u);
    uint8_t *buffer = malloc((size_t)ROUNDS * SLOTS * SLOT_BYTES);
    if (!u || !buffer) {
        free(u);
        free(buffer);
        return -ENOMEM;
    }
    u->fd = fd;
    u->family = own.ss_family;
    u->buffer = buffer;
    u->stats.receive_buffer = grow(fd, SO_RCVBUF, SO_RCVBUFFORCE, (int)buffer_bytes);
    u->stats.send_buffer = grow(fd, SO_SNDBUF, SO_SNDBUFFORCE, (int)buffer_bytes);
    /* Our own probing finds the MTU: never fragment, and do not believe the kernel's memory of it. */
    if (u->family == AF_INET6)
        (void)set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    else
        (void)set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    if ((features & ND_UDP_GRO) && set(fd, SOL_UDP, UDP_GRO, 1) == 0)
        u->features |= ND_UDP_GRO;
    if (features & ND_UDP_GSO) {   /* a kernel that knows the option knows the control message too */
        int now = 0;
        socklen_t len = sizeof now;
        if (getsockopt(fd, SOL_UDP, UDP_SEGMENT, &now, &len) == 0)
            u->features |= ND_UDP_GSO;
    }
    int level = u->family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if ((features & ND_UDP_ERRQUEUE) && set(fd, level, u->family == AF_INET6 ? IPV6_RECVERR : IP_RECVERR, 1) == 0)
        u->features |= ND_UDP_ERRQUEUE;
    *out = u;
    return 0;
}

void nd_udp_close(nd_udp *u)
{
    free(u->buffer);
    free(u);
}

static uint32_t segment_of(struct msghdr *msg, uint32_t len)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size > 0 && (uint32_t)size < len ? (uint32_t)size : len;
        }
    return len;
}

static int recv_some(nd_udp *u, uint8_t *buffer)
{
    for (int i = 0; i < SLOTS; i++) {
        u->iov[i] = (struct iovec){ buffer + (size_t)i * SLOT_BYTES, SLOT_BYTES };
        u->in[i].msg_hdr = (struct msghdr){
            .msg_name = &u->names[i], .msg_namelen = sizeof u->names[i], .msg_iov = &u->iov[i], .msg_iovlen = 1,
            .msg_control = u->control[i], .msg_controllen = sizeof u->control[i],
        };
    }
    int n = recvmmsg(u->fd, u->in, SLOTS, MSG_DONTWAIT, NULL);
    if (n > 0) {
        u->stats.calls_in++;
        return n;
    }
    /* A pending ICMP error comes as the result of one call; the error queue has the details. Woken for nothing: likewise. */
    u->errors = 1;
    return n == 0 || errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == ENETUNREACH
        || errno == EMSGSIZE ? 0 : -errno;
}

int nd_udp_recv(nd_udp *u, nd_udp_datagram *out, nd_udp_addr *from)
{
    uint32_t count = 0, senders = 0;
    for (int round = 0; round < ROUNDS && count + SLOTS * 64 <= ND_UDP_RECV_MAX; round++) {
        uint8_t *buffer = u->buffer + (size_t)round * SLOTS * SLOT_BYTES;
        int n = recv_some(u, buffer);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++) {
            struct msghdr *msg = &u->in[i].msg_hdr;
            uint32_t len = u->in[i].msg_len, segment = segment_of(msg, len);
            memset(&from[senders], 0, sizeof from[senders]);
            memcpy(from[senders].raw, &u->names[i], msg->msg_namelen);
            from[senders].len = msg->msg_namelen;
            u->stats.bytes_in += len;
            for (uint32_t at = 0; at < len && count < ND_UDP_RECV_MAX; at += segment)
                out[count++] = (nd_udp_datagram){
                    (uint8_t *)u->iov[i].iov_base + at, len - at < segment ? len - at : segment, senders,
                };
            senders++;
        }
        if (n < SLOTS)
            break;
    }
    u->stats.datagrams_in += count;
    return (int)count;
}

/* One message. 0 sent, 1 dropped for its size, 2 dropped otherwise, -errno. */
static int send_one(nd_udp *u, const nd_udp_addr *to, const uint8_t *data, uint32_t len, uint32_t segment)
{
    struct iovec iov = { (void *)data, len };
    uint8_t control[CMSG_SPACE(sizeof(uint16_t))] = { 0 };
    struct msghdr msg = { .msg_name = (void *)to->raw, .msg_namelen = to->len, .msg_iov = &iov, .msg_iovlen = 1 };
    if (segment < len) {
        uint16_t size = (uint16_t)segment;
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(c), &size, sizeof size);
    }
    for (int tries = 0; tries < 4; tries++) {
        if (sendmsg(u->fd, &msg, MSG_DONTWAIT) >= 0) {
            u->stats.calls_out++;
            return 0;
        }
        u->errors |= errno != EINTR && errno != EAGAIN;
        if (errno != EINTR && errno != ECONNREFUSED && errno != EHOSTUNREACH)
            break;                 /* the others report the past, once: the datagram itself was not tried */
    }
    switch (errno) {
    case EMSGSIZE:
        return 1;
    case EAGAIN: case ENOBUFS: case ENOMEM:
        u->stats.dropped_full++;
        return 2;
    case EBADF: case ENOTSOCK: case EFAULT:
        return -errno;
    default:
        return segment < len ? -errno : (u->stats.dropped_error++, 2);
    }
}

static int send_each(nd_udp *u, const nd_udp_addr *to, const uint8_t *data, uint32_t len, uint32_t segment)
{
    int dropped = 0;
    for (uint32_t at = 0; at < len; at += segment) {
        uint32_t size = len - at < segment ? len - at : segment;
        int code = send_one(u, to, data + at, size, size);
        if (code < 0)
            return code;
        if (code == 1) {
            dropped++;
            u->stats.dropped_size++;
        }
    }
    return dropped;
}

int nd_udp_send(nd_udp *u, const nd_udp_addr *to, const uint8_t *data, uint32_t len, uint32_t segment)
{
    ND_ASSERT(segment > 0 && segment <= 65507);
    u->stats.datagrams_out += (len + segment - 1) / segment;
    u->stats.bytes_out += len;
    uint32_t each = GSO_BYTES_MAX / segment;
    each = each > GSO_SEGMENTS_MAX ? GSO_SEGMENTS_MAX : each;
    if (each < 2 || len <= segment || !(u->features & ND_UDP_GSO))
        return send_each(u, to, data, len, segment);
    int dropped = 0;
    for (uint32_t at = 0; at < len; at += each * segment) {
        uint32_t size = len - at < each * segment ? len - at : each * segment;
        int code = send_one(u, to, data + at, size, segment);
        if (code == 1 || code < 0) {
            if (code == -EIO || code == -EINVAL || code == -EOPNOTSUPP)
                u->features &= ~(uint32_t)ND_UDP_GSO;      /* the way out cannot do it: never ask again */
            else if (code < 0)
                return code;
            code = send_each(u, to, data + at, size, segment);
            if (code < 0)
                return code;
            dropped += code;
        }
    }
    return dropped;
}

int nd_udp_unreachable(nd_udp *u, nd_udp_addr *to)
{
    if (!u->errors || !(u->features & ND_UDP_ERRQUEUE))
        return 0;
    for (int i = 0; i < 64; i++) {
        uint8_t control[512], data[8];
        struct sockaddr_in6 name;
        struct iovec iov = { data, sizeof data };
        struct msghdr msg = {
            .msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
            .msg_controllen = sizeof control,
        };
        if (recvmsg(u->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            u->errors = 0;
            return 0;
        }
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
            struct sock_extended_err err;
            if (!((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR)
                    || (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)))
                continue;
            memcpy(&err, CMSG_DATA(c), sizeof err);
            if (err.ee_errno != ECONNREFUSED && err.ee_errno != EHOSTUNREACH)
                continue;
            u->stats.refused++;
            memset(to, 0, sizeof *to);
            memcpy(to->raw, &name, msg.msg_namelen);
            to->len = msg.msg_namelen;
            return 1;
        }
    }
    return 0;
}

void nd_udp_stats_get(const nd_udp *u, nd_udp_stats *out)
{
    *out = u->stats;
    out->features = u->features;
}

int nd_udp_route_mtu(const nd_udp_addr *to)
{
    struct sockaddr_storage name;
    memset(&name, 0, sizeof name);
    memcpy(&name, to->raw, to->len);
    int fd = socket(name.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), mtu = 0, code;
    socklen_t size = sizeof mtu;
    if (fd < 0)
        return -errno;
    code = connect(fd, (struct sockaddr *)&name, to->len);
    if (code == 0)
        code = name.ss_family == AF_INET6 ? getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &size)
                                          : getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &size);
    code = code == 0 ? mtu : -errno;
    close(fd);
    return code;
}

int nd_udp_addr_of(const char *host, uint16_t port, nd_udp_addr *out)
{
    struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, host, &four.sin_addr) == 1) {
        memcpy(out->raw, &four, sizeof four);
        out->len = sizeof four;
    } else if (inet_pton(AF_INET6, host, &six.sin6_addr) == 1) {
        memcpy(out->raw, &six, sizeof six);
        out->len = sizeof six;
    } else {
        return -EINVAL;
    }
    return 0;
}

int nd_udp_addr_text(const nd_udp_addr *addr, char *text)
{
    struct sockaddr_in6 six;
    struct sockaddr_in four;
    memcpy(&six, addr->raw, sizeof six);
    memcpy(&four, addr->raw, sizeof four);
    text[0] = 0;
    if (six.sin6_family == AF_INET6) {
        inet_ntop(AF_INET6, &six.sin6_addr, text, 64);
        return ntohs(six.sin6_port);
    }
    inet_ntop(AF_INET, &four.sin_addr, text, 64);
    return ntohs(four.sin_port);
}
