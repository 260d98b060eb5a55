// Softmax attention of a few positions, for many rows: sixteen rows at a time, one in each lane of AVX-512, so that no
// product is too small for the registers. fp32 throughout; a row is computed alike whatever rows are beside it.
//
// Legend: N rows, H heads, Q queries, P keys, d width of a query and key, e width of a value, B rows in a block.
#include <algorithm>
#include <utility>

#include "lanes.h"

namespace {

constexpr int64_t B = 16;
constexpr int QUERIES = 2, KEYS = 4;  // 8 sums that do not wait for one another

thread_local Buffer buffer;

// exp of numbers up to 0, to the last bit or two; 0 below where fp32 ends.
inline __m512 exp_of(__m512 x) {
    const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-103.0f), _CMP_NLT_UQ);  // NaN counts
    const __m512 turns = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)), 0);
    __m512 rest = _mm512_fnmadd_ps(turns, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(turns, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.9875691500e-4f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1f));
    sum = _mm512_fmadd_ps(sum, _mm512_mul_ps(rest, rest), _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    return _mm512_maskz_scalef_ps(counts, sum, turns);
}

// A square of 16 x 16 turned about its diagonal.
inline void turn(__m512 (&x)[16]) {
    __m512 y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            const __m512d a = _mm512_castps_pd(y[i + j]), b = _mm512_castps_pd(y[i + 2 + j]);
            x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 4; ++i) {
        const __m512 low = _mm512_shuffle_f32x4(x[i], x[4 + i], 0x88), odd = _mm512_shuffle_f32x4(x[i], x[4 + i], 0xdd);
        const __m512 high = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0x88),
                     last = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0xdd);
        y[i] = _mm512_shuffle_f32x4(low, high, 0x88);
        y[4 + i] = _mm512_shuffle_f32x4(odd, last, 0x88);
        y[8 + i] = _mm512_shuffle_f32x4(low, high, 0xdd);
        y[12 + i] = _mm512_shuffle_f32x4(odd, last, 0xdd);
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
}

// positions x width numbers of up to 16 rows -> [position][width][row]; a row that is not there is a copy of the last.
void take(const float* from, int64_t of_row, int64_t of_position, int64_t rows, int64_t positions, int64_t width, float* to) {
    for (int64_t position = 0; position < positions; ++position)
        for (int64_t i = 0; i < width; i += 16) {
            __m512 square[16];
            for (int64_t row = 0; row < 16; ++row)
                square[row] = _mm512_maskz_loadu_ps(
                    first(width - i), from + std::min(row, rows - 1) * of_row + position * of_position + i);
            turn(square);
            for (int64_t k = 0; k < std::min<int64_t>(16, width - i); ++k)
                _mm512_store_ps(to + (position * width + i + k) * B, square[k]);
        }
}

// The other way: one position's numbers of all rows.
void give(const float* from, int64_t of_row, int64_t rows, int64_t width, float* to) {
    for (int64_t i = 0; i < width; i += 16) {
        __m512 square[16];
        for (int64_t k = 0; k < 16; ++k)
            square[k] = i + k < width ? _mm512_load_ps(from + (i + k) * B) : _mm512_setzero_ps();
        turn(square);
        for (int64_t row = 0; row < rows; ++row) _mm512_mask_storeu_ps(to + row * of_row + i, first(width - i), square[row]);
    }
}

// out[r][c] = sum over i of a[r][i] * b[c][i], each a lane of 16, for R x C of them.
template <int R, int C>
inline void products(const float* a, int64_t a_own, int64_t a_sum, const float* b, int64_t b_own, int64_t b_sum,
                     int64_t count, float* out, int64_t out_r, int64_t out_c) {
    __m512 sum[R][C];
    UNROLLED
    for (int r = 0; r < R; ++r)
        UNROLLED
        for (int c = 0; c < C; ++c) sum[r][c] = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; ++i) {
        __m512 own[C];
        UNROLLED
        for (int c = 0; c < C; ++c) own[c] = _mm512_load_ps(b + c * b_own + i * b_sum);
        UNROLLED
        for (int r = 0; r < R; ++r) {
            const __m512 factor = _mm512_load_ps(a + r * a_own + i * a_sum);
            UNROLLED
            for (int c = 0; c < C; ++c) sum[r][c] = _mm512_fmadd_ps(factor, own[c], sum[r][c]);
        }
    }
    UNROLLED
    for (int r = 0; r < R; ++r)
        UNROLLED
        for (int c = 0; c < C; ++c) _mm512_store_ps(out + r * out_r + c * out_c, sum[r][c]);
}

// The same for any number of columns.
template <int R>
void all_products(const float* a, int64_t a_own, int64_t a_sum, const float* b, int64_t b_own, int64_t b_sum,
                  int64_t count, float* out, int64_t out_r, int64_t out_c, int64_t columns) {
    int64_t c = 0;
    for (; c + KEYS <= columns; c += KEYS)
        products<R, KEYS>(a, a_own, a_sum, b + c * b_own, b_own, b_sum, count, out + c * out_c, out_r, out_c);
    for (; c < columns; ++c)
        products<R, 1>(a, a_own, a_sum, b + c * b_own, b_own, b_sum, count, out + c * out_c, out_r, out_c);
}

