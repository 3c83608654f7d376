/*
 * The two UDP services.
 *
 *   echo    answers the datagram
 *   random  answers 32 bytes that two copies of this VM never agree on
 *
 * The random service remembers what it said: to "ask <id>" it answers "<id> <64 hex digits>", and the
 * control command `answered <id>` tells all that was ever answered to that id. What a client saw and
 * the guest does not know was said by a guest that never was.
 * Bound: the last ANSWER_COUNT answers; older ones are forgotten.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#define RANDOM_BYTES 32u
#define HEX_DIGITS (2 * RANDOM_BYTES)
#define ANSWER_COUNT 65536u
/* Answers to one id that are told: a datagram may come twice. */
#define TOLD_MAX 8u

struct answer {
    uint64_t id;
    /* 1 + the ordinal of the answer before it in the same bucket; 0: none. */
    uint64_t older;
    char hex[HEX_DIGITS];
};

/* Answer k, counted from 0, is in answers[k % ANSWER_COUNT]. */
static struct answer answers[ANSWER_COUNT];
static uint64_t answer_count;
/* 1 + the ordinal of the latest answer to an id of this bucket. */
static uint64_t buckets[ANSWER_COUNT];

/*
 * The kernel's generator alone is not enough: two VMs that continue from one checkpoint have the same
 * generator state. The cycle counter differs in them.
 */
static void make_random(unsigned char *bytes)
{
    uint64_t cycles = __builtin_ia32_rdtsc();
    if (getrandom(bytes, RANDOM_BYTES, 0) != (ssize_t)RANDOM_BYTES)
        memset(bytes, 0, RANDOM_BYTES);
    for (size_t i = 0; i < RANDOM_BYTES / 8; i++, cycles *= 0x9e3779b97f4a7c15ull)
        for (size_t k = 0; k < 8; k++)
            bytes[8 * i + k] ^= (unsigned char)(cycles >> 8 * k);
}

static const char *remember(uint64_t id, const unsigned char *bytes)
{
    static const char digits[] = "0123456789abcdef";
    struct answer *answer = &answers[answer_count % ANSWER_COUNT];
    uint64_t *bucket = &buckets[id % ANSWER_COUNT];
    answer->id = id;
    answer->older = *bucket;
    for (size_t i = 0; i < RANDOM_BYTES; i++) {
        answer->hex[2 * i] = digits[bytes[i] >> 4];
        answer->hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    *bucket = ++answer_count;
    return answer->hex;
}

void reply_answered(struct slot *s, uint64_t id)
{
    char text[8 + TOLD_MAX * (HEX_DIGITS + 1)] = "ok";
    size_t size = 2;
    unsigned told = 0;
    uint64_t next = buckets[id % ANSWER_COUNT];
    while (next > 0 && answer_count - next < ANSWER_COUNT && told < TOLD_MAX) {
        const struct answer *answer = &answers[(next - 1) % ANSWER_COUNT];
        if (answer->id == id) {
            text[size++] = ' ';
            memcpy(text + size, answer->hex, HEX_DIGITS);
            size += HEX_DIGITS;
            told++;
        }
        next = answer->older;
    }
    text[size++] = '\n';
    queue(s, text, size);
}

static size_t answer_random(char *bytes, size_t size)
{
    unsigned char random_bytes[RANDOM_BYTES];
    unsigned long long id;
    char request[32] = {0};
    make_random(random_bytes);
    memcpy(request, bytes, size < sizeof request ? size : sizeof request - 1);
    if (sscanf(request, "ask %llu", &id) == 1)
        return (size_t)sprintf(bytes, "%llu %.*s", id, (int)HEX_DIGITS, remember(id, random_bytes));
    memcpy(bytes, random_bytes, RANDOM_BYTES);
    return RANDOM_BYTES;
}

void answer_datagrams(struct slot *s)
{
    char bytes[65536];
    struct sockaddr_in6 from;
    socklen_t from_size = sizeof from;
    ssize_t got;
    while ((got = recvfrom(s->fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &from_size)) >= 0) {
        size_t size = s->kind == UDP_RANDOM ? answer_random(bytes, (size_t)got) : (size_t)got;
        sendto(s->fd, bytes, size, 0, (struct sockaddr *)&from, from_size);
        from_size = sizeof from;
    }
}
