/*
 * virt-handler on a kernel that has no links of the kind "dummy".
 *
 * Hotplug of a NIC makes virt-handler add such a link to the pod, where it stands for the NIC's name and MAC. Here it
 * gets a bridge without ports in its place, which serves as well; all else is virt-handler's own. Installed in its
 * place, with the real one beside it as virt-handler.real.
 *
 * 1. The real one runs under a filter that reports what it is about to send on sockets. Reported, and not a request for
 *    a dummy: the kernel goes on with it. Else: we send the request with the kind changed, by the same socket, and
 *    answer with the length that was asked for.
 * 2. What it is about to receive is reported too: what the kernel says of such a link has the kind changed back. Else
 *    virt-handler gives up on all NICs of a VM as soon as it prepares a second one before the first is in use ("type
 *    collision").
 * 3. The filter needs CAP_SYS_ADMIN, and not no_new_privs, which would take the file capabilities from its children.
 * 4. Whatever ends us ends the real one; its exit status is ours; we pass SIGTERM and SIGINT on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

/* REPLIES: what virt-handler's netlink library has room for, which is how the filter knows it. */
enum { REPLIES = 65536, NO_FILTER = 125 };

static const char REAL[] = "/usr/bin/virt-handler.real";
static const char ASKED[] = "dummy", GIVEN[] = "bridge";

struct request {
    int socket; /* of the other process */
    uint64_t text, length, flags, address, address_length;
};

static void give_up(const char *what)
{
    perror(what);
    _exit(NO_FILTER);
}

/* -- the filter */

/* Report sendmsg, sendto where it has no address or netlink's and could be a request for a link, and recvfrom where
 * it could be netlink's (rules 1, 2). */
static int install_filter(void)
{
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(value, ahead) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, ahead)
#define IF(value, ahead) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, ahead, 0)
    struct sock_filter lines[] = {
        /* 0 */ LOAD(arch),
        /* 1 */ UNLESS(AUDIT_ARCH_X86_64, 11),
        /* 2 */ LOAD(nr),
        /* 3 */ IF(SYS_sendmsg, 10),
        /* 4 */ IF(SYS_recvfrom, 6),
        /* 5 */ UNLESS(SYS_sendto, 7),
        /* 6 */ LOAD(args[5]),
        /* 7 */ IF(0, 1),
        /* 8 */ UNLESS(sizeof(struct sockaddr_nl), 4),
        /* 9 */ LOAD(args[2]),
        /* 10 */ BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, NLMSG_LENGTH(sizeof(struct ifinfomsg)), 3, 2),
        /* 11 */ LOAD(args[2]),
        /* 12 */ IF(REPLIES, 1),
        /* 13 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        /* 14 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    struct sock_fprog program = {.len = sizeof lines / sizeof *lines, .filter = lines};

    /* Killable: Go interrupts its threads all the time, and would repeat what we have sent already. */
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
}

/* Be the real one. `report` tells the parent the listener's number, `go_on` waits until the parent has it. */
static void run(int report, int go_on, char **argv, pid_t parent, const sigset_t *before)
{
    char answer;
    int listener;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
        give_up("parent");
    listener = install_filter();
    if (listener < 0)
        give_up("seccomp");
    if (write(report, &listener, sizeof listener) != sizeof listener || read(go_on, &answer, 1) != 1)
        give_up("pipe");
    (void)close(listener);
    (void)sigprocmask(SIG_SETMASK, before, NULL);
    execv(REAL, argv);
    give_up(REAL);
}

/* -- requests */

static int peek(pid_t thread, uint64_t at, void *to, size_t length)
{
    struct iovec here = {to, length}, there = {(void *)(uintptr_t)at, length};

    return process_vm_readv(thread, &here, 1, &there, 1, 0) == (ssize_t)length;
}

static int poke(pid_t thread, uint64_t at, void *from, size_t length)
{
    struct iovec here = {from, length}, there = {(void *)(uintptr_t)at, length};

    return process_vm_writev(thread, &here, 1, &there, 1, 0) == (ssize_t)length;
}

/* What is about to be sent, if it is in one piece. */
static int read_request(const struct seccomp_notif *call, struct request *request)
{
    const __u64 *arguments = call->data.args;
    struct msghdr header;
    struct iovec piece;

    if (call->data.nr == SYS_sendto) {
        *request = (struct request){(int)arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                                    arguments[5]};
        return 1;
    }
    if (!peek((pid_t)call->pid, arguments[1], &header, sizeof header) || header.msg_iovlen != 1 ||
        header.msg_controllen || !peek((pid_t)call->pid, (uintptr_t)header.msg_iov, &piece, sizeof piece))
        return 0;
    *request = (struct request){(int)arguments[0], (uintptr_t)piece.iov_base, piece.iov_len, arguments[2],
                                (uintptr_t)header.msg_name, header.msg_namelen};
    return 1;
}

