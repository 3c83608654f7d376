/*
 * colo-guest: the test services of the guest, one process, one poll loop. README.md is the contract.
 *
 *   TCP 7000 stream    numbered lines, one every 20 ms
 *   TCP 7001 control   one command line in, one reply line out
 *   TCP 7002 sink      discards until EOF, then answers the byte count
 *   TCP 7005 dialogue  answers numbered, checksummed lines (dialogue.c)
 *   UDP 7003 echo      answers the datagram (datagrams.c)
 *   UDP 7004 random    answers what two copies of this VM never agree on, and remembers it (datagrams.c)
 *
 * The idea: every connection is a slot in one table; nothing blocks. What takes time (workers.c) runs
 * in a forked child whose reply comes back through a pipe, which is a slot as well. The commands are in
 * control.c.
 * Invariant: a stream never skips or repeats a number; a full socket only delays the next line.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STREAM_INTERVAL_MS 20
#define SINK_BUFFER_BYTES (256u * 1024u)
#define PROBE_INTERVAL_NS 20000000L

struct slot slots[SLOT_COUNT];
int slot_end;
struct dial_report dial_report;
static struct pollfd polls[SLOT_COUNT];
static unsigned char sink_buffer[SINK_BUFFER_BYTES];

static void die(const char *what)
{
    dprintf(STDERR_FILENO, "colo-guest: %s: %s\n", what, strerror(errno));
    exit(1);
}

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* --- slots --- */

struct slot *take_slot(enum kind kind, int fd)
{
    for (int i = 0; i < SLOT_COUNT; i++) {
        if (slots[i].kind != FREE)
            continue;
        memset(&slots[i], 0, sizeof slots[i]);
        slots[i].kind = kind;
        slots[i].fd = fd;
        slots[i].client = -1;
        /* An event of the slot's last user is not ours. */
        polls[i].revents = 0;
        if (i >= slot_end)
            slot_end = i + 1;
        return &slots[i];
    }
    close(fd);
    return NULL;
}

void release_slot(struct slot *s)
{
    int index = (int)(s - slots);
    for (int i = 0; i < slot_end; i++)
        if (slots[i].kind != FREE && slots[i].client == index)
            slots[i].client = -1;
    if (s->dialled)
        dial_report.open = 0;
    close(s->fd);
    free(s->out);
    s->out = NULL;
    s->kind = FREE;
}

int queue(struct slot *s, const char *bytes, size_t size)
{
    char *grown = realloc(s->out, s->out_size + size);
    if (grown == NULL)
        return -1;
    memcpy(grown + s->out_size, bytes, size);
    s->out = grown;
    s->out_size += size;
    return 0;
}

