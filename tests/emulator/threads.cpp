// A block's threads as fibers: the scheduler of the emulator. See cuda_runtime.h.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <vector>

#include "scheduler.h"

namespace {

constexpr size_t STACK = 256 << 10;  // reserved; pages come when they are touched
constexpr int MOST_THREADS = 1024;

struct copy {
    void *to;
    const void *from;
    int bytes, zeros, group;
};

enum class state { ready, at_warp, at_block, done };

struct fiber : lh_emulated_thread {
    state at;
    bool started;
    jmp_buf resume;
    ucontext_t first;
    unsigned mask;                 // at_warp
    lh_emulator_collective run;
    void *arg;
    int value;                     // at_block
    std::vector<copy> copies;      // that have not arrived
    int groups;                    // committed
};

// Which lanes of a warp have not returned, and which of those wait for a warp operation.
struct warp_lanes {
    unsigned live, waiting;
};

fiber *fibers;
warp_lanes warps[MOST_THREADS / 32];
char *stacks;
int n_fibers, order;
jmp_buf scheduler;
ucontext_t scheduler_context;
const std::function<void()> *kernel;
int block_sum;

fiber *self() { return (fiber *)lh_emulated; }

// Give way until the scheduler comes back here.
void yield() {
    fiber *f = self();
    if (!_setjmp(f->resume)) _longjmp(scheduler, 1);
}

void finish_copies(fiber *f, int groups_left) {
    size_t kept = 0;
    for (copy &c : f->copies) {
        if (c.group >= f->groups - groups_left) {
            f->copies[kept++] = c;
            continue;
        }
        if (c.bytes) memcpy(c.to, c.from, (size_t)c.bytes);
        memset((char *)c.to + c.bytes, 0, (size_t)c.zeros);
    }
    f->copies.resize(kept);
}

// A fiber lives on from kernel to kernel: starting one costs more than most kernels do.
void main_of_fiber() {
    for (;;) {
        (*kernel)();
        fiber *f = self();
        finish_copies(f, 0);
        f->at = state::done;
        warps[f->warp].live &= ~(1u << f->lane);
        yield();
    }
}

// Have all lanes that f waits for come? Then they go on.
bool release_warp(fiber *f) {
    warp_lanes *w = &warps[f->warp];
    unsigned wanted = f->mask & w->live;
    if ((w->waiting & wanted) != wanted) return false;
    void *args[32] = {};
    fiber *lanes = &fibers[f->warp * 32];
    for (int i = 0; i < 32; i++) {
        if (!(wanted >> i & 1)) continue;
        if (lanes[i].mask != f->mask || lanes[i].run != f->run)
            lh_emulator_fail("lanes %d and %d of a warp wait for different operations (masks %08x and %08x)", f->lane,
                             i, f->mask, lanes[i].mask);
        args[i] = lanes[i].arg;
    }
    f->run(args);
    for (int i = 0; i < 32; i++)
        if (wanted >> i & 1) lanes[i].at = state::ready;
    w->waiting &= ~wanted;
    return true;
}

bool release_block() {
    int sum = 0, waiting = 0;
    for (int i = 0; i < n_fibers; i++) {
        if (fibers[i].at == state::done) continue;
        if (fibers[i].at != state::at_block) return false;
        waiting++;
        sum += fibers[i].value;
    }
    if (!waiting) return false;
    block_sum = sum;
    for (int i = 0; i < n_fibers; i++)
        if (fibers[i].at == state::at_block) fibers[i].at = state::ready;
    return true;
}

void resume(fiber *f) {
    lh_emulated = f;
    if (_setjmp(scheduler)) return;
    if (f->started) _longjmp(f->resume, 1);
    f->started = true;
    getcontext(&f->first);
    f->first.uc_stack.ss_sp = stacks + (size_t)(f - fibers) * STACK;
    f->first.uc_stack.ss_size = STACK;
    f->first.uc_link = &scheduler_context;
    makecontext(&f->first, main_of_fiber, 0);
    setcontext(&f->first);
}

int nth(int i, int n) {
    if (order == 1) return n - 1 - i;
    if (order == 2) return i < n / 2 ? 2 * i + 1 : 2 * (i - n / 2);
    return i;
}

void run_block(dim3 block) {
    n_fibers = (int)(block.x * block.y * block.z);
    memset(warps, 0, sizeof warps);
    for (int i = 0; i < n_fibers; i++) {
        fiber *f = &fibers[i];
        f->index = {(unsigned)i % block.x, (unsigned)i / block.x % block.y, (unsigned)i / (block.x * block.y)};
        f->lane = i % 32;
        f->warp = i / 32;
        f->at = state::ready;
        warps[f->warp].live |= 1u << f->lane;
        f->copies.clear();
        f->groups = 0;
    }
    for (;;) {
        bool ran = false;
        int done = 0;
        for (int i = 0; i < n_fibers; i++) {
            fiber *f = &fibers[nth(i, n_fibers)];
            // Others may have left the warp since this one began to wait.
            if (f->at == state::at_warp) ran |= release_warp(f);
            if (f->at == state::ready) {
                ran = true;
                resume(f);
            }
            done += f->at == state::done;
        }
        if (done == n_fibers) return;
        if (!ran && !release_block())
            lh_emulator_fail("block (%u, %u, %u) hangs: some threads wait at a barrier that others never reach",
                             blockIdx.x, blockIdx.y, blockIdx.z);
    }
}

}  // namespace

lh_emulated_thread *lh_emulated;
uint3 blockIdx;
dim3 blockDim, gridDim;
unsigned char *lh_emulator_shared;

void lh_emulator_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulator: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

void lh_emulator_warp(unsigned mask, lh_emulator_collective run, void *arg) {
    fiber *f = self();
    if (!(mask >> f->lane & 1)) lh_emulator_fail("lane %d is not in the mask %08x it gives", f->lane, mask);
    f->mask = mask;
    f->run = run;
    f->arg = arg;
    f->at = state::at_warp;
    warps[f->warp].waiting |= 1u << f->lane;
    if (!release_warp(f)) yield();
}

unsigned lh_emulator_live() { return warps[self()->warp].live; }

int lh_emulator_block(int value) {
    self()->value = value;
    self()->at = state::at_block;
    yield();
    return block_sum;
}

void lh_emulator_copy_later(void *to, const void *from, int bytes, int zeros) {
    fiber *f = self();
    f->copies.push_back({to, from, bytes, zeros, f->groups});
}

void lh_emulator_copy_commit() { self()->groups++; }
void lh_emulator_copy_wait(int groups_left) { finish_copies(self(), groups_left); }

void lh_emulator_order(int to) { order = to; }

void lh_emulator_run(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    if (!fibers) {
        fibers = new fiber[MOST_THREADS]();
        void *p = mmap(NULL, MOST_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0);
        if (p == MAP_FAILED) lh_emulator_fail("no memory for %d stacks", MOST_THREADS);
        stacks = (char *)p;
    }
    kernel = &body;
    blockDim = block;
    gridDim = grid;
    // Shared memory ends where a page begins that may not be touched, and holds NaN.
    lh_emulator_shared = lh_emulator_shared_memory(shared);
    int blocks = (int)(grid.x * grid.y * grid.z);
    for (int i = 0; i < blocks; i++) {
        unsigned b = (unsigned)nth(i, blocks);
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        memset(lh_emulator_shared, 0xff, shared);
        run_block(block);
    }
}
