// What kernels of sixteen lanes share.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <limits>

#define UNROLLED _Pragma("GCC unroll 6")  // or sums would live in memory

constexpr float LOWEST = -std::numeric_limits<float>::infinity();

// A thread's memory for one call, kept for the next one; nothing where there is none.
struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    char* of(size_t bytes) {
        if (bytes > size) {
            std::free(data);
            size = (bytes + 4095) / 4096 * 4096;
            data = std::aligned_alloc(64, size);
            if (data == nullptr) size = 0;
        }
        return static_cast<char*>(data);
    }
    ~Buffer() { std::free(data); }
};

// The first so many lanes.
inline __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : __mmask16((1u << count) - 1); }
