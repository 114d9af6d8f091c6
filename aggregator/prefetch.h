// Memory that is needed soon, asked for now. Pure; any thread.
#ifndef OPENVEIL_PREFETCH_H
#define OPENVEIL_PREFETCH_H

// The compiler takes a function that only prefetches for one without effect and drops its calls; an empty asm is an effect.
static inline void prefetch(const void *at) {
    __builtin_prefetch(at);
    __asm__ volatile("");
}

#endif
