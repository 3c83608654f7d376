/*
 * Large disk requests by reference. QEMU's NBD client sends the data of a write through a socket, from
 * guest RAM, which the agent has mapped, too, and the agent sends those of a read: copies and socket
 * memory for nothing. On connections to a socket in COLO_DISK_DIRECTORY a write of REFERENCE_MIN bytes
 * or more is sent with the flag REFERENCE and, for data, the places in the RAM file that hold them: a
 * count, 32 bits, and for each an offset, 64 bits, and a length, 32 bits, big-endian as all of NBD. Its
 * reader is src/blockrep/nbd-session.ts. For reads see disk-reads.c.
 *
 * The client sends the header alone and the data with its next call. The header of a write is held back
 * until then, and what is not all in shared guest RAM goes the usual way. Until a request is answered
 * its data stay where they are: that is what the guest's driver promises to its device. A header is
 * looked for only where one must be: a guest can write what looks like one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "disk-connection.h"
#include "preload.h"

#define REFERENCE_MIN (64 << 10)
#define CONNECTIONS_MAX 64 /* more send and receive their data as ever */

static char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
static struct connection connections[CONNECTIONS_MAX];
static int connection_count; /* slots in use; grows only */

void disks_start(int agent) {
    const char *text = getenv("COLO_DISK_DIRECTORY");
    if (text && strlen(text) < sizeof directory) strcpy(directory, text);
    unsetenv("COLO_DISK_DIRECTORY");
    if (directory[0]) reads_start(agent);
}

struct connection *disk_connection(int fd) {
    int count = __atomic_load_n(&connection_count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < count; i++)
        if (__atomic_load_n(&connections[i].fd, __ATOMIC_ACQUIRE) == fd) return &connections[i];
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
    struct connection *slot = disk_connection(-1);
    int is_new = !slot && connection_count < CONNECTIONS_MAX;
    if (is_new) {
        slot = &connections[connection_count];
        slot->file = -1;
    }
    if (!slot) return;
    slot->requests = slot->unknown = 0;
    slot->pending = slot->unsent = 0;
    reads_begin(slot);
    __atomic_store_n(&slot->fd, fd, __ATOMIC_RELEASE);
    if (is_new) __atomic_store_n(&connection_count, connection_count + 1, __ATOMIC_RELEASE);
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    int result = (int)syscall(SYS_connect, fd, address, length);
    if (result == 0 && is_disk(address, length)) remember(fd);
    return result;
}

/* The descriptor will be something else. */
int close(int fd) {
    struct connection *connection = fd >= 0 ? disk_connection(fd) : NULL;
    if (connection) __atomic_store_n(&connection->fd, -1, __ATOMIC_RELEASE);
    return (int)syscall(SYS_close, fd);
}

static int is_request(const struct msghdr *message) {
    return message->msg_iovlen == 1 && message->msg_iov[0].iov_len == REQUEST_BYTES &&
           get_u32(message->msg_iov[0].iov_base) == REQUEST_MAGIC;
}

/* Turns the held header into a message that says where the data are, if guest RAM holds all. */
static void refer(struct connection *connection, const struct msghdr *message) {
    unsigned char *at = connection->message + REQUEST_BYTES + COUNT_BYTES;
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
    if (total != get_u32(connection->message + LENGTH_AT)) return;
    uint32_t count_sent = htobe32(count);
    memcpy(connection->message + REQUEST_BYTES, &count_sent, sizeof count_sent);
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
    connection->pending = connection->unsent = 0;
    return (ssize_t)connection->payload;
}

/* More than a write's data, or something else than a header where one must be: all bets are off. */
static void data_sent(struct connection *connection, size_t size) {
    if (size > connection->unsent) connection->unknown = 1;
    else connection->unsent -= size;
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
    if ((size_t)sent > header) {
        data_sent(connection, (size_t)sent - header);
        return sent - (ssize_t)header;
    }
    errno = EAGAIN;
    return -1;
}

/* The data of a write whose header is held back. */
static ssize_t send_held(struct connection *connection, const struct msghdr *message, int flags) {
    if (connection->payload == 0 && connection->sent == 0) refer(connection, message);
    if (connection->payload > 0) return send_references(connection, flags);
    return send_with_header(connection, message, flags);
}

static ssize_t send_request(struct connection *connection, const unsigned char *request, int flags) {
    unsigned char header[REQUEST_BYTES];
    uint32_t type = get_u32(request + MAGIC_BYTES) & 0xffff, length = get_u32(request + LENGTH_AT);
    int refers = length >= REFERENCE_MIN;
    connection->requests = 1;
    if (type == WRITE && refers && ram_is_shared()) {
        memcpy(connection->message, request, REQUEST_BYTES);
        connection->pending = REQUEST_BYTES;
        connection->sent = connection->payload = 0;
        connection->unsent = length;
        return REQUEST_BYTES;
    }
    memcpy(header, request, REQUEST_BYTES);
    if (type == READ && reads_answer(connection, request)) return REQUEST_BYTES;
    if (type == READ && refers && files_are_shared()) header[MAGIC_BYTES] |= REFERENCE >> 8;
    ssize_t sent = syscall(SYS_sendto, connection->fd, header, REQUEST_BYTES, flags, NULL, 0);
    if (sent == REQUEST_BYTES && type == WRITE) connection->unsent = length;
    if (sent >= 0 && sent < REQUEST_BYTES) connection->unknown = 1; /* never: a socket takes so few at once */
    return sent;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    struct connection *connection = disk_connection(fd);
    if (!connection || connection->unknown) return syscall(SYS_sendmsg, fd, message, flags);
    if (connection->pending > 0) return send_held(connection, message, flags);
    if (connection->unsent == 0 && is_request(message))
        return send_request(connection, message->msg_iov[0].iov_base, flags);
    ssize_t sent = syscall(SYS_sendmsg, fd, message, flags);
    if (sent > 0 && connection->requests) data_sent(connection, (size_t)sent);
    return sent;
}
