/* Who serves the call: the node's agent on its socket, or `hotnic-standalone`, started for this one call. */

#ifndef HOTNIC_PEER_H
#define HOTNIC_PEER_H

#include <limits.h>

#include "config.h"

struct Peer {
    bool is_standalone;
    char run_dir[PATH_MAX];      /* of an agent */
    char program[PATH_MAX + 32]; /* that was started; empty while there is none */
    int connection;
    int child;
};

enum { PEER_TEXT = PATH_MAX + 160 };

/* Connect to the agent, or start the program. False, and why in `problem`, where that cannot be. */
bool peer_reach(struct Peer *peer, char problem[PEER_TEXT]);

/* Say in `problem` why a peer that was reached gave no reply. */
void peer_blame(const struct Peer *peer, const char *why, char problem[PEER_TEXT]);

/* Hang up; wait for a program, in time, since who executed us may wait for all that shares our stderr. */
void peer_part(struct Peer *peer);

#endif
