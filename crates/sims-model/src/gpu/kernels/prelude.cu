// What the kernels share. Every program is this text, its definitions and one of the other files.
//
// NVRTC compiles it without any header; the tests compile it as C++ after a shim that stands in for
// CUDA's own names. BF16 says whether an Element is the upper half of an f32 or an f32. Sums are f32
// in an order that depends on the length of the sum alone, so a row's result does not depend on the
// rows beside it.

#define WARP 32
#define ALL_LANES 0xffffffffu

typedef unsigned long long u64;

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

#if BF16
struct Element { unsigned short bits; };

__device__ inline float to_float(Element x) { return __uint_as_float((unsigned)x.bits << 16); }

// Rounds to the nearest, ties to even.
__device__ inline Element from_float(float x) {
    unsigned bits = __float_as_uint(x);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    unsigned rounded = is_nan ? (bits | 0x400000u) : bits + 0x7fffu + ((bits >> 16) & 1u);
    Element element;
    element.bits = (unsigned short)(rounded >> 16);
    return element;
}
#else
typedef float Element;

__device__ inline float to_float(float x) { return x; }

__device__ inline float from_float(float x) { return x; }
#endif

__device__ inline float larger(float a, float b) { return a > b ? a : b; }

__device__ inline float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ inline double warp_sum(double x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ inline u64 warp_sum(u64 x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

// The sum over a block of `threads` threads, a multiple of 32 of at most 1024; every thread gets it.
template <class T, int threads>
__device__ inline T block_sum(T x) {
    __shared__ T of_warp[WARP];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    T sum = 0;
    for (int warp = 0; warp < threads / WARP; ++warp) sum += of_warp[warp];
    return sum;
}

template <int threads>
__device__ inline float block_max(float x) {
    __shared__ float of_warp[WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = larger(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    float largest = of_warp[0];
    for (int warp = 1; warp < threads / WARP; ++warp) largest = larger(largest, of_warp[warp]);
    return largest;
}

template <int threads>
__device__ inline int block_min(int x) {
    __shared__ int of_warp[WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        int other = __shfl_xor_sync(ALL_LANES, x, offset);
        x = other < x ? other : x;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    int smallest = of_warp[0];
    for (int warp = 1; warp < threads / WARP; ++warp) {
        smallest = of_warp[warp] < smallest ? of_warp[warp] : smallest;
    }
    return smallest;
}
