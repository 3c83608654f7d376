/*
 * Loaded into QEMU by LD_PRELOAD: does the five things that only code inside QEMU can do.
 * 1. Dies with the agent: PR_SET_PDEATHSIG, and SIGKILL when the control socket closes.
 * 2. Recognises the mmap of the guest RAM file (same inode as COLO_RAM_FD), registers it for
 *    asynchronous write tracking (userfaultfd(2), WP_ASYNC) and tells the agent where it is. An agent
 *    that wants to serve missing pages duplicates the userfaultfd and registers for them itself.
 * 3. Drops private pages (MADV_DONTNEED) on request: another process may not.
 * 4. Lets QEMU take our packet sockets for TAP devices: answers the TUN ioctls. QEMU then hands
 *    unfinished checksums and unsegmented TCP through, each packet behind a virtio_net_hdr of 10
 *    bytes. COLO_NIC_FDS is "first count": NIC i has its packets on first + 2i, and on first + 2i + 1
 *    a socket that tells the agent which offloads the guest takes: the flags of TUNSETOFFLOAD, 32 bits
 *    of host order a message. UFO is refused: few guests have it, for datagrams beyond the MTU only.
 * 5. Tells the agent where the data of large disk writes are, and reads those of large reads from the
 *    image (disk-preload.c, disk-reads.c).
 * A shared mapping is locked on fault: reclaim would unmap a written page of the RAM file and with
 * it the mark that it was written. A private copy keeps its mark in the swap entry and may go there.
 * The control socket's format is in src/emulator/shim-wire.ts.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

#define RANGES_MAX 8192              /* per request; the agent splits, more is a protocol error */
#define FEATURE_WP_UNPOPULATED (1 << 13) /* Linux 6.4; older headers lack the names */
#define FEATURE_WP_ASYNC (1 << 15)       /* Linux 6.7 */
#define FEATURES (UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC)

#define VNET_HEADER_BYTES 10
#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)

static int control_fd = -1, track, nic_first, nic_count;
static struct stat ram_file;
static uint64_t ram_start, ram_length;
static int ram_shared;

static void die(void) { kill(getpid(), SIGKILL); }

static int take_number(const char *name) {
    const char *text = getenv(name);
    int number = text ? atoi(text) : -1;
    unsetenv(name);
    return number;
}

__attribute__((constructor)) static void start(void) {
    int agent = take_number("COLO_AGENT"), ram_fd = take_number("COLO_RAM_FD");
    control_fd = take_number("COLO_CONTROL_FD");
    track = take_number("COLO_TRACK") == 1;
    const char *nics = getenv("COLO_NIC_FDS");
    if (nics && sscanf(nics, "%d %d", &nic_first, &nic_count) != 2) die();
    unsetenv("COLO_NIC_FDS");
    disks_start(agent);
    unsetenv("LD_PRELOAD");
    if (agent < 0 || ram_fd < 0 || control_fd < 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != agent || fstat(ram_fd, &ram_file)) die();
    fcntl(control_fd, F_SETFD, FD_CLOEXEC);
}

static void receive(void *target, size_t size) {
    if (recv(control_fd, target, size, MSG_WAITALL) != (ssize_t)size) die();
}

static void *serve(void *unused) {
    static uint64_t range[RANGES_MAX][2];
    for (uint64_t count, error;;) {
        receive(&count, sizeof count);
        if (count == 0 || count > RANGES_MAX) die();
        receive(range, count * sizeof range[0]);
        error = 0;
        for (uint64_t i = 0; i < count; i++) {
            uint64_t offset = range[i][0], length = range[i][1];
            if (offset > ram_length || length > ram_length - offset) error = EINVAL;
            else if (madvise((void *)(ram_start + offset), length, MADV_DONTNEED)) error = errno;
        }
        if (send(control_fd, &error, sizeof error, MSG_NOSIGNAL) != sizeof error) die();
    }
    return unused;
}

static void ram_mapped(void *start, size_t length, int shared) {
    uint64_t report[5] = {(uint64_t)start, length, (uint64_t)-1, ENOSYS, 0};
    if (track) {
        int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        struct uffdio_api api = {UFFD_API, FEATURES, 0};
        struct uffdio_register range = {{(uint64_t)start, length}, UFFDIO_REGISTER_MODE_WP, 0};
        int failed = fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range);
        report[2] = (uint64_t)fd;
        report[3] = failed ? (uint64_t)errno : 0;
    }
    if (shared && mlock2(start, length, MLOCK_ONFAULT)) report[4] = (uint64_t)errno;
    ram_start = report[0];
    ram_length = length;
    ram_shared = shared;
    if (send(control_fd, report, sizeof report, MSG_NOSIGNAL) != sizeof report) die();
    pthread_t thread;
    sigset_t all, before; /* the thread must take no signal that QEMU waits for */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, serve, NULL)) die();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    void *start = (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    struct stat file;
    if (start == MAP_FAILED || fd < 0 || control_fd < 0 || ram_length) return start;
    int error = errno;
    if (!fstat(fd, &file) && file.st_ino == ram_file.st_ino && file.st_dev == ram_file.st_dev)
        ram_mapped(start, length, (flags & MAP_TYPE) != MAP_PRIVATE);
    errno = error;
    return start;
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

int ram_is_shared(void) { return ram_shared; }

int shared_ram_holds(const void *start, size_t length, uint64_t *offset) {
    if (!ram_shared || (uint64_t)start < ram_start) return 0;
    *offset = (uint64_t)start - ram_start;
    return *offset <= ram_length && length <= ram_length - *offset;
}

static int fail(int error) {
    errno = error;
    return -1;
}

/* QEMU's view of a TAP that was opened with IFF_VNET_HDR (its net/tap-linux.c). A header of another
 * size is refused, so that QEMU itself converts to and from what the guest's driver negotiated. */
static int answer_as_tap(int fd, unsigned long request, void *argument) {
    uint32_t offloads = (uint32_t)(uintptr_t)argument;
    switch (request) {
    case TUNGETIFF:
        ((struct ifreq *)argument)->ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        return 0;
    case TUNGETFEATURES:
        *(unsigned *)argument = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        return 0;
    case TUNGETVNETHDRSZ:
        *(int *)argument = VNET_HEADER_BYTES;
        return 0;
    case TUNSETVNETHDRSZ:
        return *(int *)argument == VNET_HEADER_BYTES ? 0 : fail(EINVAL);
    case TUNSETVNETLE: /* x86 guests are little-endian, as the header is then anyway */
    case TUNSETSNDBUF:
        return 0;
    case TUNSETOFFLOAD:
        if (offloads & ~OFFLOADS) return fail(EINVAL);
        if (send(fd + 1, &offloads, sizeof offloads, MSG_NOSIGNAL) != sizeof offloads) die();
        return 0;
    default:
        return fail(EINVAL);
    }
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int nic = fd - nic_first;
    if (nic >= 0 && nic < 2 * nic_count) return answer_as_tap(fd, request, argument);
    return (int)syscall(SYS_ioctl, fd, request, argument);
}
