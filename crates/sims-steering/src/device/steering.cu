// Edits of hidden states on the device, row by row, in place.
//
// A layer's rows are gathered as f32, edited one edit after another, and scattered back in the decoder's type, as the
// host does it. Sums over a row are f64 in a fixed order, so these kernels' result for a row does not depend on the rows
// beside it. The angle network's products are computed elsewhere.
//
// Definition: BF16.

#define THREADS 256

__device__ inline double row_norm(const float* row, int width) {
    double squares = 0.0;
    for (int i = threadIdx.x; i < width; i += THREADS) squares += (double)row[i] * (double)row[i];
    return sqrt(block_sum<double, THREADS>(squares));
}

// Scales a row back to the norm it had; skipped where the edit all but removed it.
__device__ inline void restore_norm(float* row, int width, double before) {
    double after = row_norm(row, width);
    if (after >= 1e-6 * before && after > 0.0) {
        double scale = before / after;
        for (int i = threadIdx.x; i < width; i += THREADS) row[i] = (float)((double)row[i] * scale);
    }
}

// grid: (rows). hidden: [.., width]. indices: [rows], which of its rows. rows: [rows, width] float.
extern "C" __global__ void __launch_bounds__(THREADS) gather_rows(
    const Element* __restrict__ hidden, const int* __restrict__ indices, float* __restrict__ rows, int width) {
    const Element* from = hidden + (long long)indices[blockIdx.x] * width;
    float* to = rows + (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += THREADS) to[i] = to_float(from[i]);
}

// grid: (rows). The reverse of gather_rows.
extern "C" __global__ void __launch_bounds__(THREADS) scatter_rows(
    const float* __restrict__ rows, const int* __restrict__ indices, Element* __restrict__ hidden, int width) {
    const float* from = rows + (long long)blockIdx.x * width;
    Element* to = hidden + (long long)indices[blockIdx.x] * width;
    for (int i = threadIdx.x; i < width; i += THREADS) to[i] = from_float(from[i]);
}

// out = float(double(x) * scale). grid: any.
extern "C" __global__ void __launch_bounds__(THREADS) scale_rows(
    const float* __restrict__ x, float* __restrict__ out, long long count, double scale) {
    long long stride = (long long)gridDim.x * THREADS;
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        out[i] = (float)((double)x[i] * scale);
    }
}

// The error function to about 3e-7, as on the host.
__device__ inline float error_function(float x) {
    x = x < -4.0f ? -4.0f : x > 4.0f ? 4.0f : x;
    float square = x * x;
    float above = -2.7261423e-10f;
    above = above * square + 2.7706814e-8f;
    above = above * square - 2.101024e-6f;
    above = above * square - 5.6925064e-5f;
    above = above * square - 7.3499063e-4f;
    above = above * square - 2.9546e-3f;
    above = above * square - 1.609603e-2f;
    float below = -1.4566072e-5f;
    below = below * square - 2.1337406e-4f;
    below = below * square - 1.682827e-3f;
    below = below * square - 7.3733292e-3f;
    below = below * square - 1.4264739e-2f;
    return x * above / below;
}

// values = gelu(values + bias), in place. values: [rows, width], bias: [width]. grid: any.
extern "C" __global__ void __launch_bounds__(THREADS) add_bias_gelu(
    float* __restrict__ values, const float* __restrict__ bias, long long count, int width) {
    long long stride = (long long)gridDim.x * THREADS;
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        float x = values[i] + bias[i % width];
        values[i] = 0.5f * x * (1.0f + error_function(x * 0.70710678118654752440f));
    }
}

// rows += vector. grid: (rows). rows: [rows, width]. counted: [rows], 0 for a row that was counted when it ran before.
// counts: edited, capped.
extern "C" __global__ void __launch_bounds__(THREADS) add_vector(
    float* __restrict__ rows, const float* __restrict__ vector, const int* __restrict__ counted,
    u64* __restrict__ counts, int width, int preserve_norm) {
    float* row = rows + (long long)blockIdx.x * width;
    double before = preserve_norm ? row_norm(row, width) : 0.0;
    for (int i = threadIdx.x; i < width; i += THREADS) row[i] += vector[i];
    __syncthreads();
    if (preserve_norm) restore_norm(row, width, before);
    if (threadIdx.x == 0 && counted[blockIdx.x]) atomicAdd(&counts[0], (u64)1);
}

