// Attention of single query rows over the KV cache: one row a segment, grouped query heads, in two steps.
//
// attend_split computes 128 positions of one segment for the query heads of one kv head, in f32, with a
// running maximum. attend_combine adds a segment's splits in the order of their positions. Where the
// splits lie depends on the position alone, so a row's bits do not depend on the batch.
//
// Definitions: HEAD_DIM, GROUP (query heads of one kv head), BF16.
//
// segments: [segments, 8] int: query row, number of attended positions, first range, end of ranges,
//           first split, end of splits, 0, 0
// ranges:   [ranges, 2] int: the first position of a run of consecutive slots, and its slot
// splits:   [splits, 2] int: segment, first position (a multiple of SPLIT)
// partial:  [splits, heads, HEAD_DIM + 2] float: weighted sum of values, largest score, sum of weights

#define THREADS 128
#define WARPS (THREADS / WARP)
#define SPLIT 128
#define UNROLL 2
#define HEAD_TILE (GROUP < 4 ? GROUP : 4)
#define TILES ((GROUP + HEAD_TILE - 1) / HEAD_TILE)
#define LOG2_E 1.4426950408889634f

// A vector is the widest load that a head's rows are aligned to.
#if BF16
#if HEAD_DIM % 8 == 0
typedef uint4 Vector;
#define VECTOR 8
#else
typedef unsigned Vector;
#define VECTOR 2
#endif
#else
#if HEAD_DIM % 4 == 0
typedef float4 Vector;
#define VECTOR 4
#else
typedef float2 Vector;
#define VECTOR 2
#endif
#endif

// Lanes that share a position, each with about 16 of its dimensions.
#if HEAD_DIM > 256
#define LANES 32
#elif HEAD_DIM > 128
#define LANES 16
#elif HEAD_DIM > 64
#define LANES 8
#elif HEAD_DIM > 32
#define LANES 4
#elif HEAD_DIM > 16
#define LANES 2
#else
#define LANES 1
#endif
#define POSITIONS (THREADS / LANES)
#define VECTORS (HEAD_DIM / VECTOR)
#define PARTS ((VECTORS + LANES - 1) / LANES)
#define WIDTH (PARTS * VECTOR)

#if BF16
__device__ inline void unpack(unsigned pair, float* to) {
    to[0] = __uint_as_float(pair << 16);
    to[1] = __uint_as_float(pair & 0xffff0000u);
}
__device__ inline void unpack(uint4 vector, float* to) {
    unpack(vector.x, to);
    unpack(vector.y, to + 2);
    unpack(vector.z, to + 4);
    unpack(vector.w, to + 6);
}
#else
__device__ inline void unpack(float2 vector, float* to) {
    to[0] = vector.x;
    to[1] = vector.y;
}
__device__ inline void unpack(float4 vector, float* to) {
    to[0] = vector.x;
    to[1] = vector.y;
    to[2] = vector.z;
    to[3] = vector.w;
}
#endif

// A lane's share of one head of one row.
struct Share { Vector parts[PARTS]; };

__device__ inline Share load_share(const Element* head, int lane) {
    Share share;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        int vector = lane + part * LANES;
        if (VECTORS % LANES == 0 || vector < VECTORS) {
            share.parts[part] = ((const Vector*)head)[vector];
        } else {
            share.parts[part] = Vector();
        }
    }
    return share;
}

__device__ inline void unpack_share(const Share& share, float* to) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) unpack(share.parts[part], to + part * VECTOR);
}

// exp(x) for x <= 0, 0 at minus infinity.
__device__ inline float fall(float x) { return exp2f(x * LOG2_E); }

// How much a sum weighs whose largest score was `before` once it is `now`.
__device__ inline float weight_of(float before, float now) {
    return before == minus_infinity() ? 0.0f : fall(before - now);
}

// The slot of a position: that of the last range which starts at or before it, and as far on.
__device__ inline int slot_of(const int* ranges, int first, int end, int position) {
    while (end - first > 1) {
        int middle = (first + end) / 2;
        if (ranges[2 * middle] <= position) {
            first = middle;
        } else {
            end = middle;
        }
    }
    return ranges[2 * first + 1] + position - ranges[2 * first];
}

