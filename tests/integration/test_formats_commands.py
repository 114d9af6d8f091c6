"""The programs with a configuration of nothing but the keys that suffice for ever, before any daemon ever ran."""
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from redis_server import RedisServer, free_port  # noqa: E402

BIN = os.environ["OPENVEIL_BIN"]
PROGRAMS = ["openveil-ingest", "openveil-aggregator", "openveil"]
KEYS = """[ingest]
listen = 127.0.0.1:{ports[0]}
admin_listen = 127.0.0.1:{ports[1]}
edge_id = edge-1
[spool]
dir = {dir}/spool
[kafka]
partitions = 8
topic_events = openveil.events
topic_state = openveil.state
topic_releases = openveil.releases
[redis]
address = {redis}
[aggregator]
state_dir = {dir}/state
admin_listen = 127.0.0.1:{ports[2]}
[release]
dir = {dir}/releases
epsilon = 1/4
threshold = 40
horizon_days = 1
deadline_hours = 24
[keys]
dir = {dir}/keys
[tenants]
dir = {dir}/tenants
[rehearsal]
start_unix_s = {start}
start_day = 2026-11-20
day_seconds = 10
"""


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="openveil-formats-")
        cls.redis = RedisServer()
        cls.redis.start()
        cls.config = os.path.join(cls.folder.name, "openveil.conf")
        with open(cls.config, "w", encoding="utf-8") as out:
            out.write(KEYS.format(ports=[free_port() for _ in range(3)], dir=cls.folder.name, redis=cls.redis.address,
                                  start=int(time.time())))

    @classmethod
    def tearDownClass(cls):
        cls.redis.stop()
        cls.folder.cleanup()

    def run_program(self, *argv, stdin="", code=0, env=None, timeout=30):
        done = subprocess.run([os.path.join(BIN, argv[0]), *argv[1:]], input=stdin, text=True, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
        self.assertEqual(done.returncode, code, (argv, done.stdout, done.stderr))
        return done.stdout if code == 0 else done.stderr

    def cli(self, *words, **more):
        return self.run_program("openveil", "--config", self.config, "--rehearsal", *words, **more)

    def test_options_of_all_programs(self):
        for program in PROGRAMS:
            self.assertRegex(self.run_program(program, "--version"), rf"^{program} \d")
            self.assertIn("--check-config", self.run_program(program, "--help"))
            for more in ((), ("--rehearsal",)):
                self.run_program(program, "--config", self.config, "--check-config", *more)
            self.run_program(program, "--check-config", env={"OPENVEIL_CONFIG": self.config})
            text = self.run_program(program, "--check-config", code=78, env={"OPENVEIL_CONFIG": "/none/such"})
            self.assertIn("/none/such", text)

    def test_before_any_daemon_ran(self):
        self.cli("keys", "init")
        self.run_program("openveil", "tenant", "add", "7", "--stream", "1=a", "--config", self.config, "--rehearsal")
        self.run_program("openveil", "--rehearsal", "tenant", "add", "8", "--stream", "1=a",
                         env={"OPENVEIL_CONFIG": self.config})
        self.assertEqual([t["tenant"] for t in json.loads(self.cli("--json", "tenant", "list"))], [7, 8])
        for name in os.listdir(os.path.join(self.folder.name, "keys")):
            path = os.path.join(self.folder.name, "keys", name)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600, name)
        line = "contact-1\trequested\t1\tgmail"
        for text, count in ((f"{line}\n{line}\t2026-11-20T08:30:00+02:00\n{line}", 3), ("", 0)):
            self.assertEqual(len(self.cli("token", "mint", "--tenant", "7", stdin=text).splitlines()), count)
        self.assertIn("line 2", self.cli("token", "mint", "--tenant", "7", stdin=f"{line}\n{line}\tnoon\n", code=1))
        self.cli("consent", "set", "--tenant", "7", "--contact", "a", "--state", "granted", "--since", "2026-01-01",
                 "--notice", "v1")
        self.assertEqual(json.loads(self.cli("consent", "get", "--tenant", "7", "--contact", "a", "--json"))["state"],
                         "granted")
        self.cli("last-open", "import", "--tenant", "7", "--measured-since", "2026-01-01", stdin="a\t2026-10-01\n")
        self.assertEqual(self.cli("releases", "--tenant", "7", "--json"), "")
        self.cli("releases", "--tenant", "7", "--kind", "inactivity")
        self.cli("audit", "--day", "2026-11-19", code=2)
        self.cli("clean", "--tenant", "7", "--class", "requested", stdin="a\n", code=3)
        self.check_keys_that_others_read()
        self.check_the_other_mode()

    def check_keys_that_others_read(self):
        key = os.path.join(self.folder.name, "keys", "token-1.key")
        for mode in (0o640, 0o604):
            os.chmod(key, mode)
            self.assertIn("token-1.key", self.cli("tenant", "export", "7", code=1))
            self.assertIn("token-1.key", self.run_program("openveil-ingest", "--config", self.config, "--rehearsal",
                                                          code=1))
        os.chmod(key, 0o600)
        contact = os.path.join(self.folder.name, "keys", "contact.key")
        os.chmod(contact, 0o644)
        self.assertIn("contact.key", self.cli("tenant", "export", "7", code=1))

    def check_the_other_mode(self):
        """What a rehearsal has begun, production refuses: directories and Redis. The contact key is nothing to daemons."""
        for program in PROGRAMS[:2]:
            child = subprocess.Popen([os.path.join(BIN, program), "--config", self.config, "--rehearsal"],
                                     stderr=subprocess.PIPE, text=True)
            while "admin at" not in (text := child.stderr.readline()):
                self.assertNotEqual(text, "", f"{program} ended")
            child.terminate()
            child.communicate(timeout=20)
            self.assertEqual(child.returncode, 0)
            self.assertIn("belongs to a rehearsal", self.run_program(program, "--config", self.config, code=1))
        os.chmod(os.path.join(self.folder.name, "keys", "contact.key"), 0o600)
        self.assertIn("rehearsal", self.run_program("openveil", "--config", self.config, "consent", "get", "--tenant",
                                                    "7", "--contact", "a", code=69))


if __name__ == "__main__":
    unittest.main()
