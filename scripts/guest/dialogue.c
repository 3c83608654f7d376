/*
 * Numbered dialogues: each end notices every byte that is lost, repeated or changed.
 *
 *     <id> <number> <filler> <crc>\n
 *
 * The asker sends such lines; the answerer checks each and sends it back as it is, and the asker
 * compares. `id` is the same in all lines of a connection, `number` counts from 0, `crc` is the CRC-32C
 * (Castagnoli) of all before it in the line, in eight hex digits. To a wrong line the answerer says
 * "wrong <number that must come>\n".
 *
 * In:  accepted connections (this guest answers) and connections that `converse` opened (it asks).
 * Invariant: what is said depends on id, number and input alone, never on time: two copies of this VM
 * say the same.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ASK_INTERVAL_MS 250
#define CRC_DIGITS 8u
/* Fillers of our own lines are shorter than this. */
#define FILLER_MAX_BYTES 400u

struct dialogue_totals dialogue_totals;
static uint32_t crc_table[256];

void start_dialogues(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0x82f63b78u : value >> 1;
        crc_table[i] = value;
    }
}

static uint32_t crc32c(const char *bytes, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++)
        crc = crc_table[(crc ^ (unsigned char)bytes[i]) & 255] ^ crc >> 8;
    return crc ^ 0xffffffffu;
}

unsigned open_dialogues(void)
{
    unsigned open = 0;
    for (int i = 0; i < slot_end; i++)
        open += (slots[i].kind == ANSWERER || slots[i].kind == ASKER) && !slots[i].connecting;
    return open;
}

/* --- answering --- */

/* Whether a line, without its newline, is the one that must come. The first line sets the id. */
static int check_line(struct slot *s, const char *line, size_t length)
{
    char text[LINE_MAX_BYTES], *end;
    if (length < CRC_DIGITS + 1 || length >= sizeof text || memchr(line, '\0', length) != NULL)
        return 0;
    memcpy(text, line, length);
    text[length] = '\0';
    size_t covered = length - CRC_DIGITS;
    char digits[CRC_DIGITS + 1];
    snprintf(digits, sizeof digits, "%08x", crc32c(text, covered));
    if (strcmp(digits, text + covered) != 0)
        return 0;
    unsigned long long id = strtoull(text, &end, 10);
    if (*end != ' ')
        return 0;
    unsigned long long number = strtoull(end + 1, &end, 10);
    if (*end != ' ' || number != s->next_number || (number > 0 && id != s->talk_id))
        return 0;
    s->talk_id = id;
    return 1;
}

static void answer_line(struct slot *s, size_t length)
{
    if (!check_line(s, s->line, length)) {
        dialogue_totals.wrong++;
        reply(s, "wrong %llu\n", (unsigned long long)s->next_number);
        return;
    }
    s->next_number++;
    dialogue_totals.lines++;
    queue(s, s->line, length + 1);
}

/* --- asking --- */

void start_asker(struct slot *s, uint64_t id)
{
    s->talk_id = id;
    dialogue_totals.dialled++;
}

void finish_asker_connect(struct slot *s, int error)
{
    if (error != 0) {
        dialogue_totals.failed++;
        release_slot(s);
        return;
    }
    s->connecting = 0;
    s->due_ms = now_ms();
}

/* Writes line `number` with its newline to `text` (LINE_MAX_BYTES); returns its length. */
static size_t make_line(char *text, uint64_t id, uint64_t number)
{
    size_t filler = (size_t)((id * 131 + number * 37) % FILLER_MAX_BYTES);
    int size = snprintf(text, LINE_MAX_BYTES, "%llu %llu ", (unsigned long long)id, (unsigned long long)number);
    size_t at = (size_t)size;
    for (size_t i = 0; i < filler; i++)
        text[at++] = (char)('a' + (id + number + i) % 26);
    text[at++] = ' ';
    snprintf(text + at, CRC_DIGITS + 2, "%08x\n", crc32c(text, at));
    return at + CRC_DIGITS + 1;
}

void pace_asker(struct slot *s, int64_t now)
{
    char text[LINE_MAX_BYTES];
    if (s->connecting || s->waiting || s->ending || now < s->due_ms)
        return;
    size_t size = make_line(text, s->talk_id, s->next_number);
    if (queue(s, text, size) == 0)
        s->waiting = 1;
}

static void check_echo(struct slot *s, size_t length)
{
    char text[LINE_MAX_BYTES];
    size_t size = make_line(text, s->talk_id, s->next_number);
    if (!s->waiting || size != length + 1 || memcmp(text, s->line, size) != 0) {
        dialogue_totals.wrong++;
        return;
    }
    dialogue_totals.lines++;
    s->next_number++;
    s->waiting = 0;
    s->due_ms = now_ms() + ASK_INTERVAL_MS;
}

/* --- both --- */

void read_dialogue(struct slot *s)
{
    char *end;
    if (s->ending)
        return;
    ssize_t size = recv(s->fd, s->line + s->line_size, sizeof s->line - s->line_size, 0);
    if (size < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        dialogue_totals.broken++;
        release_slot(s);
        return;
    }
    if (size == 0) {
        /* A part of a line is a line that was cut. */
        dialogue_totals.wrong += s->line_size > 0;
        s->ending = 1;
        return;
    }
    s->line_size += (size_t)size;
    while ((end = memchr(s->line, '\n', s->line_size)) != NULL) {
        size_t length = (size_t)(end - s->line);
        if (s->kind == ASKER)
            check_echo(s, length);
        else
            answer_line(s, length);
        s->line_size -= length + 1;
        memmove(s->line, end + 1, s->line_size);
    }
    if (s->line_size == sizeof s->line) {
        dialogue_totals.wrong++;
        release_slot(s);
    }
}
