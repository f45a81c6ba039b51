#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define PROGRAM "hotnic-standalone"

enum { CALL_DESCRIPTOR = 3 };

static bool connect_agent(struct Peer *peer, char problem[PEER_TEXT])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *why = "AF_UNIX path too long";
    char path[PATH_MAX + 16];
    size_t length = (size_t)snprintf(path, sizeof path, "%s/cni.sock", peer->run_dir);
    if (length < sizeof address.sun_path) {
        memcpy(address.sun_path, path, length);
        peer->connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int done = -1;
        if (peer->connection >= 0)
            do
                done = connect(peer->connection, (const struct sockaddr *)&address, sizeof address);
            while (done < 0 && clock_allows_retry());
        if (done == 0)
            return true;
        why = clock_problem();
    }
    (void)snprintf(problem, PEER_TEXT, "hotnic agent: cannot connect to %s: %s", path, why);
    return false;
}

/* Look for the program in `size` bytes of directories, separated by colons; of them only absolute ones count. */
static bool find_in(struct Peer *peer, const char *directories)
{
    struct stat status;
    for (const char *at = directories; at != NULL;) {
        const char *colon = strchr(at, ':');
        size_t size = colon == NULL ? strlen(at) : (size_t)(colon - at);
        if (*at == '/' && size < PATH_MAX) {
            (void)snprintf(peer->program, sizeof peer->program, "%.*s/" PROGRAM, (int)size, at);
            if (stat(peer->program, &status) == 0 && S_ISREG(status.st_mode) && access(peer->program, X_OK) == 0)
                return true;
        }
        at = colon == NULL ? NULL : colon + 1;
    }
    peer->program[0] = 0;
    return false;
}

/* In the child, where neither end of the pair is descriptor 3: the other end was made first. stdout is stderr there: what the program says is no result. Only PATH is handed on, since the rest of
   the environment was meant for a CNI plugin, and not for an interpreter. */
static void become_program(const struct Peer *peer, int connection)
{
    char *arguments[] = {(char *)(uintptr_t)peer->program, NULL};
    char *environment[] = {NULL, NULL};
    char *path = getenv("PATH");
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (path != NULL)
        environment[0] = path - strlen("PATH="); /* it stands behind its name */
    if (dup2(nothing, 0) < 0 || dup2(2, 1) < 0 || dup2(connection, CALL_DESCRIPTOR) < 0 || chdir("/") < 0)
        _exit(127);
    (void)execve(peer->program, arguments, environment);
    _exit(127);
}

static bool start_program(struct Peer *peer, char problem[PEER_TEXT])
{
    int pair[2];
    const char *path = getenv("PATH");
    if (!(path != NULL && find_in(peer, path)) && !find_in(peer, "/usr/local/bin:/usr/bin:/opt/hotnic/bin")) {
        (void)snprintf(problem, PEER_TEXT, PROGRAM ": it is neither in PATH nor in /usr/local/bin, /usr/bin or /opt/hotnic/bin");
        return false;
    }
    peer->child = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0)
        peer->child = fork();
    if (peer->child == 0)
        become_program(peer, pair[1]);
    if (peer->child < 0) {
        (void)snprintf(problem, PEER_TEXT, PROGRAM ": cannot start %s: %s", peer->program, clock_problem());
        return false;
    }
    (void)close(pair[1]);
    peer->connection = pair[0];
    return true;
}

bool peer_reach(struct Peer *peer, char problem[PEER_TEXT])
{
    return peer->is_standalone ? start_program(peer, problem) : connect_agent(peer, problem);
}

void peer_blame(const struct Peer *peer, const char *why, char problem[PEER_TEXT])
{
    if (peer->is_standalone)
        (void)snprintf(problem, PEER_TEXT, PROGRAM ": no reply of %s: %s", peer->program, why);
    else
        (void)snprintf(problem, PEER_TEXT, "hotnic agent: no reply on %s/cni.sock: %s", peer->run_dir, why);
}

void peer_part(struct Peer *peer)
{
    int done;
    (void)close(peer->connection);
    if (!peer->is_standalone)
        return;
    do
        done = clock_is_over() ? -1 : waitpid(peer->child, NULL, 0);
    while (done < 0 && clock_allows_retry());
}
