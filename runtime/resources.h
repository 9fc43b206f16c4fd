// What this process may have of memory and processors. Containers, services and batch jobs are limited by control groups
// (cgroups, version 2 and 1): by their own or by one above it.
#ifndef LH_RESOURCES_H
#define LH_RESOURCES_H

#include <stdint.h>

typedef struct lh_limits {
    uint64_t memory;       // bytes in all; UINT64_MAX: no limit
    uint64_t memory_left;  // of these; file pages that can be dropped count as left
    uint64_t processors;   // a quota's, rounded up; UINT64_MAX: no limit
} lh_limits;

// root: where the groups are mounted; membership: the file that names the process's own (/proc/PID/cgroup).
lh_limits lh_limits_in(const char *root, const char *membership);
lh_limits lh_limits_of_process(void);

// Bytes this process can still get (MemAvailable, lowered by limits and by what it has allocated and not touched);
// UINT64_MAX if unknown.
uint64_t lh_memory_available(void);

#endif
