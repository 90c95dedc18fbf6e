// The parts of a decoder step between its matrix products, for a CPU. s2s/native/library.py compiles and loads this.
//
// Each function has a twin in PyTorch operators that gives the same to rounding, in s2s/models/transformer.py and
// s2s/decoding/. A row is computed in the same order whatever the other rows are.
//
// Shapes: B slots (sentences), K rows a slot, R = B*K rows, H query heads, G key/value heads, d head width, L places of
// a cache, S source positions, V vocabulary, N outputs. All arrays are contiguous; float is fp32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

namespace {

constexpr float NEVER = -std::numeric_limits<float>::infinity();
constexpr int64_t PARALLEL = 1 << 15;  // multiplications from which a second thread is worth waking
constexpr int64_t BLOCK = 64;          // logits whose maximum is looked at first
constexpr int64_t UNK = 1, EOS = 3, SPECIALS = 4;

// e^x for x <= 0, relative error below 2e-7 (Cephes' expf); a loop over it is vectorised.
inline float exponential(float x) {
    x = std::max(x, -87.0f);
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

inline float dot(const float* a, const float* b, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

// Scores become weights that add up to one.
inline void softmax(float* scores, int64_t size) {
    float most = NEVER, sum = 0;
    for (int64_t i = 0; i < size; ++i) most = std::max(most, scores[i]);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += scores[i] = exponential(scores[i] - most);
    const float scale = 1 / sum;
    for (int64_t i = 0; i < size; ++i) scores[i] *= scale;
}

inline void add_scaled(float* sum, const float* x, float weight, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) sum[i] += weight * x[i];
}

float* scratch(int64_t size) {
    thread_local std::vector<float> memory;
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    return memory.data();
}

// The best of what has come, in falling order; of equals the first.
struct Best {
    float* values;
    int64_t* places;
    int64_t size;

    void clear() {
        std::fill(values, values + size, NEVER);
        std::fill(places, places + size, 0);
    }
    bool takes(float value) const { return value > values[size - 1]; }
    void add(float value, int64_t place) {
        int64_t i = size - 1;
        for (; i > 0 && values[i - 1] < value; --i) values[i] = values[i - 1], places[i] = places[i - 1];
        values[i] = value, places[i] = place;
    }
};

}  // namespace

extern "C" {

// Attention of each row to its own positions up to and with the current one, whose keys and values are put in place.
//   qkv [B, K, (H + 2G) * d]; keys, values [B, G, L, K, d]; positions [B]; out [B, K, H * d]
//   history [B, K, L]: the row of the slot that held each position of a row's hypothesis
void self_attention(const float* qkv, float* keys, float* values, const int32_t* history, const int64_t* positions,
                    float* out, int64_t B, int64_t K, int64_t H, int64_t G, int64_t d, int64_t L, int64_t longest) {
    const int64_t heads = H / G, width = (H + 2 * G) * d;
    const float scale = 1 / std::sqrt(static_cast<float>(d));
#pragma omp parallel for collapse(2) schedule(static) if (B * K * H * d * longest > PARALLEL)
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t g = 0; g < G; ++g) {
            const int64_t now = positions[b];
            float* my_keys = keys + (b * G + g) * L * K * d;
            float* my_values = values + (b * G + g) * L * K * d;
            float* scores = scratch(now + 1);
            for (int64_t k = 0; k < K; ++k) {
                const float* row = qkv + (b * K + k) * width + (H + g) * d;
                std::copy(row, row + d, my_keys + (now * K + k) * d);
                std::copy(row + G * d, row + (G + 1) * d, my_values + (now * K + k) * d);
            }
            for (int64_t k = 0; k < K; ++k) {
                const int32_t* held = history + (b * K + k) * L;
                for (int64_t h = g * heads; h < (g + 1) * heads; ++h) {
                    const float* query = qkv + (b * K + k) * width + h * d;
                    float* mine = out + (b * K + k) * H * d + h * d;
                    for (int64_t l = 0; l < now; ++l) scores[l] = scale * dot(query, my_keys + (l * K + held[l]) * d, d);
                    scores[now] = scale * dot(query, my_keys + (now * K + k) * d, d);
                    softmax(scores, now + 1);
                    std::fill(mine, mine + d, 0.0f);
                    for (int64_t l = 0; l < now; ++l) add_scaled(mine, my_values + (l * K + held[l]) * d, scores[l], d);
                    add_scaled(mine, my_values + (now * K + k) * d, scores[now], d);
                }
            }
        }
    }
}

