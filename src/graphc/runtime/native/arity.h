// Calls a kernel with exactly as many pointers as it takes: C has no other way to spread an array over arguments.
#ifndef GRAPHC_ARITY_H_
#define GRAPHC_ARITY_H_

#include <stdint.h>

#define GRAPHC_MAX_ARGUMENTS 40

// clang-format off
#define P1 void*
#define V1 a[0]
#define P2 P1, void*
#define V2 V1, a[1]
#define P3 P2, void*
#define V3 V2, a[2]
#define P4 P3, void*
#define V4 V3, a[3]
#define P5 P4, void*
#define V5 V4, a[4]
#define P6 P5, void*
#define V6 V5, a[5]
#define P7 P6, void*
#define V7 V6, a[6]
#define P8 P7, void*
#define V8 V7, a[7]
#define P9 P8, void*
#define V9 V8, a[8]
#define P10 P9, void*
#define V10 V9, a[9]
#define P11 P10, void*
#define V11 V10, a[10]
#define P12 P11, void*
#define V12 V11, a[11]
#define P13 P12, void*
#define V13 V12, a[12]
#define P14 P13, void*
#define V14 V13, a[13]
#define P15 P14, void*
#define V15 V14, a[14]
#define P16 P15, void*
#define V16 V15, a[15]
#define P17 P16, void*
#define V17 V16, a[16]
#define P18 P17, void*
#define V18 V17, a[17]
#define P19 P18, void*
#define V19 V18, a[18]
#define P20 P19, void*
#define V20 V19, a[19]
#define P21 P20, void*
#define V21 V20, a[20]
#define P22 P21, void*
#define V22 V21, a[21]
#define P23 P22, void*
#define V23 V22, a[22]
#define P24 P23, void*
#define V24 V23, a[23]
#define P25 P24, void*
#define V25 V24, a[24]
#define P26 P25, void*
#define V26 V25, a[25]
#define P27 P26, void*
#define V27 V26, a[26]
#define P28 P27, void*
#define V28 V27, a[27]
#define P29 P28, void*
#define V29 V28, a[28]
#define P30 P29, void*
#define V30 V29, a[29]
#define P31 P30, void*
#define V31 V30, a[30]
#define P32 P31, void*
#define V32 V31, a[31]
#define P33 P32, void*
#define V33 V32, a[32]
#define P34 P33, void*
#define V34 V33, a[33]
#define P35 P34, void*
#define V35 V34, a[34]
#define P36 P35, void*
#define V36 V35, a[35]
#define P37 P36, void*
#define V37 V36, a[36]
#define P38 P37, void*
#define V38 V37, a[37]
#define P39 P38, void*
#define V39 V38, a[38]
#define P40 P39, void*
#define V40 V39, a[39]
#define CASE(n) case n: return ((int32_t (*)(const int64_t*, P##n))kernel)(dims, V##n);

static inline int32_t graphc_call_kernel(void* kernel, const int64_t* dims, void* const* a, int32_t count) {
  switch (count) {
    case 0: return ((int32_t (*)(const int64_t*))kernel)(dims);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10)
    CASE(11) CASE(12) CASE(13) CASE(14) CASE(15) CASE(16) CASE(17) CASE(18) CASE(19) CASE(20)
    CASE(21) CASE(22) CASE(23) CASE(24) CASE(25) CASE(26) CASE(27) CASE(28) CASE(29) CASE(30)
    CASE(31) CASE(32) CASE(33) CASE(34) CASE(35) CASE(36) CASE(37) CASE(38) CASE(39) CASE(40)
  }
  return -1;
}
// clang-format on

#undef CASE
#endif  // GRAPHC_ARITY_H_
