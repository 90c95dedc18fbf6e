// The step of a Transformer decoder, one of beam search, and CTC's prefix scores, for a CPU. s2s/native/library.py
// compiles and loads this.
//
// The twins in PyTorch operators, which give the same to rounding, are Transformer.step (s2s/models/transformer.py),
// Beam (s2s/decoding/search/beam.py) and PrefixScores (s2s/decoding/scorers/ctc_prefix.py). A row's numbers do not
// depend, in any bit, on what other rows there are.
//
// Shapes: B slots (sentences), K rows a slot, R = B*K rows, D model width, H query heads, G key/value heads, d head
// width, L places of a cache, S source positions, T tabled positions, P tokens of a prefix, C candidates of a row,
// V vocabulary, N layers, F inner width of a feed-forward block, E outputs of its first map, I inputs and O outputs of a
// linear map. All arrays are contiguous; float is fp32. All numbers that come from outside have 64 bits, as pointers do.
//
// What comes from outside is declared here alone: in the functions that are extern "C" and in the structures that they
// take, the comment after an array begins with its shape and says "or null" where there may be none, and so it is with
// parts that are structures. s2s/native/arguments.py reads these declarations, holds every array to them, and adds the
// sizes. What arrays hold is not checked there: a function whose numbers lead to memory returns FAULT if one leads out.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr float NEVER = -std::numeric_limits<float>::infinity();
constexpr int64_t PARALLEL = 1 << 15;    // multiplications from which a second thread is worth waking
constexpr int64_t NEAR = 5 << 17;        // bytes of inputs that stay in a core's cache while weights stream by
constexpr int64_t LANES = 16, PANEL = 32;  // outputs of a vector, and those whose weights lie together
constexpr int64_t BLOCK = 64;            // logits whose maximum is looked at first
constexpr int64_t ENCODED = 512;         // rows that the encoder computes together
constexpr int64_t AHEAD = 4;             // positions whose keys are fetched before they are needed
constexpr int64_t BLANK = 0, UNK = 1, EOS = 3, SPECIALS = 4;
constexpr float FLOOR = -1e30f;  // in place of minus infinity, where differences are taken
constexpr int64_t FINE = 0, FAULT = -1;

// Rows whose sums fit in registers together, and the code of an int8 input of 0 and of 1.
#if defined(__AVX512F__)
constexpr int ROWS = 8;
#else
constexpr int ROWS = 3;
#endif
#if defined(__AVX512VNNI__)
constexpr int ZERO = 128, ONE = 127;
#else
constexpr int ZERO = 64, ONE = 63;  // sums of two products have 16 bits
#endif

using Floats = float __attribute__((vector_size(64), aligned(4)));
using Words = int32_t __attribute__((vector_size(64), aligned(4)));

template <class Vector, class Number>
inline Vector load(const Number* from) {
    Vector to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

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

// log(e^a + e^b), absolute error below 2e-7; a loop over it is vectorised.
inline float log_add(float a, float b) {
    const float most = std::max(a, b), e = exponential(std::min(a, b) - most);
    const float s = e / (2 + e), square = s * s;  // log(1 + e) = 2 artanh(s), s <= 1/3
    float p = 1.0f / 13;
    p = p * square + 1.0f / 11;
    p = p * square + 1.0f / 9;
    p = p * square + 1.0f / 7;
    p = p * square + 1.0f / 5;
    p = p * square + 1.0f / 3;
    p = p * square + 1.0f;
    return most + 2 * s * p;
}

inline float dot(const float* a, const float* b, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

// The size of an array of whole vectors.
inline int64_t whole(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

// Scores become weights that add up to one. There is room for whole vectors.
inline void softmax(float* scores, int64_t size) {
    const int64_t end = whole(size);
    std::fill(scores + size, scores + end, NEVER);
    float most = NEVER, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < end; ++i) most = std::max(most, scores[i]);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < end; ++i) sum += scores[i] = exponential(scores[i] - most);
    const float scale = 1 / sum;
#pragma omp simd
    for (int64_t i = 0; i < end; ++i) scores[i] *= scale;
}

// A few numbers copied; a call of memmove would take longer.
inline void copy(const float* from, int64_t size, float* to) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Floats some = load<Floats>(from + i);
        std::memcpy(to + i, &some, sizeof some);
    }
    for (; i < size; ++i) to[i] = from[i];
}

// Numbers that will be needed soon.
inline void fetch(const float* x, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) __builtin_prefetch(x + i);
}

inline void add_scaled(float* sum, const float* x, float weight, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) sum[i] += weight * x[i];
}

// A thread's own memory, which is not given back.
template <class Number, int which = 0>
Number* scratch(int64_t size) {
    thread_local std::vector<Number> memory;
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    return memory.data();
}

// A linear map, or none: zeros. Weights lie in panels of 32 outputs, the last filled up with zeros; those of int8 in
// fours of inputs, the last filled up too, with scales of the outputs and sums of their weights.
struct Map {
    const float* weights;  // [(O + 31) / 32, I, 32], or null
    const int8_t* codes;   // [(O + 31) / 32, (I + 3) / 4, 32, 4], or null
    const float* bias;     // [O], or null
    const float* scales;   // [O], or null: fp32
    const int32_t* sums;   // [O], or null
    int64_t O, I;
};

enum Mode { STORE, STORE_RELU, ADD };

// The inputs of an int8 map: rows of codes, each row with its scale.
struct Codes {
    const uint8_t* codes;  // [R, width]
    const float* scales;   // [R]
    int64_t width;
};

template <int rows>
inline void products(const float* x, int64_t I, const float* panel, Floats (&sums)[rows][2]) {
    for (auto& sum : sums) sum[0] = sum[1] = Floats{};
    for (int64_t i = 0; i < I; ++i) {
        const Floats left = load<Floats>(panel + i * PANEL), right = load<Floats>(panel + i * PANEL + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) sums[r][0] += left * x[r * I + i], sums[r][1] += right * x[r * I + i];
    }
}