// Scores of a query times a factor, and what is added to each where there is something.
inline void scale_and_add(float* scores, int64_t keys, float scale, const float* added) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int64_t key = 0; key < keys; ++key) {
        const __m512 plus = added == nullptr ? _mm512_setzero_ps() : _mm512_load_ps(added + key * B);
        _mm512_store_ps(scores + key * B, _mm512_fmadd_ps(_mm512_load_ps(scores + key * B), factor, plus));
    }
}

// Scores of a query in place: exp of their distance to the largest. Returns one over their sum.
inline __m512 weigh(float* scores, int64_t keys, bool safe) {
    __m512 most = _mm512_set1_ps(LOWEST), sum = _mm512_setzero_ps();
    for (int64_t key = 0; key < keys; ++key) most = _mm512_max_ps(_mm512_load_ps(scores + key * B), most);
    for (int64_t key = 0; key < keys; ++key) {
        const __m512 weight = exp_of(_mm512_sub_ps(_mm512_load_ps(scores + key * B), most));
        sum = _mm512_add_ps(sum, weight);
        _mm512_store_ps(scores + key * B, weight);
    }
    if (safe) {  // where every key is hidden, nothing is read
        const __mmask16 none = _mm512_cmp_ps_mask(most, _mm512_set1_ps(LOWEST), _CMP_EQ_OQ);
        for (int64_t key = 0; none && key < keys; ++key)
            _mm512_mask_store_ps(scores + key * B, none, _mm512_setzero_ps());
        sum = _mm512_mask_blend_ps(none, sum, _mm512_set1_ps(1.0f));
    }
    return _mm512_div_ps(_mm512_set1_ps(1.0f), sum);
}

struct Sizes {
    int64_t queries, keys, width, value_width;
    float scale;
    bool safe;
};

template <int R>
void some_queries(const Sizes& s, const float* q, const float* k, const float* v, const float* added, float* scores,
                  float* mixed, int64_t rows, float* out, int64_t out_row, int64_t out_query) {
    all_products<R>(q, s.width * B, B, k, s.width * B, B, s.width, scores, s.keys * B, B, s.keys);
    __m512 share[R];
    if (s.scale != 1.0f || added != nullptr)
        for (int r = 0; r < R; ++r)
            scale_and_add(scores + r * s.keys * B, s.keys, s.scale, added == nullptr ? nullptr : added + r * s.keys * B);
    for (int r = 0; r < R; ++r) share[r] = weigh(scores + r * s.keys * B, s.keys, s.safe);
    all_products<R>(scores, s.keys * B, B, v, B, s.value_width * B, s.keys, mixed, s.value_width * B, B, s.value_width);
    for (int r = 0; r < R; ++r) {
        float* own = mixed + r * s.value_width * B;
        for (int64_t i = 0; i < s.value_width; ++i) _mm512_store_ps(own + i * B, _mm512_mul_ps(_mm512_load_ps(own + i * B), share[r]));
        give(own, out_row, rows, s.value_width, out + r * out_query);
    }
}

}  // namespace

// Strides in floats: of a row, a head, and a position; the last dimension is dense. `added` [N, H, Q, P] or nothing.
// Returns 1 where memory is short.
extern "C" int depthrank_small_attention(const float* q, const int64_t* q_strides, const float* k, const int64_t* k_strides,
                                         const float* v, const int64_t* v_strides, const float* added,
                                         const int64_t* added_strides, float* out, const int64_t* out_strides,
                                         int64_t first_row, int64_t last_row, int64_t heads, int64_t queries, int64_t keys,
                                         int64_t width, int64_t value_width, float scale, int safe) {
    const Sizes s{queries, keys, width, value_width, scale, safe != 0};
    const int64_t sizes[] = {queries * width, keys * width, keys * value_width, added == nullptr ? 0 : queries * keys,
                             QUERIES * keys, QUERIES * value_width};
    int64_t total = 0;
    for (int64_t size : sizes) total += size * B;
    auto* base = reinterpret_cast<float*>(buffer.of(size_t(total) * 4));
    if (base == nullptr) return 1;
    float* at[6];
    for (int i = 0; i < 6; ++i) at[i] = base, base += sizes[i] * B;
    for (int64_t row = first_row; row < last_row; row += B) {
        const int64_t rows = std::min(B, last_row - row);
        for (int64_t head = 0; head < heads; ++head) {
            const auto of = [row, head](auto* data, const int64_t* strides) { return data + row * strides[0] + head * strides[1]; };
            take(of(q, q_strides), q_strides[0], q_strides[2], rows, queries, width, at[0]);
            take(of(k, k_strides), k_strides[0], k_strides[2], rows, keys, width, at[1]);
            take(of(v, v_strides), v_strides[0], v_strides[2], rows, keys, value_width, at[2]);
            if (added != nullptr) take(of(added, added_strides), added_strides[0], added_strides[2], rows, queries, keys, at[3]);
            const auto plus = [&](int64_t query) { return added == nullptr ? nullptr : at[3] + query * keys * B; };
            float* to = of(out, out_strides);
            int64_t query = 0;
            for (; query + QUERIES <= queries; query += QUERIES)
                some_queries<QUERIES>(s, at[0] + query * width * B, at[1], at[2], plus(query), at[4], at[5], rows,
                                      to + query * out_strides[2], out_strides[0], out_strides[2]);
            if (query < queries)
                some_queries<1>(s, at[0] + query * width * B, at[1], at[2], plus(query), at[4], at[5], rows,
                                to + query * out_strides[2], out_strides[0], out_strides[2]);
        }
    }
    return 0;
}
