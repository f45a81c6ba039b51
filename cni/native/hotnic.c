/* The executable `hotnic`: forwards one CNI call to the node's agent, and prints what that answers.

   It does what cni/forward.py does, rule by rule, which is the form of it for a node of another architecture; the same
   tests hold for both. There is no recursion, no memory is allocated, and all that comes from outside is bounded. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "peer.h"
#include "request.h"
#include "tombstone.h"

#define VERSIONS "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"
#define CURRENT "1.1.0"

enum Milliseconds {
    ADD_DEADLINE = 30000,
    VERSION_DEADLINE = 2000,
    DEADLINE = 20000,
    BURIAL_DEADLINE = 5000,
    TELLING_DEADLINE = 2000,
};

enum Code { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, INVALID_CONFIG = 7, TRY_AGAIN = 11, NOT_AVAILABLE = 50 };

enum {
    SHOWN = 80,        /* characters of a wrong value */
    LONGEST_PATH = 4000, /* bytes; with a name behind it, it is still one for the kernel */
};

struct Failure {
    enum Code code;
    char text[2 * PEER_TEXT];
};

static Byte input[MAX_STDIN + 1];
static const char *const supported[] = {VERSIONS};

/* what goes to stdout */

struct Output {
    char bytes[4096];
    size_t size;
    bool is_broken;
};

static void flush(struct Output *output)
{
    output->is_broken = output->is_broken || !clock_write(STDOUT_FILENO, output->bytes, output->size);
    output->size = 0;
}

static void put(struct Output *output, const char *bytes, size_t size)
{
    if (sizeof output->bytes - output->size < size)
        flush(output);
    memcpy(output->bytes + output->size, bytes, size); /* of all that is put, none is larger than what it holds */
    output->size += size;
}

static void put_text(struct Output *output, const char *text)
{
    put(output, text, strlen(text));
}

static void put_code_point(struct Output *output, uint32_t code_point)
{
    char escaped[12];
    put(output, escaped, json_escape(code_point, escaped));
}

static void put_string(struct Output *output, const char *text)
{
    const Byte *at = (const Byte *)text, *end = at + strlen(text);
    put_text(output, "\"");
    while (at < end) {
        uint32_t code_point = utf8_next(&at, end);
        put_code_point(output, code_point == NO_CODE_POINT ? 0xFFFD : code_point);
    }
    put_text(output, "\"");
}

/* Put the version that the request states, or the current one. */
static void put_version(struct Output *output, const struct Value *stated)
{
    if (stated->kind != STRING || stated->start == stated->end) {
        put_string(output, CURRENT);
        return;
    }
    const Byte *at = stated->start;
    put_text(output, "\"");
    while (at < stated->end)
        put_code_point(output, json_next(&at, stated->end));
    put_text(output, "\"");
}

static int fail(const struct Failure *failure, const struct Config *config)
{
    struct Output output = {.size = 0};
    char code[32];
    clock_start(TELLING_DEADLINE);
    (void)snprintf(code, sizeof code, ", \"code\": %d, \"msg\": ", (int)failure->code);
    put_text(&output, "{\"cniVersion\": ");
    put_version(&output, &config->cni_version);
    put_text(&output, code);
    put_string(&output, failure->text);
    put_text(&output, "}");
    flush(&output);
    return 1;
}

__attribute__((format(printf, 3, 4)))
static bool because(struct Failure *failure, enum Code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    failure->code = code;
    (void)vsnprintf(failure->text, sizeof failure->text, format, arguments);
    va_end(arguments);
    return false;
}

/* what comes on stdin */

static bool read_input(size_t *size, struct Failure *failure)
{
    ssize_t count = 1;
    for (*size = 0; count != 0 && *size <= MAX_STDIN;) {
        count = clock_is_over() ? (errno = EINTR, -1) : read(STDIN_FILENO, input + *size, sizeof input - *size);
        if (count < 0 && !clock_allows_retry())
            return because(failure, IO_FAILURE, "cannot read the network configuration: %s", clock_problem());
        if (count > 0)
            *size += (size_t)count;
    }
    if (*size > MAX_STDIN)
        return because(failure, INVALID_CONFIG, "network configuration is larger than %d bytes", MAX_STDIN);
    return true;
}

