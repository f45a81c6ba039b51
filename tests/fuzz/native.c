/* One input of the executable's readers, for libFuzzer: 'c' and a configuration, or 'r' and a reply. */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config.h"
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t spelt(const struct Value *value)
{
    char text[12];
    size_t size = 0;
    if (value->kind != STRING)
        return 0;
    for (const Byte *at = value->start; at < value->end;)
        size += json_escape(json_next(&at, value->end), text);
    for (const Byte *at = value->start; at < value->end;)
        size += utf8_encode(json_next(&at, value->end), text);
    return size;
}

static size_t read_config(const uint8_t *data, size_t size)
{
    struct Config config = config_read(data, size);
    return spelt(&config.run_dir) + spelt(&config.agent) + spelt(&config.cni_version) + spelt(&config.device);
}

static size_t read_reply(const uint8_t *data, size_t size)
{
    struct Reply reply;
    size_t length = 0;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return 0;
    if (write(pair[0], data, size) == (ssize_t)size && shutdown(pair[0], SHUT_WR) == 0 &&
        reply_receive(&reply, pair[1]) == NULL)
        length = reply.size;
    (void)close(pair[0]);
    (void)close(pair[1]);
    return length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile size_t sink; /* so that nothing is left out as useless */
    if (size > 0)
        sink = data[0] == 'c' ? read_config(data + 1, size - 1) : read_reply(data + 1, size - 1);
    return 0;
}
