// A fuzz target: any bytes go in; a crash, a sanitizer's report or a failed CHECK is a finding. libFuzzer calls it
// (tests/fuzz/run), and so does replay_main.c in the ordinary build, with every file of the committed corpus.
#ifndef OPENVEIL_FUZZ_H
#define OPENVEIL_FUZZ_H

#include "common/check.h"

#include <stddef.h>
#include <stdint.h>

// Always 0: whatever the bytes, they are worth keeping.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
