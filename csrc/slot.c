/* slot.c: see slot.h. Eight bytes a step: CRC is linear, so the remainder of eight bytes is the exclusive or of eight table
 * look-ups that do not wait for each other. The tables are built by the compiler from the powers of x below.
 */
#include "slot.h"

#include <string.h>

/* x^n modulo x^16 + x^12 + x^5 + 1 (CRC-16/XMODEM). */
enum {
    X16 = 0x1021, X17 = 0x2042, X18 = 0x4084, X19 = 0x8108, X20 = 0x1231, X21 = 0x2462, X22 = 0x48c4, X23 = 0x9188,
    X24 = 0x3331, X25 = 0x6662, X26 = 0xccc4, X27 = 0x89a9, X28 = 0x0373, X29 = 0x06e6, X30 = 0x0dcc, X31 = 0x1b98,
    X32 = 0x3730, X33 = 0x6e60, X34 = 0xdcc0, X35 = 0xa9a1, X36 = 0x4363, X37 = 0x86c6, X38 = 0x1dad, X39 = 0x3b5a,
    X40 = 0x76b4, X41 = 0xed68, X42 = 0xcaf1, X43 = 0x85c3, X44 = 0x1ba7, X45 = 0x374e, X46 = 0x6e9c, X47 = 0xdd38,
    X48 = 0xaa51, X49 = 0x4483, X50 = 0x8906, X51 = 0x022d, X52 = 0x045a, X53 = 0x08b4, X54 = 0x1168, X55 = 0x22d0,
    X56 = 0x45a0, X57 = 0x8b40, X58 = 0x06a1, X59 = 0x0d42, X60 = 0x1a84, X61 = 0x3508, X62 = 0x6a10, X63 = 0xd420,
    X64 = 0xb861, X65 = 0x60e3, X66 = 0xc1c6, X67 = 0x93ad, X68 = 0x377b, X69 = 0x6ef6, X70 = 0xddec, X71 = 0xabf9,
    X72 = 0x47d3, X73 = 0x8fa6, X74 = 0x0f6d, X75 = 0x1eda, X76 = 0x3db4, X77 = 0x7b68, X78 = 0xf6d0, X79 = 0xfd81,
};

/* The remainder of byte b times the eight powers that start at x^n. */
#define T1(b, x0, x1, x2, x3, x4, x5, x6, x7)                                                                    \
    (((b) & 1 ? (x0) : 0) ^ ((b) & 2 ? (x1) : 0) ^ ((b) & 4 ? (x2) : 0) ^ ((b) & 8 ? (x3) : 0) ^                 \
     ((b) & 16 ? (x4) : 0) ^ ((b) & 32 ? (x5) : 0) ^ ((b) & 64 ? (x6) : 0) ^ ((b) & 128 ? (x7) : 0))
#define T4(b, ...) T1(b, __VA_ARGS__), T1((b) + 1, __VA_ARGS__), T1((b) + 2, __VA_ARGS__), T1((b) + 3, __VA_ARGS__)
#define T16(b, ...) T4(b, __VA_ARGS__), T4((b) + 4, __VA_ARGS__), T4((b) + 8, __VA_ARGS__), T4((b) + 12, __VA_ARGS__)
#define T64(b, ...) T16(b, __VA_ARGS__), T16((b) + 16, __VA_ARGS__), T16((b) + 32, __VA_ARGS__), T16((b) + 48, __VA_ARGS__)
#define T256(...) {T64(0, __VA_ARGS__), T64(64, __VA_ARGS__), T64(128, __VA_ARGS__), T64(192, __VA_ARGS__)}

/* table[k][b]: byte b followed by k more bytes. */
static const uint16_t table[8][256] = {
    T256(X16, X17, X18, X19, X20, X21, X22, X23),
    T256(X24, X25, X26, X27, X28, X29, X30, X31),
    T256(X32, X33, X34, X35, X36, X37, X38, X39),
    T256(X40, X41, X42, X43, X44, X45, X46, X47),
    T256(X48, X49, X50, X51, X52, X53, X54, X55),
    T256(X56, X57, X58, X59, X60, X61, X62, X63),
    T256(X64, X65, X66, X67, X68, X69, X70, X71),
    T256(X72, X73, X74, X75, X76, X77, X78, X79),
};

uint16_t nd_crc16(const uint8_t *p, uint32_t len)
{
    uint32_t crc = 0;
    for (; len >= 8; p += 8, len -= 8) {
        crc = (uint32_t)table[7][p[0] ^ crc >> 8] ^ table[6][p[1] ^ (crc & 255)] ^ table[5][p[2]] ^ table[4][p[3]] ^
              table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; len > 0; p++, len--)
        crc = (crc << 8 & 0xffff) ^ table[0][crc >> 8 ^ *p];
    return (uint16_t)crc;
}

uint32_t nd_slot_of(const uint8_t *key, uint32_t len)
{
    const uint8_t *open = len > 0 ? memchr(key, '{', len) : NULL;
    if (open != NULL) {
        const uint8_t *tag = open + 1;
        const uint8_t *close = memchr(tag, '}', (size_t)(key + len - tag));
        if (close != NULL && close != tag)
            return nd_crc16(tag, (uint32_t)(close - tag)) % ND_SLOTS;
    }
    return nd_crc16(key, len) % ND_SLOTS;
}