/* Sends what is queued. Returns -1 when the connection is dead. */
int flush(struct slot *s)
{
    while (s->out_at < s->out_size) {
        ssize_t sent = send(s->fd, s->out + s->out_at, s->out_size - s->out_at, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -1;
        s->out_at += (size_t)sent;
    }
    s->out_at = s->out_size = 0;
    return 0;
}

void reply(struct slot *s, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (size > 0)
        queue(s, text, (size_t)size);
}

/* --- sockets --- */

static int listen_on(int type, int port)
{
    int fd = socket(AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1, off = 0;
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    if (type == SOCK_STREAM && listen(fd, 128) < 0)
        die("listen");
    return fd;
}

static void accept_all(struct slot *listener)
{
    static const enum kind accepted[] = {
        [LISTEN_STREAM] = STREAM, [LISTEN_CONTROL] = CONTROL, [LISTEN_SINK] = SINK,
        [LISTEN_DIALOGUE] = ANSWERER};
    int fd, on = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct slot *s = take_slot(accepted[listener->kind], fd);
        if (s == NULL)
            continue;
        s->due_ms = now_ms();
        if (s->kind == ANSWERER)
            dialogue_totals.accepted++;
    }
}

/* --- stream and dial --- */

/*
 * Queues the next line when it is due. One line is under way at a time: a slow reader delays us. The
 * line holds its time by plan, not the clock's: two copies of this VM must say the same.
 */
static void pace_stream(struct slot *s, int64_t now)
{
    if (s->connecting || s->out_size > 0 || now < s->due_ms)
        return;
    char text[64];
    unsigned long long number = s->next_number;
    int size = snprintf(text, sizeof text, "%llu %llu\n", number, number * STREAM_INTERVAL_MS);
    if (queue(s, text, (size_t)size) < 0)
        return;
    s->next_number++;
    if (s->dialled)
        dial_report.sent = s->next_number;
    s->due_ms = s->due_ms + STREAM_INTERVAL_MS > now ? s->due_ms + STREAM_INTERVAL_MS : now + STREAM_INTERVAL_MS;
}

static void finish_connect(struct slot *s)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (s->kind == ASKER) {
        finish_asker_connect(s, error);
        return;
    }
    if (s->client >= 0) {
        struct slot *client = &slots[s->client];
        client->busy = 0;
        if (error == 0)
            reply(client, "ok\n");
        else
            reply(client, "error connect: %s\n", strerror(error));
        s->client = -1;
    }
    if (error != 0) {
        release_slot(s);
        return;
    }
    s->connecting = 0;
    dial_report.open = 1;
    s->due_ms = now_ms();
}

static void check_dialled_line(struct slot *s)
{
    s->line[s->line_size] = '\0';
    if (strtoull(s->line, NULL, 10) != dial_report.received)
        dial_report.gaps++;
    dial_report.received++;
    s->line_size = 0;
}

static void read_stream(struct slot *s)
{
    char bytes[4096];
    ssize_t size = recv(s->fd, bytes, sizeof bytes, 0);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) {
        release_slot(s);
        return;
    }
    for (ssize_t i = 0; s->dialled && i < size; i++) {
        if (bytes[i] == '\n')
            check_dialled_line(s);
        else if (s->line_size < LINE_MAX_BYTES - 1)
            s->line[s->line_size++] = bytes[i];
    }
}

/* --- sink --- */

static void read_sink(struct slot *s)
{
    ssize_t size = recv(s->fd, sink_buffer, sizeof sink_buffer, 0);
    if (size > 0) {
        s->received += (uint64_t)size;
        return;
    }
    if (size < 0) {
        if (errno != EAGAIN && errno != EINTR)
            release_slot(s);
        return;
    }
    char text[32];
    int length = snprintf(text, sizeof text, "%llu\n", (unsigned long long)s->received);
    send(s->fd, text, (size_t)length, MSG_NOSIGNAL);
    release_slot(s);
}

