"""`openveil verify` and `openveil audit --retention`, over lines written here and a state written for the purpose."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "deploy"))
from stack import day_number, day_text  # noqa: E402

BIN = os.environ.get("OPENVEIL_BIN", "build/dev/bin")
TENANT = 7
TODAY = "2026-11-22"
PROVIDERS = ("other gmail outlook yahoo icloud orange free sfr laposte gmx web.de t-online libero proton").split()


def back(days):
    return day_text(day_number(TODAY) - days)


def line(day, **changes):
    cells = [{"stream": 1, "stream_name": "receipts", "provider": provider, "fetch": fetch,
              "contacts": 1234 if provider == "gmail" else None}
             for provider in PROVIDERS for fetch in ("person", "machine")]
    return {"schema": "openveil.release.v1", "kind": "deliverability", "tenant": TENANT, "period": day, "complete": True,
            "rehearsal": True, "mechanism": "discrete-laplace", "epsilon": "1/4", "threshold": 40, "rules": ["ab" * 32],
            "cells": cells, **changes}


class Verify(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-verify-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.conf = os.path.join(self.dir, "openveil.conf")
        self.lines = os.path.join(self.dir, "releases", str(TENANT))
        os.makedirs(self.lines)
        self.write_config(back(30))
        self.cli("tenant", "add", TENANT, "--stream", "1=receipts")
        self.write_config(TODAY)

    def write_config(self, today):
        with open(self.conf, "w", encoding="utf-8") as out:
            out.write(f"[kafka]\npartitions = 2\n[spool]\ndir = {self.dir}/spool\n[aggregator]\nstate_dir = {self.dir}/state\n"
                      f"[release]\ndir = {self.dir}/releases\n[keys]\ndir = {self.dir}/keys\n"
                      f"[tenants]\ndir = {self.dir}/tenants\n[rehearsal]\n"
                      f"start_unix_s = {int(time.time()) - 3600}\nstart_day = {today}\nday_seconds = 86400\n")

    def cli(self, *words, code=0):
        done = subprocess.run([os.path.join(BIN, "openveil"), "--config", self.conf, "--rehearsal", *map(str, words)],
                              stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout.decode() + done.stderr.decode())
        return done.stdout.decode() + done.stderr.decode()

    def give_state(self, *lines):
        done = subprocess.run([os.path.join(BIN, "state_driver"), self.conf], input="\n".join(lines).encode() + b"\n",
                              stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def put(self, name, content):
        path = os.path.join(self.lines, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(content if isinstance(content, str) else json.dumps(content, separators=(",", ":")) + "\n")
        return path

    def put_days(self, *days):
        return [self.put(f"deliverability-{day}.json", line(day)) for day in days]

    def broken(self, *more, code=1):
        report = json.loads(self.cli("verify", "--tenant", TENANT, "--json", *more, code=code))
        self.assertEqual(report["kept"], code == 0)
        return {p["promise"]: [(f["file"], f["why"]) for f in p["findings"]] for p in report["promises"]
                if p["times_broken"]}

    # ---- verify

    def test_lines_that_keep_every_promise(self):
        self.put_days(back(4), back(3), back(2))
        cells = [{"days_since_open": name, "contacts": None} for name in ("0-30", "31-90", "91-180", "181-365",
                                                                         "none-recorded")]
        self.put("inactivity-2026-10.json", line("2026-10", kind="inactivity", cells=cells, rules=[]))
        self.put(f"deliverability-{back(1)}.json.tmp.77", "{")  # on its way
        self.assertEqual(self.broken(code=0), {})
        text = self.cli("verify", "--tenant", TENANT)
        self.assertIn("released lines of tenant 7, rehearsal: 4\n", text)
        self.assertEqual(text.count("\nkept "), 12)
        self.assertEqual(text.count("\nunchecked "), 2)
        self.assertIn("12 promises checked, 0 broken; --ledger", text)

    def test_each_broken_promise_is_named_with_its_file(self):
        self.put_days(back(5), back(4), back(2))
        self.put(f"deliverability-{back(2)}.json", line(back(2), contacts_seen=9))
        self.put("export.csv", "zoe@example.org\n")
        found = self.broken()
        self.assertEqual(set(found), {"files", "members", "gapless"})
        self.assertEqual(found["files"][0][0], "export.csv")
        self.assertEqual(found["members"][0][0], f"deliverability-{back(2)}.json")
        self.assertEqual(found["gapless"][0][0], f"deliverability-{back(3)}.json")
        text = self.cli("verify", "--tenant", TENANT, code=1)
        self.assertIn("BROKEN    nothing but released lines", text)
        self.assertIn("          export.csv is not a released line\n", text)
        self.assertIn("12 promises checked, 3 broken", text)
        self.assertNotIn("zoe@", text)

    def test_a_month_above_its_budget(self):
        for day in range(9):
            self.put(f"deliverability-{back(10 - day)}.json", line(back(10 - day), epsilon="1/1" if day < 8 else "1/1000"))
        self.assertEqual(set(self.broken()), {"budget"})
        self.put(f"deliverability-{back(2)}.json",
                 line(back(2), epsilon="0/1", reason="budget", cells=[dict(c, contacts=None) for c in line("")["cells"]]))
        self.assertEqual(self.broken(code=0), {})

    def test_the_other_mode_is_seen(self):
        self.put_days(back(2))
        self.put(f"deliverability-{back(2)}.json", line(back(2), rehearsal=False))
        self.assertEqual(set(self.broken()), {"mode"})

    def test_ledger_and_files_agree(self):
        days = [back(4), back(3), back(2)]
        paths = self.put_days(*days)
        records = [f"settings {back(30)} 1/4 40 1"]
        records += [f"release {TENANT} 1 {day} 1/4 {path}" for day, path in zip(days, paths)]
        self.give_state("meta", *records)
        self.assertEqual(self.broken("--ledger", code=0), {})
        self.assertIn("14 promises checked, 0 broken\n", self.cli("verify", "--tenant", TENANT, "--ledger"))
        # Another number, a line that nobody committed, a committed line that is gone.
        changed = line(days[0])
        changed["cells"][2]["contacts"] = 1235
        self.put(f"deliverability-{days[0]}.json", changed)
        self.put_days(back(5))
        os.unlink(paths[2])
        found = self.broken("--ledger")
        self.assertEqual(set(found), {"committed"})
        self.assertEqual(sorted(file for file, _ in found["committed"]),
                         [f"deliverability-{day}.json" for day in (back(5), days[0], days[2])])
        self.assertEqual(self.broken(code=0), {})

    def test_what_cannot_be_read(self):
        self.assertIn("no tenant 8", self.cli("verify", "--tenant", 8, code=69))
        self.cli("verify", "--tenant", TENANT, "--ledger", code=69)
        self.assertEqual(self.broken(code=0), {})  # nothing was released
        os.mkdir(os.path.join(self.lines, "deliverability-2026-11-01.json"))
        self.assertEqual(set(self.broken()), {"files"})

    # ---- audit --retention

    def retention(self, code):
        rows = json.loads(self.cli("audit", "--retention", "--json", code=code))
        self.assertEqual(rows["kept"], code == 0)
        return {row["store"]: row for row in rows["stores"]}

    def test_retention(self):
        self.cli("audit", code=64)
        self.cli("audit", "--retention", "--day", TODAY, code=64)
        self.assertEqual(self.retention(0)["last_open"]["items"], 0)
        self.give_state("meta", f"settings {back(30)} 1/4 40 1", f"open {TENANT} 01 {back(400)} 7",
                        f"open {TENANT} 02 {back(3)} 7", f"window {TENANT} {back(3)} 02", f"day {back(401)} 1")
        self.put_days(back(2))
        rows = self.retention(0)
        self.assertEqual((rows["last_open"]["items"], rows["last_open"]["oldest_days"]), (2, 400))
        self.assertEqual((rows["windows"]["items"], rows["windows"]["oldest_days"], rows["windows"]["limit_days"]), (1, 3, 3))
        self.assertEqual(rows["days"]["oldest_days"], 401)
        self.assertEqual((rows["journal"]["items"], rows["journal"]["oldest_days"]), (1, 0))
        self.assertEqual((rows["releases"]["items"], rows["releases"].get("limit_days")), (1, None))
        self.give_state(f"open {TENANT} 03 {back(402)} 7")
        self.assertEqual(self.retention(1)["last_open"]["over"], 1)
        self.give_state(f"open {TENANT} 03 {back(1)} 7", f"window {TENANT} {back(4)} 03")
        self.assertEqual({name for name, row in self.retention(1).items() if row["over"]}, {"windows"})
        self.assertRegex(self.cli("audit", "--retention", code=1), r"contacts in windows not yet released +2 +4 +3  OVER\n")
        journal = os.path.join(self.dir, "state", "journal")
        before = {name: os.stat(os.path.join(journal, name)).st_mtime_ns for name in os.listdir(journal)}
        self.retention(1)
        self.assertEqual(before, {name: os.stat(os.path.join(journal, name)).st_mtime_ns for name in os.listdir(journal)})


if __name__ == "__main__":
    unittest.main()