// Each sum plus the products of four codes, the same for all lanes, with four weights.
inline Words four(Words sum, int32_t codes, const int8_t* weights) {
#if defined(__AVX512BW__)
    const __m512i x = _mm512_set1_epi32(codes), w = _mm512_loadu_si512(weights);
#if defined(__AVX512VNNI__)
    return reinterpret_cast<Words>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), x, w));
#else
    const __m512i pairs = _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1));
    return sum + reinterpret_cast<Words>(pairs);
#endif
#elif defined(__AVX2__)
    const __m256i x = _mm256_set1_epi32(codes), ones = _mm256_set1_epi16(1);
    __m256i pairs[2];
    for (int half = 0; half < 2; ++half) {
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights) + half);
        pairs[half] = _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones);
    }
    return sum + load<Words>(pairs);
#else
    uint8_t x[4];
    std::memcpy(x, &codes, sizeof x);
    for (int64_t lane = 0; lane < LANES; ++lane)
        for (int i = 0; i < 4; ++i) sum[lane] += x[i] * weights[lane * 4 + i];
    return sum;
#endif
}

template <int rows>
inline void products(const uint8_t* x, int64_t width, const int8_t* panel, Words (&sums)[rows][2]) {
    for (auto& sum : sums) sum[0] = sum[1] = Words{};
    for (int64_t i = 0; i < width; i += 4) {
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            int32_t codes;
            std::memcpy(&codes, x + r * width + i, sizeof codes);
            sums[r][0] = four(sums[r][0], codes, panel + i * PANEL);
            sums[r][1] = four(sums[r][1], codes, panel + i * PANEL + LANES * 4);
        }
    }
}

inline void finish(float* y, const float* sums, const float* bias, int64_t size, Mode mode) {
    for (int64_t o = 0; o < size; ++o) {
        float value = sums[o] + (bias ? bias[o] : 0);
        if (mode == STORE_RELU) value = value < 0 ? 0 : value;  // NaN stays
        y[o] = mode == ADD ? y[o] + value : value;
    }
}

// Some outputs of some rows: one panel. `places`: which rows of y they are, or null.
template <int rows>
void piece(const Map& map, int64_t panel, const float* x, const Codes& codes, int64_t row, float* y, Mode mode,
           const int64_t* places) {
    const int64_t first = panel * PANEL, size = std::min(PANEL, map.O - first);
    alignas(64) float sums[rows][PANEL];
    if (!map.scales) {
        Floats found[rows][2];
        products<rows>(x + row * map.I, map.I, map.weights + first * map.I, found);
        std::memcpy(sums, found, sizeof sums);
    } else {
        Words found[rows][2];
        products<rows>(codes.codes + row * codes.width, codes.width, map.codes + first * codes.width, found);
        alignas(64) int32_t whole[rows][PANEL];
        std::memcpy(whole, found, sizeof whole);
        for (int r = 0; r < rows; ++r)
            for (int64_t o = 0; o < size; ++o)
                sums[r][o] = (whole[r][o] - ZERO * map.sums[first + o]) * (map.scales[first + o] * codes.scales[row + r]);
    }
    const float* bias = map.bias ? map.bias + first : nullptr;
    for (int r = 0; r < rows; ++r) {
        float* out = y + (places ? places[row + r] : row + r) * map.O + first;
        if (size == PANEL) finish(out, sums[r], bias, PANEL, mode);
        else finish(out, sums[r], bias, size, mode);
    }
}

template <int rows = ROWS>
void last_piece(int64_t left, const Map& map, int64_t panel, const float* x, const Codes& codes, int64_t row, float* y,
                Mode mode, const int64_t* places) {
    if (left == rows) return piece<rows>(map, panel, x, codes, row, y, mode, places);
    if constexpr (rows > 1) last_piece<rows - 1>(left, map, panel, x, codes, row, y, mode, places);
}

// y = x times the weights, for all threads of a team.  x [R, I]; y [R, O], or where there are places rows of a larger y
void linear(const Map& map, const float* x, float* y, int64_t R, Mode mode, uint8_t* codes, float* scales,
            const int64_t* places = nullptr) {
    Codes rows{codes, scales, (map.I + 3) / 4 * 4};
    if (map.scales) {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < R; ++r) {
            const float* row = x + r * map.I;
            uint8_t* out = codes + r * rows.width;
            float most = 0, finite = 0;
#pragma omp simd reduction(max : most) reduction(+ : finite)
            for (int64_t i = 0; i < map.I; ++i) most = std::max(most, std::fabs(row[i])), finite += row[i] * 0;
            scales[r] = most / ONE + finite;  // NaN if the row is not finite
            const float inverse = most > 0 ? ONE / most : 0;
#pragma omp simd
            for (int64_t i = 0; i < map.I; ++i)
                out[i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(row[i] * inverse)) + ZERO);
            std::fill(out + map.I, out + rows.width, 0);
        }
    }
    const int64_t panels = (map.O + PANEL - 1) / PANEL;
    const int64_t bytes = map.scales ? rows.width : 4 * map.I;
    const int64_t most = std::max<int64_t>(1, NEAR / bytes / ROWS) * ROWS, chunks = (R + most - 1) / most;
#pragma omp for collapse(2) schedule(static)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (int64_t panel = 0; panel < panels; ++panel) {
            const int64_t end = std::min(R, (chunk + 1) * most);
            int64_t row = chunk * most;
            for (; row + ROWS <= end; row += ROWS) piece<ROWS>(map, panel, x, rows, row, y, mode, places);
            if (row < end) last_piece(end - row, map, panel, x, rows, row, y, mode, places);
        }
    }
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

struct Norm {
    const float* weight;   // [D]
    const float* bias;     // [D]
    const float* epsilon;  // [1] added to the variance
};

// y = norm(x), for all threads of a team; y may be x.  x, y [R, D]
void normalize(const Norm& norm, const float* x, float* y, int64_t R, int64_t D) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < R; ++r) {
        const float* row = x + r * D;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < D; ++i) sum += row[i];
        const float mean = sum / D;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < D; ++i) squares += (row[i] - mean) * (row[i] - mean);
        const float scale = 1 / std::sqrt(squares / D + *norm.epsilon);
