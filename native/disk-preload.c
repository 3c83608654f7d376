/*
 * Large disk writes by reference. QEMU's NBD client sends a write's data through a socket, from guest
 * RAM, which the agent has mapped, too: two copies and as many pages of socket memory for nothing. On
 * connections to a socket in COLO_DISK_DIRECTORY a write of WRITE_MIN bytes or more is sent with the
 * flag REFERENCE and, for data, the places in the RAM file that hold them: a count, 32 bits, and for
 * each an offset, 64 bits, and a length, 32 bits, big-endian as all of NBD. Its reader is
 * src/blockrep/nbd-session.ts.
 *
 * The client sends the header alone and the data with its next call. The header is held back until
 * then, and what is not all in shared guest RAM goes the usual way. Until a request is answered its
 * data stay where they are: that is what the guest's driver promises to its device.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "preload.h"

#define HEADER_BYTES 28
#define MAGIC 0x25609513u
#define WRITE 1
#define REFERENCE 0x8000
#define WRITE_MIN (64 << 10)
#define COUNT_BYTES 4
#define PLACE_BYTES 12
#define CONNECTIONS_MAX 64 /* more send their data as ever */
#define PAGE_BYTES 4096

struct connection {
    int fd;
    size_t pending, sent; /* of `message`; none pending: no header is held */
    size_t payload;       /* data that the message refers to; 0: it is a header only */
    unsigned char message[HEADER_BYTES + COUNT_BYTES + IOV_MAX * PLACE_BYTES];
};

static char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
static struct connection connections[CONNECTIONS_MAX];
static int connection_count; /* slots in use; grows only */

void disks_start(void) {
    const char *text = getenv("COLO_DISK_DIRECTORY");
    if (text && strlen(text) < sizeof directory) strcpy(directory, text);
    unsetenv("COLO_DISK_DIRECTORY");
}

static struct connection *find(int fd) {
    int count = __atomic_load_n(&connection_count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < count; i++)
        if (connections[i].fd == fd) return &connections[i];
    return NULL;
}

static int is_disk(const struct sockaddr *address, socklen_t length) {
    const struct sockaddr_un *local = (const struct sockaddr_un *)address;
    size_t size = strlen(directory);
    if (size == 0 || address->sa_family != AF_UNIX) return 0;
    if (length < sizeof address->sa_family + size + 1) return 0;
    return !memcmp(local->sun_path, directory, size) && local->sun_path[size] == '/';
}

/* QEMU connects its disks one after the other, or holds a lock that keeps their order. */
static void remember(int fd) {
    struct connection *known = find(-1);
    if (!known && connection_count < CONNECTIONS_MAX) known = &connections[connection_count];
    if (!known) return;
    known->pending = 0;
    known->fd = fd;
    if (known == &connections[connection_count])
        __atomic_store_n(&connection_count, connection_count + 1, __ATOMIC_RELEASE);
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    struct connection *earlier = find(fd); /* the descriptor was another connection's */
    if (earlier) earlier->fd = -1;
    int result = (int)syscall(SYS_connect, fd, address, length);
    if (result == 0 && is_disk(address, length)) remember(fd);
    return result;
}

static uint32_t header_field(const unsigned char *header, size_t at) {
    uint32_t value;
    memcpy(&value, header + at, sizeof value);
    return be32toh(value);
}

/* The header of a large write, by itself: QEMU's own memory, so that no guest can forge one. */
static int is_large_write(const struct msghdr *message) {
    uint64_t offset;
    if (message->msg_iovlen != 1 || message->msg_iov[0].iov_len != HEADER_BYTES) return 0;
    const unsigned char *header = message->msg_iov[0].iov_base;
    if (shared_ram_holds(header, HEADER_BYTES, &offset)) return 0;
    return header_field(header, 0) == MAGIC && (header_field(header, 4) & 0xffff) == WRITE &&
           header_field(header, 24) >= WRITE_MIN;
}

