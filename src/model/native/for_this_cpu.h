// Before a function: it is compiled for several kinds of CPUs, and the best one that fits is called.
// Older compilers don't know these kinds; then one is compiled that fits all.
#pragma once

#if defined(__x86_64__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_THIS_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_THIS_CPU
#endif
