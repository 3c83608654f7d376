/* Work that colo-guest does in child processes: see workers.c. */
#ifndef COLO_WORKERS_H
#define COLO_WORKERS_H

/* What a `diskload` child shares with the daemon. */
struct diskload_state {
    /* Highest block number whose fsync has returned; 0: none yet. */
    volatile unsigned long long synced;
};

/* Each runs in a forked child, writes one line to `reply_fd` (scribble, diskload: none), and exits. */
void work_scribble(unsigned mib_per_second, unsigned working_set_mib);
void work_burst(int reply_fd, unsigned mib);
void work_disk(int reply_fd, int random_access, unsigned seconds, unsigned depth);
void work_diskload(unsigned mib_per_second, struct diskload_state *state);
void work_diskload_verify(int reply_fd);
void work_exec(int reply_fd, const char *command);
void work_sync(int reply_fd);

#endif
