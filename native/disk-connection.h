/* One of QEMU's connections to the agent's disks, and the parts of NBD that both directions know. */
#ifndef COLO_DISK_CONNECTION_H
#define COLO_DISK_CONNECTION_H

#include <endian.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_MAGIC 0x67446698u
#define CHUNK_MAGIC 0x668e33efu
#define READ 0
#define WRITE 1
#define REFERENCE 0x8000 /* of a request or a chunk; the protocol knows no such flag */
#define WHOLE 0x4000     /* of a chunk with REFERENCE; nor this */

#define PAGE_BYTES 4096
#define MAGIC_BYTES 4
#define COOKIE_AT 8
#define COOKIE_BYTES 8
#define OFFSET_AT 16
#define LENGTH_AT 24
#define REQUEST_BYTES 28
#define SIMPLE_BYTES 16
#define CHUNK_BYTES 20
#define OFFSET_BYTES 8 /* before the data of a read's chunk */
#define COUNT_BYTES 4
#define PLACE_BYTES 12
#define FILE_BYTES 8

struct connection {
    int fd;
    int requests; /* the negotiation is over: all is requests and replies */
    int unknown;  /* QEMU speaks otherwise than is known here: its requests go as they are */

    /* Requests. */
    size_t unsent;        /* data of a write that QEMU has still to send as they are */
    size_t pending, sent; /* of `message`; none pending: no header is held */
    size_t payload;       /* data that the message refers to; 0: it is a header only */
    unsigned char message[REQUEST_BYTES + COUNT_BYTES + IOV_MAX * PLACE_BYTES];

    /* Replies: a header, then data of the socket or, behind where they are, of a file. */
    size_t have;       /* of `header` */
    unsigned char header[CHUNK_BYTES + OFFSET_BYTES];
    int refers;        /* it says so */
    int lends;         /* and it lends the whole file */
    size_t unreceived; /* data of the socket */
    size_t file_have;  /* of `file_place` */
    unsigned char file_place[FILE_BYTES];
    uint64_t file_offset, file_left;
    uint32_t file_serial;
    int file; /* open; its number is `file_serial`. -1: none */
    int lent; /* all of the disk is what `file` has, as long as the connection lasts */
    int waiting; /* QEMU has found nothing to receive, so it looks again when the socket has something */
    size_t own_left; /* of `own`, a reply that was made here; 0: none */
    unsigned char own[CHUNK_BYTES + OFFSET_BYTES];
    size_t burst; /* bytes of reads that were answered here since the last one that was sent for that */
};

/* The connection that a descriptor is; NULL: something else. */
struct connection *disk_connection(int fd);

/* Whether the agent's files can be opened here. */
int files_are_shared(void);

/* What QEMU receives begins anew: the connection is a new one. */
void reads_begin(struct connection *connection);

/* Whether a read, of which this is the header, is answered here and must not be sent. */
int reads_answer(struct connection *connection, const unsigned char *request);

static inline uint32_t get_u32(const unsigned char *bytes) {
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return be32toh(value);
}

static inline uint64_t get_u64(const unsigned char *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return be64toh(value);
}

#endif
