#!/usr/bin/env python3
"""deploy/privacy/ names tests, files, commands and configuration that exist, and its arithmetic is right.

Usage: check_privacy_docs.py BUILD_DIRECTORY. Prints what is wrong and exits 1. In every table with a column "checked by",
each row names a test, or says "you" or "not checked: why".
"""
import json
import math
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = os.path.join(ROOT, "deploy", "privacy")
COLUMN = "checked by"
TEST = re.compile(r"^(unit|integration|long|check|fuzz)\.[a-z0-9_]+(/[A-Za-z0-9_]+)?$")
PATH = re.compile(r"^(common|ingest|aggregator|deploy|tests|bench)/[\w./-]+$")
EPSILON = 0.25  # the default that the page computes with
THRESHOLD = 40
BUDGET = 8

problems = []


def read(*names):
    with open(os.path.join(ROOT, *names), encoding="utf-8") as text:
        return text.read()


def ctest_names(build):
    done = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], check=True, stdout=subprocess.PIPE)
    return {test["name"] for test in json.loads(done.stdout)["tests"]}


def command_names():
    words = set()
    for folder in ("common", "ingest", "aggregator"):
        for name in os.listdir(os.path.join(ROOT, folder)):
            if name.endswith(".c"):
                words |= set(re.findall(r'\.words = "([a-z -]+)"', read(folder, name)))
    return words


def option_names():
    return {f"[{section}] {key}" for section, key in
            re.findall(r"^OPTION\((\w+), (\w+),", read("common", "config_options.def"), re.M)}


def test_source(name):
    """The text in which the functions of a test stand; a Python test also runs those of the modules it imports."""
    kind, short = name.split(".", 1)
    if kind == "unit":
        return read("tests", "unit", f"test_{short}.c")
    text = read("tests", "integration", f"test_{short}.py")
    for module in re.findall(r"^from (\w+) import", text, re.M):
        for folder in (("tests",), ("tests", "integration")):
            if os.path.exists(os.path.join(ROOT, *folder, module + ".py")):
                text += read(*folder, module + ".py")
    return text


def has_function(name, function):
    text = test_source(name)
    if name.startswith("unit."):
        return (re.search(rf"^static void {function}\(void \*\*", text, re.M) is not None
                and re.search(rf"\b(cmocka_unit_test\w*|[A-Z_]*TEST)\({function}\b", text) is not None)
    return re.search(rf"^    def {function}\(self", text, re.M) is not None


def check_test(where, reference, known):
    name, _, function = reference.partition("/")
    if name not in known:
        problems.append(f"{where}: there is no test {name}")
    elif function and not has_function(name, function):
        problems.append(f"{where}: {name} has no {function}")


def check_words(where, word, commands, options):
    if PATH.match(word) and not os.path.exists(os.path.join(ROOT, word)):
        problems.append(f"{where}: there is no {word}")
    if re.match(r"^\[\w+\] \w+$", word) and word not in options:
        problems.append(f"{where}: there is no option {word}")
    if word.startswith("openveil "):
        words = word.split()[1:]
        if words[0] not in commands and " ".join(words[:2]) not in commands:
            problems.append(f"{where}: there is no command {word}")


def cells_of(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def check_rows(page, lines, known):
    """Every row of a table with the column says how it is checked; returns how many rows did."""
    column, rows = None, 0
    for number, line in enumerate(lines, 1):
        where = f"{page}:{number}"
        if not line.startswith("|"):
            column = None
            continue
        cells = cells_of(line)
        if column is None:
            column = cells.index(COLUMN) if COLUMN in cells else -1
            width = len(cells)
            continue
        if len(cells) != width:
            problems.append(f"{where}: a row of {len(cells)} cells in a table of {width}")
        elif column >= 0 and not re.match(r"^:?-+:?$", cells[0]):
            rows += 1
            named = re.findall(r"`([^`]+)`", cells[column])
            if not named and not re.match(r"^(you(: .+)?|not checked: .+)$", cells[column]):
                problems.append(f'{where}: says neither a test nor "you" nor "not checked: why"')
            for word in named:
                if not TEST.match(word):
                    problems.append(f"{where}: {word} is not the name of a test")
    return rows


def check_page(page, known, commands, options):
    text = read("deploy", "privacy", page)
    lines = text.splitlines()
    rows = check_rows(page, lines, known)
    unbuilt = False
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            unbuilt = line == "## What is not built"
        for word in re.findall(r"`([^`]+)`", line):
            if TEST.match(word):
                check_test(f"{page}:{number}", word, known)
            elif not unbuilt:
                check_words(f"{page}:{number}", word, commands, options)
    return rows


def check_arithmetic():
    page = "ANONYMITY.md"
    text = read("deploy", "privacy", page)
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|", text, re.M)
    if len(rows) < 5:
        problems.append(f"{page}: the table of the arithmetic is not found")
    for epsilon, odds, certainty in rows:
        power = math.exp(float(epsilon))
        if f"{power:.4g}" != f"{float(odds):.4g}" or f"{100 * power / (1 + power):.2f}" != certainty:
            problems.append(f"{page}: epsilon {epsilon} gives {power:.4g} and {100 * power / (1 + power):.2f} %")
    ratio = math.exp(-EPSILON)
    deviation = math.sqrt(2 * ratio) / (1 - ratio)
    below = next(n for n in range(1000) if 2 * ratio ** n / (1 + ratio) <= 0.05)
    shown = [(1 + ratio) / ratio ** (THRESHOLD - count) for count in (0, 1)]
    for said in (f"standard deviation of {deviation:.1f};", f"stays below {below} in 95 %", f"once in {shown[0]:,.0f} times",
                 f"once in {shown[1]:,.0f}.",
                 f"{2 * EPSILON:g} for a default line, {2 * 5 * EPSILON:g} for four transactional mails and the month's "
                 f"inactivity line, {2 * BUDGET} for a month's whole budget"):
        if said not in " ".join(text.split()):
            problems.append(f'{page}: should say "{said}"')
    defaults = read("common", "config_options.def")
    if 'epsilon, FRACTION, "1/4"' not in defaults or f'threshold, UINT, "{THRESHOLD}"' not in defaults:
        problems.append(f"{page}: computes with other defaults than the configuration's")


def main():
    known, commands, options = ctest_names(sys.argv[1]), command_names(), option_names()
    rows = sum(check_page(page, known, commands, options) for page in sorted(os.listdir(PAGES)) if page.endswith(".md"))
    if rows == 0:
        problems.append("no table says how its statements are checked")
    check_arithmetic()
    if problems:
        sys.exit("\n".join(problems))
    print(f"{rows} statements say how they are checked")


if __name__ == "__main__":
    main()
