// Softmax attention whose scores never leave the cache: for six queries at a time all scores, their softmax and the
// weighted values, before the next six. Products run on AVX-512 with bf16 (VDPBF16PS) or, for scores, 8-bit integers
// (VPDPBUSD). A row of queries is computed alike whatever rows are beside it.
//
// Legend: Q queries, P keys, d head width, D the same up to a multiple of 16, B keys of a block.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "lanes.h"

namespace {

constexpr int64_t B = 64;  // four registers of 16
constexpr int ROWS = 6;    // 6 x 4 sums, 4 operands and one broadcast fill the 32 registers

int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

thread_local Buffer buffer;

// acc += the products of 2 bf16 or 4 8-bit numbers in each lane. As instructions: compilers copy the sums of their own
// forms from register to register, which takes longer than the products.
inline void add_products(__m512& sum, __m512i a, __m512i b) { asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }
inline void add_products(__m512i& sum, __m512i a, __m512i b) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

// exp of numbers up to 0, closer than bf16 can tell; 0 below where fp32 ends.
inline __m512 exp_of(__m512 x) {
    const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);  // NaN counts
    const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f));
    const __m512 turns = _mm512_roundscale_ps(scaled, 0), rest = _mm512_sub_ps(scaled, turns);
    __m512 sum = _mm512_set1_ps(5.508868e-2f);  // 2^rest between -1/2 and 1/2, off by 8e-5 at most
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(2.4260405e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(6.9327624e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(9.9992894e-1f));
    return _mm512_maskz_scalef_ps(counts, sum, turns);
}

// 32-bit words of 64 rows, turned: out[word][row].
void turn(const uint32_t* rows, int64_t words, uint32_t* out) {
    const __m512i lane = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(int(words)));
    for (int64_t word = 0; word < words; ++word)
        for (int64_t row = 0; row < B; row += 16)
            _mm512_store_si512(out + word * B + row, _mm512_i32gather_epi32(lane, rows + row * words + word, 4));
}

void to_bf16(const float* x, int64_t d, int64_t width, uint16_t* out) {
    for (int64_t i = 0; i < width; i += 16)
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + i),
                           __m256i(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first(d - i), x + i))));
}

// 8 bits around 0 with one scale; returns the scale, and the sum of what was written.
float to_int8(const float* x, int64_t d, int64_t width, int8_t* out, int32_t* sum) {
    __m512 most = _mm512_setzero_ps();
    for (int64_t i = 0; i < d; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(first(d - i), x + i)));
    const float scale = std::max(_mm512_reduce_max_ps(most), 1e-12f) / 127.0f;
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    __m512i total = _mm512_setzero_si512();
    for (int64_t i = 0; i < width; i += 16) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(first(d - i), x + i), inverse));
        total = _mm512_add_epi32(total, whole);
        _mm_store_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtsepi32_epi8(whole));
    }
    *sum = _mm512_reduce_add_epi32(total);
    return scale;
}

// What one head's keys and values become, and the scores of six queries.
struct Head {
    int64_t keys, padded, width, words;  // words of 32 bits in a row of keys
    uint32_t *turned, *rows, *pairs;     // [padded / B][words][B]; [B][words]; [padded / 2][width]
    float *bias, *key_scale, *scores;    // [padded]; [padded]; [ROWS][padded]
    int32_t* key_sum;                    // [padded]
    uint16_t* weights;                   // [ROWS][padded]
    uint32_t* queries;                   // [ROWS][words]
    float query_scale[ROWS];
};