// Row r goes on from row parents[r] of the same slot: its history up to and with the last position becomes that row's.
//   history [B, K, L]; positions [B], of the step that comes; parents [B, K], each b*K + k
void reorder(int32_t* history, const int64_t* positions, const int64_t* parents, int64_t B, int64_t K, int64_t L) {
    std::vector<int32_t> old;
    for (int64_t b = 0; b < B; ++b) {
        const int64_t *from = parents + b * K, seen = positions[b];
        bool moved = false;
        for (int64_t k = 0; k < K; ++k) moved |= from[k] != b * K + k;
        if (!moved) continue;
        int32_t* mine = history + b * K * L;
        old.assign(mine, mine + K * L);
        for (int64_t k = 0; k < K; ++k) std::copy_n(old.data() + (from[k] - b * K) * L, seen, mine + k * L);
    }
}

// Attention of all rows of a slot to its source.
//   queries, out [B, K, H * d]; keys, values [B, G, S, d]; lengths [B], 1 ... S
void cross_attention(const float* queries, const float* keys, const float* values, const int64_t* lengths, float* out,
                     int64_t B, int64_t K, int64_t H, int64_t G, int64_t d, int64_t S) {
    const int64_t heads = H / G;
    const float scale = 1 / std::sqrt(static_cast<float>(d));
#pragma omp parallel for collapse(2) schedule(static) if (B * K * H * d * S > PARALLEL)
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t g = 0; g < G; ++g) {
            const int64_t length = lengths[b];
            const float* my_keys = keys + (b * G + g) * S * d;
            const float* my_values = values + (b * G + g) * S * d;
            float* scores = scratch(length);
            for (int64_t k = 0; k < K; ++k) {
                for (int64_t h = g * heads; h < (g + 1) * heads; ++h) {
                    const float* query = queries + (b * K + k) * H * d + h * d;
                    float* mine = out + (b * K + k) * H * d + h * d;
                    for (int64_t s = 0; s < length; ++s) scores[s] = scale * dot(query, my_keys + s * d, d);
                    softmax(scores, length);
                    std::fill(mine, mine + d, 0.0f);
                    for (int64_t s = 0; s < length; ++s) add_scaled(mine, my_values + s * d, scores[s], d);
                }
            }
        }
    }
}

