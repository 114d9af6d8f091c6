"""`openveil keys`, `tenant` and `token`, as an operator and a sending platform use them."""
import base64
import hashlib
import hmac
import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

BIN = os.environ.get("OPENVEIL_BIN", "build/dev/bin")
# tenant, key id, contact, pseudonym, sent, stream, provider, class, regime, token
VECTORS = [
    (7, 1, "contact-1", "d1c0605349147485", "2026-06-21T00:00:00Z", 3, "gmail", "transactional", 0,
     "AQAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo"),
    (4294967295, 255, "zoé@exemple.fr", "bfb8e1b2b5e72ed5", "10136-02-16T04:15:00Z", 65535, "255", "prospecting", 2,
     "Af______O5ewLcZYWG7a9S84XF1KPyuoLtYBjZFwwFtydqcPnS0"),
    (1, 0, "0", "e44cd92a5d081521", "1970-01-01T00:00:00Z", 0, "other", "requested", 1,
     "AQAAAAEAa-OGViYvt2HjUnu_fYYnmX0zJWGEdRVQSoZ5NiWon9Q"),
]


def sign(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def mint(token_key, contact_key, tenant, key_id, contact, minute, stream, provider, kind, regime):
    """A second implementation, as a sending platform would write it from tenant export's keys."""
    head = struct.pack(">BIB", 1, tenant, key_id)
    plain = sign(contact_key, struct.pack(">I", tenant) + contact.encode())[:8]
    plain += struct.pack(">IHBB", minute, stream, provider, kind << 4 | regime)
    tag = sign(sign(token_key, b"openveil token v1 mac"), head + plain)[:16]
    stream_key = sign(sign(token_key, b"openveil token v1 enc"), tag)[:16]
    sealed = bytes(a ^ b for a, b in zip(plain, stream_key))
    return base64.urlsafe_b64encode(head + tag + sealed).rstrip(b"=").decode()


class TokenCommands(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-token-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.conf = os.path.join(self.dir, "openveil.conf")
        with open(self.conf, "w") as out:
            out.write(f"[keys]\ndir = {self.dir}/keys\n[tenants]\ndir = {self.dir}/tenants\n"
                      "[release]\nproviders = 14=proximus\n")

    def run_cli(self, *words, stdin="", code=0):
        done = subprocess.run([os.path.join(BIN, "openveil"), "--config", self.conf, *map(str, words)],
                              input=stdin.encode() if isinstance(stdin, str) else stdin, capture_output=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr.decode())
        if code != 0:
            self.assertEqual(done.stdout, b"")
            return done.stderr.decode()
        return done.stdout.decode()

    def write_key(self, name, first):
        os.makedirs(f"{self.dir}/keys", exist_ok=True)
        with open(os.open(f"{self.dir}/keys/{name}", os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
            out.write(bytes(range(first, first + 32)).hex() + "\n")

    def vector_keys(self, newest):
        shutil.rmtree(f"{self.dir}/keys", ignore_errors=True)
        self.write_key(f"token-{newest}.key", 0)
        self.write_key("contact.key", 32)

    def test_vectors(self):
        for tenant, key_id, contact, pseudonym, sent, stream, provider, kind, regime, token in VECTORS:
            self.vector_keys(key_id)
            self.run_cli("tenant", "add", tenant, "--stream", f"{stream}=s")
            words = ["--tenant", tenant, "--regime", regime]
            if len(sent) == 20:  # the last minute of all has a year that RFC 3339 cannot write
                self.assertEqual(self.run_cli("token", "mint", *words, "--contact", contact, "--class", kind, "--stream",
                                              stream, "--provider", provider, "--sent", sent), token + "\n")
                line = "\t".join([contact, kind, str(stream), provider, sent])
                self.assertEqual(self.run_cli("token", "mint", *words, stdin=line), token + "\n")
            opened = json.loads(self.run_cli("token", "open", token, "--json"))
            self.assertEqual(opened, {"tenant": tenant, "key_id": key_id, "pseudonym": pseudonym, "sent": sent,
                                      "stream": stream, "provider": provider, "class": kind, "regime": regime})
            self.assertIn(pseudonym, self.run_cli("token", "open", token))
        export = json.loads(self.run_cli("tenant", "export", 7))
        self.assertEqual(export["contact_key"], "82b256c14e63c92961827da22cd106828356d9b5d99081c8e45bf93fd30e38fd")

    def test_first_steps(self):
        self.assertIn("keys init", self.run_cli("keys", "add", code=1))
        self.run_cli("keys", "init")
        self.assertIn("already", self.run_cli("keys", "init", code=1))
        self.assertIn("no tenant 7", self.run_cli("tenant", "export", 7, code=1))
        self.run_cli("tenant", "add", 7, "--stream", "3=receipts", "--exemption-basis", "délibération 2026-042")
        self.assertIn("already", self.run_cli("tenant", "add", 7, "--stream", "3=receipts", code=1))
        self.assertEqual(json.loads(self.run_cli("keys", "add", "--json"))["key_id"], 2)
        export = json.loads(self.run_cli("tenant", "export", 7))
        self.assertEqual(list(export), ["tenant", "token_key", "key_id", "contact_key"])
        self.assertEqual((export["tenant"], export["key_id"]), (7, 2))
        before = int(time.time()) // 60
        token = self.run_cli("token", "mint", "--tenant", 7, "--contact", "c", "--class", "requested", "--stream", 3,
                             "--provider", "proximus").strip()
        keys = [bytes.fromhex(export[name]) for name in ("token_key", "contact_key")]
        self.assertIn(token, [mint(*keys, 7, 2, "c", before + late, 3, 14, 2, 0) for late in range(3)])
        self.assertEqual(json.loads(self.run_cli("token", "open", token, "--json"))["provider"], "proximus")
        self.assertIn("receipts", self.run_cli("tenant", "list"))
        listed = json.loads(self.run_cli("tenant", "list", "--json"))
        self.assertEqual(listed[0]["versions"][0]["exemption_basis"], "délibération 2026-042")

    def test_refusals_of_open_look_the_same(self):
        self.vector_keys(1)
        self.run_cli("tenant", "add", 7, "--stream", "3=receipts")
        good = VECTORS[0][-1]
        keys = [sign(bytes(range(32)), b"openveil token key v1" + struct.pack(">IB", 8, 1)), b"x" * 32]
        unknown_tenant = mint(*keys, 8, 1, "c", 0, 3, 0, 2, 0)
        keys[0] = sign(bytes(range(32)), b"openveil token key v1" + struct.pack(">IB", 7, 1))
        unknown_class = mint(*keys, 7, 1, "c", 0, 3, 0, 4, 0)
        for token in [good[:-1], good + "A", "B" + good[1:], good[:-1] + "p", VECTORS[2][-1], unknown_tenant,
                      unknown_class, "", "x" * 51, "%" * 51]:
            self.assertEqual(self.run_cli("token", "open", token, code=1), "openveil: not a token of ours\n")
        self.run_cli("token", "open", good)

    def test_many(self):
        self.vector_keys(1)
        self.run_cli("tenant", "add", 7, "--stream", "3=receipts")
        export = json.loads(self.run_cli("tenant", "export", 7))
        keys = [bytes.fromhex(export[name]) for name in ("token_key", "contact_key")]
        lines = "".join(f"kontakt-{i}-é\trequested\t{i}\t{i % 256}\t2026-06-21T00:{i % 60:02}:00Z\n" for i in range(2000))
        expected = [mint(*keys, 7, 1, f"kontakt-{i}-é", 29700000 + i % 60, i, i % 256, 2, 1) for i in range(2000)]
        self.assertEqual(self.run_cli("token", "mint", "--tenant", 7, "--regime", 1, stdin=lines).split("\n"), expected + [""])
        self.assertEqual(self.run_cli("token", "mint", "--tenant", 7), "")
        good = "c\trequested\t3\tgmail\n"
        for bad in ["c\trequested\t3\n", "c\trequested\t3\tgmail\t\t\n", "\trequested\t3\tgmail\n", "\n", "c\topen\t3\tgmail\n",
                    "c\trequested\t65536\tgmail\n", "c\trequested\t\tgmail\n", "c\trequested\t3\tgogle\n",
                    "c\trequested\t3\t256\n", "c\trequested\t3\tgmail\t2026-06-21\n", "c\trequested\t3\tgmail\r\n",
                    "x" * 257 + "\trequested\t3\tgmail\n", "x" * 10000 + "\n", "c\trequested\t3\tgmail\0\n"]:
            self.assertIn("line 3:", self.run_cli("token", "mint", "--tenant", 7, stdin=good + good + bad + good, code=1)
                          .replace("line 3 is", "line 3:"))
        self.run_cli("token", "mint", "--tenant", 7, stdin=b"\xff\trequested\t3\tgmail\n", code=1)
        self.assertIn("no tenant 8", self.run_cli("token", "mint", "--tenant", 8, stdin=good, code=1))
        self.run_cli("token", "mint", "--tenant", 7, "--class", "requested", stdin=good, code=64)
        self.run_cli("token", "mint", "--tenant", 7, "--contact", "c", code=64)
        for contact in ["", "x" * 257, "a\tb"]:
            self.run_cli("token", "mint", "--tenant", 7, "--contact", contact, "--class", "requested", "--stream", 3,
                         "--provider", "gmail", code=64)

    def test_tenant_changes(self):
        self.run_cli("keys", "init")
        self.run_cli("tenant", "add", 7, "--stream", "3=receipts", "--inactive-days", 90)
        day = lambda n: time.strftime("%Y-%m-%d", time.gmtime(time.time() + 86400 * n))
        self.assertIn("not begun", self.run_cli("tenant", "change", 7, "--from", day(0), "--stream", "4=news", code=64))
        for streams in (["4=news"], ["3=other"], ["4=receipts"]):  # 3=receipts would not have lived for 28 days
            self.assertIn(day(28), self.run_cli("tenant", "change", 7, "--from", day(2), "--stream", *streams, code=64))
        self.run_cli("tenant", "change", 7, "--from", day(2), "--stream", "4=news", "--stream", "3=receipts")
        self.assertIn("already", self.run_cli("tenant", "change", 7, "--from", day(1), "--inactive-days", 180, code=64))
        self.run_cli("tenant", "change", 7, "--from", day(2), "--exemption-basis", "art. 82")
        self.run_cli("tenant", "change", 7, "--from", day(3), "--exemption-basis", "", "--inactive-days", 180)
        self.assertIn("12 months", self.run_cli("tenant", "change", 7, "--from", day(300), "--inactive-days", 365, code=64))
        self.run_cli("tenant", "change", 7, "--from", day(400), "--inactive-days", 365)
        versions = json.loads(self.run_cli("tenant", "list", "--json"))[0]["versions"]
        self.assertEqual([(v["from"], v["inactive_days"], v.get("exemption_basis"), [s["number"] for s in v["streams"]])
                          for v in versions[1:]],
                         [(day(2), 90, "art. 82", [3, 4]), (day(3), 180, None, [3, 4]), (day(400), 365, None, [3, 4])])
        for bad in (["--stream", "1=a", "--stream", "1=b"], ["--stream", "x=a"], ["--stream", "1=a b"], ["--stream", "1="],
                    ["--stream", "1=a", "--inactive-days", 100], [], ["--stream", "65536=a"],
                    sum((["--stream", f"{i}=s{i}"] for i in range(33)), [])):
            self.run_cli("tenant", "add", 9, *bad, code=64)
        self.run_cli("tenant", "add", 4294967296, "--stream", "1=a", code=64)

    def test_own_contact_key(self):
        self.vector_keys(1)
        own = f"{self.dir}/own.key"
        with open(own, "w") as out:
            out.write("11" * 32 + "\n")
        os.chmod(own, 0o644)
        self.run_cli("tenant", "add", 7, "--stream", "3=r", "--contact-key-file", own, code=1)
        os.chmod(own, 0o600)
        self.run_cli("tenant", "add", 7, "--stream", "3=r", "--contact-key-file", own)
        self.assertEqual(json.loads(self.run_cli("tenant", "export", 7))["contact_key"], "11" * 32)
        os.unlink(f"{self.dir}/keys/contact.key")  # not needed for this tenant, needed for others
        token = self.run_cli("token", "mint", "--tenant", 7, "--contact", "c", "--class", "requested", "--stream", 3,
                             "--provider", "gmail").strip()
        pseudonym = sign(b"\x11" * 32, struct.pack(">I", 7) + b"c")[:8].hex()
        self.assertEqual(json.loads(self.run_cli("token", "open", token, "--json"))["pseudonym"], pseudonym)
        self.run_cli("tenant", "add", 8, "--stream", "3=r")
        self.assertIn("contact.key", self.run_cli("tenant", "export", 8, code=1))
        self.assertNotIn("11" * 32, self.run_cli("tenant", "list", "--json"))


if __name__ == "__main__":
    unittest.main()