#pragma omp simd
        for (int64_t i = 0; i < D; ++i) y[r * D + i] = (row[i] - mean) * scale * norm.weight[i] + norm.bias[i];
    }
}

enum Activation { RELU, GELU, SWIGLU, GEGLU, SILU };  // GEGLU has no kernel

inline float sigmoid(float x) {
    const float e = exponential(-std::fabs(x));
    return (x < 0 ? e : 1.0f) / (1 + e);
}

// What comes between the maps of a feed-forward block, for all threads of a team: relu is in the first map already.
// x [R, I], or of swiglu [R, 2I], with room for [R, I] after it. Returns where the result is: [R, I].
float* activate(float* x, int64_t R, int64_t I, int64_t activation) {
    float* y = activation == SWIGLU ? x + R * 2 * I : x;
    if (activation == RELU) return y;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < R; ++r) {
        if (activation == GELU) {
            for (int64_t i = r * I; i < (r + 1) * I; ++i) y[i] *= 0.5f * (1 + std::erf(y[i] * 0.70710678f));
        } else if (activation == SILU) {
#pragma omp simd
            for (int64_t i = r * I; i < (r + 1) * I; ++i) y[i] *= sigmoid(y[i]);
        } else {
            const float *gate = x + r * 2 * I, *value = gate + I;
#pragma omp simd
            for (int64_t i = 0; i < I; ++i) y[r * I + i] = gate[i] * sigmoid(gate[i]) * value[i];
        }
    }
    return y;
}

// The rows that go on: their numbers in rising order, and the place of each row among them, or -1.
struct Live {
    int64_t count;
    const int64_t *rows, *places;
};

// Queries and keys turned by their positions: feature j together with feature j + d/2.
//   qkv [live, (H + 2G) * d]; table [L, d]: cosines, then sines, of each position
void rotate(float* qkv, const float* table, const int64_t* positions, const Live& live, int64_t K, int64_t H, int64_t G,
            int64_t d) {
    const int64_t half = d / 2;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < live.count; ++row) {
        const float *cosines = table + positions[live.rows[row] / K] * d, *sines = cosines + half;
        for (int64_t h = 0; h < H + G; ++h) {
            float *left = qkv + (row * (H + 2 * G) + h) * d, *right = left + half;
            for (int64_t j = 0; j < half; ++j) {
                const float a = left[j], b = right[j];
                left[j] = a * cosines[j] - b * sines[j], right[j] = b * cosines[j] + a * sines[j];
            }
        }
    }
}

// The factor of attention logits. log_length: they are scaled by the logarithm of the number of keys, too.
inline float logit_scale(int64_t d, bool log_length, int64_t keys) {
    const float base = 1 / std::sqrt(static_cast<float>(d));
    return log_length ? base * std::log(static_cast<float>(keys)) : base;
}

// Attention of each row to its own positions up to and with the current one, whose keys and values are put in place.
//   qkv [live, (H + 2G) * d]; keys, values [B, G, L, K, d]; positions [B]; out [live, H * d]
//   history [B, K, L]: the row of the slot that has each position of a row's hypothesis
void self_attention(const float* qkv, float* keys, float* values, const int32_t* history, const int64_t* positions,
                    const Live& live, float* out, bool log_length, int64_t B, int64_t K, int64_t H, int64_t G,
                    int64_t d, int64_t L) {
    const int64_t heads = H / G, width = (H + 2 * G) * d;
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t g = 0; g < G; ++g) {
            const int64_t now = positions[b];
            const float scale = logit_scale(d, log_length, now + 1);
            float* my_keys = keys + (b * G + g) * L * K * d;
            float* my_values = values + (b * G + g) * L * K * d;
            float* scores = scratch<float, 1>(whole(now + 1));
            for (int64_t k = 0; k < K; ++k) {
                const int64_t place = live.places[b * K + k];
                if (place < 0) continue;
                const float* row = qkv + place * width + (H + g) * d;
                copy(row, d, my_keys + (now * K + k) * d);
                copy(row + G * d, d, my_values + (now * K + k) * d);
                const int32_t* has = history + (b * K + k) * L;
                for (int64_t h = g * heads; h < (g + 1) * heads; ++h) {
                    const float* query = qkv + place * width + h * d;
                    float* mine = out + (place * H + h) * d;
                    for (int64_t l = 0; l < now; ++l) {
                        fetch(my_keys + ((l + AHEAD) * K + has[l]) * d, d);
                        fetch(my_values + (l * K + has[l]) * d, d);
                        scores[l] = scale * dot(query, my_keys + (l * K + has[l]) * d, d);
                    }
                    scores[now] = scale * dot(query, my_keys + (now * K + k) * d, d);
                    softmax(scores, now + 1);
                    std::fill(mine, mine + d, 0.0f);
                    for (int64_t l = 0; l < now; ++l) add_scaled(mine, my_values + (l * K + has[l]) * d, scores[l], d);
                    add_scaled(mine, my_values + (now * K + k) * d, scores[now], d);
                }
            }
        }
    }
}

