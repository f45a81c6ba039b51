/* Feeds documents and replies to the executable's readers, for test_native_readers.py.

   On stdin: what it is ('c' a configuration, 'r' a reply), its length (u32, little endian), its bytes; again and again.
   On stdout, a line for each: what was made of it. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config.h"
#include "request.h"

static void show_value(const struct Value *value)
{
    static const char kinds[] = "-\"n?[{";
    char text[12];
    putchar(kinds[value->kind]);
    if (value->kind == BOOLEAN)
        putchar(*value->start);
    for (const Byte *at = value->start; value->kind == OBJECT && at < value->end; at++)
        printf("%02x", *at);
    if (value->kind != STRING)
        return;
    for (const Byte *at = value->start; at < value->end;)
        (void)fwrite(text, 1, json_escape(json_next(&at, value->end), text), stdout);
    putchar('"');
    for (const Byte *at = value->start; at < value->end;) {
        size_t size = utf8_encode(json_next(&at, value->end), text);
        for (size_t i = 0; i < size; i++)
            printf("%02x", (unsigned)(Byte)text[i]);
    }
}

static void show_config(const Byte *document, size_t size)
{
    struct Config config = config_read(document, size);
    show_value(&config.run_dir);
    putchar('\t');
    show_value(&config.agent);
    putchar('\t');
    show_value(&config.cni_version);
    putchar('\t');
    show_value(&config.device);
    putchar('\t');
    show_value(&config.require);
    putchar('\t');
    show_value(&config.previous);
    putchar('\n');
}

static void show_reply(const Byte *bytes, size_t size)
{
    struct Reply reply;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || write(pair[0], bytes, size) != (ssize_t)size)
        exit(2);
    (void)shutdown(pair[0], SHUT_WR);
    const char *why = reply_receive(&reply, pair[1]);
    if (why != NULL) {
        puts(why);
    } else {
        printf("%d ", reply.exit_code);
        for (size_t i = 0; i < reply.size; i++)
            printf("%02x", reply.stdout_[i]);
        putchar('\n');
    }
    (void)close(pair[0]);
    (void)close(pair[1]);
}

int main(void)
{
    Byte header[5];
    while (fread(header, 1, sizeof header, stdin) == sizeof header) {
        size_t size = header[1] | (size_t)header[2] << 8 | (size_t)header[3] << 16 | (size_t)header[4] << 24;
        Byte *bytes = malloc(size); /* of that size, so that a byte read behind it is seen */
        if (size > 0 && fread(bytes, 1, size, stdin) != size)
            return 2;
        if (header[0] == 'c')
            show_config(bytes, size);
        else
            show_reply(bytes, size);
        free(bytes);
    }
    return 0;
}
