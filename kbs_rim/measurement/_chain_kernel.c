/*
 * The hash chain of the RIM, for runs of operations that differ in nothing but an address and a content (RMM 1.0 B4.3.9.4, B4.3.18.4).
 *
 * A step is RIM' = H(descriptor), and a descriptor has 256 bytes, most of them zero and the same in every step:
 *
 *     0x00 type u8    0x08 length u64 = 0x100    0x10 RIM, padded to 64 bytes
 *     DATA  (type 0): 0x50 address u64    0x58 flags u64 (1: measured)    0x60 content digest, padded to 64 bytes
 *     RIPAS (type 2): 0x50 base u64       0x58 top u64
 *
 * With SHA-256 that is five compressions, three of which (two of zeros, one of padding) always have the same message schedule; with
 * SHA-384 and SHA-512 it is three, one of which is padding. Those schedules are computed once, when the module is loaded.
 *
 * This file does what kbs_rim/measurement/rmm.py does, and tests hold the two against each other. It allocates nothing, it calls nothing
 * but the compiler's intrinsics while it has released the interpreter's lock, and one call does at most MOST_STEPS steps.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ARM_CRYPTO 1
#include <arm_neon.h>
#include <sys/auxv.h>
#define HAS_SHA2 (1UL << 6)    /* HWCAP_SHA2 */
#define HAS_SHA512 (1UL << 21) /* HWCAP_SHA512 */
#endif

#define MOST_STEPS 16384 /* some milliseconds */
#define DESCRIPTOR 256
#define RIM_AT 0x10
#define FIRST_AT 0x50
#define SECOND_AT 0x58
#define CONTENT_AT 0x60
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The compiler may not add in another order than written: what depends on the round before comes last. Worth a fifth of the time. */
#define KEEP(x) __asm__("" : "+r"(x))

enum kind { DATA_MEASURED = 0, DATA_UNMEASURED = 1, RIPAS = 2 };

/* --- tables (FIPS 180-4 section 4.2; SHA-256 uses the upper halves of the first 64 constants of SHA-512) ---------------------------- */

static const uint64_t K512[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc, 0x3956c25bf348b538, 0x59f111f1b605d019,
    0x923f82a4af194f9b, 0xab1c5ed5da6d8118, 0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694, 0xe49b69c19ef14ad2, 0xefbe4786384f25e3,
    0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65, 0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4, 0xc6e00bf33da88fc2, 0xd5a79147930aa725,
    0x06ca6351e003826f, 0x142929670a0e6e70, 0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b, 0xa2bfe8a14cf10364, 0xa81a664bbc423001,
    0xc24b8b70d0f89791, 0xc76c51a30654be30, 0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8, 0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb,
    0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3, 0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b, 0xca273eceea26619c, 0xd186b8c721c0c207,
    0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178, 0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c, 0x4cc5d4becb3e42b6, 0x597f299cfc657e2a,
    0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};
static const uint32_t IV256[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint64_t IV384[8] = {
    0xcbbb9d5dc1059ed8, 0x629a292a367cd507, 0x9159015a3070dd17, 0x152fecd8f70e5939,
    0x67332667ffc00b31, 0x8eb44a8768581511, 0xdb0c2e0d64f98fa7, 0x47b5481dbefa4fa4,
};
static const uint64_t IV512[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

/* Filled by prepare(): K256 is not const for that reason alone. ZEROS and PADDING are constants plus message schedule. */
static uint32_t K256[64] __attribute__((aligned(16)));
static uint32_t ZEROS256[64] __attribute__((aligned(16)));
static uint32_t PADDING256[64] __attribute__((aligned(16)));
static uint64_t PADDING512[80] __attribute__((aligned(16)));

ALWAYS_INLINE uint32_t ror32(uint32_t x, int n) { return x >> n | x << (32 - n); }
ALWAYS_INLINE uint64_t ror64(uint64_t x, int n) { return x >> n | x << (64 - n); }

ALWAYS_INLINE uint32_t load32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
}

ALWAYS_INLINE uint64_t load64(const uint8_t *at) { return (uint64_t)load32(at) << 32 | load32(at + 4); }

ALWAYS_INLINE void store32(uint8_t *at, uint32_t x) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(x >> (24 - 8 * i));
}

