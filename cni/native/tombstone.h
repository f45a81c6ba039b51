/* A DEL that no agent took, kept for the agent's next start. */

#ifndef HOTNIC_TOMBSTONE_H
#define HOTNIC_TOMBSTONE_H

#include <limits.h>

#include "request.h"

#define RUN_DIR "/run/hotnic"

struct Tombstone {
    char folder[PATH_MAX + 16];
    char path[PATH_MAX + 80];
};

/* Write a tombstone that is there as a whole or not at all, and outlives a crash of this node's kernel.
   Return NULL, or why that cannot be. */
const char *tombstone_write(struct Tombstone *tombstone, const char *run_dir, const struct Request *request);

#endif
