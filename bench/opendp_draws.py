"""Mean error of OpenDP's discrete Laplace mechanism behind the same threshold; run by bench_release.py in a venv."""
import sys

import opendp.prelude as dp

COUNTS = 400
DRAWS_AT_ONCE = 100000


def main():
    scale, threshold, n = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dp.enable_features("contrib")
    mechanism = dp.m.make_laplace(dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int), scale=scale)
    total = 0
    for at in range(0, n, DRAWS_AT_ONCE):
        counts = [i % COUNTS for i in range(at, min(n, at + DRAWS_AT_ONCE))]
        total += sum(abs((noisy if noisy >= threshold else 0) - count)
                     for noisy, count in zip(mechanism(counts), counts))
    print(f"error={total / n:.6f}")


if __name__ == "__main__":
    main()