// Attention of some rows to the same keys, of which the features of 16 lie together. What a row gets does not depend, in
// any bit, on how many rows there are.
//   keys [d, S], S a multiple of 16; values [S, d]; queries, outs: [d] of each row; scores: room for rows * S
template <int rows>
void attend(const float* const* queries, const float* keys, const float* values, int64_t length, float scale,
            float* scores, float* const* outs, int64_t d, int64_t S) {
    for (int64_t s = 0; s < length; s += LANES) {
        Floats even[rows], odd[rows];
        for (int r = 0; r < rows; ++r) even[r] = odd[r] = Floats{};
        int64_t j = 0;
        for (; j + 2 <= d; j += 2) {
            const Floats left = load<Floats>(keys + j * S + s), right = load<Floats>(keys + (j + 1) * S + s);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) even[r] += left * queries[r][j], odd[r] += right * queries[r][j + 1];
        }
        for (; j < d; ++j) {
            const Floats left = load<Floats>(keys + j * S + s);
            for (int r = 0; r < rows; ++r) even[r] += left * queries[r][j];
        }
        for (int r = 0; r < rows; ++r) {
            const Floats sum = (even[r] + odd[r]) * scale;
            std::memcpy(scores + r * S + s, &sum, sizeof sum);
        }
    }
    for (int r = 0; r < rows; ++r) softmax(scores + r * S, length);
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) {
        Floats sums[rows];
        for (int r = 0; r < rows; ++r) sums[r] = Floats{};
        for (int64_t s = 0; s < length; ++s) {
            const Floats value = load<Floats>(values + s * d + j);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) sums[r] += value * scores[r * S + s];
        }
        for (int r = 0; r < rows; ++r) std::memcpy(outs[r] + j, &sums[r], sizeof sums[r]);
    }
    for (; j < d; ++j) {
        for (int r = 0; r < rows; ++r) {
            float sum = 0;
            for (int64_t s = 0; s < length; ++s) sum += scores[r * S + s] * values[s * d + j];
            outs[r][j] = sum;
        }
    }
}

// `attend` for any number of rows, a few at a time.
struct Attending {
    static constexpr int MOST = 4;
    const float *keys, *values;
    int64_t length;
    float scale;
    int64_t d, S;
    float* scores;
    int count = 0;
    const float* queries[MOST];
    float* outs[MOST];

    void add(const float* query, float* out) {
        queries[count] = query, outs[count] = out;
        if (++count == MOST) flush();
    }
    void flush() {
        if (count == 1) attend<1>(queries, keys, values, length, scale, scores, outs, d, S);
        if (count == 2) attend<2>(queries, keys, values, length, scale, scores, outs, d, S);
        if (count == 3) attend<3>(queries, keys, values, length, scale, scores, outs, d, S);
        if (count == 4) attend<4>(queries, keys, values, length, scale, scores, outs, d, S);
        count = 0;
    }
};

// Attention of all rows of a slot to its source.
//   queries, out [live, H * d]; keys [B, G, d, S]; values [B, G, S, d]; lengths [B], 1 ... S
void cross_attention(const float* queries, const float* keys, const float* values, const int64_t* lengths,
                     const Live& live, float* out, bool log_length, int64_t B, int64_t K, int64_t H, int64_t G,
                     int64_t d, int64_t S) {
    const int64_t heads = H / G;
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t g = 0; g < G; ++g) {
            const int64_t place = (b * G + g) * S * d, length = lengths[b];
            Attending rows{keys + place, values + place, length, logit_scale(d, log_length, length), d, S,
                           scratch<float, 1>(Attending::MOST * S)};
            for (int64_t k = 0; k < K; ++k) {
                const int64_t row = live.places[b * K + k];
                if (row < 0) continue;
                for (int64_t h = row * H + g * heads; h < row * H + (g + 1) * heads; ++h)
                    rows.add(queries + h * d, out + h * d);
            }
            rows.flush();
        }
    }
}

struct Layer {
    Norm attention_norm;
    Norm cross_norm;  // or null
    Norm feedforward_norm;
    Map qkv;           // [(H + 2 * G) * d, D]
    Map output;        // [D, H * d]
    Map query;         // [H * d, D], or null: there is no cross-attention
    Map cross_output;  // [D, H * d], or null
    Map inner;         // [E, D]
    Map outer;         // [D, F]
    Norm head;         // of states that count in the output too, or null
};

struct Decoder {
    int64_t N, D, H, G, d, pre_norm, activation, log_length, scaled;
    const float* embedding;  // [V, D]
    Norm embedded;           // of the sum of embeddings and positions, or null
    Norm norm;               // of the top, or null
    const float* shares;     // [N + 1] of the heads and of the top in the states under the map to logits, or null
    Map logits;              // [V, D]
    Layer layer[];           // [N]
};

struct Encoder {
    int64_t N, V, D, H, G, d, pre_norm, activation, log_length, scaled;
    const float* embedding;  // [V, D]
    Norm embedded;           // of the sum of embeddings and positions, or null
    Norm norm;               // of the top, or null
    Layer layer[];           // [N]
};

// The maps from the top of the encoder to keys and values of the decoder's layers.
struct Sides {
    int64_t M;
    Map key_value[];  // [M]
};

struct State {
    const Decoder* decoder;
    float* cache;              // [N, 2, B, G, L, K, d]
    int32_t* history;          // [B, K, L]
    const float* keys;         // [N, B, G, d, S] of cross-attention
    const float* values;       // [N, B, G, S, d] of cross-attention
    const int64_t* lengths;    // [B]
    int64_t* positions;        // [B, 1]
    const float* added;        // [T, D] to embeddings, or null
    const float* turned;       // [T, d] for rotary positions, or null
    int64_t B, K, R, L, S, T;
};

inline bool within(int64_t number, int64_t size) { return number >= 0 && number < size; }

inline bool all_within(const int64_t* numbers, int64_t count, int64_t size) {
    return std::all_of(numbers, numbers + count, [&](int64_t number) { return within(number, size); });
}

struct Buffers {
    float *x, *normed, *mixed, *qkv, *attended, *states;
    uint8_t* codes;
    float* scales;
};

// wide: the least width of qkv.
template <class Stack>
Buffers buffers_for(const Stack& stack, int64_t R, int64_t wide = 0) {
    const int64_t D = stack.D, rows = stack.H * stack.d, qkv = std::max(wide, rows + 2 * stack.G * stack.d);
    int64_t inner = 0, most = std::max(D, rows);
    for (int64_t n = 0; n < stack.N; ++n) {
        inner = std::max(inner, stack.layer[n].inner.O + stack.layer[n].outer.I);
        most = std::max(most, stack.layer[n].outer.I);
    }
    float* x = scratch<float, 3>(R * (3 * D + qkv + rows + inner));
    float *normed = x + R * D, *mixed = normed + R * D, *after = mixed + R * D;
    return {x, normed, mixed, after, after + R * qkv, after + R * (qkv + rows), scratch<uint8_t>(R * (most + 3)),
            scratch<float, 2>(R)};
}

