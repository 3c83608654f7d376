/*
 * Disk reads by reference. A read of REFERENCE_MIN bytes or more is sent with the flag REFERENCE
 * (disk-preload.c). If the page cache of the host has all of it, the chunk that answers has this flag,
 * too, and behind its offset, in place of the data, the number of the agent's descriptor of the image,
 * 32 bits, and a serial number, 32 bits, which no other file of the agent's ever has: its sender is
 * src/blockrep/nbd-connection-shell.ts. The data are then read from the image here, to where QEMU
 * wants them. QEMU sees a chunk of the protocol.
 *
 * A chunk that has the flag WHOLE, too, lends the file: it is the disk, all of it, for as long as the
 * connection lasts. Then reads of what the page cache has are answered here, and the agent never hears
 * of them: two threads less have to wake up. QEMU looks for its reply by itself after it has sent a
 * request, unless it has looked before and waits for the socket: then requests are sent. Now and then
 * one is sent all the same, so that a guest with many reads under way does not hold QEMU's main loop.
 *
 * All that QEMU receives is followed from reply to reply, so that what a disk holds is never taken for
 * a header. It depends on structured replies: data of a simple reply could not be told from what follows.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "disk-connection.h"
#include "preload.h"

#define SYS_CACHESTAT 451        /* Linux 6.5; older headers lack it */
#define ANSWER_MAX (4 << 20)     /* what is copied in QEMU's main loop in one go */
#define BURST_MAX (32 << 20)     /* and one after the other, some ms, before it looks at anything else */
#define FLAG_DONE 1              /* of a chunk: the last of its reply */
#define TYPE_OFFSET_DATA 1

static int agent_files = -1; /* /proc/PID/fd of the agent */

void reads_start(int agent) {
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/fd", agent);
    agent_files = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int files_are_shared(void) { return agent_files >= 0; }

static void close_file(struct connection *connection) {
    if (connection->file >= 0) close(connection->file);
    connection->file = -1;
    connection->lent = 0;
}

void reads_begin(struct connection *connection) {
    connection->have = connection->file_have = 0;
    connection->unreceived = connection->file_left = 0;
    connection->lent = connection->waiting = 0;
    connection->own_left = connection->burst = 0;
    close_file(connection);
}

/* As src/linux/cached-send.ts; false where the kernel can't tell. */
static int is_cached(int file, uint64_t offset, uint32_t length) {
    uint64_t range[2] = {offset, length}, result[5];
    if (syscall(SYS_CACHESTAT, file, range, result, 0)) return 0;
    return result[0] == (offset + length - 1) / PAGE_BYTES - offset / PAGE_BYTES + 1;
}

int reads_answer(struct connection *connection, const unsigned char *request) {
    uint64_t offset = get_u64(request + OFFSET_AT);
    uint32_t length = get_u32(request + LENGTH_AT);
    int between = connection->have == 0 && connection->unreceived == 0 &&
                  connection->file_left == 0 && connection->own_left == 0;
    int plain = request[MAGIC_BYTES] == 0 && request[MAGIC_BYTES + 1] == 0;
    if (!connection->lent || connection->waiting || !between || !plain) return 0;
    if (length > ANSWER_MAX || !is_cached(connection->file, offset, length)) return 0;
    int is_enough = connection->burst + length > BURST_MAX;
    connection->burst = is_enough ? 0 : connection->burst + length;
    if (is_enough) return 0;
    uint32_t magic = htobe32(CHUNK_MAGIC), size = htobe32(OFFSET_BYTES + length);
    uint16_t kind[2] = {htobe16(REFERENCE | FLAG_DONE), htobe16(TYPE_OFFSET_DATA)};
    unsigned char *own = connection->own;
    memcpy(own, &magic, sizeof magic);
    memcpy(own + MAGIC_BYTES, kind, sizeof kind);
    memcpy(own + MAGIC_BYTES + sizeof kind, request + COOKIE_AT, COOKIE_BYTES);
    memcpy(own + CHUNK_BYTES - sizeof size, &size, sizeof size);
    memcpy(own + CHUNK_BYTES, request + OFFSET_AT, OFFSET_BYTES);
    connection->own_left = sizeof connection->own;
    return 1;
}

static size_t room(const struct msghdr *message) {
    size_t total = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) total += message->msg_iov[i].iov_len;
    return total;
}

/* The first `limit` bytes of where a message goes: the number of `parts`. */
static size_t first_parts(const struct msghdr *message, size_t limit, struct iovec *parts) {
    size_t count = 0;
    for (size_t i = 0; i < message->msg_iovlen && i < IOV_MAX && limit > 0; i++) {
        parts[count] = message->msg_iov[i];
        if (parts[count].iov_len > limit) parts[count].iov_len = limit;
        limit -= parts[count++].iov_len;
    }
    return count;
}

static void nothing_beside(struct msghdr *message) {
    message->msg_namelen = 0;
    message->msg_controllen = 0;
    message->msg_flags = 0;
}

static ssize_t receive_data(struct connection *connection, struct msghdr *message, int flags) {
    struct iovec parts[IOV_MAX];
    struct msghdr data = {.msg_iov = parts};
    data.msg_iovlen = first_parts(message, connection->unreceived, parts);
    ssize_t count = syscall(SYS_recvmsg, connection->fd, &data, flags);
    if (count > 0) connection->unreceived -= (size_t)count;
    nothing_beside(message);
    return count;
}