static struct rtattr *find(struct rtattr *at, size_t left, unsigned short type)
{
    for (; RTA_OK(at, left); at = RTA_NEXT(at, left))
        if ((at->rta_type & NLA_TYPE_MASK) == type)
            return at;
    return NULL;
}

/* The attributes of the link that a message tells of, or asks for; NULL if it is another one. */
static struct rtattr *link_attributes(struct nlmsghdr *head, size_t *length)
{
    if (head->nlmsg_type != RTM_NEWLINK || head->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
        return NULL;
    *length = IFLA_PAYLOAD(head);
    return IFLA_RTA(NLMSG_DATA(head));
}

static int is(const struct rtattr *text, const char *value)
{
    size_t length = strlen(value);

    return RTA_PAYLOAD(text) >= length && RTA_PAYLOAD(text) <= length + 1 &&
           memcmp(RTA_DATA(text), value, length) == 0;
}

/* Change the kind of a link from one to the other. Both take the same space, with or without the zero at the end:
 * attributes are a multiple of 4 long. */
static int change(struct rtattr *link, size_t length, const char *from, const char *to)
{
    struct rtattr *info = find(link, length, IFLA_LINKINFO);
    struct rtattr *kind = info ? find(RTA_DATA(info), RTA_PAYLOAD(info), IFLA_INFO_KIND) : NULL;
    size_t zero;

    if (!kind || !is(kind, from))
        return 0;
    zero = RTA_PAYLOAD(kind) - strlen(from);
    memcpy(RTA_DATA(kind), to, strlen(to) + zero);
    kind->rta_len = (unsigned short)RTA_LENGTH(strlen(to) + zero);
    return 1;
}

/* Whether that is the name of a placeholder: "pod" and 11 digits of a hash. KubeVirt names no bridge like this. */
static int is_placeholder(struct rtattr *link, size_t length)
{
    struct rtattr *name = find(link, length, IFLA_IFNAME);

    return name && RTA_PAYLOAD(name) == 3 + 11 + 1 && memcmp(RTA_DATA(name), "pod", 3) == 0;
}

static int change_request(char *text, size_t length)
{
    struct nlmsghdr *head = (struct nlmsghdr *)text;
    struct rtattr *link = NLMSG_OK(head, length) ? link_attributes(head, &length) : NULL;

    return link && change(link, length, ASKED, GIVEN);
}

static void change_replies(char *text, size_t left)
{
    struct nlmsghdr *head = (struct nlmsghdr *)text;
    struct rtattr *link;
    size_t length = 0;

    for (; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
        link = link_attributes(head, &length);
        if (link && is_placeholder(link, length))
            (void)change(link, length, GIVEN, ASKED);
    }
}

/* The process of a thread, which is what has open files. */
static pid_t process_of(pid_t thread)
{
    char path[64], line[256];
    int found = 0;
    FILE *status;

    (void)snprintf(path, sizeof path, "/proc/%d/status", thread);
    status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Tgid: %d", &found) == 1)
            break;
    if (status)
        (void)fclose(status);
    return found;
}

/* The same socket, as ours. */
static int socket_of(pid_t thread, int number)
{
    int process = (int)syscall(SYS_pidfd_open, process_of(thread), 0);
    int ours = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, number, 0);

    if (process >= 0)
        (void)close(process);
    return ours;
}

/* Send by the socket of that process; return the length, or what went wrong as a negative number. */
static long send_as(pid_t thread, const struct request *request, const char *text)
{
    char address[sizeof(struct sockaddr_nl)];
    long sent;
    int ours;

    if (request->address_length > sizeof address ||
        (request->address_length && !peek(thread, request->address, address, request->address_length)))
        return -EFAULT;
    ours = socket_of(thread, request->socket);
    if (ours < 0)
        return -EBADF;
    sent = sendto(ours, text, request->length, (int)request->flags,
                  request->address_length ? (const struct sockaddr *)address : NULL,
                  (socklen_t)request->address_length);
    sent = sent < 0 ? -errno : (long)request->length;
    (void)close(ours);
    return sent;
}