// grid: (splits, kv_heads * TILES). q: [rows, kv_heads * GROUP * HEAD_DIM]. keys, values: [slots, kv_heads * HEAD_DIM].
// window: the number of last positions attended, 0 for all. soft_cap: c in c * tanh(score / c), 0 for none.
extern "C" __global__ void __launch_bounds__(THREADS) attend_split(
    const Element* __restrict__ q, const Element* __restrict__ keys, const Element* __restrict__ values,
    const int* __restrict__ segments, const int* __restrict__ ranges, const int* __restrict__ splits,
    float* __restrict__ partial, int kv_heads, float scale, int window, float soft_cap) {
    __shared__ int slots[SPLIT];
    __shared__ float of_warps[WARPS][HEAD_TILE][HEAD_DIM + 2];

    const int* segment = segments + 8 * splits[2 * blockIdx.x];
    int first = splits[2 * blockIdx.x + 1];
    int attended = segment[1];
    int kv_head = blockIdx.y / TILES;
    int head_start = blockIdx.y % TILES * HEAD_TILE;
    int heads = kv_heads * GROUP;
    int tile_heads = GROUP - head_start < HEAD_TILE ? GROUP - head_start : HEAD_TILE;
    int out_head = kv_head * GROUP + head_start;
    float* out = partial + ((long long)blockIdx.x * heads + out_head) * (HEAD_DIM + 2);

    int start = window > 0 && attended - window > first ? attended - window : first;
    int end = attended < first + SPLIT ? attended : first + SPLIT;
    if (start >= end) {
        for (int head = threadIdx.x; head < tile_heads; head += THREADS) {
            out[head * (HEAD_DIM + 2) + HEAD_DIM] = minus_infinity();
            out[head * (HEAD_DIM + 2) + HEAD_DIM + 1] = 0.0f;
        }
        return;
    }
    // Positions that are not attended read the slot of one that is, and get no weight.
    for (int i = threadIdx.x; i < SPLIT; i += THREADS) {
        int position = first + i;
        if (position < start || position >= end) position = start;
        slots[i] = slot_of(ranges, segment[2], segment[3], position);
    }
    __syncthreads();

    int lane = threadIdx.x % LANES;
    int row = threadIdx.x / LANES;
    float query[HEAD_TILE][WIDTH];
    float sum[HEAD_TILE][WIDTH];
    float largest[HEAD_TILE];
    float total[HEAD_TILE];
#pragma unroll
    for (int head = 0; head < HEAD_TILE; ++head) {
        // A tile's heads beyond the group repeat its last; they are not written.
        int of_group = head < tile_heads ? head : tile_heads - 1;
        const Element* from = q + ((long long)segment[0] * heads + out_head + of_group) * HEAD_DIM;
        unpack_share(load_share(from, lane), query[head]);
        largest[head] = minus_infinity();
        total[head] = 0.0f;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            query[head][i] *= scale;
            sum[head][i] = 0.0f;
        }
    }

    for (int i = row; i < SPLIT; i += UNROLL * POSITIONS) {
        Share key[UNROLL];
        Share value[UNROLL];
        bool real[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            int index = i + u * POSITIONS;
            int clamped = index < SPLIT ? index : SPLIT - 1;
            real[u] = index < SPLIT && first + index >= start && first + index < end;
            long long offset = ((long long)slots[clamped] * kv_heads + kv_head) * HEAD_DIM;
            key[u] = load_share(keys + offset, lane);
            value[u] = load_share(values + offset, lane);
        }
        float score[UNROLL][HEAD_TILE];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            float unpacked[WIDTH];
            unpack_share(key[u], unpacked);
#pragma unroll
            for (int head = 0; head < HEAD_TILE; ++head) {
                float product = 0.0f;
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) product = fmaf(query[head][j], unpacked[j], product);
                score[u][head] = product;
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
#pragma unroll
            for (int head = 0; head < HEAD_TILE; ++head) {
                float x = score[u][head];
#pragma unroll
                for (int offset = LANES / 2; offset > 0; offset /= 2) {
                    x += __shfl_xor_sync(ALL_LANES, x, offset);
                }
                if (soft_cap > 0.0f) x = soft_cap * tanhf(x / soft_cap);
                score[u][head] = real[u] ? x : minus_infinity();
            }
        }