// Multiplications for a row in all layers.
template <class Stack>
inline int64_t work_of(const Stack& stack) {
    int64_t work = 0;
    for (int64_t n = 0; n < stack.N; ++n) work += 4 * stack.layer[n].inner.I * stack.layer[n].inner.O;
    return work;
}

// The rows of one thread's team: what `step_of_team` and `encode_of_team` do alike in the layers of a stack.
template <class Stack>
struct Rows {
    const Stack& stack;
    const Buffers& buffers;
    int64_t R;

    void map(const Map& it, const float* from, float* to, Mode mode) const {
        linear(it, from, to, R, mode, buffers.codes, buffers.scales);
    }

    // What a block reads, and what becomes of its sum with that: pre-norm or post-norm.
    const float* enter(const Norm& norm) const {
        if (stack.pre_norm) normalize(norm, buffers.x, buffers.normed, R, stack.D);
        return stack.pre_norm ? buffers.normed : buffers.x;
    }
    void leave(const Norm& norm) const {
        if (!stack.pre_norm) normalize(norm, buffers.x, buffers.x, R, stack.D);
    }

    // Row r of x becomes the embedding of a token; place: what is added to it, or null.
    void embed(int64_t r, int64_t token, const float* place) const {
        const float* row = stack.embedding + token * stack.D;
        const float scale = stack.scaled ? std::sqrt(static_cast<float>(stack.D)) : 1;
        for (int64_t i = 0; i < stack.D; ++i) buffers.x[r * stack.D + i] = row[i] * scale + (place ? place[i] : 0);
    }

    void feedforward(const Layer& layer) const {
        map(layer.inner, enter(layer.feedforward_norm), buffers.states, stack.activation == RELU ? STORE_RELU : STORE);
        map(layer.outer, activate(buffers.states, R, layer.outer.I, stack.activation), buffers.x, ADD);
        leave(layer.feedforward_norm);
    }
};

// One thread's part of `decoder_step`.
void step_of_team(const Decoder& decoder, const State& state, const int64_t* tokens, const Live& live, float* logits,
                  float* top, const Buffers& buffers) {
    const int64_t D = decoder.D, H = decoder.H, G = decoder.G, d = decoder.d;
    const int64_t B = state.B, K = state.K, L = state.L, S = state.S, R = live.count;
    float* const x = buffers.x;
    const Rows<Decoder> all{decoder, buffers, R};
    // mixed += share * some states: the states under the map to logits are a sum.
    const auto mix = [&](const float* states, float share) {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < R * D; ++i) buffers.mixed[i] += share * states[i];
    };
#pragma omp for schedule(static)
    for (int64_t r = 0; r < R; ++r) {
        if (decoder.shares) std::fill_n(buffers.mixed + r * D, D, 0.0f);
        const int64_t row = live.rows[r];
        all.embed(r, tokens[row], state.added ? state.added + state.positions[row / K] * D : nullptr);
    }
    if (decoder.embedded.weight) normalize(decoder.embedded, x, x, R, D);
    for (int64_t n = 0; n < decoder.N; ++n) {
        const Layer& layer = decoder.layer[n];
        float* own = state.cache + 2 * n * B * G * L * K * d;
        const int64_t source = n * B * G * S * d;
        all.map(layer.qkv, all.enter(layer.attention_norm), buffers.qkv, STORE);
        if (state.turned) rotate(buffers.qkv, state.turned, state.positions, live, K, H, G, d);
        self_attention(buffers.qkv, own, own + B * G * L * K * d, state.history, state.positions, live,
                       buffers.attended, decoder.log_length, B, K, H, G, d, L);
        all.map(layer.output, buffers.attended, x, ADD);
        all.leave(layer.attention_norm);
        if (layer.query.O) {
            all.map(layer.query, all.enter(layer.cross_norm), buffers.qkv, STORE);
            cross_attention(buffers.qkv, state.keys + source, state.values + source, state.lengths, live,
                            buffers.attended, decoder.log_length, B, K, H, G, d, S);
            all.map(layer.cross_output, buffers.attended, x, ADD);
            all.leave(layer.cross_norm);
        }
        all.feedforward(layer);
        if (layer.head.weight) {
            normalize(layer.head, x, buffers.normed, R, D);
            mix(buffers.normed, decoder.shares[n]);
        }
    }
    if (decoder.norm.weight) normalize(decoder.norm, x, x, R, D);
    if (decoder.shares) mix(x, decoder.shares[decoder.N]);
    const float* states = decoder.shares ? buffers.mixed : x;
    if (!top) linear(decoder.logits, states, logits, R, STORE, buffers.codes, buffers.scales, live.rows);
    else {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < R; ++r) std::copy_n(states + r * D, D, top + live.rows[r] * D);
    }
}

// Self-attention of each sentence in the encoder.  qkv [rows, (H + 2G) * d]; out [rows, H * d]
//   firsts [sentences + 1]: the first row of each sentence
void own_attention(const float* qkv, const int64_t* firsts, int64_t sentences, float* out, bool log_length, int64_t H,
                   int64_t G, int64_t d) {
    const int64_t heads = H / G, width = (H + 2 * G) * d;
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < sentences; ++b) {
        for (int64_t g = 0; g < G; ++g) {
            const int64_t first = firsts[b], length = firsts[b + 1] - first, S = whole(length);
            float *keys = scratch<float, 1>(S * (2 * d + Attending::MOST)), *values = keys + S * d;
            const float* key = qkv + first * width + (H + g) * d;
            for (int64_t s = 0; s < length; ++s) {
                for (int64_t j = 0; j < d; ++j) keys[j * S + s] = key[s * width + j];
                copy(key + s * width + G * d, d, values + s * d);
            }
            Attending rows{keys, values, length, logit_scale(d, log_length, length), d, S, values + S * d};
            for (int64_t h = g * heads; h < (g + 1) * heads; ++h)
                for (int64_t s = first; s < first + length; ++s)
                    rows.add(qkv + s * width + h * d, out + (s * H + h) * d);
            rows.flush();
        }
    }
}

