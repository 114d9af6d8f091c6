#!/usr/bin/env python3
"""Breaks a copy of aggregator/noise.c in small ways and demands that test_noise notices each; exits 1 where it does not.

    tests/mutants/noise.py BUILD_DIR [NAME…]

The known answers alone notice nearly everything that changes a draw. So each row also names tests that look at the
distribution, or at the words drawn, and those have to fail as well.
"""
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = os.path.join(ROOT, "aggregator", "noise.c")
TEST = os.path.join(ROOT, "tests", "unit", "test_noise.c")
FLAGS = ["-std=gnu17", "-O2", "-D_GNU_SOURCE", "-I" + ROOT]
TIMEOUT = 120

KNOWN, MASSES, FIT = "draws_equal_the_reference", "every_outcome_has_its_probability", "many_draws_fit_the_distribution"
WORDS = "words_that_would_favour_a_value_are_refused"
CHECKED = "    if (s == 0 || t == 0 || s > t)\n        return ERR_INVALID;\n"

# Name, what stands in noise.c, what the mutant has there instead, the tests that must fail.
MUTANTS = [
    ("scale_plus_10", CHECKED, CHECKED + "    s *= 10, t *= 11;\n", {KNOWN, MASSES, FIT}),
    ("scale_minus_10", CHECKED, CHECKED + "    s *= 10, t *= 9;\n", {KNOWN, MASSES, FIT}),
    ("scale_half", CHECKED, CHECKED + "    s *= 2;\n", {KNOWN, MASSES, FIT}),
    ("no_restart_at_minus_zero", "        if (negative && magnitude == 0)\n            continue;\n", "", {MASSES, FIT}),
    ("sign_bias", "chooser->arg, 1, 2, &negative", "chooser->arg, 11, 20, &negative", {KNOWN, MASSES, FIT}),
    ("bernoulli_parity", "*yes = k % 2 == 1;", "*yes = k % 2 == 0;", {KNOWN, MASSES, FIT}),
    ("bernoulli_one_step", "denominator * k, &again", "denominator, &again", {KNOWN, MASSES, FIT}),
    ("plain_modulo", "while (word > UINT64_MAX - excess)", "while (false && word > UINT64_MAX - excess)", {WORDS}),
    ("one_word_too_many_refused", "while (word > UINT64_MAX - excess)", "while (word >= UINT64_MAX - excess)", {WORDS}),
    ("remainder_dropped", "*value = t * whole + u;", "*value = t * whole;", {KNOWN, MASSES, FIT}),
    ("division_rounded", "magnitude = x / s;", "magnitude = (x + s / 2) / s;", {KNOWN, MASSES, FIT}),
]


def mutated(old, new):
    with open(SOURCE, encoding="utf-8") as file:
        text = file.read()
    if text.count(old) != 1:
        raise SystemExit(f"noise.c no longer has exactly one {old!r}: mend the table of mutants")
    return text.replace(old, new)


def compile_test(build, source, program, extra=()):
    libraries = [os.path.join(build, f"libopenveil_{name}.a") for name in ("aggregator", "common")]
    subprocess.run(["cc", *FLAGS, "-I" + os.path.join(build, "generated"), *extra, "-o", program, source, TEST, *libraries,
                    "-lcmocka", "-lcrypto", "-lm"], check=True)


def failed_tests(program):
    """The tests that fail, or None where the program crashes or does not end."""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return None
    found = set(re.findall(r"\[  FAILED  \] (\w+)$", done.stdout + done.stderr, re.MULTILINE))
    if done.returncode < 0:
        return None
    return found


def verdict(build, directory, mutant):
    """What is wrong with the tests, or None."""
    name, old, new, must_fail = mutant
    source, program = os.path.join(directory, name + ".c"), os.path.join(directory, name)
    with open(source, "w", encoding="utf-8") as out:
        out.write(mutated(old, new))
    compile_test(build, source, program)
    failed = failed_tests(program)
    if failed is None:
        return f"{name}: the test did not end by itself, so what it says of the distribution is not known"
    if not must_fail <= failed:
        return f"{name}: not noticed by {', '.join(sorted(must_fail - failed))}"
    print(f"{name}: noticed by {', '.join(sorted(failed))}", flush=True)
    return None


def main():
    if len(sys.argv) < 2:
        raise SystemExit("usage: noise.py BUILD_DIR [NAME…]")
    build, names = os.path.abspath(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="openveil-mutants-") as directory:
        program = os.path.join(directory, "unchanged")
        compile_test(build, SOURCE, program)
        if failed_tests(program) != set():
            raise SystemExit("test_noise fails with noise.c as it is")
        chosen = [mutant for mutant in MUTANTS if not names or mutant[0] in names]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            problems = [p for p in pool.map(lambda mutant: verdict(build, directory, mutant), chosen) if p]
    if problems or not chosen:
        raise SystemExit("\n".join(problems) or "no such mutant")


if __name__ == "__main__":
    main()