static const char *kind_of(const struct Value *value)
{
    switch (value->kind) {
    case NUMBER: return "a number";
    case BOOLEAN: return "a boolean";
    case LIST: return "a list";
    case OBJECT: return "an object";
    default: return "nothing";
    }
}

/* Write the start of a value as JSON, or what kind it is of. */
static const char *shown(const struct Value *value, char text[SHOWN + 12])
{
    size_t size = 1;
    if (value->kind != STRING)
        return kind_of(value);
    text[0] = '"';
    for (const Byte *at = value->start; at < value->end && size < SHOWN;)
        size += json_escape(json_next(&at, value->end), text + size);
    text[size++] = '"';
    text[size < SHOWN ? size : SHOWN] = 0;
    return text;
}

/* Decode a path; false where it is relative, holds NUL, or is too long. */
static bool take_path(const struct Value *value, char path[PATH_MAX])
{
    size_t size = 0;
    if (value->kind != STRING)
        return false;
    for (const Byte *at = value->start; at < value->end;) {
        uint32_t code_point = json_next(&at, value->end);
        if (code_point == 0 || size > LONGEST_PATH)
            return false;
        size += utf8_encode(code_point, path + size);
    }
    path[size] = 0;
    return path[0] == '/' && size <= LONGEST_PATH;
}

static bool find_peer(const struct Config *config, struct Peer *peer, struct Failure *failure)
{
    char text[SHOWN + 12];
    const struct Value *agent = &config->agent, *run_dir = &config->run_dir;
    peer->program[0] = 0;
    peer->is_standalone = agent->kind != ABSENT;
    if (peer->is_standalone) {
        if (value_is(agent, "none"))
            return true;
        return because(failure, INVALID_CONFIG, "agent is %s, which is not known: it can be \"none\"", shown(agent, text));
    }
    (void)strcpy(peer->run_dir, RUN_DIR);
    if (run_dir->kind == ABSENT || value_is(run_dir, "") || take_path(run_dir, peer->run_dir))
        return true;
    return because(failure, INVALID_CONFIG, "runDir is %s, which is not an absolute path", shown(run_dir, text));
}

/* the call */

/* Return exit code and stdout of whoever served the call; false, and why in `problem`, where nobody did. */
static bool ask(struct Peer *peer, const struct Request *request, struct Reply *reply, char problem[PEER_TEXT])
{
    char silent[64];
    if (!peer_reach(peer, problem))
        return false;
    request_send(request, peer->connection);
    const char *why = reply_receive(reply, peer->connection);
    if (why == NULL && reply->exit_code != 0 && reply->size == 0) {
        (void)snprintf(silent, sizeof silent, "failed with code %d, but does not say why", reply->exit_code);
        why = silent;
    }
    if (why != NULL)
        peer_blame(peer, why, problem);
    peer_part(peer);
    return why == NULL;
}

/* Put a DEL down for the agent's next start. */
static bool keep(const struct Peer *peer, const struct Request *request, const char *reason, struct Failure *failure)
{
    static struct Tombstone tombstone;
    static char note[2 * PEER_TEXT];
    clock_start(BURIAL_DEADLINE);
    const char *why = tombstone_write(&tombstone, peer->run_dir, request);
    if (why != NULL)
        return because(failure, TRY_AGAIN, "%s; DEL cannot be kept for later in %s: %s", reason, tombstone.folder, why);
    (void)snprintf(note, sizeof note, "%s; DEL is kept for later in %s\n", reason, tombstone.path);
    (void)clock_write(STDERR_FILENO, note, strlen(note));
    return true;
}

/* Whether an ADD that nobody serves is no failure: the device `networks` makes nothing that a pod cannot start without. */
static bool passes_on(const char *command, const struct Config *config)
{
    return strcmp(command, "ADD") == 0 && value_is(&config->device, "networks") && value_is_unset(&config->require) &&
           config->previous.kind == OBJECT;
}