// Turns rows toward a normal. grid: (rows). rows: [rows, width], normal: [width].
// rule: 0 the angle is number * pi * sigmoid(logits[row] + bias), 1 it is number, 2 it is number times the way to the
// elevation `target`. edge: rows of a higher elevation stay. kappa: below 0 for none. max_angle: infinite for none.
// counted, counts: as above.
extern "C" __global__ void __launch_bounds__(THREADS) turn_rows(
    float* __restrict__ rows, const float* __restrict__ normal, const float* __restrict__ logits,
    const int* __restrict__ counted, u64* __restrict__ counts, int width, int rule, int preserve_norm, float bias, double inverse_norm,
    double strength, double edge, double number, double target, double kappa, double max_angle) {
    const double pi = 3.14159265358979323846;
    float* row = rows + (long long)blockIdx.x * width;
    double norm = row_norm(row, width);
    if (norm == 0.0) return;
    double along = 0.0;
    for (int i = threadIdx.x; i < width; i += THREADS) along += (double)row[i] * (double)normal[i];
    double cosine = block_sum<double, THREADS>(along) * inverse_norm / norm;
    double residual = 0.0;
    double share = cosine / norm;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        double part = (double)normal[i] * inverse_norm - share * (double)row[i];
        residual += part * part;
    }
    double sine = sqrt(block_sum<double, THREADS>(residual));
    double elevation = atan2(cosine, sine);
    if (!(elevation <= edge) || sine < 1e-6) return;

    double wanted = number;
    if (rule == 0) {
        double logit = (double)(logits[blockIdx.x] + bias);
        double e = exp(logit >= 0.0 ? -logit : logit);
        wanted = number * pi * (logit >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e));
    } else if (rule == 2) {
        wanted = number * (target > elevation ? target - elevation : 0.0);
    }
    wanted *= strength;
    double mirror = 2.0 * (edge > elevation ? edge - elevation : 0.0);
    double cap = kappa < 0.0 ? max_angle : kappa * mirror < max_angle ? kappa * mirror : max_angle;
    double angle = wanted < -cap ? -cap : wanted > cap ? cap : wanted;
    double keep = cos(angle) - sin(angle) * cosine / sine;
    double add = sin(angle) * norm / sine * inverse_norm;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        row[i] = (float)(keep * (double)row[i] + add * (double)normal[i]);
    }
    __syncthreads();
    if (preserve_norm) restore_norm(row, width, norm);
    if (threadIdx.x == 0 && counted[blockIdx.x]) {
        atomicAdd(&counts[0], (u64)1);
        if (fabs(wanted) > cap) atomicAdd(&counts[1], (u64)1);
    }
}

// Moves coordinates inside their support: x' = (1 - share) x + share (scale x + shift). grid: (rows). rows: [rows, width];
// scale, shift, low, high: [width]. counted, counts: as above; a row counts as edited if a coordinate was inside.
extern "C" __global__ void __launch_bounds__(THREADS) transport_rows(
    float* __restrict__ rows, const float* __restrict__ scale, const float* __restrict__ shift,
    const float* __restrict__ low, const float* __restrict__ high, const int* __restrict__ counted,
    u64* __restrict__ counts, int width, int preserve_norm, double share) {
    if (share == 0.0) return;
    float* row = rows + (long long)blockIdx.x * width;
    double before = preserve_norm ? row_norm(row, width) : 0.0;
    double inside = 0.0;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float value = row[i];
        if (low[i] <= value && value <= high[i]) {
            double x = (double)value;
            row[i] = (float)((1.0 - share) * x + share * ((double)scale[i] * x + (double)shift[i]));
            inside = 1.0;
        }
    }
    inside = block_sum<double, THREADS>(inside);
    if (preserve_norm) restore_norm(row, width, before);
    if (threadIdx.x == 0 && inside > 0.0 && counted[blockIdx.x]) atomicAdd(&counts[0], (u64)1);
}
