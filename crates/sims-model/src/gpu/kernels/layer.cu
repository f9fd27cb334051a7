// What a decoder block does between its products: norm, rotation, cache write, activation, softmax.
//
// Definition: BF16. Values are computed in f32 and rounded once.

#define THREADS 256

// normed = norm(x + delta) * weight, and sum = x + delta. grid: (rows). x, delta, sum, normed: [rows, width];
// weight: [width] float. Without delta (null) x itself is normed and sum is not written.
extern "C" __global__ void __launch_bounds__(THREADS) add_rms_norm(
    const Element* __restrict__ x, const Element* __restrict__ delta, const float* __restrict__ weight,
    Element* sum, Element* __restrict__ normed, int width, float eps) {
    long long start = (long long)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float value = to_float(x[start + i]);
        if (delta) {
            Element stored = from_float(value + to_float(delta[start + i]));
            sum[start + i] = stored;
            value = to_float(stored);
        }
        squares += value * value;
    }
    squares = block_sum<float, THREADS>(squares);
    float scale = 1.0f / sqrtf(squares / (float)width + eps);
    const Element* values = delta ? sum : x;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        normed[start + i] = from_float(to_float(values[start + i]) * scale * weight[i]);
    }
}

// Rotates queries and keys, and writes keys and values to the rows' slots. grid: (rows).
// qkv: [rows, (heads + 2 * kv_heads) * head_dim]. turns: [rows, 2, pairs] float, the cosines then the sines of the
// angles by which dimension i turns with dimension i + pairs. slots: [rows]. q: [rows, heads * head_dim].
// keys, values: [slots, kv_heads * head_dim].
extern "C" __global__ void __launch_bounds__(THREADS) rotate_and_store(
    const Element* __restrict__ qkv, const float* __restrict__ turns, const int* __restrict__ slots,
    Element* __restrict__ q, Element* __restrict__ keys, Element* __restrict__ values, int heads, int kv_heads,
    int head_dim, int pairs) {
    int row = blockIdx.x;
    int kv_size = kv_heads * head_dim;
    const Element* from = qkv + (long long)row * (heads * head_dim + 2 * kv_size);
    const float* cosines = turns + (long long)row * 2 * pairs;
    const float* sines = cosines + pairs;
    Element* to_q = q + (long long)row * heads * head_dim;
    Element* to_k = keys + (long long)slots[row] * kv_size;
    Element* to_v = values + (long long)slots[row] * kv_size;
    for (int i = threadIdx.x; i < (heads + kv_heads) * pairs; i += THREADS) {
        int head = i / pairs;
        int pair = i % pairs;
        const Element* head_from = from + head * head_dim;
        Element* head_to = head < heads ? to_q + head * head_dim : to_k + (head - heads) * head_dim;
        float a = to_float(head_from[pair]);
        float b = to_float(head_from[pair + pairs]);
        head_to[pair] = from_float(a * cosines[pair] - b * sines[pair]);
        head_to[pair + pairs] = from_float(b * cosines[pair] + a * sines[pair]);
    }
    // Dimensions that do not turn.
    int still = head_dim - 2 * pairs;
    for (int i = threadIdx.x; i < (heads + kv_heads) * still; i += THREADS) {
        int head = i / still;
        int dimension = 2 * pairs + i % still;
        Element* head_to = head < heads ? to_q + head * head_dim : to_k + (head - heads) * head_dim;
        head_to[dimension] = from[head * head_dim + dimension];
    }
    const Element* from_v = from + (heads + kv_heads) * head_dim;
    for (int i = threadIdx.x; i < kv_size; i += THREADS) to_v[i] = from_v[i];
}

// out = activation(gate) * up. gate_up: [rows, 2 * width], out: [rows, width]. activation: 0 silu, 1 gelu by tanh.
// grid: any.
extern "C" __global__ void __launch_bounds__(THREADS) gated_activation(
    const Element* __restrict__ gate_up, Element* __restrict__ out, long long count, int width, int activation) {
    long long stride = (long long)gridDim.x * THREADS;
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        long long row = i / width;
        const Element* gate = gate_up + row * width + i;
        float x = to_float(gate[0]);
        float inner = 0.7978845608028654f * x * (1.0f + 0.044715f * x * x);
        float activated = activation == 0 ? x / (1.0f + expf(-x)) : 0.5f * x * (1.0f + tanhf(inner));
        out[i] = from_float(activated * to_float(gate[width]));
    }
}

// Turns scores into attention weights, in place: scale, soft cap, causal mask and window, softmax.
// grid: (queries, heads, segments). scores: [segments, heads, queries, positions].
// segments: [segments, 2] int: position of the first row, number of rows; rows beyond it repeat the last.
extern "C" __global__ void __launch_bounds__(THREADS) masked_softmax(
    Element* __restrict__ scores, const int* __restrict__ segments, int positions, float scale, int window,
    float soft_cap) {
    int last = segments[2 * blockIdx.z + 1] - 1;
    int row = (int)blockIdx.x < last ? (int)blockIdx.x : last;
    int end = segments[2 * blockIdx.z] + row + 1;
    int start = window > 0 && end > window ? end - window : 0;
    long long index = ((long long)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    Element* line = scores + index * positions;
    float largest = minus_infinity();
    for (int i = start + threadIdx.x; i < end; i += THREADS) {
        float x = to_float(line[i]) * scale;
        if (soft_cap > 0.0f) x = soft_cap * tanhf(x / soft_cap);
        largest = larger(largest, x);
    }
    largest = block_max<THREADS>(largest);
    float total = 0.0f;
    for (int i = start + threadIdx.x; i < end; i += THREADS) {
        float x = to_float(line[i]) * scale;
        if (soft_cap > 0.0f) x = soft_cap * tanhf(x / soft_cap);
        total += expf(x - largest);
    }
    float share = 1.0f / block_sum<float, THREADS>(total);
    for (int i = threadIdx.x; i < positions; i += THREADS) {
        float weight = 0.0f;
        if (i >= start && i < end) {
            float x = to_float(line[i]) * scale;
            if (soft_cap > 0.0f) x = soft_cap * tanhf(x / soft_cap);
            weight = expf(x - largest) * share;
        }
        line[i] = from_float(weight);
    }
}
