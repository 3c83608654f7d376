/*
 * The control connection of colo-guest: one command line in, one reply line out, in order.
 *
 * In:  lines on TCP 7001; numbers are checked here, the workers trust them.
 * Out: replies; forked workers; the two endless loads (scribble, diskload), at most one of each.
 */
#define _GNU_SOURCE
#include "guest.h"
#include "workers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t scribble_pid, diskload_pid;
static struct diskload_state *diskload;

int start_control(void)
{
    diskload = mmap(NULL, sizeof *diskload, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return diskload == MAP_FAILED ? -1 : 0;
}

void reap_children(void)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
        if (pid == scribble_pid)
            scribble_pid = 0;
        if (pid == diskload_pid)
            diskload_pid = 0;
    }
}

static void stop_child(pid_t *pid)
{
    if (*pid > 0) {
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
    }
    *pid = 0;
}

/* Closes what a child must not hold: a connection ends when the daemon closes it. */
static void become_child(void)
{
    for (int i = 0; i < slot_end; i++)
        if (slots[i].kind != FREE)
            close(slots[i].fd);
    signal(SIGPIPE, SIG_DFL);
}

/* Forks a worker for `client`. Returns the reply pipe in the child and -1 in the daemon. */
static int fork_worker(struct slot *client)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        reply(client, "error pipe: %s\n", strerror(errno));
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        become_child();
        fcntl(fds[1], F_SETFL, 0);
        return fds[1];
    }
    close(fds[1]);
    struct slot *s = pid < 0 ? NULL : take_slot(WORKER, fds[0]);
    if (s == NULL) {
        if (pid < 0)
            close(fds[0]);
        reply(client, "error the worker can't be started\n");
        return -1;
    }
    s->client = (int)(client - slots);
    client->busy = 1;
    return -1;
}

void read_worker(struct slot *s)
{
    char bytes[65536];
    ssize_t size = read(s->fd, bytes, sizeof bytes);
    if (size < 0 && errno == EAGAIN)
        return;
    struct slot *client = s->client >= 0 ? &slots[s->client] : NULL;
    if (size > 0) {
        s->replied = 1;
        if (client != NULL)
            queue(client, bytes, (size_t)size);
        return;
    }
    if (client != NULL) {
        if (!s->replied)
            reply(client, "error the worker died\n");
        client->busy = 0;
    }
    release_slot(s);
}

static void start_scribble(struct slot *s, unsigned rate, unsigned size)
{
    stop_child(&scribble_pid);
    if ((scribble_pid = fork()) == 0) {
        become_child();
        work_scribble(rate, size);
    }
    reply(s, scribble_pid > 0 ? "ok\n" : "error fork\n");
}

static void start_diskload(struct slot *s, unsigned rate)
{
    stop_child(&diskload_pid);
    if ((diskload_pid = fork()) == 0) {
        become_child();
        work_diskload(rate, diskload);
        _exit(0);
    }
    reply(s, diskload_pid > 0 ? "ok\n" : "error fork\n");
}

static int run_diskload(struct slot *s, const char *line)
{
    unsigned rate;
    int fd;
    if (strcmp(line, "diskload off") == 0) {
        stop_child(&diskload_pid);
        reply(s, "ok synced=%llu\n", diskload->synced);
    } else if (strcmp(line, "diskload status") == 0) {
        reply(s, "ok synced=%llu\n", diskload->synced);
    } else if (strcmp(line, "diskload verify") == 0) {
        if ((fd = fork_worker(s)) >= 0)
            work_diskload_verify(fd);
    } else if (sscanf(line, "diskload %u", &rate) == 1 && rate >= 1 && rate <= 1000) {
        start_diskload(s, rate);
    } else {
        return 0;
    }
    return 1;
}

static int run_load(struct slot *s, const char *line)
{
    unsigned a, b;
    int fd;
    if (strcmp(line, "scribble off") == 0) {
        stop_child(&scribble_pid);
        reply(s, "ok\n");
    } else if (sscanf(line, "scribble %u %u", &a, &b) == 2 && a >= 1 && a <= 10000 && b >= 1 && b <= 1024) {
        start_scribble(s, a, b);
    } else if (sscanf(line, "burst %u", &a) == 1 && a >= 1 && a <= 1024) {
        if ((fd = fork_worker(s)) >= 0)
            work_burst(fd, a);
    } else if (sscanf(line, "disk rand %u %u", &a, &b) == 2 && a >= 1 && a <= 600 && b >= 1 && b <= 64) {
        if ((fd = fork_worker(s)) >= 0)
            work_disk(fd, 1, a, b);
    } else if (sscanf(line, "disk seq %u", &a) == 1 && a >= 1 && a <= 600) {
        if ((fd = fork_worker(s)) >= 0)
            work_disk(fd, 0, a, 2);
    } else {
        return 0;
    }
    return 1;
}

