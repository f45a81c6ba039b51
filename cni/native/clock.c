#include "clock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { TICK_MICROSECONDS = 100000 };

static volatile sig_atomic_t is_over;
static int given_milliseconds;

static void ring(int number)
{
    (void)number;
    is_over = 1;
}

void clock_start(int milliseconds)
{
    struct sigaction action = {.sa_handler = ring}; /* no SA_RESTART: what waits is to end */
    struct itimerval timer = {
        /* the ticks: a signal that comes just before a system call does not interrupt that */
        .it_interval = {.tv_usec = TICK_MICROSECONDS},
        .it_value = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000},
    };
    sigset_t alarm;

    /* What may still ring for the time before is ended first. */
    (void)setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    (void)sigaction(SIGALRM, &action, NULL);
    (void)sigemptyset(&alarm);
    (void)sigaddset(&alarm, SIGALRM);
    (void)sigprocmask(SIG_UNBLOCK, &alarm, NULL);
    given_milliseconds = milliseconds;
    is_over = 0;
    (void)setitimer(ITIMER_REAL, &timer, NULL);
}

bool clock_is_over(void)
{
    return is_over != 0;
}

const char *clock_problem(void)
{
    static char text[64];
    int number = errno;
    if (!clock_is_over())
        return strerror(number);
    (void)snprintf(text, sizeof text, "nothing came within %d s", given_milliseconds / 1000);
    return text;
}

bool clock_allows_retry(void)
{
    return errno == EINTR && !clock_is_over();
}

bool clock_write(int descriptor, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t written = clock_is_over() ? (errno = EINTR, -1) : write(descriptor, at, size);
        if (written < 0 && !clock_allows_retry())
            return false;
        if (written > 0) {
            at += written;
            size -= (size_t)written;
        }
    }
    return true;
}