template <bool INT8>
void take_keys(Head& head, const float* k, int64_t stride, int64_t d, const float* bias) {
    for (int64_t key = 0; key < head.padded; ++key) head.bias[key] = key >= head.keys ? LOWEST : bias ? bias[key] : 0.0f;
    for (int64_t block = 0; block < head.padded; block += B) {
        for (int64_t row = 0; row < B; ++row) {
            uint32_t* out = head.rows + row * head.words;
            const int64_t key = block + row;
            if (key >= head.keys) {
                std::memset(out, 0, head.words * 4);
                head.key_scale[key] = 0.0f, head.key_sum[key] = 0;
            } else if (INT8) {
                head.key_scale[key] =
                    to_int8(k + key * stride, d, head.width, reinterpret_cast<int8_t*>(out), head.key_sum + key);
            } else {
                to_bf16(k + key * stride, d, head.width, reinterpret_cast<uint16_t*>(out));
            }
        }
        turn(head.rows, head.words, head.turned + block * head.words);
    }
}

void take_values(Head& head, const float* v, int64_t stride, int64_t d) {
    for (int64_t key = 0; key < head.padded; key += 2)
        for (int64_t i = 0; i < head.width; i += 16) {
            const __mmask16 here = first(d - i);
            const __m512 even = _mm512_maskz_loadu_ps(key < head.keys ? here : 0, v + key * stride + i);
            const __m512 odd = _mm512_maskz_loadu_ps(key + 1 < head.keys ? here : 0, v + (key + 1) * stride + i);
            const __m512i low = _mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(even)));
            const __m512i high = _mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(odd)));
            _mm512_store_si512(head.pairs + key / 2 * head.width + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

template <bool INT8>
void take_query(Head& head, int row, const float* q, int64_t d) {
    uint32_t* out = head.queries + row * head.words;
    if (!INT8) return to_bf16(q, d, head.width, reinterpret_cast<uint16_t*>(out));
    int32_t sum;
    head.query_scale[row] = to_int8(q, d, head.width, reinterpret_cast<int8_t*>(out), &sum);
    for (int64_t word = 0; word < head.words; ++word) out[word] ^= 0x80808080u;  // + 128: unsigned
}

template <int R, typename Sum>
inline void multiply(const Head& head, const uint32_t* turned, Sum (&sum)[R][4]) {
    for (int64_t word = 0; word < head.words; ++word) {
        const __m512i* key = reinterpret_cast<const __m512i*>(turned + word * B);
        const __m512i keys[4] = {key[0], key[1], key[2], key[3]};
        UNROLLED
        for (int r = 0; r < R; ++r) {
            const __m512i query = _mm512_set1_epi32(int(head.queries[r * head.words + word]));
            UNROLLED
            for (int part = 0; part < 4; ++part) add_products(sum[r][part], query, keys[part]);
        }
    }
}

template <int R>
void score(Head& head, float scale, int64_t seen, __m512*) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int64_t block = 0; block < seen; block += B) {
        __m512 sum[R][4];
        UNROLLED
        for (int r = 0; r < R; ++r)
            UNROLLED
            for (int part = 0; part < 4; ++part) sum[r][part] = _mm512_setzero_ps();
        multiply<R>(head, head.turned + block * head.words, sum);
        UNROLLED
        for (int part = 0; part < 4; ++part) {
            const int64_t at = block + 16 * part;
            const __m512 bias = _mm512_load_ps(head.bias + at);
            UNROLLED
            for (int r = 0; r < R; ++r) _mm512_store_ps(head.scores + r * head.padded + at, _mm512_fmadd_ps(sum[r][part], factor, bias));
        }
    }
}

template <int R>
void score(Head& head, float scale, int64_t seen, __m512i*) {
    for (int64_t block = 0; block < seen; block += B) {
        __m512i sum[R][4];
        UNROLLED
        for (int part = 0; part < 4; ++part) {
            const __m512i sums = _mm512_load_si512(head.key_sum + block + 16 * part);
            UNROLLED
            for (int r = 0; r < R; ++r) sum[r][part] = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sums), 7);
        }
        multiply<R>(head, head.turned + block * head.words, sum);
        UNROLLED
        for (int part = 0; part < 4; ++part) {
            const int64_t at = block + 16 * part;
            const __m512 bias = _mm512_load_ps(head.bias + at), of_key = _mm512_load_ps(head.key_scale + at);
            UNROLLED
            for (int r = 0; r < R; ++r) {
                const __m512 factor = _mm512_mul_ps(_mm512_set1_ps(scale * head.query_scale[r]), of_key);
                _mm512_store_ps(head.scores + r * head.padded + at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][part]), factor, bias));
            }
        }
    }
}

