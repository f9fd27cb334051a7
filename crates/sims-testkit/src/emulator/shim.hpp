// Stands in for CUDA's names, so that a kernel's source compiles as C++ and runs on the CPU.
//
// The threads of a block are fibers that take turns: each runs until it waits for others, in ascending or
// descending order of their numbers. A barrier that is missing then shows as a value read too early in one of the two
// orders, and one that not every thread reaches stops the program. Blocks run one after another.

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct uint4 { unsigned x, y, z, w; } __attribute__((aligned(16)));
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
struct Index { unsigned x, y, z; };

namespace emulator {

const int LANES = 32;
const int MOST_THREADS = 1024;
const size_t STACK = 256 * 1024;

struct Barrier {
    int arrived;
    unsigned passed;
};

struct Warp {
    Barrier barrier;
    // What lanes show each other, in two turns: nobody can be more than one exchange ahead.
    unsigned long long shown[2][LANES];
};

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    char* stack;
    bool started;
    bool done;
};

static Fiber fibers[MOST_THREADS];
static Warp warps[MOST_THREADS / LANES];
static Barrier of_block;
static jmp_buf scheduler_place;
static int current, threads;
static unsigned long long steps;
static Index grid, block;
static void (*body)(void*);
static void* body_arguments;

inline void stop(const char* why) {
    fprintf(stderr, "emulated kernel: %s (block %u %u %u, thread %d)\n", why, block.x, block.y, block.z, current);
    abort();
}

// A fiber is entered once by its context, which asks the system, and then by jumps, which do not.
inline void leave() {
    if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler_place, 1);
}

inline void resume(Fiber& fiber) {
    if (_setjmp(scheduler_place) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

inline void wait(Barrier& barrier, int participants) {
    unsigned passed = barrier.passed;
    if (++barrier.arrived == participants) {
        barrier.arrived = 0;
        ++barrier.passed;
        ++steps;
        return;
    }
    while (barrier.passed == passed) leave();
}

inline void wait_for_block() { wait(of_block, threads); }

inline void wait_for_warp() { wait(warps[current / LANES].barrier, LANES); }

// Shows a value to the warp and returns what the lanes show.
template <class T>
inline const unsigned long long* show(T value) {
    static_assert(sizeof(T) <= 8, "a value of at most eight bytes");
    Warp& warp = warps[current / LANES];
    unsigned long long* shown = warp.shown[warp.barrier.passed % 2];
    memcpy(&shown[current % LANES], &value, sizeof(T));
    wait_for_warp();
    return shown;
}

template <class T>
inline T lane_value(T value, int lane) {
    const unsigned long long* shown = show(value);
    T found;
    memcpy(&found, &shown[lane], sizeof(T));
    return found;
}

static void run_fiber() {
    body(body_arguments);
    fibers[current].done = true;
    ++steps;
    leave();
}

inline void run_block(bool descending) {
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack = (char*)malloc(STACK);
        fiber.started = false;
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = 0;
        makecontext(&fiber.context, run_fiber, 0);
    }
    int left = threads;
    while (left > 0) {
        unsigned long long before = steps;
        for (int i = 0; i < threads; ++i) {
            current = descending ? threads - 1 - i : i;
            if (fibers[current].done) continue;
            resume(fibers[current]);
            if (fibers[current].done) --left;
        }
        if (steps == before) stop("some threads wait for others that never come");
    }
}

template <class... Arguments, size_t... I>
inline void call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_reference_t<Arguments>*)arguments[I]...);
}

template <class... Arguments>
inline void launch(void (*kernel)(Arguments...), void** arguments, const unsigned* blocks, int count, int descending) {
    if (count > MOST_THREADS || count % LANES != 0) stop("a block of so many threads is not emulated");
    struct Call {
        void (*kernel)(Arguments...);
        void** arguments;
    } wanted = {kernel, arguments};
    body = [](void* data) {
        Call* call_data = (Call*)data;
        call(call_data->kernel, call_data->arguments, std::index_sequence_for<Arguments...>());
    };
    body_arguments = &wanted;
    threads = count;
    grid = {blocks[0], blocks[1], blocks[2]};
    for (block.z = 0; block.z < grid.z; ++block.z) {
        for (block.y = 0; block.y < grid.y; ++block.y) {
            for (block.x = 0; block.x < grid.x; ++block.x) run_block(descending != 0);
        }
    }
}

}  // namespace emulator

#define threadIdx (Index{(unsigned)emulator::current, 0, 0})
#define blockIdx (emulator::block)
#define gridDim (emulator::grid)

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp() { emulator::wait_for_warp(); }

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::lane_value(value, (emulator::current % emulator::LANES) ^ mask);
}

template <class T>
inline T __shfl_sync(unsigned, T value, int lane) {
    return emulator::lane_value(value, lane % emulator::LANES);
}

template <class T>
inline T __shfl_up_sync(unsigned, T value, int distance) {
    int lane = emulator::current % emulator::LANES;
    return emulator::lane_value(value, lane < distance ? lane : lane - distance);
}

inline unsigned __ballot_sync(unsigned, bool vote) {
    const unsigned long long* shown = emulator::show((unsigned long long)vote);
    unsigned votes = 0;
    for (int lane = 0; lane < emulator::LANES; ++lane) votes |= (unsigned)shown[lane] << lane;
    return votes;
}

template <class T>
inline T atomicAdd(T* at, T value) {
    T before = *at;
    *at = before + value;
    return before;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