// One step of beam search: see Beam in s2s/decoding/choice.py.
//   logits [B, K, V]; scores [B, K]
//   limits [4, B]: steps done, shortest, longest, prefix length; prefix [B, P]
//   tokens, parents, values, best, end, end_scores [B, K] are written
void beam(const float* logits, const float* scores, const int64_t* limits, const int64_t* prefix, int64_t* tokens,
          int64_t* parents, float* values, float* best, float* end, float* end_scores, int64_t B, int64_t K, int64_t V,
          int64_t P, int64_t allow_unknown) {
    const int64_t *done = limits, *shortest = limits + B, *longest = limits + 2 * B, *forced = limits + 3 * B;
    std::vector<float> row_values(B * K * K);
    std::vector<int64_t> row_tokens(B * K * K);
#pragma omp parallel for schedule(static) if (B * K * V > PARALLEL)
    for (int64_t row = 0; row < B * K; ++row) {
        const int64_t b = row / K;
        Best mine{row_values.data() + row * K, row_tokens.data() + row * K, K};
        mine.clear();
        end[row] = NEVER;
        if (scores[row] == NEVER) continue;
        const float* x = logits + row * V;
        const int64_t blocks = (V + BLOCK - 1) / BLOCK;
        float* highest = scratch(blocks);
        float most = NEVER;
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t first = i * BLOCK, last = std::min(V, first + BLOCK);
            float high = NEVER;
#pragma omp simd reduction(max : high)
            for (int64_t v = first; v < last; ++v) high = std::max(high, x[v]);
            highest[i] = high;
            most = std::max(most, high);
        }
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < V; ++v) sum += exponential(x[v] - most);
        const float normalizer = most + std::log(sum);
        if (shortest[b] <= done[b]) end[row] = x[EOS] - normalizer;
        if (forced[b] > done[b]) {
            const int64_t token = prefix[b * P + done[b]];
            mine.add(x[token] - normalizer, token);
            continue;
        }
        if (longest[b] <= done[b]) continue;
        if (allow_unknown && mine.takes(x[UNK])) mine.add(x[UNK], UNK);
        for (int64_t i = 0; i < blocks; ++i) {
            if (!mine.takes(highest[i])) continue;
            const int64_t first = std::max(SPECIALS, i * BLOCK), last = std::min(V, (i + 1) * BLOCK);
            for (int64_t v = first; v < last; ++v)
                if (mine.takes(x[v])) mine.add(x[v], v);
        }
        for (int64_t k = 0; k < K; ++k) mine.values[k] -= normalizer;
    }
    std::vector<float> all(2 * K);
    std::vector<int64_t> places(2 * K);
    for (int64_t b = 0; b < B; ++b) {
        Best chosen{best + b * K, places.data(), K};
        chosen.clear();
        for (int64_t i = 0; i < K * K; ++i) {
            const float total = scores[b * K + i / K] + row_values[b * K * K + i];
            if (chosen.takes(total)) chosen.add(total, i);
        }
        for (int64_t k = 0; k < K; ++k) {
            const int64_t row = b * K + k, from = b * K * K + places[k];
            tokens[row] = row_tokens[from], parents[row] = places[k] / K, values[row] = row_values[from];
            const float total = scores[row] + end[row];
            end_scores[row] = total > NEVER ? total : NEVER;  // NaN: never
        }
        std::copy_n(best + b * K, K, all.data());
        std::copy_n(end_scores + b * K, K, all.data() + K);
        std::nth_element(all.begin(), all.begin() + K - 1, all.end(), std::greater<float>());
        for (int64_t k = 0; k < K; ++k)
            if (end_scores[b * K + k] < all[K - 1]) end_scores[b * K + k] = NEVER;
    }
}

// Rows divided by their largest magnitude, which is what they are scaled by.
//   x, y [R, K]; scales [R]; NaN where a row is not finite
void scale_rows(const float* x, float* y, float* scales, int64_t R, int64_t K) {
#pragma omp parallel for schedule(static) if (R * K > PARALLEL)
    for (int64_t r = 0; r < R; ++r) {
        float most = 0, finite = 0;
#pragma omp simd reduction(max : most) reduction(+ : finite)
        for (int64_t i = 0; i < K; ++i) most = std::max(most, std::fabs(x[r * K + i])), finite += x[r * K + i] * 0;
        scales[r] = most + finite;
        const float inverse = most > 0 ? 1 / most : 0;
#pragma omp simd
        for (int64_t i = 0; i < K; ++i) y[r * K + i] = x[r * K + i] * inverse;
    }
}

// y = y * scale + bias, perhaps with ReLU, in place.  y [R, N]; scales [R]; bias [N] or null
void scale_bias(float* y, const float* scales, const float* bias, int64_t R, int64_t N, int64_t relu) {
    const float least = relu ? 0 : NEVER;
#pragma omp parallel for schedule(static) if (R * N > PARALLEL)
    for (int64_t r = 0; r < R; ++r) {
        float* row = y + r * N;
        const float scale = scales[r];
#pragma omp simd
        for (int64_t i = 0; i < N; ++i) {
            const float value = row[i] * scale + (bias ? bias[i] : 0);
            row[i] = value < least ? least : value;  // NaN stays
        }
    }
}
}
