// The choice of the next token from a row of logits, as the host's sampler makes it.
//
// One block a row. Weights are the host's to the bit (the same polynomial, no fused operations). Their sums are
// integers in units of 2^-44, so that neither the order of the threads nor the batch matters; the host sums the same
// weights as f64, and the two choices differ only where a sum meets a bound to within that rounding.

#define THREADS 1024
#define WARPS (THREADS / WARP)
#define BINS 2048
#define UNIT 17592186044416.0f

// exp(x) for x <= 0: relative error below 2e-7, 0 below -87.
__device__ inline float exp_non_positive(float x) {
    float clamped = x < -87.0f ? -87.0f : x;
    float shifted = clamped * 1.44269504088896340736f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float mantissa = p * (r * r) + r + 1.0f;
    float scale = __uint_as_float((__float_as_uint(shifted) + 127u) << 23);
    return x < -87.0f ? 0.0f : mantissa * scale;
}

// Numbers in the order of the floats, -0 before 0.
__device__ inline unsigned key_of(float x) {
    unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline u64 units(float weight) { return (u64)(weight * UNIT); }

struct Place {
    int index;
    u64 before;
};

// The first of `count` numbers with which the running sum exceeds `target`, and the sum before it; for all threads.
__device__ inline Place locate(const u64* numbers, int count, u64 target) {
    __shared__ Place place;
    __syncthreads();
    if (threadIdx.x < WARP) {
        int lane = threadIdx.x;
        int length = (count + WARP - 1) / WARP;
        int start = lane * length;
        int end = start + length < count ? start + length : count;
        u64 own = 0;
        for (int i = start; i < end; ++i) own += numbers[i];
        u64 through = own;
        for (int offset = 1; offset < WARP; offset *= 2) {
            u64 below = __shfl_up_sync(ALL_LANES, through, offset);
            if (lane >= offset) through += below;
        }
        u64 running = through - own;
        if (running <= target && through > target) {
            int i = start;
            while (running + numbers[i] <= target) running += numbers[i++];
            place.index = i;
            place.before = running;
        }
    }
    __syncthreads();
    return place;
}

// Of the entries in descending order of their keys, the key with which the running sum of weights reaches `wanted`,
// and the sum before it. entry(i, &key) returns the weight. 1 <= wanted <= the sum of all.
template <class Entry>
__device__ inline unsigned select(Entry entry, int count, u64 wanted, u64* sums, u64* before) {
    const int shifts[3] = {21, 10, 0};
    unsigned prefix = 0;
    u64 held = 0;
    for (int pass = 0; pass < 3; ++pass) {
        int shift = shifts[pass];
        unsigned bins = pass == 2 ? 1024u : 2048u;
        __syncthreads();
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) sums[bin] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += THREADS) {
            unsigned key;
            u64 weight = entry(i, &key);
            bool fits = pass == 0 || (key >> shifts[pass - 1 < 0 ? 0 : pass - 1]) == prefix;
            // The bins run downwards: the largest digit first.
            if (fits && weight > 0) atomicAdd(&sums[bins - 1 - ((key >> shift) & (bins - 1))], weight);
        }
        Place place = locate(sums, (int)bins, wanted - held - 1);
        held += place.before;
        unsigned digit = bins - 1 - (unsigned)place.index;
        prefix = pass == 0 ? digit : pass == 1 ? (prefix << 11) | digit : (prefix << 10) | digit;
    }
    *before = held;
    return prefix;
}