int dial_socket(const char *host, unsigned port, unsigned source_port)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in6 from = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)source_port)};
    char mapped[80];
    snprintf(mapped, sizeof mapped, "::ffff:%s", host);
    if (inet_pton(AF_INET6, host, &to.sin6_addr) != 1 && inet_pton(AF_INET6, mapped, &to.sin6_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int on = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if ((source_port == 0 || bind(fd, (struct sockaddr *)&from, sizeof from) == 0)
        && (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS))
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* --- start and loop --- */

static int answers(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int connected = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return connected;
}

static void wait_for_services(void)
{
    struct timespec pause_time = {0, PROBE_INTERVAL_NS};
    static const int ports[] = {80, 443, 6379, 53, 22};
    for (size_t i = 0; i < sizeof ports / sizeof ports[0]; i++)
        while (!answers(ports[i]))
            nanosleep(&pause_time, NULL);
}

static void handle_event(struct slot *s, short revents)
{
    switch (s->kind) {
    case LISTEN_STREAM:
    case LISTEN_CONTROL:
    case LISTEN_SINK:
    case LISTEN_DIALOGUE:
        accept_all(s);
        return;
    case UDP_ECHO:
    case UDP_RANDOM:
        answer_datagrams(s);
        return;
    case STREAM:
        if (s->connecting)
            finish_connect(s);
        else if (revents & (POLLIN | POLLHUP | POLLERR))
            read_stream(s);
        return;
    case CONTROL:
        if (s->busy && (revents & (POLLHUP | POLLERR)))
            release_slot(s);
        else if (!s->busy && (revents & (POLLIN | POLLHUP | POLLERR)))
            read_control(s);
        return;
    case SINK:
        read_sink(s);
        return;
    case ASKER:
        if (s->connecting) {
            finish_connect(s);
            return;
        }
        /* fall through */
    case ANSWERER:
        if (revents & (POLLIN | POLLHUP | POLLERR))
            read_dialogue(s);
        return;
    case WORKER:
        read_worker(s);
        return;
    case FREE:
        return;
    }
}

/* Sends what is queued; a connection that is dead, or done, is released. */
static void flush_or_release(struct slot *s)
{
    if (s->connecting)
        return;
    if (flush(s) < 0) {
        if (s->kind == ANSWERER || s->kind == ASKER)
            dialogue_totals.broken++;
        release_slot(s);
    } else if (s->ending && s->out_size == 0) {
        release_slot(s);
    }
}

/* Whether a line waits for nothing but its time. */
static int is_paced(const struct slot *s)
{
    if (s->connecting || s->ending || s->out_size > 0)
        return 0;
    return s->kind == STREAM || (s->kind == ASKER && !s->waiting);
}

static short events_of(const struct slot *s)
{
    short events = (s->kind == CONTROL && s->busy) || s->ending ? 0 : POLLIN;
    return s->connecting || s->out_at < s->out_size ? events | POLLOUT : events;
}

/* Queues and sends what is due on every slot; returns the time to wait in ms, or -1. */
static int prepare(void)
{
    /* First all commands: they take slots, which must be in the table when it is polled. */
    for (int i = 0; i < slot_end; i++)
        run_lines(&slots[i]);
    int64_t now = now_ms(), wait_ms = -1;
    for (int i = 0; i < slot_end; i++) {
        struct slot *s = &slots[i];
        if (s->kind == STREAM)
            pace_stream(s, now);
        if (s->kind == ASKER)
            pace_asker(s, now);
        if (s->kind == STREAM || s->kind == CONTROL || s->kind == ANSWERER || s->kind == ASKER)
            flush_or_release(s);
        polls[i].fd = s->kind == FREE ? -1 : s->fd;
        polls[i].events = events_of(s);
        polls[i].revents = 0;
        if (is_paced(s)) {
            int64_t left = s->due_ms > now ? s->due_ms - now : 0;
            wait_ms = wait_ms < 0 || left < wait_ms ? left : wait_ms;
        }
    }
    return (int)wait_ms;
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    if (start_control() < 0)
        die("mmap");
    start_dialogues();
    take_slot(LISTEN_STREAM, listen_on(SOCK_STREAM, 7000));
    take_slot(LISTEN_CONTROL, listen_on(SOCK_STREAM, 7001));
    take_slot(LISTEN_SINK, listen_on(SOCK_STREAM, 7002));
    take_slot(LISTEN_DIALOGUE, listen_on(SOCK_STREAM, 7005));
    take_slot(UDP_ECHO, listen_on(SOCK_DGRAM, 7003));
    take_slot(UDP_RANDOM, listen_on(SOCK_DGRAM, 7004));
    wait_for_services();
    dprintf(STDERR_FILENO, "colo-guest ready\n");
    for (;;) {
        int wait_ms = prepare();
        if (poll(polls, (nfds_t)slot_end, wait_ms) < 0 && errno != EINTR)
            die("poll");
        for (int i = 0; i < slot_end; i++)
            if (polls[i].fd >= 0 && polls[i].revents != 0)
                handle_event(&slots[i], polls[i].revents);
        reap_children();
    }
}
