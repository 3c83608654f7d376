/*
 * Work of the test guest that keeps a CPU or the disk busy, each in a child process of colo-guest.
 *
 * In:  numbers already checked by the daemon.
 * Out: one reply line on a pipe ("ok ..." or "error ..."), or an endless load until killed.
 *
 * Paced work keeps an absolute schedule; when the VM was paused (a checkpoint) the debt is dropped,
 * not caught up, so that a load never turns into a burst of the test's own making.
 */
#define _GNU_SOURCE
#include "workers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define MIB (1024u * 1024u)
/* Scribble writes in slices of this length: short against an epoch (>= 100 ms). */
#define SLICE_NS 5000000LL
/* Debt beyond this is dropped: the VM was paused. */
#define DEBT_NS 100000000LL

#define BENCH_FILE "/var/lib/colo-bench"
#define BENCH_MIB 256u
#define BENCH_DEPTH_MAX 64u

#define LOAD_FILE "/var/lib/colo-load"
#define LOAD_BLOCK_BYTES (64u * 1024u)
#define LOAD_BLOCKS 1024u
#define LOAD_MAGIC 0x434f4c4f4c4f4144ull

#define EXEC_OUTPUT_MAX_BYTES (256u * 1024u)

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t when_ns)
{
    struct timespec t = {when_ns / 1000000000LL, when_ns % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        continue;
}

static void fail(int reply_fd, const char *what)
{
    dprintf(reply_fd, "error %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void *map_memory(size_t size_bytes)
{
    void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void work_scribble(unsigned mib_per_second, unsigned working_set_mib)
{
    size_t page_count = (size_t)working_set_mib * MIB / PAGE_BYTES;
    unsigned char *memory = map_memory(page_count * PAGE_BYTES);
    if (memory == NULL)
        _exit(1);
    int64_t pages_per_second = (int64_t)mib_per_second * MIB / PAGE_BYTES;
    int64_t start_ns = now_ns(), written = 0;
    uint64_t counter = 0;
    size_t page = 0;
    for (int64_t next_ns = start_ns;; next_ns += SLICE_NS) {
        int64_t now = now_ns();
        if (now - next_ns > DEBT_NS) {
            start_ns += now - next_ns;
            next_ns = now;
        }
        int64_t due = (next_ns - start_ns) / 1000 * pages_per_second / 1000000;
        for (; written < due; written++) {
            *(volatile uint64_t *)(memory + page * PAGE_BYTES) = ++counter;
            page = page + 1 == page_count ? 0 : page + 1;
        }
        sleep_until(next_ns + SLICE_NS);
    }
}

void work_burst(int reply_fd, unsigned mib)
{
    size_t size_bytes = (size_t)mib * MIB;
    int64_t start_ns = now_ns();
    unsigned char *memory = map_memory(size_bytes);
    if (memory == NULL)
        fail(reply_fd, "mmap");
    for (size_t at = 0; at < size_bytes; at += PAGE_BYTES)
        *(volatile uint64_t *)(memory + at) = at + 1;
    dprintf(reply_fd, "ok ms=%lld\n", (long long)((now_ns() - start_ns) / 1000000));
    _exit(0);
}

/* --- disk bench: O_DIRECT through the kernel's asynchronous I/O --- */

struct bench {
    int fd;
    aio_context_t context;
    unsigned char *buffers;
    size_t block_bytes;
    unsigned depth;
    int random_access;
    uint64_t block_count;
    uint64_t next_block;
    uint64_t seed;
};

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void submit(struct bench *b, struct iocb *request, unsigned slot, int writing)
{
    uint64_t block = b->random_access ? next_random(&b->seed) % b->block_count : b->next_block++ % b->block_count;
    unsigned char *buffer = b->buffers + slot * b->block_bytes;
    memset(request, 0, sizeof *request);
    request->aio_lio_opcode = writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    request->aio_fildes = (uint32_t)b->fd;
    request->aio_buf = (uint64_t)(uintptr_t)buffer;
    request->aio_nbytes = b->block_bytes;
    request->aio_offset = (int64_t)(block * b->block_bytes);
    request->aio_data = slot;
    if (writing)
        memcpy(buffer, &block, sizeof block);
    struct iocb *list[1] = {request};
    if (syscall(SYS_io_submit, b->context, 1L, list) != 1)
        _exit(1);
}

/* Operations completed per second with `depth` requests always under way. */
static double measure(struct bench *b, int writing, double seconds)
{
    struct iocb requests[BENCH_DEPTH_MAX];
    struct io_event events[BENCH_DEPTH_MAX];
    int64_t start_ns = now_ns(), end_ns = start_ns + (int64_t)(seconds * 1e9), last_ns = start_ns;
    uint64_t done = 0;
    unsigned running = 0;
    b->next_block = 0;
    for (; running < b->depth; running++)
        submit(b, &requests[running], running, writing);
    while (running > 0) {
        long got = syscall(SYS_io_getevents, b->context, 1L, (long)BENCH_DEPTH_MAX, events, NULL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(1);
        last_ns = now_ns();
        for (long i = 0; i < got; i++) {
            if (events[i].res != (int64_t)b->block_bytes)
                _exit(1);
            done++;
            unsigned slot = (unsigned)events[i].data;
            if (last_ns < end_ns)
                submit(b, &requests[slot], slot, writing);
            else
                running--;
        }
    }
    return (double)done * 1e9 / (double)(last_ns - start_ns);
}

/* Opens the bench file; the first use fills it, so that later writes allocate nothing. */
static int open_bench_file(int reply_fd)
{
    unsigned char *chunk = map_memory(MIB);
    int fd = open(BENCH_FILE, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 || chunk == NULL)
        fail(reply_fd, BENCH_FILE);
    if (lseek(fd, 0, SEEK_END) == (off_t)BENCH_MIB * MIB)
        return fd;
    uint64_t seed = 88172645463325252ull;
    for (unsigned at = 0; at < BENCH_MIB; at++) {
        for (size_t i = 0; i < MIB; i += 8) {
            uint64_t word = next_random(&seed);
            memcpy(chunk + i, &word, 8);
        }
        if (pwrite(fd, chunk, MIB, (off_t)at * MIB) != (ssize_t)MIB)
            fail(reply_fd, BENCH_FILE);
    }
    if (fsync(fd) < 0)
        fail(reply_fd, BENCH_FILE);
    return fd;
}

void work_disk(int reply_fd, int random_access, unsigned seconds, unsigned depth)
{
    struct bench b = {0};
    b.fd = open_bench_file(reply_fd);
    b.depth = depth > BENCH_DEPTH_MAX ? BENCH_DEPTH_MAX : depth;
    b.block_bytes = random_access ? PAGE_BYTES : MIB;
    b.block_count = (uint64_t)BENCH_MIB * MIB / b.block_bytes;
    b.random_access = random_access;
    b.seed = (uint64_t)now_ns() | 1;
    b.buffers = map_memory(b.depth * b.block_bytes);
    if (b.buffers == NULL || syscall(SYS_io_setup, (long)BENCH_DEPTH_MAX, &b.context) < 0)
        fail(reply_fd, "io_setup");
    double reads = measure(&b, 0, seconds / 2.0);
    double writes = measure(&b, 1, seconds / 2.0);
    double scale = random_access ? 1.0 : (double)b.block_bytes / 1e6;
    dprintf(reply_fd, "ok read=%.1f write=%.1f unit=%s\n", reads * scale, writes * scale,
            random_access ? "ops/s" : "MB/s");
    _exit(0);
}

/* --- diskload: numbered blocks in a ring, each synced, and their verification --- */

struct load_block {
    uint64_t magic;
    uint64_t number; /* from 1; block n is in slot n % LOAD_BLOCKS */
    uint64_t words[LOAD_BLOCK_BYTES / 8 - 2];
};

static void fill_block(struct load_block *block, uint64_t number)
{
    uint64_t seed = number * 0x9e3779b97f4a7c15ull | 1;
    block->magic = LOAD_MAGIC;
    block->number = number;
    for (size_t i = 0; i < sizeof block->words / 8; i++)
        block->words[i] = next_random(&seed);
}

/* The number of a slot's block; 0 when its content is not what that number demands. */
static uint64_t check_block(const struct load_block *block, struct load_block *expected, unsigned slot)
{
    if (block->magic != LOAD_MAGIC || block->number == 0 || block->number % LOAD_BLOCKS != slot)
        return 0;
    fill_block(expected, block->number);
    return memcmp(block, expected, sizeof *expected) == 0 ? block->number : 0;
}

/* Reads all slots; returns the highest sound number, numbers[slot] per slot (0: empty or torn). */
static uint64_t read_blocks(int fd, uint64_t *numbers)
{
    static struct load_block block, expected;
    uint64_t highest = 0;
    for (unsigned slot = 0; slot < LOAD_BLOCKS; slot++) {
        ssize_t got = pread(fd, &block, sizeof block, (off_t)slot * LOAD_BLOCK_BYTES);
        numbers[slot] = got == (ssize_t)sizeof block ? check_block(&block, &expected, slot) : 0;
        if (numbers[slot] > highest)
            highest = numbers[slot];
    }
    return highest;
}

void work_diskload(unsigned mib_per_second, struct diskload_state *state)
{
    static uint64_t numbers[LOAD_BLOCKS];
    static struct load_block block;
    int fd = open(LOAD_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        _exit(1);
    uint64_t number = read_blocks(fd, numbers);
    state->synced = number;
    int64_t interval_ns = 1000000000LL * LOAD_BLOCK_BYTES / ((int64_t)mib_per_second * MIB);
    for (int64_t next_ns = now_ns();; next_ns += interval_ns) {
        fill_block(&block, ++number);
        off_t at = (off_t)(number % LOAD_BLOCKS) * LOAD_BLOCK_BYTES;
        if (pwrite(fd, &block, sizeof block, at) != (ssize_t)sizeof block || fsync(fd) < 0)
            _exit(1);
        state->synced = number;
        if (now_ns() - next_ns > DEBT_NS)
            next_ns = now_ns();
        sleep_until(next_ns + interval_ns);
    }
}

/*
 * Every slot must hold the newest block it ever got. Only the slot after the highest number may be
 * torn: its write was under way when the load stopped.
 */
void work_diskload_verify(int reply_fd)
{
    static uint64_t numbers[LOAD_BLOCKS];
    int fd = open(LOAD_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail(reply_fd, LOAD_FILE);
    uint64_t highest = read_blocks(fd, numbers);
    uint64_t oldest = highest >= LOAD_BLOCKS ? highest - LOAD_BLOCKS + 1 : 1;
    unsigned bad = 0;
    for (uint64_t number = oldest; number <= highest; number++) {
        int next_slot = number % LOAD_BLOCKS == (highest + 1) % LOAD_BLOCKS;
        if (numbers[number % LOAD_BLOCKS] != number && !next_slot)
            bad++;
    }
    if (bad > 0)
        dprintf(reply_fd, "error bad=%u highest=%llu\n", bad, (unsigned long long)highest);
    else
        dprintf(reply_fd, "ok highest=%llu\n", (unsigned long long)highest);
    _exit(bad > 0);
}

/* --- exec, sync --- */

static void reply_base64(int reply_fd, int status, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    FILE *out = fdopen(reply_fd, "w");
    if (out == NULL)
        _exit(1);
    fprintf(out, "ok %d ", status);
    for (size_t i = 0; i < size; i += 3) {
        unsigned group = (unsigned)bytes[i] << 16;
        group |= i + 1 < size ? (unsigned)bytes[i + 1] << 8 : 0;
        group |= i + 2 < size ? (unsigned)bytes[i + 2] : 0;
        fputc(digits[group >> 18], out);
        fputc(digits[group >> 12 & 63], out);
        fputc(i + 1 < size ? digits[group >> 6 & 63] : '=', out);
        fputc(i + 2 < size ? digits[group & 63] : '=', out);
    }
    fputc('\n', out);
    fflush(out);
}

void work_exec(int reply_fd, const char *command)
{
    static unsigned char output[EXEC_OUTPUT_MAX_BYTES + 1];
    size_t size = 0;
    int pipe_fds[2], status = 0;
    if (pipe(pipe_fds) < 0)
        fail(reply_fd, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipe_fds[1], STDOUT_FILENO);
        dup2(pipe_fds[1], STDERR_FILENO);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        close(reply_fd);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (pid < 0)
        fail(reply_fd, "fork");
    close(pipe_fds[1]);
    ssize_t got;
    while (size < sizeof output && (got = read(pipe_fds[0], output + size, sizeof output - size)) > 0)
        size += (size_t)got;
    if (size > EXEC_OUTPUT_MAX_BYTES) {
        kill(pid, SIGKILL);
        dprintf(reply_fd, "error the output exceeds %u bytes\n", EXEC_OUTPUT_MAX_BYTES);
        _exit(1);
    }
    if (waitpid(pid, &status, 0) < 0)
        fail(reply_fd, "waitpid");
    reply_base64(reply_fd, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), output, size);
    _exit(0);
}

void work_sync(int reply_fd)
{
    sync();
    dprintf(reply_fd, "ok\n");
    _exit(0);
}