// grid: (rows). logits: [rows, vocab]. uniforms: [rows], in [0, 1). temperature 0 takes the largest logit.
// out: [rows, 6]: token, bits of its logit, bits of the largest logit, status, low and high half of the sum of
// exp(logit - largest) in units. status: 0 a token, 1 a logit that is NaN or infinite (token says which), 2 no finite one.
extern "C" __global__ void __launch_bounds__(THREADS) choose(
    const float* __restrict__ logits, const double* __restrict__ uniforms, unsigned* __restrict__ out, int vocab,
    float temperature, int top_k, float top_p, float min_p) {
    __shared__ u64 sums[BINS];
    __shared__ int chosen;
    const float* row = logits + (long long)blockIdx.x * vocab;
    unsigned* result = out + 6 * blockIdx.x;

    float largest = minus_infinity();
    int bad = vocab;
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        float x = row[i];
        if (!(x < __uint_as_float(0x7f800000u)) && i < bad) bad = i;
        largest = larger(x, largest);
    }
    bad = block_min<THREADS>(bad);
    largest = block_max<THREADS>(largest);
    if (bad < vocab || largest == minus_infinity()) {
        if (threadIdx.x == 0) {
            result[0] = (unsigned)bad;
            result[1] = 0;
            result[2] = 0;
            result[3] = bad < vocab ? 1 : 2;
            result[4] = 0;
            result[5] = 0;
        }
        return;
    }

    u64 plain = 0;
    int first = vocab;
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        float x = row[i];
        plain += units(exp_non_positive(x - largest));
        if (x == largest && i < first) first = i;
    }
    plain = block_sum<u64, THREADS>(plain);
    int token = block_min<THREADS>(first);

    if (temperature > 0.0f) {
        float lowest = minus_infinity();
        u64 before;
        if (top_k > 0 && top_k < vocab) {
            auto counted = [&](int i, unsigned* key) -> u64 {
                *key = key_of(row[i]);
                return 1;
            };
            unsigned last = select(counted, vocab, (u64)top_k, sums, &before);
            lowest = __uint_as_float(last & 0x80000000u ? last & 0x7fffffffu : ~last);
        }
        // What top-k leaves.
        auto head_weight = [&](int i) -> u64 {
            float x = row[i];
            return x < lowest ? 0 : units(exp_non_positive((x - largest) / temperature));
        };
        unsigned last_key = 0;
        int last_token = vocab;
        if (top_p < 1.0f) {
            u64 mass = 0;
            for (int i = threadIdx.x; i < vocab; i += THREADS) mass += head_weight(i);
            mass = block_sum<u64, THREADS>(mass);
            u64 wanted = (u64)ceil((double)top_p * (double)mass);
            wanted = wanted < 1 ? 1 : wanted > mass ? mass : wanted;
            auto weighed = [&](int i, unsigned* key) -> u64 {
                *key = key_of(row[i]);
                return head_weight(i);
            };
            last_key = select(weighed, vocab, wanted, sums, &before);
            // Of the tokens tied with the last of the nucleus, those with the lowest ids are in it.
            float tied_logit = __uint_as_float(last_key & 0x80000000u ? last_key & 0x7fffffffu : ~last_key);
            u64 weight = units(exp_non_positive((tied_logit - largest) / temperature));
            u64 in_nucleus = (wanted - before + weight - 1) / weight;
            auto tied = [&](int i, unsigned* key) -> u64 {
                *key = ~(unsigned)i;
                return key_of(row[i]) == last_key ? 1 : 0;
            };
            last_token = (int)~select(tied, vocab, in_nucleus, sums, &before);
        }
        // What all filters leave.
        auto weight = [&](int i) -> u64 {
            float x = row[i];
            unsigned key = key_of(x);
            if (x < lowest || key < last_key || (key == last_key && i > last_token)) return 0;
            float share = exp_non_positive((x - largest) / temperature);
            return share < min_p ? 0 : units(share);
        };
        // Tokens a chunk, a multiple of the warp so that there are at most BINS of them.
        int chunk = (vocab + BINS - 1) / BINS;
        chunk = chunk < 256 ? 256 : (chunk + WARP - 1) / WARP * WARP;
        int chunks = (vocab + chunk - 1) / chunk;
        int lane = threadIdx.x % WARP;
        u64 total = 0;
        __syncthreads();
        for (int c = threadIdx.x / WARP; c < chunks; c += WARPS) {
            int end = (c + 1) * chunk < vocab ? (c + 1) * chunk : vocab;
            u64 sum = 0;
            for (int i = c * chunk + lane; i < end; i += WARP) sum += weight(i);
            sum = warp_sum(sum);
            if (lane == 0) {
                sums[c] = sum;
                total += sum;
            }
        }
        total = block_sum<u64, THREADS>(total);
        u64 target = (u64)(uniforms[blockIdx.x] * (double)total);
        if (target >= total) target = total - 1;
        Place place = locate(sums, chunks, target);
        if (threadIdx.x < WARP) {
            u64 running = place.before;
            bool found = false;
            for (int start = place.index * chunk; !found; start += WARP) {
                int i = start + lane;
                u64 through = i < vocab ? weight(i) : 0;
                for (int offset = 1; offset < WARP; offset *= 2) {
                    u64 below = __shfl_up_sync(ALL_LANES, through, offset);
                    if (lane >= offset) through += below;
                }
                unsigned past = __ballot_sync(ALL_LANES, running + through > target);
                if (past != 0) {
                    if (lane == 0) chosen = start + __ffs((int)past) - 1;
                    found = true;
                }
                running += __shfl_sync(ALL_LANES, through, WARP - 1);
            }
        }
        __syncthreads();
        token = chosen;
    }
    if (threadIdx.x == 0) {
        result[0] = (unsigned)token;
        result[1] = __float_as_uint(row[token]);
        result[2] = __float_as_uint(largest);
        result[3] = 0;
        result[4] = (unsigned)plain;
        result[5] = (unsigned)(plain >> 32);
    }
}
