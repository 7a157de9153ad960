// AVX2, FMA, BMI and AVX-512 compute what they compute natively.
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>

static float a[1024], b[1024], c[1024];
static uint32_t u[1024], v[1024];

__attribute__((target("avx2,fma,bmi,bmi2,lzcnt,movbe,f16c"))) static void v3(void) {
    __m256 sum = _mm256_setzero_ps();
    for (int i = 0; i < 1024; i += 8) {
        __m256 x = _mm256_loadu_ps(a + i), y = _mm256_loadu_ps(b + i);
        sum = _mm256_fmadd_ps(x, y, sum);
        _mm256_storeu_ps(c + i, _mm256_fnmsub_ps(x, y, sum));
    }
    double total = 0;
    for (int i = 0; i < 1024; i++) total += c[i];
    printf("fma %.17g\n", total);
    uint64_t hash = 0;
    for (int i = 0; i < 1024; i += 8) {
        __m256i x = _mm256_loadu_si256((__m256i *)(u + i)), index = _mm256_and_si256(x, _mm256_set1_epi32(1023));
        __m256i found = _mm256_i32gather_epi32((int *)u, index, 4);
        found = _mm256_sllv_epi32(found, _mm256_and_si256(x, _mm256_set1_epi32(7)));
        hash = hash * 31 + (uint32_t)_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(found, x));
        _mm256_storeu_si256((__m256i *)(v + i), found);
    }
    for (int i = 0; i < 1024; i++) hash = hash * 31 + v[i];
    printf("avx2 %016lx\n", hash);
    hash = 0;
    for (int i = 0; i < 1024; i++) {
        hash = hash * 31 + _pext_u64(hash + u[i], 0x0F0F3355AAFF0011) + _pdep_u64(u[i], 0xF0F0CC3300FF5511);
        hash ^= _lzcnt_u64(hash) + _tzcnt_u64(hash) + _blsr_u64(hash) + _andn_u64(hash, u[i]) + _mulx_u64(hash, u[i], (unsigned long long *)&hash);
    }
    printf("bmi %016lx\n", hash);
    __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(a), 0);
    __m256 again = _mm256_cvtph_ps(half);
    printf("f16c %.9g\n", ((float *)&again)[5]);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512cd"))) static void v4(void) {
    __m512d sum = _mm512_setzero_pd();
    uint64_t hash = 0;
    for (int i = 0; i < 1024; i += 16) {
        __m512i x = _mm512_loadu_si512(u + i);
        __mmask16 some = _mm512_cmpgt_epi32_mask(x, _mm512_set1_epi32(1 << 30));
        x = _mm512_mask_mullo_epi32(x, some, x, x);
        x = _mm512_mask_compress_epi32(x, some, _mm512_conflict_epi32(x));
        hash = hash * 31 + (uint32_t)_mm512_reduce_add_epi32(x) + some;
        sum = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm256_loadu_ps(a + i)), _mm512_cvtps_pd(_mm256_loadu_ps(b + i)), sum);
    }
    printf("avx512 %016lx %.17g\n", hash, _mm512_reduce_add_pd(sum));
}

int main(void) {
    uint32_t seed = 12345;
    for (int i = 0; i < 1024; i++) {
        seed = seed * 1664525 + 1013904223;
        u[i] = seed;
        a[i] = (float)(int)seed / 3e8f;
        b[i] = (float)(seed >> 5) / 7e7f;
    }
    __builtin_cpu_init();
    // Not the levels: some hosts hide LZCNT from guests of KVM, and x86-64-v3 is no more for who asks CPUID.
    printf("avx2 %d fma %d bmi2 %d avx512f %d\n", __builtin_cpu_supports("avx2") != 0, __builtin_cpu_supports("fma") != 0,
           __builtin_cpu_supports("bmi2") != 0, __builtin_cpu_supports("avx512f") != 0);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) v3();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) v4();
    return 0;
}