// Some sentences of `encode`, and their rows: one for each token.
struct Part {
    int64_t first, sentences, rows;                 // number of its first sentence; of sentences; of rows
    const int64_t *firsts, *tokens, *places, *own;  // first row of each sentence; of each row: token, position, number
};

// One thread's part of `encode`.
void encode_of_team(const Encoder& encoder, const Sides& sides, const Part& part, const float* added,
                    const float* turned, float* keys, float* values, const Buffers& buffers, int64_t B, int64_t Q,
                    int64_t w, int64_t W) {
    const int64_t D = encoder.D, H = encoder.H, G = encoder.G, d = encoder.d, R = part.rows;
    float* const x = buffers.x;
    const Rows<Encoder> all{encoder, buffers, R};
#pragma omp for schedule(static)
    for (int64_t r = 0; r < R; ++r) all.embed(r, part.tokens[r], added ? added + part.places[r] * D : nullptr);
    if (encoder.embedded.weight) normalize(encoder.embedded, x, x, R, D);
    for (int64_t n = 0; n < encoder.N; ++n) {
        const Layer& layer = encoder.layer[n];
        all.map(layer.qkv, all.enter(layer.attention_norm), buffers.qkv, STORE);
        if (turned) rotate(buffers.qkv, turned, part.places, {R, part.own, part.own}, 1, H, G, d);
        own_attention(buffers.qkv, part.firsts, part.sentences, buffers.attended, encoder.log_length, H, G, d);
        all.map(layer.output, buffers.attended, x, ADD);
        all.leave(layer.attention_norm);
        all.feedforward(layer);
    }
    if (encoder.norm.weight) normalize(encoder.norm, x, x, R, D);
    for (int64_t m = 0; m < sides.M; ++m) {
        all.map(sides.key_value[m], x, buffers.qkv, STORE);
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < part.sentences; ++b) {
            for (int64_t g = 0; g < Q; ++g) {
                const int64_t length = part.firsts[b + 1] - part.firsts[b];
                const int64_t place = ((m * B + part.first + b) * Q + g) * W * w;
                const float* key = buffers.qkv + part.firsts[b] * 2 * Q * w + g * w;
                for (int64_t s = 0; s < length; ++s, key += 2 * Q * w) {
                    for (int64_t j = 0; j < w; ++j) keys[place + j * W + s] = key[j];
                    copy(key + Q * w, w, values + place + s * w);
                }
            }
        }
    }
}

}  // namespace

