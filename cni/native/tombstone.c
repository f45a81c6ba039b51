#include "tombstone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

/* Make a directory that may be there already. */
static bool make(const char *path, mode_t mode)
{
    return mkdir(path, mode) == 0 || errno == EEXIST;
}

/* The configuration may be a tenant's, and `runDir` is in it: only an agent makes such a place elsewhere. So nothing is
   written but into a directory that only its owner can enter, and that is ours. */
static bool is_private(const struct stat *status)
{
    return S_ISDIR(status->st_mode) && (status->st_mode & 077) == 0 && status->st_uid == geteuid();
}

static bool sync_folder(const char *path)
{
    int folder = open(path, O_RDONLY | O_CLOEXEC);
    return folder >= 0 && fsync(folder) == 0; /* the process ends soon, and closes it */
}

static bool write_whole(const char *temporary, const char *final, const struct Request *request)
{
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return false;
    if (request_write(request, file) && fsync(file) == 0 && rename(temporary, final) == 0)
        return true;
    int problem = errno;
    (void)unlink(temporary);
    errno = problem;
    return false;
}

const char *tombstone_write(struct Tombstone *tombstone, const char *run_dir, const struct Request *request)
{
    char temporary[sizeof tombstone->path];
    struct stat status;
    struct timespec now;

    (void)snprintf(tombstone->folder, sizeof tombstone->folder, "%s/tombstones", run_dir);
    if (strcmp(run_dir, RUN_DIR) == 0 && !(make(run_dir, 0755) && make(tombstone->folder, 0700)))
        return clock_problem();
    if (lstat(tombstone->folder, &status) != 0)
        return clock_problem();
    if (!is_private(&status))
        return "it is not an agent's directory";
    (void)clock_gettime(CLOCK_REALTIME, &now);
    long long nanoseconds = (long long)now.tv_sec * 1000000000 + now.tv_nsec;
    int length = snprintf(tombstone->path, sizeof tombstone->path, "%s/%lld-%d", tombstone->folder, nanoseconds, getpid());
    (void)snprintf(temporary, sizeof temporary, "%.*s.tmp", length, tombstone->path);
    (void)snprintf(tombstone->path + length, sizeof tombstone->path - (size_t)length, ".bin");
    if (!write_whole(temporary, tombstone->path, request) || !sync_folder(tombstone->folder))
        return clock_problem();
    return NULL;
}
