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
    LISTEN_DIALOGUE,
    UDP_ECHO,
    UDP_RANDOM,
    STREAM,  /* also a dialled connection: then `dialled` is set and its input is checked */
    CONTROL,
    SINK,
    ANSWERER, /* an accepted dialogue */
    ASKER,    /* a dialogue that this guest opened */
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
    /* STREAM, ASKER: the number of the next line and its time; ANSWERER: the number that must come. */
    uint64_t next_number;
    int64_t due_ms;
    int dialled, connecting;
    /* ANSWERER, ASKER */
    uint64_t talk_id;
    /* ASKER: the last line's echo is still to come. */
    int waiting;
    /* ANSWERER: the other end has closed; what is queued still goes out. */
    int ending;
    /* SINK */
    uint64_t received;
};

/* What `dialled` reports about the latest dialled connection; it outlives the connection. */
struct dial_report {
    int open;
    uint64_t sent, received, gaps;
};

/* What `conversations` reports: all dialogues since the start. */
struct dialogue_totals {
    uint64_t accepted, dialled, lines, wrong, broken, failed;
};

extern struct slot slots[SLOT_COUNT];
/* Slots from here on are free. */
extern int slot_end;
extern struct dial_report dial_report;
extern struct dialogue_totals dialogue_totals;

/* Takes ownership of `fd`; NULL (and closed) when the table is full. */
struct slot *take_slot(enum kind kind, int fd);
void release_slot(struct slot *s);
int queue(struct slot *s, const char *bytes, size_t size);
int flush(struct slot *s);
__attribute__((format(printf, 2, 3))) void reply(struct slot *s, const char *format, ...);

int64_t now_ms(void);
/* A non-blocking socket that connects; -1 and errno, or EINVAL when `host` is no numeric address. */
int dial_socket(const char *host, unsigned port, unsigned source_port);

void start_dialogues(void);
void start_asker(struct slot *s, uint64_t id);
void finish_asker_connect(struct slot *s, int error);
void pace_asker(struct slot *s, int64_t now);
void read_dialogue(struct slot *s);
unsigned open_dialogues(void);

void answer_datagrams(struct slot *s);
void reply_answered(struct slot *s, uint64_t id);

int start_control(void);
void read_control(struct slot *s);
void run_lines(struct slot *s);
void read_worker(struct slot *s);
void reap_children(void);

#endif
