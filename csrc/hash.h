/* hash.h: SipHash-c-d (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), written from that paper.
 *
 * The store places keys by SipHash-1-3 under a secret seed, so that a client cannot choose keys that collide. Pure functions.
 */
#ifndef ND_HASH_H
#define ND_HASH_H
#include <string.h>

#include "nd.h"

typedef struct nd_sip {
    uint64_t k0, k1;
} nd_sip;

static inline uint64_t nd_rotl(uint64_t x, unsigned bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline uint64_t nd_load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

/* The last n < 8 bytes as a little-endian word, zero-padded. */
static inline uint64_t nd_load_tail(const uint8_t *p, size_t n)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++)
        x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static inline __attribute__((always_inline)) void nd_sip_rounds(uint64_t v[4], int n)
{
    for (int i = 0; i < n; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = nd_rotl(v[1], 13) ^ v[0];
        v[3] = nd_rotl(v[3], 16) ^ v[2];
        v[0] = nd_rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = nd_rotl(v[1], 17) ^ v[2];
        v[3] = nd_rotl(v[3], 21) ^ v[0];
        v[2] = nd_rotl(v[2], 32);
    }
}

static inline __attribute__((always_inline)) uint64_t nd_siphash(const nd_sip *key, const uint8_t *p, size_t n, int c, int d)
{
    uint64_t v[4] = {key->k0 ^ 0x736f6d6570736575, key->k1 ^ 0x646f72616e646f6d, key->k0 ^ 0x6c7967656e657261,
                     key->k1 ^ 0x7465646279746573};
    uint64_t last = (uint64_t)(n & 255) << 56;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t m = nd_load64(p);
        v[3] ^= m;
        nd_sip_rounds(v, c);
        v[0] ^= m;
    }
    last |= nd_load_tail(p, n);
    v[3] ^= last;
    nd_sip_rounds(v, c);
    v[0] ^= last;
    v[2] ^= 255;
    nd_sip_rounds(v, d);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static inline uint64_t nd_sip13(const nd_sip *key, const uint8_t *p, size_t n)
{
    return nd_siphash(key, p, n, 1, 3);
}
#endif
