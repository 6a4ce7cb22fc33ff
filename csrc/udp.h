/* udp.h: many datagrams per system call on one unconnected UDP socket: GSO and GRO, sendmmsg and recvmmsg below them.
 *
 * One thread. What the kernel or a driver does not do is found out at open and at run time (EIO, EINVAL: switched off for
 * good) and done with one datagram per message instead; `features` says what is in use. Datagrams are never fragmented:
 * one above the path's MTU is dropped here or on the way. Nothing waits: a full send buffer is a lost datagram, as on any
 * network. Received bytes lie in the handle's own buffer until the next nd_udp_recv.
 */
#ifndef ND_UDP_H
#define ND_UDP_H
#include "nd.h"

/* cffi:begin */
#define ND_UDP_GSO 1
#define ND_UDP_GRO 2
#define ND_UDP_ERRQUEUE 4
#define ND_UDP_RECV_MAX 2048
typedef struct nd_udp nd_udp;

/* An address as the kernel wants it. */
typedef struct nd_udp_addr {
    uint8_t raw[28];
    uint32_t len;
} nd_udp_addr;

typedef struct nd_udp_datagram {
    const uint8_t *data;
    uint32_t len;
    uint32_t sender;               /* index into the addresses of this call */
} nd_udp_datagram;

typedef struct nd_udp_stats {
    uint64_t calls_in, datagrams_in, bytes_in;
    uint64_t calls_out, datagrams_out, bytes_out;
    uint64_t dropped_full;         /* the send buffer was full */
    uint64_t dropped_size;         /* above the MTU of the way out */
    uint64_t dropped_error;        /* any other refusal of the kernel */
    uint64_t refused;              /* ICMP unreachable, as told by the error queue */
    uint32_t features;             /* ND_UDP_* in use now */
    uint32_t receive_buffer, send_buffer;   /* bytes that the kernel granted */
} nd_udp_stats;

/* fd: a bound, non-blocking UDP socket, borrowed until close. features: what may be tried. 0 or -errno. */
int nd_udp_open(int fd, uint32_t features, uint32_t buffer_bytes, nd_udp **out);
void nd_udp_close(nd_udp *u);
/* Reads what is there, at most a few system calls. Datagrams into out[ND_UDP_RECV_MAX], their senders into from (as many as
 * there are messages, at most ND_UDP_RECV_MAX). Returns how many datagrams, 0 = nothing, or -errno of a broken socket. */
int nd_udp_recv(nd_udp *u, nd_udp_datagram *out, nd_udp_addr *from);
/* data holds datagrams of `segment` bytes, the last one may be shorter. Returns how many were dropped because they are above the
 * MTU (none of the others is lost by that), or -errno of a broken socket. */
int nd_udp_send(nd_udp *u, const nd_udp_addr *to, const uint8_t *data, uint32_t len, uint32_t segment);
/* The next address that is known to be unreachable (nobody listens there): 1 and *to, 0 = none. A hint, not a proof. */
int nd_udp_unreachable(nd_udp *u, nd_udp_addr *to);
void nd_udp_stats_get(const nd_udp *u, nd_udp_stats *out);
/* The MTU of the route to an address in bytes (UDP payload: minus 28 or 48), or -errno. */
int nd_udp_route_mtu(const nd_udp_addr *to);
/* host: numeric. 0 or -EINVAL. */
int nd_udp_addr_of(const char *host, uint16_t port, nd_udp_addr *out);
/* Numeric host into text[64]; returns the port. */
int nd_udp_addr_text(const nd_udp_addr *addr, char *text);
/* cffi:end */
#endif
