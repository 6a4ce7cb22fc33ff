/* rowhash.h: the state hash of rows, a sum mod 2^64, equal on every replica that holds equal rows.
 *
 * hash(row) = head(key, type, expiry, length) + sum over the 8-byte words of the value of word(key, position, word).
 * A zero word adds nothing (the length is in the head), so that growing a value by zeroes costs nothing and changing a range
 * costs the range. Constants are fixed: the hash knows neither slices nor the table's secret seed. It finds differences, it
 * does not resist someone who looks for collisions.
 */
#ifndef ND_ROWHASH_H
#define ND_ROWHASH_H
#include "hash.h"

static inline uint64_t nd_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline uint64_t nd_mix64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15;
    x ^= x >> 29;
    x *= 0xd1342543de82ef95;
    return x ^ (x >> 32);
}

/* The fixed 64-bit hash of a key that all of its row's terms depend on. */
static inline uint64_t nd_rowhash_key(const uint8_t *key, uint32_t len)
{
    uint64_t h = 0x243f6a8885a308d3 + len;
    uint32_t n = len;
    for (; n >= 8; n -= 8, key += 8)
        h = nd_rotl(h, 27) + nd_fold(h ^ 0x13198a2e03707344, nd_load64(key) ^ 0xa4093822299f31d1);
    h = nd_rotl(h, 27) + nd_fold(h ^ 0x082efa98ec4e6c89, nd_load_tail(key, n) ^ 0x452821e638d01377);
    return nd_mix64(h);
}

static inline uint64_t nd_rowhash_head(uint64_t key_hash, uint8_t type, int64_t expire_ms, uint32_t len)
{
    uint64_t h = nd_mix64(key_hash + ((uint64_t)type << 32) + len + 1);
    return nd_mix64(h ^ (uint64_t)expire_ms);
}

/* Sum of the terms of words [first, end) of a value of `len` bytes; words past its end add nothing. */
static inline uint64_t nd_rowhash_words(uint64_t key_hash, const uint8_t *val, uint32_t len, uint32_t first, uint32_t end)
{
    uint64_t sum = 0, seed = key_hash + (uint64_t)first * 0x9e3779b97f4a7c15;
    uint32_t whole = len / 8;
    for (uint32_t i = first; i < end && i * 8 < len; i++, seed += 0x9e3779b97f4a7c15) {
        uint64_t w = i < whole ? nd_load64(val + (size_t)i * 8) : nd_load_tail(val + (size_t)i * 8, len & 7);
        uint64_t k = (seed ^ (seed >> 32)) * 0xd1342543de82ef95;
        sum += nd_fold(w, (k ^ (k >> 29)) | 1);
    }
    return sum;
}

static inline uint64_t nd_rowhash(uint64_t key_hash, uint8_t type, int64_t expire_ms, const uint8_t *val, uint32_t len)
{
    return nd_rowhash_head(key_hash, type, expire_ms, len) + nd_rowhash_words(key_hash, val, len, 0, (len + 7) / 8);
}
#endif
