#ifndef LH_SIMD_PIN_H
#define LH_SIMD_PIN_H

// The compiler may not move what makes a vector past this.
#if defined(__x86_64__)
#define LH_PIN(v) __asm__("" : "+x"(v))
#else
#define LH_PIN(v) __asm__("" : "+w"(v))
#endif

#endif