static struct slot *take_dialling(struct slot *client, enum kind kind, int fd)
{
    if (fd < 0) {
        reply(client, errno == EINVAL ? "error dial needs a numeric address\n" : "error connect: %s\n",
              strerror(errno));
        return NULL;
    }
    struct slot *s = take_slot(kind, fd);
    if (s == NULL)
        reply(client, "error too many connections\n");
    else
        s->connecting = 1;
    return s;
}

static void dial(struct slot *client, const char *host, const char *port)
{
    struct slot *s = take_dialling(client, STREAM, dial_socket(host, (unsigned)atoi(port), 0));
    if (s == NULL)
        return;
    memset(&dial_report, 0, sizeof dial_report);
    s->dialled = 1;
    s->client = (int)(client - slots);
    client->busy = 1;
}

static int run_dialogue(struct slot *s, const char *line)
{
    unsigned long long id;
    unsigned port, source_port;
    char host[64];
    const struct dialogue_totals *t = &dialogue_totals;
    if (sscanf(line, "converse %llu %63s %u %u", &id, host, &port, &source_port) == 4
        && port >= 1 && port <= 65535 && source_port <= 65535) {
        struct slot *asker = take_dialling(s, ASKER, dial_socket(host, port, source_port));
        if (asker != NULL) {
            start_asker(asker, id);
            reply(s, "ok\n");
        }
    } else if (strcmp(line, "conversations") == 0) {
        reply(s, "ok accepted=%llu dialled=%llu open=%u lines=%llu wrong=%llu broken=%llu failed=%llu\n",
              (unsigned long long)t->accepted, (unsigned long long)t->dialled, open_dialogues(),
              (unsigned long long)t->lines, (unsigned long long)t->wrong, (unsigned long long)t->broken,
              (unsigned long long)t->failed);
    } else if (sscanf(line, "answered %llu", &id) == 1) {
        reply_answered(s, id);
    } else {
        return 0;
    }
    return 1;
}

static void run_command(struct slot *s, const char *line)
{
    char host[64], port[8];
    int fd;
    if (strcmp(line, "ping") == 0) {
        reply(s, "ok pong\n");
    } else if (strncmp(line, "exec ", 5) == 0) {
        if ((fd = fork_worker(s)) >= 0)
            work_exec(fd, line + 5);
    } else if (sscanf(line, "dial %63s %7s", host, port) == 2) {
        dial(s, host, port);
    } else if (strcmp(line, "dialled") == 0) {
        reply(s, "ok open=%d sent=%llu received=%llu gaps=%llu\n", dial_report.open,
              (unsigned long long)dial_report.sent, (unsigned long long)dial_report.received,
              (unsigned long long)dial_report.gaps);
    } else if (strcmp(line, "sync") == 0) {
        if ((fd = fork_worker(s)) >= 0)
            work_sync(fd);
    } else if (strcmp(line, "poweroff") == 0) {
        reply(s, "ok\n");
        flush(s);
        kill(1, SIGUSR2);
    } else if (!run_load(s, line) && !run_diskload(s, line) && !run_dialogue(s, line)) {
        reply(s, "error unknown command or number out of range: %.80s\n", line);
    }
}

void read_control(struct slot *s)
{
    char *end;
    ssize_t size = recv(s->fd, s->line + s->line_size, sizeof s->line - s->line_size, 0);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) {
        release_slot(s);
        return;
    }
    s->line_size += size > 0 ? (size_t)size : 0;
    end = memchr(s->line, '\n', s->line_size);
    if (end == NULL && s->line_size == sizeof s->line)
        release_slot(s);
}

/* Runs the complete lines of a control connection, one at a time. */
void run_lines(struct slot *s)
{
    char *end;
    while (s->kind == CONTROL && !s->busy && (end = memchr(s->line, '\n', s->line_size)) != NULL) {
        char line[LINE_MAX_BYTES];
        size_t length = (size_t)(end - s->line);
        memcpy(line, s->line, length);
        line[length] = '\0';
        if (length > 0 && line[length - 1] == '\r')
            line[length - 1] = '\0';
        s->line_size -= length + 1;
        memmove(s->line, end + 1, s->line_size);
        run_command(s, line);
    }
}