ALWAYS_INLINE void store64(uint8_t *at, uint64_t x) {
    for (int i = 0; i < 8; i++) at[i] = (uint8_t)(x >> (56 - 8 * i));
}

ALWAYS_INLINE void store64_little(uint8_t *at, uint64_t x) {
    for (int i = 0; i < 8; i++) at[i] = (uint8_t)(x >> (8 * i));
}

/* --- portable SHA-256 -------------------------------------------------------------------------------------------------------------- */

static void schedule256(uint32_t w[64]) {
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = ror32(w[i - 15], 7) ^ ror32(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = ror32(w[i - 2], 17) ^ ror32(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 64; i++) w[i] += K256[i];
}

static void rounds256(uint32_t state[8], const uint32_t wk[64]) {
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = h + (ror32(e, 6) ^ ror32(e, 11) ^ ror32(e, 25)) + ((e & f) ^ (~e & g)) + wk[i];
        uint32_t t2 = (ror32(a, 2) ^ ror32(a, 13) ^ ror32(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void hash256_portable(uint32_t state[8], const uint8_t descriptor[DESCRIPTOR]) {
    memcpy(state, IV256, sizeof IV256);
    for (int block = 0; block < 2; block++) {
        uint32_t w[64];
        for (int i = 0; i < 16; i++) w[i] = load32(descriptor + 64 * block + 4 * i);
        schedule256(w);
        rounds256(state, w);
    }
    rounds256(state, ZEROS256);
    rounds256(state, ZEROS256);
    rounds256(state, PADDING256);
}

/* --- portable SHA-512 -------------------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void schedule512(uint64_t w[80]) {
    for (int i = 16; i < 80; i++) {
        uint64_t s0 = ror64(w[i - 15], 1) ^ ror64(w[i - 15], 8) ^ w[i - 15] >> 7;
        uint64_t s1 = ror64(w[i - 2], 19) ^ ror64(w[i - 2], 61) ^ w[i - 2] >> 6;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 80; i++) w[i] += K512[i];
}

/* wk: constants plus message schedule. */
ALWAYS_INLINE void rounds512(uint64_t state[8], const uint64_t wk[80]) {
    uint64_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    uint64_t b_xor_c = b ^ c;
#pragma GCC unroll 80
    for (int i = 0; i < 80; i++) {
        uint64_t early = h + wk[i], a_xor_b = a ^ b;
        early += g ^ (e & (f ^ g));
        KEEP(early);
        uint64_t t1 = early + (ror64(e, 14) ^ ror64(e, 18) ^ ror64(e, 41));
        uint64_t t2 = (ror64(a, 28) ^ ror64(a, 34) ^ ror64(a, 39)) + (b ^ (a_xor_b & b_xor_c));
        KEEP(t2);
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2, b_xor_c = a_xor_b;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

/* One block, its message schedule computed sixteen words ahead. */
ALWAYS_INLINE void block512(uint64_t state[8], const uint8_t *block) {
    uint64_t w[16];
    for (int i = 0; i < 16; i++) w[i] = load64(block + 8 * i);
    uint64_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    uint64_t b_xor_c = b ^ c;
    for (int r = 0; r < 80; r += 16) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            uint64_t early = h + (w[i] + K512[r + i]), a_xor_b = a ^ b;
            early += g ^ (e & (f ^ g));
            KEEP(early);
            uint64_t t1 = early + (ror64(e, 14) ^ ror64(e, 18) ^ ror64(e, 41));
            uint64_t t2 = (ror64(a, 28) ^ ror64(a, 34) ^ ror64(a, 39)) + (b ^ (a_xor_b & b_xor_c));
            KEEP(t2);
            h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2, b_xor_c = a_xor_b;
            uint64_t v = w[(i + 1) & 15], u = w[(i + 14) & 15];
            w[i] += (ror64(v, 1) ^ ror64(v, 8) ^ v >> 7) + w[(i + 9) & 15] + (ror64(u, 19) ^ ror64(u, 61) ^ u >> 6);
        }
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

ALWAYS_INLINE void hash512_generic(uint64_t state[8], const uint8_t descriptor[DESCRIPTOR]) {
    block512(state, descriptor);
    block512(state, descriptor + 128);
    rounds512(state, PADDING512);
}

static void hash512_portable(uint64_t state[8], const uint8_t descriptor[DESCRIPTOR]) { hash512_generic(state, descriptor); }

/* --- x86-64 ------------------------------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
#define TARGET_SHA __attribute__((target("sha,sse4.1,ssse3")))

TARGET_SHA ALWAYS_INLINE void rounds256_x86(__m128i *abef, __m128i *cdgh, const uint32_t wk[64]) {
    __m128i x = *abef, y = *cdgh;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m128i sum = _mm_load_si128((const __m128i *)(const void *)(wk + 4 * i));
        y = _mm_sha256rnds2_epu32(y, x, sum);
        x = _mm_sha256rnds2_epu32(x, y, _mm_shuffle_epi32(sum, 0x0E));
    }
    *abef = _mm_add_epi32(*abef, x);
    *cdgh = _mm_add_epi32(*cdgh, y);
}

TARGET_SHA ALWAYS_INLINE void block256_x86(__m128i *abef, __m128i *cdgh, const uint8_t block[64]) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i x = *abef, y = *cdgh, w[4];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        if (i < 4) {
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(block + 16 * i)), swap);
        } else {
            __m128i seven_back = _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4);
            __m128i partly = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]), seven_back);
            w[i & 3] = _mm_sha256msg2_epu32(partly, w[(i + 3) & 3]);
        }
        __m128i sum = _mm_add_epi32(w[i & 3], _mm_load_si128((const __m128i *)(const void *)(K256 + 4 * i)));
        y = _mm_sha256rnds2_epu32(y, x, sum);
        x = _mm_sha256rnds2_epu32(x, y, _mm_shuffle_epi32(sum, 0x0E));
    }
    *abef = _mm_add_epi32(*abef, x);
    *cdgh = _mm_add_epi32(*cdgh, y);
}

TARGET_SHA static void hash256_x86(uint32_t state[8], const uint8_t descriptor[DESCRIPTOR]) {
    __m128i abef = _mm_set_epi32((int)IV256[0], (int)IV256[1], (int)IV256[4], (int)IV256[5]);
    __m128i cdgh = _mm_set_epi32((int)IV256[2], (int)IV256[3], (int)IV256[6], (int)IV256[7]);
    block256_x86(&abef, &cdgh, descriptor);
    block256_x86(&abef, &cdgh, descriptor + 64);
    rounds256_x86(&abef, &cdgh, ZEROS256);
    rounds256_x86(&abef, &cdgh, ZEROS256);
    rounds256_x86(&abef, &cdgh, PADDING256);
    uint32_t x[4], y[4];
    memcpy(x, &abef, sizeof x);
    memcpy(y, &cdgh, sizeof y);
    state[0] = x[3], state[1] = x[2], state[2] = y[3], state[3] = y[2];
    state[4] = x[1], state[5] = x[0], state[6] = y[1], state[7] = y[0];
}

/* The same C, with RORX and ANDN. */
__attribute__((target("bmi,bmi2"))) static void hash512_x86(uint64_t state[8], const uint8_t descriptor[DESCRIPTOR]) {
    hash512_generic(state, descriptor);
}
#endif

/* --- 64-bit Arm with the crypto extensions ----------------------------------------------------------------------------------------- */

#if defined(ARM_CRYPTO)
#define TARGET_SHA2 __attribute__((target("arch=armv8-a+crypto")))
#define TARGET_SHA512 __attribute__((target("arch=armv8.2-a+sha3")))

TARGET_SHA2 static void hash256_arm(uint32_t state[8], const uint8_t descriptor[DESCRIPTOR]) {
    uint32x4_t abcd = vld1q_u32(IV256), efgh = vld1q_u32(IV256 + 4);
    for (int block = 0; block < 5; block++) {
        const uint32_t *ready = block == 4 ? PADDING256 : ZEROS256;
        uint32x4_t x = abcd, y = efgh, w[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            uint32x4_t sum;
            if (block >= 2) {
                sum = vld1q_u32(ready + 4 * i);
            } else {
                if (i < 4) {
                    w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(descriptor + 64 * block + 16 * i)));
                } else {
                    uint32x4_t partly = vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]);
                    w[i & 3] = vsha256su1q_u32(partly, w[(i + 2) & 3], w[(i + 3) & 3]);
                }
                sum = vaddq_u32(w[i & 3], vld1q_u32(K256 + 4 * i));
            }
            uint32x4_t before = x;
            x = vsha256hq_u32(x, y, sum);
            y = vsha256h2q_u32(y, before, sum);
        }
        abcd = vaddq_u32(abcd, x);
        efgh = vaddq_u32(efgh, y);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

TARGET_SHA512 static void hash512_arm(uint64_t state[8], const uint8_t descriptor[DESCRIPTOR]) {
    for (int block = 0; block < 3; block++) {
        uint64x2_t ab = vld1q_u64(state), cd = vld1q_u64(state + 2), ef = vld1q_u64(state + 4), gh = vld1q_u64(state + 6), w[8];
#pragma GCC unroll 40
        for (int i = 0; i < 40; i++) {
            uint64x2_t sum;
            if (block == 2) {
                sum = vld1q_u64(PADDING512 + 2 * i);
            } else {
                if (i < 8) {
                    w[i] = vreinterpretq_u64_u8(vrev64q_u8(vld1q_u8(descriptor + 128 * block + 16 * i)));
                } else {
                    uint64x2_t seven_back = vextq_u64(w[(i + 4) & 7], w[(i + 5) & 7], 1);
                    w[i & 7] = vsha512su1q_u64(vsha512su0q_u64(w[i & 7], w[(i + 1) & 7]), w[(i + 7) & 7], seven_back);
                }
                sum = vaddq_u64(w[i & 7], vld1q_u64(K512 + 2 * i));
            }
            sum = vaddq_u64(vextq_u64(sum, sum, 1), gh);
            uint64x2_t half = vsha512hq_u64(sum, vextq_u64(ef, gh, 1), vextq_u64(cd, ef, 1));
            uint64x2_t next = vsha512h2q_u64(half, cd, ab);
            gh = ef, ef = vaddq_u64(cd, half), cd = ab, ab = next;
        }
        vst1q_u64(state, vaddq_u64(vld1q_u64(state), ab));
        vst1q_u64(state + 2, vaddq_u64(vld1q_u64(state + 2), cd));
        vst1q_u64(state + 4, vaddq_u64(vld1q_u64(state + 4), ef));
        vst1q_u64(state + 6, vaddq_u64(vld1q_u64(state + 6), gh));
    }
}
#endif

/* --- which code this processor can run --------------------------------------------------------------------------------------------- */

typedef void (*hash256_code)(uint32_t state[8], const uint8_t descriptor[DESCRIPTOR]);
typedef void (*hash512_code)(uint64_t state[8], const uint8_t descriptor[DESCRIPTOR]);

static hash256_code best256 = hash256_portable;
static hash512_code best512 = hash512_portable;
static const char *name256 = "portable", *name512 = "portable";

static void prepare(void) {
    for (int i = 0; i < 64; i++) K256[i] = (uint32_t)(K512[i] >> 32);
    PADDING256[0] = 0x80000000, PADDING256[15] = 8 * DESCRIPTOR;
    PADDING512[0] = 0x8000000000000000, PADDING512[15] = 8 * DESCRIPTOR;
    schedule256(ZEROS256);
    schedule256(PADDING256);
    schedule512(PADDING512);
#if defined(__x86_64__)
    unsigned a, b, c, d;
    int ssse3_and_sse41 = __get_cpuid(1, &a, &b, &c, &d) && (c >> 9 & 1) && (c >> 19 & 1);
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        if (ssse3_and_sse41 && (b >> 29 & 1)) best256 = hash256_x86, name256 = "sha-ni";
        if ((b >> 3 & 1) && (b >> 8 & 1)) best512 = hash512_x86, name512 = "bmi2";
    }
#elif defined(ARM_CRYPTO)
    unsigned long has = getauxval(AT_HWCAP);
    if (has & HAS_SHA2) best256 = hash256_arm, name256 = "armv8-sha2";
    if (has & HAS_SHA512) best512 = hash512_arm, name512 = "armv8-sha512";
#endif
}

/* --- the chain --------------------------------------------------------------------------------------------------------------------- */

static void step(uint8_t descriptor[DESCRIPTOR], int digest_size, int portable) {
    if (digest_size == 32) {
        uint32_t state[8];
        (portable ? hash256_portable : best256)(state, descriptor);
        for (int i = 0; i < 8; i++) store32(descriptor + RIM_AT + 4 * i, state[i]);
        return;
    }
    uint64_t state[8];
    memcpy(state, digest_size == 48 ? IV384 : IV512, sizeof state);
    (portable ? hash512_portable : best512)(state, descriptor);
    for (int i = 0; i < digest_size / 8; i++) store64(descriptor + RIM_AT + 8 * i, state[i]);
}

/* rim: digest_size bytes, in and out. digests: count * digest_size bytes if kind is DATA_MEASURED, else not read. */
static void chain(enum kind kind, int digest_size, uint8_t *rim, uint64_t base, uint64_t stride, Py_ssize_t count, const uint8_t *digests,
                  int portable) {
    uint8_t descriptor[DESCRIPTOR] __attribute__((aligned(16))) = {0};
    descriptor[0] = kind == RIPAS ? 2 : 0;
    store64_little(descriptor + 8, DESCRIPTOR);
    memcpy(descriptor + RIM_AT, rim, (size_t)digest_size);
    for (Py_ssize_t i = 0; i < count; i++, base += stride) {
        store64_little(descriptor + FIRST_AT, base);
        store64_little(descriptor + SECOND_AT, kind == RIPAS ? base + stride : kind == DATA_MEASURED);
        if (kind == DATA_MEASURED) memcpy(descriptor + CONTENT_AT, digests + i * digest_size, (size_t)digest_size);
        step(descriptor, digest_size, portable);
    }
    memcpy(rim, descriptor + RIM_AT, (size_t)digest_size);
}

/* What is wrong with the arguments, or NULL. */
static const char *problem(int kind, const Py_buffer *rim, unsigned long long base, unsigned long long stride, Py_ssize_t count,
                           const Py_buffer *digests) {
    if (kind < DATA_MEASURED || kind > RIPAS) return "no such kind of operation";
    if (rim->len != 32 && rim->len != 48 && rim->len != 64) return "a RIM has 32, 48 or 64 bytes";
    if (count < 0 || count > MOST_STEPS) return "more steps than one call may do";
    if (count > 0 && stride > (UINT64_MAX - base) / (unsigned long long)count) return "the addresses do not fit 64 bits";
    if (kind == DATA_MEASURED && (digests->buf == NULL || digests->len != count * rim->len)) return "there must be one digest for each step";
    if (kind != DATA_MEASURED && digests->buf != NULL) return "this kind of operation has no digests";
    return NULL;
}

static PyObject *extend(PyObject *module, PyObject *args) {
    (void)module;
    int kind, portable = 0;
    Py_buffer rim, digests;
    unsigned long long base, stride;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "iy*KKnz*|p:extend", &kind, &rim, &base, &stride, &count, &digests, &portable)) return NULL;
    PyObject *result = NULL;
    const char *wrong = problem(kind, &rim, base, stride, count, &digests);
    if (wrong != NULL) {
        PyErr_SetString(PyExc_ValueError, wrong);
    } else {
        uint8_t state[64];
        Py_ssize_t size = rim.len;
        memcpy(state, rim.buf, (size_t)size);
        Py_BEGIN_ALLOW_THREADS
        chain((enum kind)kind, (int)size, state, base, stride, count, digests.buf, portable);
        Py_END_ALLOW_THREADS
        result = PyBytes_FromStringAndSize((const char *)state, size);
    }
    PyBuffer_Release(&rim);
    PyBuffer_Release(&digests);
    return result;
}

static PyObject *implementations(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_BuildValue("{s:s,s:s,s:s}", "sha-256", name256, "sha-384", name512, "sha-512", name512);
}

static PyMethodDef METHODS[] = {
    {"extend", extend, METH_VARARGS, "extend(kind, rim, base, stride, count, digests, portable=False): the RIM after `count` operations."},
    {"implementations", implementations, METH_NOARGS, "Which code computes each hash on this processor."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_chain_kernel", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__chain_kernel(void) {
    prepare();
    PyObject *module = PyModule_Create(&MODULE);
    if (module != NULL && PyModule_AddIntConstant(module, "MOST_STEPS", MOST_STEPS) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
