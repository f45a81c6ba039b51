/* The time that a call may take, and system calls that keep to it. */

#ifndef HOTNIC_CLOCK_H
#define HOTNIC_CLOCK_H

#include <stdbool.h>
#include <stddef.h>

/* From now on this much time is left, whatever was left before. Within it, a system call that waits is interrupted. */
void clock_start(int milliseconds);

bool clock_is_over(void);

/* Say why the last system call failed: the time is over, or errno. The text lasts until the next call of this. */
const char *clock_problem(void);

/* Whether a system call that failed was interrupted, and there is time to try again. */
bool clock_allows_retry(void);

/* Write all of it, in time; false, with errno, where that cannot be. */
bool clock_write(int descriptor, const void *data, size_t size);

#endif
