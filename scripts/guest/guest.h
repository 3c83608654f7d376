/* What colo-guest.c (slots, loop) and control.c (commands) share. */
#ifndef COLO_GUEST_H
#define COLO_GUEST_H

#include <stddef.h>
#include <stdint.h>

#define SLOT_COUNT 512
#define LINE_MAX_BYTES 4096u

enum kind {
    FREE,
    LISTEN_STREAM,
    LISTEN_CONTROL,
    LISTEN_SINK,
    UDP_ECHO,
    UDP_RANDOM,
    STREAM,  /* also a dialled connection: then `dialled` is set and its input is checked */
    CONTROL,
    SINK,
    WORKER,  /* the pipe from a child that works for the control connection `client` */
};

struct slot {
    enum kind kind;
    int fd;
    /* Bytes to send, from out_at to out_size. */
    char *out;
    size_t out_at, out_size;
    /* An input line that is not complete yet. */
    char line[LINE_MAX_BYTES];
    size_t line_size;
    /* CONTROL: a worker or a dial is under way, no further command is read. */
    int busy;
    /* WORKER and a connecting dial: the control slot that waits for it, or -1. */
    int client;
    int replied;
    /* STREAM */
    uint64_t next_number;
    int64_t due_ms;
    int dialled, connecting;
    /* SINK */
    uint64_t received;
};

/* What `dialled` reports about the latest dialled connection; it outlives the connection. */
struct dial_report {
    int open;
    uint64_t sent, received, gaps;
};

extern struct slot slots[SLOT_COUNT];
/* Slots from here on are free. */
extern int slot_end;
extern struct dial_report dial_report;

/* Takes ownership of `fd`; NULL (and closed) when the table is full. */
struct slot *take_slot(enum kind kind, int fd);
void release_slot(struct slot *s);
int queue(struct slot *s, const char *bytes, size_t size);
int flush(struct slot *s);
__attribute__((format(printf, 2, 3))) void reply(struct slot *s, const char *format, ...);

int start_control(void);
void read_control(struct slot *s);
void run_lines(struct slot *s);
void read_worker(struct slot *s);
void reap_children(void);

#endif