static int is_route_socket(int socket)
{
    int domain = 0, protocol = 0;
    socklen_t length = sizeof domain;

    return !getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) && domain == AF_NETLINK &&
           !getsockopt(socket, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) && protocol == NETLINK_ROUTE;
}

/* Receive for that process what is there already: the kernel answers a request before it returns from it. Return the
 * length, what went wrong as a negative number, or 0 if the kernel is to go on with it. */
static long receive_for(pid_t thread, const __u64 *arguments, char *text)
{
    struct sockaddr_nl address;
    socklen_t length = sizeof address;
    int ours = socket_of(thread, (int)arguments[0]);
    long got = 0;

    if (ours < 0)
        return 0;
    if (is_route_socket(ours))
        got = recvfrom(ours, text, REPLIES, (int)arguments[3] | MSG_DONTWAIT, (struct sockaddr *)&address, &length);
    (void)close(ours);
    if (got <= 0)
        return 0;
    change_replies(text, (size_t)got);
    if (!poke(thread, arguments[1], text, (size_t)got) ||
        (arguments[4] && (!poke(thread, arguments[4], &address, length) ||
                          !poke(thread, arguments[5], &length, sizeof length))))
        return -EFAULT;
    return got;
}

/* Do in its place what it is about to send; as above. */
static long send_for(const struct seccomp_notif *call, char *text)
{
    pid_t thread = (pid_t)call->pid;
    struct request request;
    long sent;

    if (!read_request(call, &request) || request.length > REPLIES ||
        !peek(thread, request.text, text, request.length) || !change_request(text, request.length))
        return 0;
    sent = send_as(thread, &request, text);
    (void)fprintf(stderr, "a bridge in place of a dummy: %s\n", sent < 0 ? strerror((int)-sent) : "sent");
    return sent;
}

/* Decide about one call (rules 1, 2). */
static void answer(int listener)
{
    static char text[REPLIES];
    struct seccomp_notif call = {0};
    struct seccomp_notif_resp response = {0};
    long done;

    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
        return; /* it has gone in the meantime */
    response.id = call.id;
    if (call.data.nr == SYS_recvfrom)
        done = receive_for((pid_t)call.pid, call.data.args, text);
    else
        done = send_for(&call, text);
    if (done > 0)
        response.val = done;
    else if (done < 0)
        response.error = (int)done;
    else
        response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* -- its life */

/* Reap all that has ended; return whether the real one is among them, and then its exit status. */
static int has_ended(pid_t real, int *code)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == real) {
            *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            return 1;
        }
    return 0;
}

static int serve(int listener, int signals, pid_t real)
{
    struct pollfd ready[] = {{.fd = listener, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    int code = NO_FILTER;

    for (;;) {
        struct signalfd_siginfo got;

        if (poll(ready, 2, -1) < 0 && errno != EINTR)
            give_up("poll");
        if (ready[0].revents & POLLIN)
            answer(listener);
        else if (ready[0].revents)
            ready[0].fd = -1; /* nobody is left whom it filters */
        if (!(ready[1].revents & POLLIN) || read(signals, &got, sizeof got) != sizeof got)
            continue;
        if (got.ssi_signo != SIGCHLD)
            (void)kill(real, (int)got.ssi_signo);
        else if (has_ended(real, &code))
            return code;
    }
}

int main(int argc, char **argv)
{
    int numbers[2], gate[2], number, process, listener, signals;
    pid_t me = getpid(), real;
    sigset_t ours, before;

    (void)argc;
    (void)sigemptyset(&ours);
    (void)sigaddset(&ours, SIGCHLD);
    (void)sigaddset(&ours, SIGTERM);
    (void)sigaddset(&ours, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &ours, &before);
    if (pipe2(numbers, O_CLOEXEC) || pipe2(gate, O_CLOEXEC))
        give_up("pipe");
    signals = signalfd(-1, &ours, SFD_CLOEXEC);
    real = fork();
    if (real < 0 || signals < 0)
        give_up("fork");
    if (real == 0)
        run(numbers[1], gate[0], argv, me, &before);
    (void)close(numbers[1]);
    if (read(numbers[0], &number, sizeof number) != sizeof number)
        give_up("filter");
    /* not sent by a socket: the filter is on, and waits for us */
    process = (int)syscall(SYS_pidfd_open, real, 0);
    listener = (int)syscall(SYS_pidfd_getfd, process, number, 0);
    if (listener < 0 || fcntl(listener, F_SETFD, FD_CLOEXEC) || write(gate[1], "!", 1) != 1)
        give_up("listener");
    (void)close(process);
    return serve(listener, signals, real);
}
