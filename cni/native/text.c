#include "text.h"

static bool is_surrogate(uint32_t unit, uint32_t first)
{
    return unit >= first && unit < first + 0x400;
}

/* The bounds of a sequence's second byte rule out overlong forms, surrogates, and what is beyond Unicode. */
static unsigned continuations(Byte lead, Byte *low, Byte *high)
{
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 1;
    if (lead >= 0xE0 && lead <= 0xEF)
        return 2;
    return lead >= 0xF0 && lead <= 0xF4 ? 3 : 0;
}

uint32_t utf8_next(const Byte **at, const Byte *end)
{
    Byte lead = *(*at)++, low, high;
    if (lead < 0x80)
        return lead;
    unsigned left = continuations(lead, &low, &high);
    if (left == 0)
        return NO_CODE_POINT;
    uint32_t code_point = lead & (0x3Fu >> left);
    for (; left > 0; left--, low = 0x80, high = 0xBF) {
        if (*at == end || **at < low || **at > high)
            return NO_CODE_POINT;
        code_point = code_point << 6 | (*(*at)++ & 0x3Fu);
    }
    return code_point;
}

static uint32_t hex4(const Byte *digits)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t digit = digits[i];
        value = value << 4 | (digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    return value;
}

static uint32_t unescaped(Byte letter)
{
    switch (letter) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return letter;
    }
}

uint32_t json_next(const Byte **at, const Byte *end)
{
    if (**at != '\\')
        return utf8_next(at, end);
    Byte letter = (*at)[1];
    *at += 2;
    if (letter != 'u')
        return unescaped(letter);
    uint32_t unit = hex4(*at);
    *at += 4;
    if (!is_surrogate(unit, 0xD800) || (*at)[0] != '\\' || (*at)[1] != 'u')
        return unit;
    uint32_t second = hex4(*at + 2);
    if (!is_surrogate(second, 0xDC00))
        return unit;
    *at += 6;
    return 0x10000 + ((unit - 0xD800) << 10) + (second - 0xDC00);
}

static size_t escape_unit(uint32_t unit, char *escaped)
{
    static const char digits[] = "0123456789abcdef";
    escaped[0] = '\\';
    escaped[1] = 'u';
    for (int i = 0; i < 4; i++)
        escaped[2 + i] = digits[unit >> (12 - 4 * i) & 0xF];
    return 6;
}

static char short_escape(uint32_t code_point)
{
    switch (code_point) {
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    case '"':
    case '\\': return (char)code_point;
    default: return 0;
    }
}

size_t json_escape(uint32_t code_point, char escaped[12])
{
    char letter = short_escape(code_point);
    if (letter != 0) {
        escaped[0] = '\\';
        escaped[1] = letter;
        return 2;
    }
    if (code_point >= ' ' && code_point <= '~') {
        escaped[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x10000)
        return escape_unit(code_point, escaped);
    size_t length = escape_unit(0xD800 + ((code_point - 0x10000) >> 10), escaped);
    return length + escape_unit(0xDC00 + ((code_point - 0x10000) & 0x3FF), escaped + length);
}

size_t utf8_encode(uint32_t code_point, char encoded[4])
{
    if (is_surrogate(code_point, 0xD800) || is_surrogate(code_point, 0xDC00))
        code_point = '?';
    if (code_point < 0x80) {
        encoded[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, code_point >>= 6)
        encoded[i] = (char)(0x80 | (code_point & 0x3F));
    encoded[0] = (char)((0xF00u >> length & 0xFFu) | code_point);
    return length;
}
