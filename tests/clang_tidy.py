#!/usr/bin/env python3
"""Runs clang-tidy, with the checks of .clang-tidy, on every C file of ours; exits 77 (skipped) where it is missing.

usage: clang_tidy.py BUILD [FILE...]     BUILD holds compile_commands.json
"""
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = ("common", "ingest", "aggregator", "tests", "bench")
SKIPPED = 77
# What GCC is asked for and clang does not know; and warnings are the compiler's business, not this one's.
ARGS = ("--quiet", "--extra-arg=-Wno-unknown-warning-option", "--extra-arg=-Wno-error")
# A mistake that must be found, or the checks are not those of .clang-tidy.
CANARY = "int canary(int x);\nint canary(int x) {\n    if (x == 1);\n    return x;\n}\n"


def tidy(build, path):
    done = subprocess.run(["clang-tidy", "-p", build, *ARGS, path], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=300)
    return done.returncode, done.stdout + (done.stderr if done.returncode not in (0, 1) else "")


def canary_is_found():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "canary.c")
        with open(path, "w", encoding="utf-8") as file:
            file.write(CANARY)
        shutil.copy(os.path.join(ROOT, ".clang-tidy"), folder)
        done = subprocess.run(["clang-tidy", "--quiet", path, "--"], cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60)
        return done.returncode != 0 and "bugprone-suspicious-semicolon" in done.stdout


def files_of(build):
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        paths = {os.path.realpath(os.path.join(entry["directory"], entry["file"])) for entry in json.load(file)}
    wanted = tuple(os.path.join(ROOT, folder) + os.sep for folder in FOLDERS)
    return sorted(path for path in paths if path.startswith(wanted))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if shutil.which("clang-tidy") is None:
        print("clang-tidy is missing: apt-get install clang-tidy")
        sys.exit(SKIPPED)
    if not canary_is_found():
        sys.exit("clang-tidy did not find a mistake that it must find: are the checks of .clang-tidy in force?")
    build = os.path.abspath(sys.argv[1])
    paths = [os.path.abspath(path) for path in sys.argv[2:]] or files_of(build)
    if not paths:
        sys.exit(f"{build}/compile_commands.json names no file of ours")
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for path, (code, text) in zip(paths, pool.map(lambda path: tidy(build, path), paths)):
            if code != 0:
                failed += 1
                print(f"== {os.path.relpath(path, ROOT)}\n{text}")
    print(f"{len(paths)} files, {failed} with findings")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
