#include "config.h"

#include <string.h>

enum { MAX_DEPTH = 960, MAX_DIGITS = 4300 };

struct Scanner {
    const Byte *at, *end;
    struct Config config;
    struct Value *wanted; /* where the next value of the outermost object goes */
    struct Value *opened; /* of these the one that we are in, if it is a list or an object */
    size_t depth;
    bool is_object[MAX_DEPTH]; /* by depth: an object, else a list */
};

static void skip_space(struct Scanner *scanner)
{
    while (scanner->at < scanner->end && memchr(" \t\n\r", *scanner->at, 4) != NULL)
        scanner->at++;
}

static bool take(struct Scanner *scanner, Byte byte)
{
    if (scanner->at == scanner->end || *scanner->at != byte)
        return false;
    scanner->at++;
    return true;
}

static bool take_word(struct Scanner *scanner, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(scanner->end - scanner->at) < length || memcmp(scanner->at, word, length) != 0)
        return false;
    scanner->at += length;
    return true;
}

static bool is_digit(Byte byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_hex(Byte byte)
{
    return is_digit(byte) || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

static bool skip_escape(struct Scanner *scanner)
{
    if (scanner->at == scanner->end)
        return false;
    Byte letter = *scanner->at++;
    if (letter != 'u')
        return letter != 0 && strchr("\"\\/bfnrt", letter) != NULL;
    for (int i = 0; i < 4; i++, scanner->at++)
        if (scanner->at == scanner->end || !is_hex(*scanner->at))
            return false;
    return true;
}

static bool take_string(struct Scanner *scanner, struct Value *string)
{
    if (!take(scanner, '"'))
        return false;
    string->kind = STRING;
    string->start = scanner->at;
    while (scanner->at < scanner->end) {
        string->end = scanner->at;
        uint32_t code_point = utf8_next(&scanner->at, scanner->end);
        if (code_point == '"')
            return true;
        if (code_point < ' ' || code_point == NO_CODE_POINT)
            return false;
        if (code_point == '\\' && !skip_escape(scanner))
            return false;
    }
    return false;
}

static size_t skip_digits(struct Scanner *scanner)
{
    const Byte *start = scanner->at;
    while (scanner->at < scanner->end && is_digit(*scanner->at))
        scanner->at++;
    return (size_t)(scanner->at - start);
}

static bool take_number(struct Scanner *scanner)
{
    if (take_word(scanner, "NaN") || take_word(scanner, "Infinity") || take_word(scanner, "-Infinity"))
        return true;
    (void)take(scanner, '-');
    size_t digits = take(scanner, '0') ? 1 : skip_digits(scanner);
    if (digits == 0)
        return false;
    bool is_whole = true;
    if (take(scanner, '.')) {
        is_whole = false;
        if (skip_digits(scanner) == 0)
            return false;
    }
    if (take(scanner, 'e') || take(scanner, 'E')) {
        is_whole = false;
        if (!take(scanner, '+'))
            (void)take(scanner, '-');
        if (skip_digits(scanner) == 0)
            return false;
    }
    return !is_whole || digits <= MAX_DIGITS;
}

static bool take_scalar(struct Scanner *scanner, struct Value *value)
{
    if (scanner->at < scanner->end && *scanner->at == '"')
        return take_string(scanner, value);
    if (take_word(scanner, "null")) {
        value->kind = ABSENT;
        return true;
    }
    value->kind = BOOLEAN;
    value->start = scanner->at;
    if (take_word(scanner, "true") || take_word(scanner, "false"))
        return true;
    value->kind = NUMBER;
    return take_number(scanner);
}

static struct Value *place_of(struct Scanner *scanner, const struct Value *key)
{
    if (scanner->depth != 1)
        return NULL;
    if (value_is(key, "runDir"))
        return &scanner->config.run_dir;
    if (value_is(key, "agent"))
        return &scanner->config.agent;
    if (value_is(key, "device"))
        return &scanner->config.device;
    if (value_is(key, "require"))
        return &scanner->config.require;
    if (value_is(key, "prevResult"))
        return &scanner->config.previous;
    return value_is(key, "cniVersion") ? &scanner->config.cni_version : NULL;
}

/* Take a key and its colon, if it is an object that we are in. */
static bool take_key(struct Scanner *scanner)
{
    struct Value key = {ABSENT, NULL, NULL};
    if (!scanner->is_object[scanner->depth - 1])
        return true;
    skip_space(scanner);
    if (!take_string(scanner, &key))
        return false;
    scanner->wanted = place_of(scanner, &key);
    skip_space(scanner);
    return take(scanner, ':');
}

/* Take what closes the list or object that we are in. */
static bool ends_here(struct Scanner *scanner)
{
    if (!take(scanner, scanner->is_object[scanner->depth - 1] ? '}' : ']'))
        return false;
    scanner->depth--;
    if (scanner->depth == 1 && scanner->opened != NULL) {
        scanner->opened->end = scanner->at;
        scanner->opened = NULL;
    }
    return true;
}

/* Take a scalar, or what opens an object or a list and leads to its first value; `whole` tells which. */
static bool take_value(struct Scanner *scanner, bool *whole)
{
    struct Value value = {ABSENT, NULL, NULL};
    skip_space(scanner);
    bool is_object = take(scanner, '{'), opens = is_object || take(scanner, '[');
    if (opens) {
        value.kind = is_object ? OBJECT : LIST;
        value.start = scanner->at - 1;
    } else if (!take_scalar(scanner, &value))
        return false;
    if (scanner->wanted != NULL) {
        *scanner->wanted = value;
        scanner->opened = opens ? scanner->wanted : NULL;
    }
    scanner->wanted = NULL;
    *whole = true;
    if (!opens)
        return true;
    if (scanner->depth == MAX_DEPTH)
        return false;
    scanner->is_object[scanner->depth++] = is_object;
    skip_space(scanner);
    if (ends_here(scanner))
        return true;
    *whole = false;
    return take_key(scanner);
}

/* After a whole value: take what closes, and the comma that leads to the next value. */
static bool take_closing(struct Scanner *scanner)
{
    for (skip_space(scanner); scanner->depth > 0; skip_space(scanner)) {
        if (take(scanner, ','))
            return take_key(scanner);
        if (!ends_here(scanner))
            return false;
    }
    return true;
}

static bool scan(struct Scanner *scanner)
{
    bool whole;
    skip_space(scanner);
    if (scanner->at == scanner->end || *scanner->at != '{')
        return false; /* valid or not, it has no keys */
    do {
        if (!take_value(scanner, &whole) || (whole && !take_closing(scanner)))
            return false;
    } while (scanner->depth > 0);
    return scanner->at == scanner->end;
}

struct Config config_read(const Byte *document, size_t size)
{
    struct Scanner scanner;
    scanner.at = document;
    scanner.end = document + size;
    scanner.wanted = NULL;
    scanner.opened = NULL;
    scanner.depth = 0;
    memset(&scanner.config, 0, sizeof scanner.config);
    if (!scan(&scanner))
        memset(&scanner.config, 0, sizeof scanner.config);
    return scanner.config;
}

bool value_is(const struct Value *value, const char *text)
{
    if (value->kind != STRING)
        return false;
    const Byte *at = value->start;
    while (at < value->end && *text != 0 && json_next(&at, value->end) == (Byte)*text)
        text++;
    return at == value->end && *text == 0;
}

bool value_is_unset(const struct Value *value)
{
    return value->kind == ABSENT || (value->kind == BOOLEAN && *value->start == 'f');
}
