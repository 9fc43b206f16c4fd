#define _GNU_SOURCE
#include "resources.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base.h"

// The first integer behind `key` at the beginning of a line; UINT64_MAX where there is no such file or line.
static uint64_t number_in(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    if (!f) return UINT64_MAX;
    char line[256];
    uint64_t value = UINT64_MAX;
    while (value == UINT64_MAX && fgets(line, sizeof line, f)) {
        unsigned long long v;
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", &v) == 1) value = v;
    }
    fclose(f);
    return value;
}

static uint64_t number_of(const char *group, const char *file, const char *key) {
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", group, file) < (int)sizeof path ? number_in(path, key) : UINT64_MAX;
}

typedef void take_fn(lh_limits *out, const char *group);

static void take_memory(lh_limits *out, uint64_t limit, uint64_t used, uint64_t cached) {
    if (limit == UINT64_MAX || used == UINT64_MAX) return;
    if (cached != UINT64_MAX) used -= LH_MIN(used, cached);
    out->memory = LH_MIN(out->memory, limit);
    out->memory_left = LH_MIN(out->memory_left, limit > used ? limit - used : 0);
}

static void take_quota(lh_limits *out, uint64_t quota, uint64_t period) {
    if (quota == UINT64_MAX || period == UINT64_MAX || period == 0) return;
    out->processors = LH_MIN(out->processors, LH_MAX(quota / period + (quota % period != 0), 1));
}

static void take_v2(lh_limits *out, const char *group) {
    take_memory(out, number_of(group, "memory.max", ""), number_of(group, "memory.current", ""),
                number_of(group, "memory.stat", "inactive_file "));
    // "QUOTA PERIOD", or "max PERIOD".
    uint64_t quota = number_of(group, "cpu.max", "");
    char behind[32];
    snprintf(behind, sizeof behind, "%llu ", (unsigned long long)quota);
    take_quota(out, quota, number_of(group, "cpu.max", behind));
}

static void take_memory_v1(lh_limits *out, const char *group) {
    take_memory(out, number_of(group, "memory.limit_in_bytes", ""), number_of(group, "memory.usage_in_bytes", ""),
                number_of(group, "memory.stat", "total_inactive_file "));
}

static void take_quota_v1(lh_limits *out, const char *group) {
    // -1, no quota, reads as the largest number.
    take_quota(out, number_of(group, "cpu.cfs_quota_us", ""), number_of(group, "cpu.cfs_period_us", ""));
}

// A group and all above it. Where the path is another namespace's, what is there of it is the mount, which is our own.
static void take_upwards(lh_limits *out, const char *root, const char *controller, const char *path, take_fn *take) {
    char group[PATH_MAX];
    int n = snprintf(group, sizeof group, "%s%s%s", root, controller, strcmp(path, "/") == 0 ? "" : path);
    if (n >= (int)sizeof group) return;
    size_t mount = strlen(root) + strlen(controller);
    for (;;) {
        take(out, group);
        if (strlen(group) <= mount) return;
        *strrchr(group, '/') = 0;
    }
}

// Is `name` one of the names between commas?
static bool has(const char *names, const char *name) {
    for (size_t n = strlen(name); names; names = (names = strchr(names, ',')) ? names + 1 : NULL)
        if (strncmp(names, name, n) == 0 && (names[n] == 0 || names[n] == ',')) return true;
    return false;
}

lh_limits lh_limits_in(const char *root, const char *membership) {
    lh_limits out = {UINT64_MAX, UINT64_MAX, UINT64_MAX};
    FILE *f = fopen(membership, "re");
    char line[PATH_MAX];
    while (f && fgets(line, sizeof line, f)) {
        // "NUMBER:CONTROLLERS:PATH"; version 2 names no controllers.
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path || path[1] != '/') continue;
        *path++ = 0;
        names++;
        if (!*names) take_upwards(&out, root, "", path, take_v2);
        if (has(names, "memory")) take_upwards(&out, root, "/memory", path, take_memory_v1);
        if (has(names, "cpu")) take_upwards(&out, root, "/cpu", path, take_quota_v1);
    }
    if (f) fclose(f);
    return out;
}

lh_limits lh_limits_of_process(void) { return lh_limits_in("/sys/fs/cgroup", "/proc/self/cgroup"); }

// Bytes that a file of the kernel's tells in kB.
static uint64_t bytes_in(const char *path, const char *key) {
    uint64_t kb = number_in(path, key);
    return kb == UINT64_MAX ? UINT64_MAX : kb * 1024;
}

uint64_t lh_memory_available(void) {
    lh_limits limits = lh_limits_of_process();
    uint64_t available = LH_MIN(bytes_in("/proc/meminfo", "MemAvailable:"), limits.memory_left);
    uint64_t total = LH_MIN(bytes_in("/proc/meminfo", "MemTotal:"), limits.memory);
    // What sessions have asked for and not yet touched counts as free there.
    uint64_t promised = lh_allocated();
    uint64_t touched = bytes_in("/proc/self/status", "RssAnon:");
    uint64_t untouched = promised > touched ? promised - touched : 0;
    if (available != UINT64_MAX) available -= LH_MIN(available, untouched);
    return LH_MIN(available, total > promised ? total - promised : 0);
}
