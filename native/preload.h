/* What the parts of the preload library know of each other. */
#ifndef COLO_PRELOAD_H
#define COLO_PRELOAD_H

#include <stddef.h>
#include <stdint.h>

/* Reads and clears this part's environment variables. `agent`: its process. */
void disks_start(int agent);
void reads_start(int agent);

/* Whether guest RAM is a mapping that the agent sees, too. */
int ram_is_shared(void);

/* Whether all of it is guest RAM that the agent sees, too; then `offset` is where in the RAM file. */
int shared_ram_holds(const void *start, size_t length, uint64_t *offset);

#endif
