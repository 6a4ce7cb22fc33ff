/* num.h: numbers as text, the way Redis's string values hold them.
 *
 * Pure functions on borrowed bytes; nothing allocates, nothing depends on the locale. Integers are strict: no spaces, no plus sign,
 * no leading zeros, "-0" is not a number, so that text -> number -> text is the identity. Floats are the 80-bit long double of
 * x86: the text of an INCRBYFLOAT result is part of the replicated state, so every replica must compute the same bits.
 */
#ifndef ND_NUM_H
#define ND_NUM_H
#include "nd.h"

#include <float.h>
#include <string.h>

_Static_assert(LDBL_MANT_DIG == 64, "INCRBYFLOAT results are replicated state: every replica needs the x87 80-bit format");

#define ND_I64_CHARS 20          /* "-9223372036854775808" */
#define ND_LONG_DOUBLE_CHARS 5120

/* true and *out when all of [p, p+len) is a canonical decimal in the range of int64_t; *out is unchanged otherwise. */
bool nd_parse_i64(const uint8_t *p, uint32_t len, int64_t *out);
/* Same for 0..2^64-1. */
bool nd_parse_u64(const uint8_t *p, uint32_t len, uint64_t *out);
/* Writes the digits of v without a terminator and returns their number (<= ND_I64_CHARS). */
uint32_t nd_print_i64(char *buf, int64_t v);
/* Decimal, hexadecimal or "inf" text as strtold reads it in the C locale; false for NaN, overflow, underflow to zero, leading
 * or trailing bytes, or text of ND_LONG_DOUBLE_CHARS and more. */
bool nd_parse_long_double(const uint8_t *p, uint32_t len, long double *out);
/* 17 digits after the point, trailing zeros removed, never an exponent, "0" for minus zero. v is finite. buf has
 * ND_LONG_DOUBLE_CHARS bytes; returns the length. */
uint32_t nd_print_long_double(char *buf, long double v);
#endif