extern "C" {

// y = x times the weights plus the bias, perhaps with ReLU.
int64_t linear_map(const Map* map,
                   const float* x,  // [R, I]
                   float* y,        // [R, O]
                   int64_t relu, int64_t R) {
    uint8_t* codes = scratch<uint8_t>(map->scales ? R * (map->I + 3) : 0);
    float* scales = scratch<float, 2>(R);
#pragma omp parallel if (R * map->I * map->O > PARALLEL)
    linear(*map, x, y, R, relu ? STORE_RELU : STORE, codes, scales);
    return FINE;
}

// Every slot advanced by one position, every live row by its token: logits of live rows are written, or the states under
// the map to them.
int64_t decoder_step(const State* state,
                     const int64_t* tokens,  // [R]
                     const float* scores,    // [B, K] of hypotheses, minus infinity of no live row; or null: all are
                     float* logits,          // [R, V], or null
                     float* top) {           // [R, D], or null: the logits are wanted
    const Decoder& decoder = *state->decoder;
    const int64_t R = state->R;
    if (R != state->B * state->K || !logits == !top || state->S % LANES) return FAULT;
    for (int64_t b = 0; b < state->B; ++b)
        if (!within(state->positions[b], state->L) || !within(state->lengths[b], state->S + 1)) return FAULT;
    int64_t *rows = scratch<int64_t>(2 * R), *places = rows + R, count = 0;
    for (int64_t r = 0; r < R; ++r) {
        const bool live = !scores || scores[r] > NEVER;
        places[r] = live ? count : -1;
        if (!live) continue;
        if (!within(tokens[r], decoder.logits.O) || !within(state->positions[r / state->K], state->T)) return FAULT;
        rows[count++] = r;
    }
    const int64_t work = decoder.logits.I * decoder.logits.O + work_of(decoder);
    const Buffers buffers = buffers_for(decoder, count);
#pragma omp parallel if (count * work > PARALLEL)
    step_of_team(decoder, *state, tokens, {count, rows, places}, logits, top, buffers);
    for (int64_t b = 0; b < state->B; ++b) ++state->positions[b];
    return FINE;
}

// Sentences encoded, up to the keys and values of the decoder's cross-attention. Nothing is computed for padding.
int64_t encode(const Encoder* encoder, const Sides* sides,
               const int64_t* tokens,   // [B, S]
               const int64_t* lengths,  // [B]
               const float* added,      // [T, D] to embeddings, or null
               const float* turned,     // [T, d] for rotary positions, or null
               float* keys,             // [M, B, Q, w, W], written
               float* values,           // [M, B, Q, W, w], written
               int64_t B, int64_t M, int64_t Q, int64_t S, int64_t T, int64_t W, int64_t w) {
    if (W % LANES || W < S || T < S) return FAULT;
    for (int64_t m = 0; m < M; ++m)
        if (sides->key_value[m].O != 2 * Q * w || sides->key_value[m].I != encoder->D) return FAULT;
    int64_t most = 0;
    for (int64_t b = 0; b < B; ++b) {
        if (lengths[b] < 1 || lengths[b] > S || !all_within(tokens + b * S, lengths[b], encoder->V)) return FAULT;
        most = std::max(most, lengths[b]);
    }
    const int64_t limit = std::max(most, ENCODED), work = work_of(*encoder);
    int64_t* memory = scratch<int64_t>(B + 1 + 3 * limit);
    int64_t *firsts = memory, *ids = firsts + B + 1, *places = ids + limit, *own = places + limit;
    for (int64_t first = 0, last = 0; first < B; first = last) {
        int64_t rows = 0;
        for (; last < B && rows + lengths[last] <= limit; ++last) {
            firsts[last - first] = rows;
            for (int64_t s = 0; s < lengths[last]; ++s, ++rows)
                ids[rows] = tokens[last * S + s], places[rows] = s, own[rows] = rows;
        }
        firsts[last - first] = rows;
        const Part part{first, last - first, rows, firsts, ids, places, own};
        const Buffers buffers = buffers_for(*encoder, rows, 2 * Q * w);
#pragma omp parallel if (rows * work > PARALLEL)
        encode_of_team(*encoder, *sides, part, added, turned, keys, values, buffers, B, Q, w, W);
    }
    return FINE;
}

// Encoded sentences `which` put into these slots.
int64_t admit(const float* new_keys,         // [N, A, G, d, W]
              const float* new_values,       // [N, A, G, W, d]
              const int64_t* new_lengths,    // [A]
              const int64_t* which,          // [C]
              const int64_t* slots,          // [C]
              float* keys,                   // [N, B, G, d, S], written
              float* values,                 // [N, B, G, S, d], written
              int64_t* lengths,              // [B], written
              int64_t A, int64_t B, int64_t C, int64_t G, int64_t N, int64_t S, int64_t W, int64_t d) {
    if (S % LANES || W % LANES || !all_within(which, C, A) || !all_within(slots, C, B)) return FAULT;
    for (int64_t c = 0; c < C; ++c)
        if (!within(new_lengths[which[c]], std::min(S, W) + 1)) return FAULT;
    for (int64_t c = 0; c < C; ++c) {
        const int64_t length = lengths[slots[c]] = new_lengths[which[c]];
        for (int64_t n = 0; n < N; ++n) {
            const int64_t from = (n * A + which[c]) * G * W * d, to = (n * B + slots[c]) * G * S * d;
            for (int64_t i = 0; i < G * d; ++i) copy(new_keys + from + i * W, whole(length), keys + to + i * S);
            for (int64_t g = 0; g < G; ++g) copy(new_values + from + g * W * d, length * d, values + to + g * S * d);
        }
    }
    return FINE;
}

// Row r goes on from row parents[r] of the same slot: its history before the step that comes becomes that row's.
int64_t reorder(const State* state,
                const int64_t* parents) {  // [R], each b*K + k
    const int64_t B = state->B, K = state->K, L = state->L;
    if (state->R != B * K) return FAULT;
    for (int64_t b = 0; b < B; ++b) {
        const int64_t *from = parents + b * K, seen = state->positions[b];
        bool moved = false, fine = within(seen, L + 1);
        for (int64_t k = 0; k < K; ++k) moved |= from[k] != b * K + k, fine &= within(from[k] - b * K, K);
        if (!fine) return FAULT;
        if (!moved) continue;
        int32_t *mine = state->history + b * K * L, *old = scratch<int32_t>(K * L);
        std::copy_n(mine, K * L, old);
        for (int64_t k = 0; k < K; ++k) std::copy_n(old + (from[k] - b * K) * L, seen, mine + k * L);
    }
    return FINE;
}

// What hypotheses' prefixes are by CTC if they go on with some labels: see PrefixScores in
// s2s/decoding/scorers/ctc_prefix.py.
int64_t ctc_score(const float* x,          // [B, V, S]
                  const int64_t* lengths,  // [B]
                  const float* tables,     // [B, 2, S + 1, K]
                  const int64_t* last,     // [B, K]
                  const float* psi,        // [B, K]
                  const int64_t* tokens,   // [B, K, C]
                  float* values,           // [B, K, C], written
                  float* ends,             // [B, K], written
                  int64_t B, int64_t K, int64_t C, int64_t V, int64_t S) {
    if (!all_within(lengths, B, S + 1) || !all_within(tokens, B * K * C, V)) return FAULT;
#pragma omp parallel for schedule(dynamic) if (B * K * C * S > PARALLEL)
    for (int64_t b = 0; b < B; ++b) {
        const int64_t T = lengths[b];
        const float *label = tables + b * 2 * (S + 1) * K, *blank = label + (S + 1) * K;
        float* sums = scratch<float, 1>((T + 1) * (2 * K + 1));
        float *either = sums + T + 1, *only = either + (T + 1) * K;  // [K, T+1]: both tables' sum, and the blank's
        for (int64_t t = 0; t <= T; ++t) {
#pragma omp simd
            for (int64_t k = 0; k < K; ++k) {
                either[k * (T + 1) + t] = log_add(label[t * K + k], blank[t * K + k]);
                only[k * (T + 1) + t] = blank[t * K + k];
            }
        }
        for (int64_t k = 0; k < K; ++k) {
            const int64_t row = b * K + k;
            for (int64_t c = 0; c < C; ++c) {
                const int64_t token = tokens[row * C + c];
                const float* before = (token == last[row] ? only : either) + k * (T + 1);
                const float* mine = x + (b * V + token) * S;
                float most = FLOOR, sum = 0;
#pragma omp simd reduction(max : most)
                for (int64_t t = 0; t < T; ++t) most = std::max(most, sums[t] = before[t] + mine[t]);
#pragma omp simd reduction(+ : sum)
                for (int64_t t = 0; t < T; ++t) sum += exponential(sums[t] - most);
                values[row * C + c] = most > FLOOR / 10 ? most + std::log(sum) - psi[row] : NEVER;
            }
            ends[row] = either[k * (T + 1) + T] - psi[row];
        }
    }
    return FINE;
}

// Each row goes on from row parents[r] of its sentence by a label.
int64_t ctc_advance(const float* x,          // [B, V, S]
                    const int64_t* lengths,  // [B]
                    const float* tables,     // [B, 2, S + 1, K]
                    const int64_t* last,     // [B, K]
                    const int64_t* parents,  // [B, K]
                    const int64_t* tokens,   // [B, K]
                    float* new_tables,       // [B, 2, S + 1, K], written
                    int64_t* new_last,       // [B, K], written
                    float* new_psi,          // [B, K], written
                    int64_t B, int64_t K, int64_t V, int64_t S) {
    if (!all_within(lengths, B, S + 1) || !all_within(parents, B * K, K) || !all_within(tokens, B * K, V)) return FAULT;
#pragma omp parallel for collapse(2) schedule(dynamic) if (B * K * S > PARALLEL / 16)
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t first = 0; first < K; first += LANES) {
            const int64_t T = lengths[b], size = std::min(LANES, K - first);
            const float *label = tables + b * 2 * (S + 1) * K, *blank = label + (S + 1) * K;
            float *new_label = new_tables + b * 2 * (S + 1) * K + first, *new_blank = new_label + (S + 1) * K;
            const float *added[LANES], *silence = x + (b * V + BLANK) * S;
            int64_t from[LANES];
            alignas(64) float psi[LANES], now[LANES], now_blank[LANES], either[LANES], only[LANES], mine[LANES];
            int32_t again[LANES];
            for (int64_t k = 0; k < LANES; ++k) {  // lanes that are over repeat the last row
                const int64_t row = b * K + first + std::min(k, size - 1);
                from[k] = parents[row], added[k] = x + (b * V + tokens[row]) * S;
                again[k] = tokens[row] == last[b * K + from[k]];
                psi[k] = now[k] = now_blank[k] = FLOOR;
            }
            for (int64_t t = 0;; ++t) {
                std::copy_n(now, size, new_label + t * K);
                std::copy_n(now_blank, size, new_blank + t * K);
                if (t == T) break;
                for (int64_t k = 0; k < LANES; ++k) {
                    either[k] = label[t * K + from[k]], only[k] = blank[t * K + from[k]], mine[k] = added[k][t];
                }
#pragma omp simd
                for (int64_t k = 0; k < LANES; ++k) {
                    const float both = log_add(either[k], only[k]), before = again[k] ? only[k] : both;
                    now_blank[k] = log_add(now[k], now_blank[k]) + silence[t];
                    now[k] = log_add(now[k], before) + mine[k];
                    psi[k] = log_add(psi[k], before + mine[k]);
                }
            }
            std::copy_n(psi, size, new_psi + b * K + first);
            std::copy_n(tokens + b * K + first, size, new_last + b * K + first);
        }
    }
    return FINE;
}

