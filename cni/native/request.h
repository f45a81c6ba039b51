/* A call as it goes over the wire (cni/wire.py has the format), and the reply to it. */

#ifndef HOTNIC_REQUEST_H
#define HOTNIC_REQUEST_H

#include "text.h"

enum {
    MAX_ENVIRONMENT = 64 << 10,
    MAX_STDIN = 8 << 20,
    MAX_REPLY = 8 << 20,
    MAX_WORDS = 16 << 10,
    MAX_EXIT_CODE = 255, /* a process cannot exit with more: 256 would come out as 0 */
};

struct Request {
    Byte header[8];
    const char *environment;
    size_t environment_size;
    const Byte *stdin_;
    size_t stdin_size;
    int netns; /* -1: there is none */
};

struct Reply {
    int exit_code;
    const Byte *stdout_;
    size_t size;
    const Byte *words; /* for stderr */
    size_t words_size;
};

/* Make the request of the CNI_* variables, with `command` for CNI_COMMAND, and open CNI_NETNS for it; where that
   cannot be opened, its errno goes into the environment. False where it is too large: the sizes tell how large. */
bool request_make(struct Request *request, const char *command, const Byte *input, size_t size);

/* Send it, with the namespace's descriptor. What goes wrong here is seen when the reply is awaited. */
void request_send(const struct Request *request, int connection);

/* Write it as a tombstone keeps it. False with errno. */
bool request_write(const struct Request *request, int file);

/* Return NULL with the whole reply, which lasts until the next, or why there is none. */
const char *reply_receive(struct Reply *reply, int connection);

#endif