// Weights of one query in bf16, not yet divided by their sum, which is returned. Keys from `visible` on are hidden.
float weigh(float* scores, int64_t visible, int64_t seen, uint16_t* weights) {
    for (int64_t key = visible; key < seen; ++key) scores[key] = LOWEST;
    __m512 most = _mm512_set1_ps(LOWEST);
    for (int64_t key = 0; key < seen; key += 16) most = _mm512_max_ps(_mm512_load_ps(scores + key), most);
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t key = 0; key < seen; key += 16) {
        const __m512 weight = exp_of(_mm512_sub_ps(_mm512_load_ps(scores + key), most));
        sum = _mm512_add_ps(sum, weight);
        _mm256_store_si256(reinterpret_cast<__m256i*>(weights + key), __m256i(_mm512_cvtneps_pbh(weight)));
    }
    return _mm512_reduce_add_ps(sum);
}

template <int R, int PARTS>
void mix(const Head& head, int64_t seen, int64_t column, const float* sums, float* const* out, int64_t d) {
    __m512 sum[R][PARTS];
    UNROLLED
    for (int r = 0; r < R; ++r)
        UNROLLED
        for (int part = 0; part < PARTS; ++part) sum[r][part] = _mm512_setzero_ps();
    const uint32_t* weights = reinterpret_cast<const uint32_t*>(head.weights);
    for (int64_t pair = 0; pair < seen / 2; ++pair) {
        __m512i value[PARTS];
        UNROLLED
        for (int part = 0; part < PARTS; ++part)
            value[part] = _mm512_load_si512(head.pairs + pair * head.width + column + 16 * part);
        UNROLLED
        for (int r = 0; r < R; ++r) {
            const __m512i weight = _mm512_set1_epi32(int(weights[r * head.padded / 2 + pair]));
            UNROLLED
            for (int part = 0; part < PARTS; ++part) add_products(sum[r][part], weight, value[part]);
        }
    }
    UNROLLED
    for (int r = 0; r < R; ++r)
        UNROLLED
        for (int part = 0; part < PARTS; ++part)
            _mm512_mask_storeu_ps(out[r] + column + 16 * part, first(d - column - 16 * part),
                                  _mm512_mul_ps(sum[r][part], _mm512_set1_ps(1.0f / sums[r])));
}

template <bool INT8, int R>
void some_rows(Head& head, float scale, const int64_t* visible, float* const* out, int64_t d) {
    const int64_t seen = std::min(head.padded, up(visible[R - 1], B));  // the last row sees most
    score<R>(head, scale, seen, static_cast<std::conditional_t<INT8, __m512i, __m512>*>(nullptr));
    float sums[R];
    UNROLLED
    for (int r = 0; r < R; ++r)
        sums[r] = weigh(head.scores + r * head.padded, std::min(visible[r], seen), seen, head.weights + r * head.padded);
    int64_t column = 0;
    for (; column + 64 <= head.width; column += 64) mix<R, 4>(head, seen, column, sums, out, d);
    if (head.width - column >= 32) mix<R, 2>(head, seen, column, sums, out, d), column += 32;
    if (head.width - column >= 16) mix<R, 1>(head, seen, column, sums, out, d);
}

