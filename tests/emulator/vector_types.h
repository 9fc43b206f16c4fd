// CUDA's small vectors, with its alignments.
#ifndef LH_EMULATOR_VECTOR_TYPES_H
#define LH_EMULATOR_VECTOR_TYPES_H

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define LH_VECTOR(type, name)                                                              \
    struct __attribute__((aligned(2 * sizeof(type)))) name##2 { type x, y; };              \
    struct name##3 { type x, y, z; };                                                      \
    struct __attribute__((aligned(4 * sizeof(type)))) name##4 { type x, y, z, w; };        \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }     \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
LH_VECTOR(float, float)
LH_VECTOR(int, int)
LH_VECTOR(signed char, char)
LH_VECTOR(unsigned char, uchar)
LH_VECTOR(short, short)
LH_VECTOR(unsigned short, ushort)
#undef LH_VECTOR
struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#endif
