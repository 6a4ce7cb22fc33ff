/* Datagrams as they were sent, with and without GSO and GRO: sizes, order, senders, what is too large, who is not there. */
#include "../../csrc/udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int bound(const char *host, nd_udp_addr *own)
{
    nd_udp_addr any;
    ND_ASSERT(nd_udp_addr_of(host, 0, &any) == 0);
    int fd = socket(strchr(host, ':') ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    ND_ASSERT(fd >= 0 && bind(fd, (struct sockaddr *)any.raw, any.len) == 0);
    socklen_t len = sizeof own->raw;
    memset(own, 0, sizeof *own);
    ND_ASSERT(getsockname(fd, (struct sockaddr *)own->raw, &len) == 0);
    own->len = len;
    return fd;
}

static void through(const char *host, uint32_t features, uint32_t segment, uint32_t total)
{
    static nd_udp_datagram got[ND_UDP_RECV_MAX];
    static nd_udp_addr from[ND_UDP_RECV_MAX];
    nd_udp_addr a, b;
    int fa = bound(host, &a), fb = bound(host, &b);
    nd_udp *ua, *ub;
    ND_ASSERT(nd_udp_open(fa, features, 1 << 20, &ua) == 0 && nd_udp_open(fb, features, 1 << 20, &ub) == 0);
    uint8_t *data = malloc(total);
    ND_ASSERT(data);
    for (uint32_t i = 0; i < total; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    ND_ASSERT(nd_udp_send(ua, &b, data, total, segment) == 0);
    uint32_t at = 0;
    for (int tries = 0; at < total && tries < 1000; tries++) {
        int n = nd_udp_recv(ub, got, from);
        ND_ASSERT(n >= 0);
        for (int i = 0; i < n; i++) {
            uint32_t want = total - at < segment ? total - at : segment;
            ND_ASSERT(got[i].len == want && memcmp(got[i].data, data + at, want) == 0);
            ND_ASSERT(memcmp(from[got[i].sender].raw, a.raw, a.len) == 0 && from[got[i].sender].len == a.len);
            at += want;
        }
    }
    ND_ASSERT(at == total);
    nd_udp_stats sent, seen;
    nd_udp_stats_get(ua, &sent);
    nd_udp_stats_get(ub, &seen);
    ND_ASSERT(sent.bytes_out == total && seen.bytes_in == total && seen.datagrams_in == (total + segment - 1) / segment);
    ND_ASSERT(!(sent.features & ND_UDP_GSO) || total <= segment || sent.calls_out < sent.datagrams_out);
    ND_ASSERT(nd_udp_send(ua, &b, data, 1, 1) == 0 && nd_udp_recv(ub, got, from) == 1);
    nd_udp_close(ub);
    close(fb);
    for (int tries = 0, found = 0; !found && (features & ND_UDP_ERRQUEUE); tries++) {   /* nobody listens there any more */
        ND_ASSERT(tries < 1000);
        ND_ASSERT(nd_udp_send(ua, &b, data, 1, 1) == 0);
        ND_ASSERT(nd_udp_recv(ua, got, from) == 0);
        found = nd_udp_unreachable(ua, from);
        ND_ASSERT(!found || memcmp(from[0].raw, b.raw, 8) == 0);
    }
    nd_udp_close(ua);
    close(fa);
    free(data);
}

static void sizes_and_names(void)
{
    nd_udp_addr own, back;
    char text[64];
    int fd = bound("127.0.0.1", &own);
    nd_udp *u;
    ND_ASSERT(nd_udp_open(fd, ND_UDP_GSO | ND_UDP_GRO, 1 << 16, &u) == 0);
    int port = nd_udp_addr_text(&own, text);
    ND_ASSERT(strcmp(text, "127.0.0.1") == 0 && nd_udp_addr_of(text, (uint16_t)port, &back) == 0);
    ND_ASSERT(memcmp(&own, &back, sizeof own) == 0);
    ND_ASSERT(nd_udp_addr_of("localhost", 1, &back) == -EINVAL);
    ND_ASSERT(nd_udp_route_mtu(&own) >= 1500);
    static const uint8_t large[65507];
    ND_ASSERT(nd_udp_send(u, &own, large, sizeof large, sizeof large) >= 0);
    nd_udp_close(u);
    ND_ASSERT(nd_udp_open(-1, 0, 1 << 16, &u) == -EBADF);
    close(fd);
}

int main(void)
{
    static const uint32_t features[] = { 0, ND_UDP_GSO, ND_UDP_GRO | ND_UDP_ERRQUEUE, ND_UDP_GSO | ND_UDP_GRO | ND_UDP_ERRQUEUE };
    static const uint32_t sizes[][2] = {
        { 1200, 1 }, { 1200, 1200 }, { 1200, 30000 }, { 8900, 80001 }, { 8900, 8901 }, { 100, 9999 },
    };
    for (size_t f = 0; f < sizeof features / sizeof *features; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            through("127.0.0.1", features[f], sizes[s][0], sizes[s][1]);
            through("::1", features[f], sizes[s][0], sizes[s][1]);
        }
    sizes_and_names();
    return 0;
}