static bool forward(const char *command, size_t size, const struct Config *config, struct Peer *peer,
                    struct Reply *reply, struct Failure *failure)
{
    static char problem[PEER_TEXT];
    struct Request request;
    if (!request_make(&request, command, input, size))
        return because(failure, INVALID_ENVIRONMENT,
                       "cannot pass on the CNI_* variables: environment of %zu and stdin of %zu bytes are too large",
                       request.environment_size, request.stdin_size);
    if (ask(peer, &request, reply, problem))
        return true;
    *reply = (struct Reply){0, NULL, 0, NULL, 0};
    if (strcmp(command, "DEL") == 0 && !peer->is_standalone)
        return keep(peer, &request, problem, failure);
    if (passes_on(command, config)) {
        const struct Value *previous = &config->previous;
        *reply = (struct Reply){0, previous->start, (size_t)(previous->end - previous->start), NULL, 0};
        clock_start(TELLING_DEADLINE);
        return true;
    }
    return because(failure, strcmp(command, "STATUS") == 0 ? NOT_AVAILABLE : TRY_AGAIN, "%s", problem);
}

/* Take an ADD back whose result nobody got. The runtime should do it, but one that is gone cannot. */
static void undo(const struct Config *config, struct Peer *peer, size_t size, struct Failure *failure)
{
    struct Reply reply;
    clock_start(DEADLINE);
    (void)forward("DEL", size, config, peer, &reply, failure); /* the exit code tells already that the ADD failed */
}

static int serve(const char *command)
{
    static struct Failure failure;
    static struct Peer peer;
    struct Config config = {0};
    struct Reply reply;
    size_t size;

    if (!read_input(&size, &failure))
        return fail(&failure, &config);
    config = config_read(input, size);
    if (!find_peer(&config, &peer, &failure) || !forward(command, size, &config, &peer, &reply, &failure))
        return fail(&failure, &config);
    bool is_told = clock_write(STDOUT_FILENO, reply.stdout_, reply.size);
    (void)clock_write(STDERR_FILENO, reply.words, reply.words_size);
    if (is_told)
        return reply.exit_code;
    if (strcmp(command, "ADD") == 0 && reply.exit_code == 0)
        undo(&config, &peer, size, &failure);
    return 1;
}

/* VERSION is answered whatever comes on stdin, and if that never ends. */
static int answer_version(void)
{
    static struct Failure ignored;
    struct Output output = {.size = 0};
    struct Config config = {0};
    size_t size;

    if (read_input(&size, &ignored))
        config = config_read(input, size);
    clock_start(TELLING_DEADLINE);
    put_text(&output, "{\"cniVersion\": ");
    put_version(&output, &config.cni_version);
    for (size_t i = 0; i < sizeof supported / sizeof *supported; i++) {
        put_text(&output, i == 0 ? ", \"supportedVersions\": [" : ", ");
        put_string(&output, supported[i]);
    }
    put_text(&output, "]}");
    flush(&output);
    return output.is_broken ? 1 : 0;
}

static int introduce(void)
{
    static const char about[] = "hotnic: a CNI plugin that passes its calls on to the hotnic agent of this node\n"
                                "CNI protocol versions supported: ";
    char line[256] = "";
    for (size_t i = 0; i < sizeof supported / sizeof *supported; i++) {
        if (i > 0)
            (void)strcat(line, ", ");
        (void)strcat(line, supported[i]);
    }
    (void)strcat(line, "\n");
    clock_start(TELLING_DEADLINE);
    if (clock_write(STDERR_FILENO, about, sizeof about - 1))
        (void)clock_write(STDERR_FILENO, line, strlen(line));
    return 0;
}

/* Put /dev/null where a standard stream is closed, lest the agent's connection becomes stdout. It is open for reading
   only, so that writing to it still fails. */
static void occupy_standard_descriptors(void)
{
    int descriptor;
    do
        descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC);
    while (descriptor >= 0 && descriptor <= STDERR_FILENO);
    if (descriptor >= 0)
        (void)close(descriptor);
}

static int deadline_of(const char *command)
{
    return strcmp(command, "ADD") == 0 ? ADD_DEADLINE : strcmp(command, "VERSION") == 0 ? VERSION_DEADLINE : DEADLINE;
}

int main(void)
{
    const char *command = getenv("CNI_COMMAND");
    occupy_standard_descriptors();
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that is gone is an error like any other, and so is a full file */
    (void)signal(SIGXFSZ, SIG_IGN);
    if (command == NULL || *command == 0)
        return introduce();
    clock_start(deadline_of(command));
    return strcmp(command, "VERSION") == 0 ? answer_version() : serve(command);
}
