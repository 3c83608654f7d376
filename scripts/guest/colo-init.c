/*
 * colo-init: process 1 of the test guest.
 *
 * In:  a mounted root disk, /dev from the initrd, the kernel's eth0.
 * Out: nginx, redis-server, dnsmasq, dropbear and colo-guest running; zombies reaped; an orderly power-off on
 *      SIGUSR2, SIGTERM or SIGINT (the last is Ctrl-Alt-Del).
 *
 * The idea: as few processes and as little work as possible, because under TCG each exec costs tens
 * of milliseconds. Network set-up is one `ip -batch`; kernel settings are plain writes. A service
 * that dies is reported on the console and not restarted: a test must see it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How long services may take to end before they are killed; redis with appendfsync needs far less. */
#define STOP_DEADLINE_MS 5000

struct service {
    const char *name;
    char *const *argv;
    pid_t pid;
};

static char *const redis_argv[] = {"/usr/bin/redis-server", "/etc/colo/redis.conf", NULL};
static char *const nginx_argv[] = {"/usr/sbin/nginx", "-c", "/etc/colo/nginx.conf", NULL};
static char *const dnsmasq_argv[] = {"/usr/sbin/dnsmasq", "-C", "/etc/colo/dnsmasq.conf", NULL};
static char *const dropbear_argv[] = {
    "/usr/sbin/dropbear", "-F", "-s", "-r", "/etc/colo/ssh-host-key", "-P", "/run/dropbear.pid", NULL};
static char *const guest_argv[] = {"/sbin/colo-guest", NULL};

/* The slowest to start comes first. */
static struct service services[] = {
    {"redis", redis_argv, 0},
    {"nginx", nginx_argv, 0},
    {"dnsmasq", dnsmasq_argv, 0},
    {"dropbear", dropbear_argv, 0},
    {"colo-guest", guest_argv, 0},
};
#define SERVICE_COUNT (sizeof services / sizeof services[0])

static void say(const char *what, const char *detail)
{
    dprintf(STDERR_FILENO, "colo-init: %s%s%s\n", what, detail[0] ? ": " : "", detail);
}

static void mount_or_say(const char *type, const char *dir, const char *options)
{
    mkdir(dir, 0755);
    /* EBUSY: the kernel or the initrd mounted it already. */
    if (mount(type, dir, type, MS_NOSUID, options) < 0 && errno != EBUSY)
        say(dir, strerror(errno));
}

static void set_kernel(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        say(path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static pid_t spawn(char *const *argv)
{
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        setsid();
        execv(argv[0], argv);
        say(argv[0], strerror(errno));
        _exit(127);
    }
    if (pid < 0)
        say(argv[0], strerror(errno));
    return pid;
}

static void set_up(void)
{
    char *const ip_argv[] = {"/sbin/ip", "-force", "-batch", "/etc/colo/net", NULL};

    mount_or_say("proc", "/proc", "");
    mount_or_say("sysfs", "/sys", "");
    mount_or_say("devtmpfs", "/dev", "");
    mount_or_say("devpts", "/dev/pts", "");
    mount_or_say("tmpfs", "/run", "mode=755,size=16m");
    mount_or_say("tmpfs", "/tmp", "mode=1777,size=32m");
    if (sethostname("colo-guest", 10) < 0)
        say("sethostname", strerror(errno));
    /* No duplicate address detection: the address must serve at once, and both VMs have it. */
    set_kernel("/proc/sys/net/ipv6/conf/all/accept_dad", "0");
    set_kernel("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    set_kernel("/proc/sys/net/ipv6/conf/all/accept_ra", "0");
    set_kernel("/proc/sys/net/ipv6/conf/default/accept_ra", "0");
    set_kernel("/proc/sys/vm/overcommit_memory", "1");
    set_kernel("/proc/sys/net/core/somaxconn", "1024");

    pid_t pid = spawn(ip_argv);
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, 0) == pid && status != 0)
        say("ip", "some network settings failed");
}

static void report_end(pid_t pid, int status)
{
    for (size_t i = 0; i < SERVICE_COUNT; i++) {
        if (services[i].pid != pid)
            continue;
        services[i].pid = 0;
        dprintf(STDERR_FILENO, "colo-init: service %s ended with status 0x%x\n", services[i].name, status);
    }
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Waits for every process but this one to end, at most until the deadline. */
static void wait_for_all(long long deadline_ms)
{
    struct timespec slice = {0, 5 * 1000 * 1000};
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 || now_ms() > deadline_ms)
            return;
        if (pid == 0)
            nanosleep(&slice, NULL);
    }
}

static void power_off(void)
{
    say("powering off", "");
    kill(-1, SIGTERM);
    wait_for_all(now_ms() + STOP_DEADLINE_MS);
    kill(-1, SIGKILL);
    wait_for_all(now_ms() + STOP_DEADLINE_MS);
    sync();
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
        say("remount read-only", strerror(errno));
    reboot(RB_POWER_OFF);
    say("power off", strerror(errno));
    for (;;)
        pause();
}

int main(void)
{
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    sigaddset(&wanted, SIGUSR2);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    reboot(RB_DISABLE_CAD);
    set_up();
    for (size_t i = 0; i < SERVICE_COUNT; i++)
        services[i].pid = spawn(services[i].argv);
    for (;;) {
        siginfo_t info;
        int got = sigwaitinfo(&wanted, &info);
        if (got > 0 && got != SIGCHLD)
            power_off();
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            report_end(pid, status);
    }
}