/* Of the socket, but not for QEMU: which file it is. */
static ssize_t receive_file_place(struct connection *connection, int flags) {
    ssize_t count = 1;
    while (connection->file_have < FILE_BYTES && count > 0) {
        unsigned char *rest = connection->file_place + connection->file_have;
        count = syscall(SYS_recvfrom, connection->fd, rest, FILE_BYTES - connection->file_have, flags, NULL, NULL);
        if (count > 0) connection->file_have += (size_t)count;
    }
    return count;
}

/* A file that can't be opened or read ends the connection: QEMU takes it for the socket's failure. */
static ssize_t read_file(struct connection *connection, struct msghdr *message) {
    uint32_t serial = get_u32(connection->file_place + 4);
    if (connection->file < 0 || connection->file_serial != serial) {
        char name[16];
        close_file(connection);
        snprintf(name, sizeof name, "%u", get_u32(connection->file_place));
        connection->file = openat(agent_files, name, O_RDONLY | O_CLOEXEC);
        if (connection->file < 0) return -1;
        connection->file_serial = serial;
        connection->lent = connection->lends;
    }
    struct iovec parts[IOV_MAX];
    size_t part_count = first_parts(message, connection->file_left, parts);
    ssize_t count = preadv(connection->file, parts, (int)part_count, (off_t)connection->file_offset);
    if (count > 0) {
        connection->file_offset += (uint64_t)count;
        connection->file_left -= (uint64_t)count;
    }
    nothing_beside(message);
    return count;
}

/* As far as is known by now; 0: QEMU and the agent speak something else. */
static size_t header_length(const struct connection *connection) {
    if (connection->have < MAGIC_BYTES) return MAGIC_BYTES;
    if (get_u32(connection->header) == SIMPLE_MAGIC) return SIMPLE_BYTES;
    if (get_u32(connection->header) != CHUNK_MAGIC) return 0;
    return connection->refers ? CHUNK_BYTES + OFFSET_BYTES : CHUNK_BYTES;
}

/* The flag is for us only. */
static void take_flag(struct connection *connection) {
    unsigned char *flags = connection->header + MAGIC_BYTES;
    connection->refers = get_u32(connection->header) == CHUNK_MAGIC && (*flags & REFERENCE >> 8);
    if (!connection->refers) return;
    connection->lends = (*flags & WHOLE >> 8) != 0;
    *flags &= (unsigned char)~((REFERENCE | WHOLE) >> 8);
}

static void header_ends(struct connection *connection, int is_own) {
    uint32_t length = get_u32(connection->header + CHUNK_BYTES - sizeof length);
    if (get_u32(connection->header) == SIMPLE_MAGIC) length = 0;
    if (connection->refers && length > OFFSET_BYTES) {
        connection->file_offset = get_u64(connection->header + CHUNK_BYTES);
        connection->file_left = length - OFFSET_BYTES;
        connection->file_have = is_own ? FILE_BYTES : 0;
    } else if (!connection->refers) {
        connection->unreceived = length;
    }
    connection->have = 0;
    connection->refers = 0;
}

static ssize_t header_bytes(struct connection *connection, void *at, size_t limit, int flags) {
    if (connection->own_left == 0) return syscall(SYS_recvfrom, connection->fd, at, limit, flags, NULL, NULL);
    memcpy(at, connection->own + sizeof connection->own - connection->own_left, limit);
    connection->own_left -= limit;
    return (ssize_t)limit;
}

static ssize_t receive_header(struct connection *connection, struct msghdr *message, int flags) {
    size_t limit = header_length(connection) - connection->have, have = connection->have;
    struct iovec parts[IOV_MAX];
    size_t part_count = first_parts(message, limit, parts);
    if (room(message) < limit) limit = room(message);
    unsigned char *at = connection->header + have;
    int is_own = connection->own_left > 0;
    ssize_t count = header_bytes(connection, at, limit, flags);
    nothing_beside(message);
    if (count <= 0) return count;
    connection->have += (size_t)count;
    if (have <= MAGIC_BYTES && connection->have > MAGIC_BYTES) take_flag(connection);
    size_t left = (size_t)count;
    for (size_t i = 0; i < part_count && left > 0; i++) {
        size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
        memcpy(parts[i].iov_base, at, size);
        at += size;
        left -= size;
    }
    if (connection->have == header_length(connection)) header_ends(connection, is_own);
    return count;
}

static ssize_t receive(struct connection *connection, struct msghdr *message, int flags) {
    if (connection->unreceived > 0) return receive_data(connection, message, flags);
    if (connection->file_left == 0) return receive_header(connection, message, flags);
    ssize_t result = receive_file_place(connection, flags);
    return result <= 0 ? result : read_file(connection, message);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    struct connection *connection = disk_connection(fd);
    if (!connection || !connection->requests || (flags & MSG_PEEK) || room(message) == 0 ||
        header_length(connection) == 0)
        return syscall(SYS_recvmsg, fd, message, flags);
    ssize_t result = receive(connection, message, flags);
    connection->waiting = result < 0 && errno == EAGAIN;
    return result;
}
