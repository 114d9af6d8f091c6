// Lines of the log of consent changes: whatever the bytes, one that is accepted is the only encoding of what it says, and a
// reader's place never leaves the chain.
#include "tests/fuzz/fuzz.h"

#include "common/evidence.h"

#include <string.h>

static void check_line(struct evidence_chain *chain, const char *text, size_t len) {
    struct evidence_line line;
    char again[EVIDENCE_LINE_MAX];
    if (evidence_decode(text, len, &line) != 0)
        return;
    size_t n = evidence_encode(&line, again) - 1;
    CHECK(n <= len && memcmp(again, text, n) == 0);
    for (size_t i = n; i < len; i++)
        CHECK(text[i] == ' ' && (line.kind == EVIDENCE_ERASED || line.kind == EVIDENCE_RECORD_GONE));
    uint64_t before = chain->head.epoch;
    bool taken = evidence_chain_take(chain, &line);
    CHECK(chain->head.epoch >= before && (taken || chain->head.epoch == before));
    CHECK(!taken || chain->head.epoch == line.entry.epoch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct evidence_chain chain = {0};
    const char *text = (const char *)data;
    while (size > 0) {
        const char *feed = memchr(text, '\n', size);
        size_t len = feed == NULL ? size : (size_t)(feed - text);
        check_line(&chain, text, len);
        size_t used = feed == NULL ? len : len + 1;
        text += used;
        size -= used;
    }
    (void)evidence_chain_break(&chain);
    return 0;
}