#pragma unroll
        for (int head = 0; head < HEAD_TILE; ++head) {
            float now = largest[head];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) now = larger(now, score[u][head]);
            float kept = weight_of(largest[head], now);
            largest[head] = now;
            total[head] *= kept;
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) sum[head][j] *= kept;
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            float unpacked[WIDTH];
            unpack_share(value[u], unpacked);
#pragma unroll
            for (int head = 0; head < HEAD_TILE; ++head) {
                float weight = weight_of(score[u][head], largest[head]);
                total[head] += weight;
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum[head][j] = fmaf(weight, unpacked[j], sum[head][j]);
            }
        }
    }

    // The positions that the warp's lanes had.
#pragma unroll
    for (int head = 0; head < HEAD_TILE; ++head) {
#pragma unroll
        for (int offset = LANES; offset < WARP; offset *= 2) {
            float other = __shfl_xor_sync(ALL_LANES, largest[head], offset);
            float now = larger(largest[head], other);
            float mine = weight_of(largest[head], now);
            float theirs = weight_of(other, now);
            largest[head] = now;
            total[head] = mine * total[head] + theirs * __shfl_xor_sync(ALL_LANES, total[head], offset);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                float there = __shfl_xor_sync(ALL_LANES, sum[head][j], offset);
                sum[head][j] = mine * sum[head][j] + theirs * there;
            }
        }
    }
    int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP < LANES) {
#pragma unroll
        for (int head = 0; head < HEAD_TILE; ++head) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                int dimension = (lane + j / VECTOR * LANES) * VECTOR + j % VECTOR;
                if (dimension < HEAD_DIM) of_warps[warp][head][dimension] = sum[head][j];
            }
            if (lane == 0) {
                of_warps[warp][head][HEAD_DIM] = largest[head];
                of_warps[warp][head][HEAD_DIM + 1] = total[head];
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tile_heads * (HEAD_DIM + 2); i += THREADS) {
        int head = i / (HEAD_DIM + 2);
        int dimension = i % (HEAD_DIM + 2);
        float now = of_warps[0][head][HEAD_DIM];
        for (int w = 1; w < WARPS; ++w) now = larger(now, of_warps[w][head][HEAD_DIM]);
        float x = 0.0f;
        for (int w = 0; w < WARPS; ++w) {
            x += weight_of(of_warps[w][head][HEAD_DIM], now) * of_warps[w][head][dimension];
        }
        out[i] = dimension == HEAD_DIM ? now : x;
    }
}

// grid: (segments, heads). out: [segments, heads * HEAD_DIM].
extern "C" __global__ void __launch_bounds__(THREADS) attend_combine(
    const float* __restrict__ partial, const int* __restrict__ segments, Element* __restrict__ out) {
    const int* segment = segments + 8 * blockIdx.x;
    int heads = gridDim.y;
    int head = blockIdx.y;
    const float* first = partial + ((long long)segment[4] * heads + head) * (HEAD_DIM + 2);
    long long stride = (long long)heads * (HEAD_DIM + 2);
    int splits = segment[5] - segment[4];

    float largest = minus_infinity();
    for (int split = 0; split < splits; ++split) largest = larger(largest, first[split * stride + HEAD_DIM]);
    for (int dimension = threadIdx.x; dimension < HEAD_DIM; dimension += THREADS) {
        float sum = 0.0f;
        float total = 0.0f;
        for (int split = 0; split < splits; ++split) {
            const float* part = first + split * stride;
            float weight = weight_of(part[HEAD_DIM], largest);
            // A split outside the window has no sum to weigh.
            if (weight > 0.0f) {
                sum += weight * part[dimension];
                total += weight * part[HEAD_DIM + 1];
            }
        }
        out[((long long)blockIdx.x * heads + head) * HEAD_DIM + dimension] = from_float(sum / total);
    }
}
