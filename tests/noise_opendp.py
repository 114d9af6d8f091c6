#!/usr/bin/env python3
"""The goodness-of-fit test of test_noise.c over OpenDP's discrete Laplace sampler, from PyPI: what ours must be no worse than.

    tests/noise_opendp.py [DRAWS]      exit status 77, with a line, where OpenDP cannot be had
"""
import math
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, "build", "opendp")
OPENDP = "opendp==0.16.0"
SKIPPED = 77
EPSILONS = ((1, 1), (1, 4), (2, 3))
OUTCOMES = 41
DRAWS_AT_ONCE = 100000


def chi_square_limit(freedom):
    """Quantile for alpha = 1e-6, after Wilson & Hilferty 1931."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 4.753424 * math.sqrt(part)) ** 3


def statistic(seen, n, ratio):
    """(chi-square, degrees of freedom) of cells: outside on the left, the outcomes, outside on the right."""
    total = pooled = pooled_seen = 0.0
    freedom = -1
    for cell, count in enumerate(seen):
        distance = abs(cell - OUTCOMES // 2 - 1)
        outside = distance > OUTCOMES // 2
        p = ratio ** distance / (1 + ratio) if outside else (1 - ratio) / (1 + ratio) * ratio ** distance
        pooled += p * n
        pooled_seen += count
        if pooled < 20:
            continue
        total += (pooled_seen - pooled) ** 2 / pooled
        freedom += 1
        pooled = pooled_seen = 0.0
    return total, freedom


def draws(mechanism, n):
    """How often each cell was drawn."""
    seen = [0] * (OUTCOMES + 2)
    for at in range(0, n, DRAWS_AT_ONCE):
        for value in mechanism([0] * min(DRAWS_AT_ONCE, n - at)):
            seen[min(max(value + OUTCOMES // 2 + 1, 0), OUTCOMES + 1)] += 1
    return seen


def check(n):
    import opendp.prelude as dp

    dp.enable_features("contrib")
    failed = False
    for numerator, denominator in EPSILONS:
        space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
        mechanism = dp.m.make_laplace(*space, scale=denominator / numerator)
        total, freedom = statistic(draws(mechanism, n), n, math.exp(-numerator / denominator))
        limit = chi_square_limit(freedom)
        print(f"epsilon {numerator}/{denominator}: chi-square {total:.1f} with {freedom} degrees of freedom, limit {limit:.1f}")
        failed = failed or not freedom / 10 < total < limit
    return 1 if failed else 0


def python_with_opendp():
    python = os.path.join(VENV, "bin", "python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True, capture_output=True, timeout=300)
    if subprocess.run([python, "-c", "import opendp"], capture_output=True, check=False).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "-q", OPENDP], check=True, capture_output=True, timeout=300)
    return python


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000000
    if os.path.realpath(sys.prefix) == os.path.realpath(VENV):
        sys.exit(check(n))
    try:
        python = python_with_opendp()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"skipped: {OPENDP} cannot be installed from PyPI ({error})")
        sys.exit(SKIPPED)
    sys.exit(subprocess.run([python, os.path.abspath(__file__), str(n)], check=False).returncode)


if __name__ == "__main__":
    main()
