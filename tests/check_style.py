#!/usr/bin/env python3
"""The rules of style that a program can check; prints what breaks them and exits 1.

Of C: functions of at most 70 lines, files of at most about 500, a folder includes only itself and common/, headers
begin with a comment and have a guard named after them. Of all sources: about 120 columns, no tabs, no blanks at the end
of a line, no marks of unfinished work, nothing that names a path of some machine.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = {"tests": 700}
FILE_LINES_MAX_DEFAULT = 550
COLUMNS_MAX = 130
FOLDERS = ("common", "ingest", "aggregator", "bench", "tests", "deploy")
# What a folder's C files may include, beside itself.
INCLUDES = {"common": (), "ingest": ("common",), "aggregator": ("common",)}
COMMAND_TABLE = "common/openveil.c"
GENERATED = ("tests/noise_vectors.h",)
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
MACHINE_PATH = re.compile(r"/(wor" r"k|roo" r"t|home/\w+)/|/tmp/w" r"t\b")

problems = []


def problem(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def sources():
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *FOLDERS], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE)
    for path in done.stdout.decode().splitlines():
        if os.path.isfile(os.path.join(ROOT, path)) and not os.path.islink(os.path.join(ROOT, path)):
            yield path


def is_text_of_ours(path):
    if path.endswith((".c", ".h", ".py", ".lua", ".cmake", ".def")):
        return True
    if "." in os.path.basename(path):
        return False
    with open(os.path.join(ROOT, path), "rb") as file:
        return file.read(2) == b"#!"


def check_text(path, lines):
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX and not path.endswith(".def"):  # a table has one line a row
            problem(path, number, f"{len(line)} columns; at most {COLUMNS_MAX}")
        if "\t" in line:
            problem(path, number, "a tab")
        if line != line.rstrip():
            problem(path, number, "blanks at the end")
        if UNFINISHED.search(line):
            problem(path, number, "a mark of unfinished work")
        if MACHINE_PATH.search(line):
            problem(path, number, "a path of some machine")
    if lines and not lines[-1]:
        problem(path, len(lines), "an empty line at the end")


def check_c_file(path, lines):
    folder = path.split("/")[0]
    most = FILE_LINES_MAX.get(folder, FILE_LINES_MAX_DEFAULT)
    if len(lines) > most and path not in GENERATED:
        problem(path, len(lines), f"a file of {len(lines)} lines; at most {most}")
    if folder in INCLUDES and path != COMMAND_TABLE:
        for number, line in enumerate(lines, 1):
            found = re.match(r'#include "([^"]*)"', line)
            if found and found.group(1).split("/")[0] not in (folder,) + INCLUDES[folder]:
                problem(path, number, f"{folder}/ may not include {found.group(1)}")
    if path.endswith(".h"):
        if not lines or not lines[0].startswith("// "):
            problem(path, 1, "a header begins with a comment that says its purpose")
        guard = "OPENVEIL_" + re.sub(r"[^A-Z0-9]", "_", os.path.basename(path).upper())
        if not any(re.match(rf"#ifndef OPENVEIL_(\w+_)?{guard[9:]}$", line) for line in lines):
            problem(path, 1, f"a header's guard is {guard}")


def check_functions(paths):
    done = subprocess.run(["ctags", "-f", "-", "--languages=C", "--langmap=C:.c.h", "--kinds-C=f", "--fields=ne",
                           "-L", "-"], cwd=ROOT, check=True, input="\n".join(paths).encode(), stdout=subprocess.PIPE)
    seen = 0
    for row in done.stdout.decode().splitlines():
        fields = row.split("\t")
        extras = dict(field.split(":", 1) for field in fields[3:] if ":" in field)
        if "line" not in extras or "end" not in extras:
            continue
        seen += 1
        length = int(extras["end"]) - int(extras["line"]) + 1
        if length > FUNCTION_LINES_MAX:
            problem(fields[1], extras["line"], f"{fields[0]} has {length} lines; at most {FUNCTION_LINES_MAX}")
    if seen == 0:
        problem("ctags", 0, "found no function at all")


def main():
    c_files = []
    for path in sources():
        if not is_text_of_ours(path):
            continue
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            lines = file.read().split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        check_text(path, lines)
        if path.endswith((".c", ".h")):
            c_files.append(path)
            check_c_file(path, lines)
    check_functions(c_files)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
