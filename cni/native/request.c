#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"

enum { PARTS = 3 };

extern char **environ;

static char environment[MAX_ENVIRONMENT];
static Byte received[MAX_REPLY];

static void put_number(Byte *bytes, size_t number)
{
    for (int i = 0; i < 4; i++, number >>= 8)
        bytes[i] = (Byte)(number & 0xFF);
}

static uint32_t number_at(const Byte *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* Of a variable that is there more than once, the first counts, as for getenv. */
static bool has_variable(const struct Request *request, const char *variable, size_t name_size)
{
    const char *at = request->environment, *end = at + request->environment_size;
    if (request->environment_size > MAX_ENVIRONMENT)
        return false; /* it is refused anyway */
    while (at < end) {
        size_t length = strnlen(at, (size_t)(end - at));
        if (length >= name_size && memcmp(at, variable, name_size) == 0)
            return true;
        at += length + 1;
    }
    return false;
}

/* Add a variable; where there is no room for it, only its size counts. */
static void add(struct Request *request, const char *variable)
{
    size_t length = strlen(variable), before = request->environment_size;
    size_t at = before == 0 ? 0 : before + 1;
    request->environment_size = at + length;
    if (request->environment_size > MAX_ENVIRONMENT)
        return;
    if (before > 0)
        environment[before] = 0;
    memcpy(environment + at, variable, length);
}

static void add_cni_variables(struct Request *request, const char *command)
{
    static const char cni[] = "CNI_", cni_command[] = "CNI_COMMAND=";
    for (char **variable = environ; *variable != NULL; variable++) {
        const char *equals = strchr(*variable, '=');
        if (equals == NULL || strncmp(*variable, cni, sizeof cni - 1) != 0)
            continue;
        if (has_variable(request, *variable, (size_t)(equals - *variable) + 1))
            continue;
        if (strncmp(*variable, cni_command, sizeof cni_command - 1) != 0) {
            add(request, *variable);
        } else {
            add(request, cni_command);
            if (request->environment_size + strlen(command) <= MAX_ENVIRONMENT)
                memcpy(environment + request->environment_size, command, strlen(command));
            request->environment_size += strlen(command);
        }
    }
}

static void open_netns(struct Request *request)
{
    char variable[64];
    const char *path = getenv("CNI_NETNS");
    request->netns = -1;
    if (path == NULL || *path == 0)
        return;
    do /* O_NONBLOCK: whatever the path names, opening it must not wait */
        request->netns = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    while (request->netns < 0 && clock_allows_retry());
    if (request->netns >= 0)
        return;
    (void)snprintf(variable, sizeof variable, "HOTNIC_NETNS_ERRNO=%d", errno);
    add(request, variable);
}

bool request_make(struct Request *request, const char *command, const Byte *input, size_t size)
{
    request->environment = environment;
    request->environment_size = 0;
    request->stdin_ = input;
    request->stdin_size = size;
    add_cni_variables(request, command);
    open_netns(request);
    put_number(request->header, request->environment_size);
    put_number(request->header + 4, request->stdin_size);
    return request->environment_size <= MAX_ENVIRONMENT && request->stdin_size <= MAX_STDIN;
}

static void lay_out(const struct Request *request, struct iovec parts[PARTS])
{
    parts[0] = (struct iovec){(void *)(uintptr_t)request->header, sizeof request->header};
    parts[1] = (struct iovec){(void *)(uintptr_t)request->environment, request->environment_size};
    parts[2] = (struct iovec){(void *)(uintptr_t)request->stdin_, request->stdin_size};
}

/* Step over what was sent; whether anything is left. */
static bool advance(struct iovec parts[PARTS], size_t sent)
{
    bool is_left = false;
    for (int i = 0; i < PARTS; i++) {
        size_t of_this = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        parts[i].iov_base = (char *)parts[i].iov_base + of_this;
        parts[i].iov_len -= of_this;
        sent -= of_this;
        is_left = is_left || parts[i].iov_len > 0;
    }
    return is_left;
}

static void attach_netns(struct msghdr *message, int netns)
{
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof netns);
    memcpy(CMSG_DATA(header), &netns, sizeof netns);
}

void request_send(const struct Request *request, int connection)
{
    union {
        struct cmsghdr alignment;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec parts[PARTS];
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = PARTS};
    ssize_t sent = 0;

    lay_out(request, parts);
    if (request->netns >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        attach_netns(&message, request->netns);
    }
    while (advance(parts, (size_t)sent) && !clock_is_over()) {
        sent = sendmsg(connection, &message, MSG_NOSIGNAL);
        if (sent < 0 && !clock_allows_retry())
            return;
        if (sent > 0)
            message.msg_controllen = 0; /* the descriptor goes with the first byte only */
        else
            sent = 0;
    }
}

bool request_write(const struct Request *request, int file)
{
    return clock_write(file, request->header, sizeof request->header)
        && clock_write(file, request->environment, request->environment_size)
        && clock_write(file, request->stdin_, request->stdin_size);
}

static const char *receive(int connection, Byte *data, size_t size)
{
    static char problem[96];
    size_t have = 0;
    while (have < size) {
        ssize_t count = clock_is_over() ? (errno = EINTR, -1) : recv(connection, data + have, size - have, 0);
        if (count < 0 && !clock_allows_retry())
            return clock_problem();
        if (count == 0) {
            (void)snprintf(problem, sizeof problem, "connection closed after %zu of %zu bytes", have, size);
            return problem;
        }
        if (count > 0)
            have += (size_t)count;
    }
    return NULL;
}

/* What came with the reply is there already; nothing more is waited for. */
static void take_words(struct Reply *reply, int connection)
{
    static Byte words[MAX_WORDS];
    ssize_t count = recv(connection, words, sizeof words, MSG_DONTWAIT);
    if (count > 0) {
        reply->words = words;
        reply->words_size = (size_t)count;
    }
}

const char *reply_receive(struct Reply *reply, int connection)
{
    static char problem[96];
    Byte header[8];
    const char *failure = receive(connection, header, sizeof header);
    if (failure != NULL)
        return failure;
    uint32_t code = number_at(header), size = number_at(header + 4);
    if (code > MAX_EXIT_CODE || size > MAX_REPLY) {
        (void)snprintf(problem, sizeof problem, "exit code %u or length %u is out of range", code, size);
        return problem;
    }
    *reply = (struct Reply){(int)code, received, size, NULL, 0};
    failure = receive(connection, received, size);
    if (failure == NULL)
        take_words(reply, connection);
    return failure;
}