// One step of beam search: see Beam in s2s/decoding/search/beam.py. EOS's log-probability is multiplied by eos_scale.
// Returns whether any row ended in a slot that was not free, or none of its rows is live.
int64_t beam(const float* scores,    // [B, K]
             const float* logits,    // [R, V]
             const int64_t* limits,  // [4, B]: steps done, shortest, longest, prefix length
             const int64_t* prefix,  // [B, P]
             int64_t* chosen,        // [2, B, K], written: tokens and parents
             float* rated,           // [4, B, K], written: values, best, end, end_scores
             int64_t allow_unknown, double eos_scale, int64_t B, int64_t K, int64_t R, int64_t V, int64_t P) {
    const int64_t *done = limits, *shortest = limits + B, *longest = limits + 2 * B, *forced = limits + 3 * B;
    if (R != B * K || V < SPECIALS) return FAULT;
    for (int64_t b = 0; b < B; ++b)
        if (done[b] < 0 || forced[b] > P || (forced[b] > done[b] && !within(prefix[b * P + done[b]], V))) return FAULT;
    int64_t *const tokens = chosen, *const parents = chosen + B * K, ended = 0;
    float *const values = rated, *const best = values + B * K, *const end = best + B * K;
    float* const end_scores = end + B * K;
    float* row_values = scratch<float, 4>(B * K * K);
    int64_t* row_tokens = scratch<int64_t>(B * K * K);
#pragma omp parallel for schedule(static) if (B * K * V > PARALLEL)
    for (int64_t row = 0; row < B * K; ++row) {
        const int64_t b = row / K;
        Best mine{row_values + row * K, row_tokens + row * K, K};
        mine.clear();
        end[row] = NEVER;
        if (scores[row] == NEVER) continue;
        const float* x = logits + row * V;
        const int64_t blocks = (V + BLOCK - 1) / BLOCK;
        float* highest = scratch<float, 1>(blocks);
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
        if (shortest[b] <= done[b]) end[row] = static_cast<float>(eos_scale) * (x[EOS] - normalizer);
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
    int64_t* places = scratch<int64_t, 1>(K);
    float* all = scratch<float, 1>(2 * K);
    for (int64_t b = 0; b < B; ++b) {
        Best kept{best + b * K, places, K};
        kept.clear();
        for (int64_t i = 0; i < K * K; ++i) {
            const float total = scores[b * K + i / K] + row_values[b * K * K + i];
            if (kept.takes(total)) kept.add(total, i);
        }
        for (int64_t k = 0; k < K; ++k) {
            const int64_t row = b * K + k, from = b * K * K + places[k];
            tokens[row] = row_tokens[from], parents[row] = places[k] / K, values[row] = row_values[from];
            const float total = scores[row] + end[row];
            end_scores[row] = total > NEVER ? total : NEVER;  // NaN: never
        }
        std::copy_n(best + b * K, K, all);
        std::copy_n(end_scores + b * K, K, all + K);
        std::nth_element(all, all + K - 1, all + 2 * K, std::greater<float>());
        bool live = false, was_live = false;
        for (int64_t k = 0; k < K; ++k) {
            const int64_t row = b * K + k;
            if (end_scores[row] < all[K - 1]) end_scores[row] = NEVER;
            ended |= end_scores[row] > NEVER;
            live |= best[row] > NEVER, was_live |= scores[row] > NEVER;
        }
        ended |= was_live && !live;
    }
    return ended;
}
}