/* Turns the held header into a message that says where the data are, if guest RAM holds all. */
static void refer(struct connection *connection, const struct msghdr *message) {
    unsigned char *at = connection->message + HEADER_BYTES + COUNT_BYTES;
    uint64_t next = UINT64_MAX; /* where the last place ends */
    uint32_t count = 0, length = 0;
    size_t total = 0;
    if (message->msg_iovlen > IOV_MAX) return;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const struct iovec *part = &message->msg_iov[i];
        uint64_t offset;
        if (part->iov_len == 0) continue;
        if (part->iov_len > UINT32_MAX || !shared_ram_holds(part->iov_base, part->iov_len, &offset))
            return;
        /* A page that has still to come (postcopy) comes now: the agent's mapping can't ask for it. */
        const volatile char *bytes = part->iov_base;
        for (size_t each = 0; each < part->iov_len; each += PAGE_BYTES) (void)bytes[each];
        (void)bytes[part->iov_len - 1];
        if (offset == next) {
            at -= PLACE_BYTES;
            offset -= length;
            length += (uint32_t)part->iov_len;
        } else {
            length = (uint32_t)part->iov_len;
            count++;
        }
        next = offset + length;
        uint64_t offset_sent = htobe64(offset);
        uint32_t length_sent = htobe32(length);
        memcpy(at, &offset_sent, sizeof offset_sent);
        memcpy(at + sizeof offset_sent, &length_sent, sizeof length_sent);
        at += PLACE_BYTES;
        total += part->iov_len;
    }
    if (total != header_field(connection->message, 24)) return;
    uint32_t count_sent = htobe32(count);
    memcpy(connection->message + HEADER_BYTES, &count_sent, sizeof count_sent);
    connection->message[4] |= REFERENCE >> 8;
    connection->pending = (size_t)(at - connection->message);
    connection->payload = total;
}

/* An answer of less than all makes QEMU call again with the same data once there is room. */
static ssize_t send_references(struct connection *connection, int flags) {
    while (connection->sent < connection->pending) {
        ssize_t count = syscall(SYS_sendto, connection->fd, connection->message + connection->sent,
                                connection->pending - connection->sent, flags, NULL, 0);
        if (count < 0) return -1;
        connection->sent += (size_t)count;
    }
    connection->pending = 0;
    return (ssize_t)connection->payload;
}

static ssize_t send_with_header(struct connection *connection, const struct msghdr *message, int flags) {
    struct iovec parts[IOV_MAX];
    size_t header = connection->pending - connection->sent;
    size_t count = message->msg_iovlen < IOV_MAX - 1 ? message->msg_iovlen : IOV_MAX - 1;
    parts[0] = (struct iovec){connection->message + connection->sent, header};
    memcpy(parts + 1, message->msg_iov, count * sizeof parts[0]);
    struct msghdr whole = {.msg_iov = parts, .msg_iovlen = count + 1};
    ssize_t sent = syscall(SYS_sendmsg, connection->fd, &whole, flags);
    if (sent < 0) return -1;
    if ((size_t)sent < header) connection->sent += (size_t)sent;
    else connection->pending = 0;
    if ((size_t)sent > header) return sent - (ssize_t)header;
    errno = EAGAIN;
    return -1;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    struct connection *connection = ram_is_shared() ? find(fd) : NULL;
    if (!connection) return syscall(SYS_sendmsg, fd, message, flags);
    if (connection->pending == 0) {
        if (!is_large_write(message)) return syscall(SYS_sendmsg, fd, message, flags);
        memcpy(connection->message, message->msg_iov[0].iov_base, HEADER_BYTES);
        connection->pending = HEADER_BYTES;
        connection->sent = connection->payload = 0;
        return HEADER_BYTES;
    }
    if (connection->payload == 0 && connection->sent == 0) refer(connection, message);
    if (connection->payload > 0) return send_references(connection, flags);
    return send_with_header(connection, message, flags);
}