template <bool INT8>
void rows_of(int count, Head& head, float scale, const int64_t* visible, float* const* out, int64_t d) {
    switch (count) {
        case 1: return some_rows<INT8, 1>(head, scale, visible, out, d);
        case 2: return some_rows<INT8, 2>(head, scale, visible, out, d);
        case 3: return some_rows<INT8, 3>(head, scale, visible, out, d);
        case 4: return some_rows<INT8, 4>(head, scale, visible, out, d);
        case 5: return some_rows<INT8, 5>(head, scale, visible, out, d);
        default: return some_rows<INT8, 6>(head, scale, visible, out, d);
    }
}

template <bool INT8>
void one_head(Head& head, const float* q, int64_t q_row, const float* k, int64_t k_row, const float* v, int64_t v_row,
              const float* bias, float* out, int64_t out_row, int64_t queries, int64_t d, float scale, bool causal) {
    take_keys<INT8>(head, k, k_row, d, bias);
    take_values(head, v, v_row, d);
    for (int64_t row = 0; row < queries; row += ROWS) {
        const int count = int(std::min<int64_t>(ROWS, queries - row));
        int64_t visible[ROWS];
        float* to[ROWS];
        for (int r = 0; r < count; ++r) {
            visible[r] = causal ? head.keys - queries + row + r + 1 : head.keys;
            to[r] = out + (row + r) * out_row;
            take_query<INT8>(head, r, q + (row + r) * q_row, d);
        }
        rows_of<INT8>(count, head, scale, visible, to, d);
    }
}

}  // namespace

// Strides in floats: of a batch, a head, and a row; the last dimension is dense. Returns 1 where memory is short.
extern "C" int depthrank_attention(const float* q, const int64_t* q_strides, const float* k, const int64_t* k_strides,
                                   const float* v, const int64_t* v_strides, const float* bias,
                                   const int64_t* bias_strides, float* out, const int64_t* out_strides, int64_t heads,
                                   int64_t first_head, int64_t last_head, int64_t queries, int64_t keys, int64_t d,
                                   float scale, int causal, int int8) {
    Head head;
    head.keys = keys, head.padded = up(keys, B), head.width = up(d, 16);
    head.words = int8 ? head.width / 4 : head.width / 2;
    size_t size = 0;
    const auto take = [&size](int64_t bytes) { return std::exchange(size, size + size_t(up(bytes, 64))); };
    const size_t turned = take(head.padded * head.words * 4), rows = take(B * head.words * 4),
                 pairs = take(head.padded / 2 * head.width * 4), biases = take(head.padded * 4),
                 scales = take(head.padded * 4), sums = take(head.padded * 4), scores = take(ROWS * head.padded * 4),
                 weights = take(ROWS * head.padded * 2), queries_at = take(ROWS * head.words * 4);
    char* base = buffer.of(size);
    if (base == nullptr) return 1;
    head.turned = reinterpret_cast<uint32_t*>(base + turned), head.rows = reinterpret_cast<uint32_t*>(base + rows);
    head.pairs = reinterpret_cast<uint32_t*>(base + pairs), head.bias = reinterpret_cast<float*>(base + biases);
    head.key_scale = reinterpret_cast<float*>(base + scales), head.key_sum = reinterpret_cast<int32_t*>(base + sums);
    head.scores = reinterpret_cast<float*>(base + scores), head.weights = reinterpret_cast<uint16_t*>(base + weights);
    head.queries = reinterpret_cast<uint32_t*>(base + queries_at);
    for (int64_t each = first_head; each < last_head; ++each) {
        const int64_t n = each / heads, h = each % heads;
        const auto at = [n, h](auto* data, const int64_t* strides) { return data + n * strides[0] + h * strides[1]; };
        (int8 ? one_head<true> : one_head<false>)(
            head, at(q, q_strides), q_strides[2], at(k, k_strides), k_strides[2], at(v, v_strides), v_strides[2],
            bias == nullptr ? nullptr : at(bias, bias_strides), at(out, out_strides), out_strides[2], queries, d, scale,
            causal != 0);
    }
    return 0;
}
