/* SipHash against the paper's vector and against an independent implementation; the state hash sees what it must see. */
#include "../../csrc/rowhash.h"

static void test_siphash(void)
{
    uint8_t text[37];
    nd_sip zero = {0, 0}, key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)i;
    ND_ASSERT(nd_siphash(&key, text, 15, 2, 4) == 0xa129ca6149be45e5);   /* appendix A of the paper */
    /* hash() of CPython 3.11 with PYTHONHASHSEED=0 */
    ND_ASSERT(nd_sip13(&zero, (const uint8_t *)"a", 1) == 0x407448d2b89b1813);
    ND_ASSERT(nd_sip13(&zero, (const uint8_t *)"key:000000012345", 16) == 0x286cb3dfebab533d);
    ND_ASSERT(nd_sip13(&zero, text, sizeof text) == 0x422a9751192ff266);
}

static void test_rowhash(void)
{
    uint8_t val[64] = {0}, other[64] = {0};
    uint64_t k = nd_rowhash_key((const uint8_t *)"k", 1), k2 = nd_rowhash_key((const uint8_t *)"l", 1);
    ND_ASSERT(k != k2 && nd_rowhash_key((const uint8_t *)"", 0) != nd_rowhash_key((const uint8_t *)"\0", 1));
    ND_ASSERT(nd_rowhash(k, 1, 0, val, 8) != nd_rowhash(k, 1, 0, val, 9));
    ND_ASSERT(nd_rowhash(k, 1, 0, val, 8) != nd_rowhash(k, 2, 0, val, 8));
    ND_ASSERT(nd_rowhash(k, 1, 0, val, 8) != nd_rowhash(k, 1, 5, val, 8));
    val[3] = other[11] = 1;
    ND_ASSERT(nd_rowhash(k, 1, 0, val, 64) != nd_rowhash(k, 1, 0, other, 64));
    /* values that change places between two rows change the sum */
    ND_ASSERT(nd_rowhash(k, 1, 0, val, 64) + nd_rowhash(k2, 1, 0, other, 64) !=
              nd_rowhash(k, 1, 0, other, 64) + nd_rowhash(k2, 1, 0, val, 64));
    for (uint32_t cut = 0; cut <= 8; cut++)   /* a sum over ranges is the sum over the whole */
        ND_ASSERT(nd_rowhash_words(k, val, 61, 0, cut) + nd_rowhash_words(k, val, 61, cut, 8) ==
                  nd_rowhash_words(k, val, 61, 0, 8));
}

int main(void)
{
    test_siphash();
    test_rowhash();
    return 0;
}
