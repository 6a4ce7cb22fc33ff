/* num.c: see num.h. */
#define _GNU_SOURCE
#include "num.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>

/* Digits of [p, end): first one not zero. false on another byte or beyond 2^64-1. */
static bool parse_digits(const uint8_t *p, const uint8_t *end, uint64_t *out)
{
    if (p == end || end - p > 20 || *p < '1' || *p > '9')
        return false;
    uint64_t v = 0;
    for (; p < end; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v))
            return false;
    }
    *out = v;
    return true;
}

bool nd_parse_u64(const uint8_t *p, uint32_t len, uint64_t *out)
{
    if (len == 1 && *p == '0') {
        *out = 0;
        return true;
    }
    return parse_digits(p, p + len, out);
}

bool nd_parse_i64(const uint8_t *p, uint32_t len, int64_t *out)
{
    uint64_t v;
    bool negative = len > 0 && *p == '-';
    if (negative ? !parse_digits(p + 1, p + len, &v) : !nd_parse_u64(p, len, &v))
        return false;
    if (v > (uint64_t)INT64_MAX + negative)
        return false;
    *out = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

uint32_t nd_print_i64(char *buf, int64_t v)
{
    char digits[ND_I64_CHARS];
    uint64_t rest = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    uint32_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (v < 0)
        digits[--at] = '-';
    memcpy(buf, digits + at, sizeof digits - at);
    return (uint32_t)sizeof digits - at;
}

bool nd_parse_long_double(const uint8_t *p, uint32_t len, long double *out)
{
    char text[ND_LONG_DOUBLE_CHARS];
    if (len == 0 || len >= sizeof text || isspace(p[0]))
        return false;
    memcpy(text, p, len);
    text[len] = 0;
    /* glibc hands out its static object for "C": nothing is allocated. */
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    ND_ASSERT(c_locale != (locale_t)0);
    char *end;
    int saved = errno;
    errno = 0;
    long double v = strtold_l(text, &end, c_locale);
    int error = errno;
    errno = saved;
    if (end != text + len || isnan(v))
        return false;
    if (error == ERANGE && (isinf(v) || fpclassify(v) == FP_ZERO))
        return false;
    *out = v;
    return true;
}

uint32_t nd_print_long_double(char *buf, long double v)
{
    locale_t before = uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
    int len = snprintf(buf, ND_LONG_DOUBLE_CHARS, "%.17Lf", v);
    uselocale(before);
    ND_ASSERT(len > 0 && len < ND_LONG_DOUBLE_CHARS);
    while (buf[len - 1] == '0')
        len--;
    if (buf[len - 1] == '.')
        len--;
    if (len == 2 && buf[0] == '-' && buf[1] == '0') {
        buf[0] = '0';
        len = 1;
    }
    return (uint32_t)len;
}
