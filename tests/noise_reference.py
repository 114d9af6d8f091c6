#!/usr/bin/env python3
"""An independent discrete Laplace sampler, to check aggregator/noise.c against.

It follows Canonne, Kamath & Steinke 2020 (Algorithms 1 and 2) with exact fractions and its own ChaCha20 (RFC 8439), and
prints a table of draws as a C header. The table was made with:
    python3 tests/noise_reference.py > tests/noise_vectors.h
`--check FILE` makes it again and compares.
"""
import hashlib
import struct
import sys
from fractions import Fraction

CASES = [(1, 1), (1, 4), (2, 3), (1, 10), (3, 7), (1, 1000003), (4294967290, 4294967291), (1, 4294967295)]
DRAWS = 24


def chacha20_words(key):
    """The key stream (counter and nonce zero) as big-endian 64-bit words."""
    constant = struct.unpack("<4I", b"expand 32-byte k")
    counter = 0

    def rotate(value, by):
        return ((value << by) | (value >> (32 - by))) & 0xFFFFFFFF

    def quarter(s, a, b, c, d):
        for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], by)

    while True:
        start = list(constant + struct.unpack("<8I", key) + (counter, 0, 0, 0))
        s = list(start)
        for _ in range(10):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                               (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(s, a, b, c, d)
        block = struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(s, start)))
        yield from struct.unpack(">8Q", block)
        counter += 1


class Sampler:
    def __init__(self, words):
        self.words = words
        self.used = 0

    def below(self, n):
        """Words at or above the largest multiple of n are refused; the others are taken modulo n."""
        while True:
            word = next(self.words)
            self.used += 1
            if word < (1 << 64) // n * n:
                return word % n

    def bernoulli(self, p):
        return self.below(p.denominator) < p.numerator

    def bernoulli_exp(self, numerator, denominator):
        """Algorithm 1, for exp(-numerator/denominator); the fractions are asked for unreduced, as in the C code."""
        k = 1
        while self.below(denominator * k) < numerator:
            k += 1
        return k % 2 == 1

    def discrete_laplace(self, epsilon):
        """Algorithm 2 with scale t/s = 1/epsilon."""
        s, t = epsilon.numerator, epsilon.denominator
        while True:
            u = self.below(t)
            if not self.bernoulli_exp(u, t):
                continue
            v = 0
            while self.bernoulli_exp(1, 1):
                v += 1
            magnitude = (u + t * v) // s
            negative = self.bernoulli(Fraction(1, 2))
            if negative and magnitude == 0:
                continue
            return -magnitude if negative else magnitude


def table():
    out = ["// Draws of an independent sampler (tests/noise_reference.py), made with:",
           "//     python3 tests/noise_reference.py > tests/noise_vectors.h",
           "// Each row: the SHA-256 of \"openveil noise <row>\" keys the stream; epsilon; the words used; the draws.",
           "#ifndef OPENVEIL_NOISE_VECTORS_H", "#define OPENVEIL_NOISE_VECTORS_H", "",
           "#include \"common/config.h\"", "", f"#define NOISE_VECTOR_DRAWS {DRAWS}",
           "static const struct noise_vector {", "    uint8_t seed[32];", "    struct fraction epsilon;",
           "    uint64_t words;", "    int64_t draws[NOISE_VECTOR_DRAWS];", "} noise_vectors[] = {"]
    for row, (a, b) in enumerate(CASES):
        seed = hashlib.sha256(b"openveil noise %d" % row).digest()
        sampler = Sampler(chacha20_words(seed))
        draws = [sampler.discrete_laplace(Fraction(a, b)) for _ in range(DRAWS)]
        out.append("    {{" + ", ".join("0x%02x" % byte for byte in seed[:16]) + ",")
        out.append("      " + ", ".join("0x%02x" % byte for byte in seed[16:]) + "},")
        out.append(f"     {{{a}u, {b}u}},")
        out.append(f"     {sampler.used},")
        for at in range(0, DRAWS, 8):
            opening, ending = ("     {" if at == 0 else "      "), ("}}," if at + 8 >= DRAWS else ",")
            out.append(opening + ", ".join(str(x) for x in draws[at:at + 8]) + ending)
    out += ["};", "", "#endif"]
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        with open(sys.argv[2], encoding="ascii") as file:
            if file.read() != table():
                sys.exit(f"{sys.argv[2]} is not what this program makes")
        return
    sys.stdout.write(table())


if __name__ == "__main__":
    main()
