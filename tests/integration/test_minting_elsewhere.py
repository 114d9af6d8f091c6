"""Tokens and pseudonyms made by another program, from a tenant's exported keys alone, are the same as ours."""
import base64
import hashlib
import hmac
import json
import os
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy"))
from stack import Stack  # noqa: E402


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def pseudonym(contact_key, tenant, contact):
    return mac(contact_key, tenant.to_bytes(4, "big") + contact.encode())[:8]


def mint(token_key, key_id, tenant, name, sent, stream, provider, message_class, regime):
    head = bytes([1]) + tenant.to_bytes(4, "big") + bytes([key_id])
    plain = (name + sent.to_bytes(4, "big") + stream.to_bytes(2, "big") + bytes([provider])
             + bytes([message_class << 4 | regime]))
    tag = mac(mac(token_key, b"openveil token v1 mac"), head + plain)[:16]
    stream_bytes = mac(mac(token_key, b"openveil token v1 enc"), tag)[:16]
    sealed = bytes(a ^ b for a, b in zip(plain, stream_bytes))
    return base64.urlsafe_b64encode(head + tag + sealed).rstrip(b"=").decode()


class MintingElsewhere(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-mint-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"])
        self.stack.write_config()
        self.stack.cli("keys", "init")

    def tearDown(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def test_same_tokens(self):
        for tenant, contact in ((7, "contact-1"), (4294967295, "zoé@exemple.fr"), (1, "x" * 256)):
            self.stack.cli("tenant", "add", str(tenant), "--stream", "3=receipts")
            keys = json.loads(self.stack.cli("tenant", "export", str(tenant)))
            token_key, contact_key = bytes.fromhex(keys["token_key"]), bytes.fromhex(keys["contact_key"])
            theirs = mint(token_key, keys["key_id"], tenant, pseudonym(contact_key, tenant, contact), 29700000, 3, 1, 2, 1)
            ours = self.stack.cli("token", "mint", "--tenant", str(tenant), "--contact", contact, "--class", "requested",
                                  "--stream", "3", "--provider", "gmail", "--regime", "1", "--sent",
                                  "2026-06-21T00:00:00Z").strip()
            self.assertEqual(theirs, ours)
            opened = json.loads(self.stack.cli("token", "open", theirs, "--json"))
            self.assertEqual(opened["pseudonym"], pseudonym(contact_key, tenant, contact).hex())
            self.assertEqual((opened["tenant"], opened["stream"], opened["regime"]), (tenant, 3, 1))

    def test_refuses_another_key(self):
        self.stack.cli("tenant", "add", "7", "--stream", "3=receipts")
        forged = mint(bytes(32), 1, 7, bytes(8), 29700000, 3, 1, 1, 0)
        done = self.stack.cli("token", "open", forged, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertNotIn(forged.encode(), done.stderr)


if __name__ == "__main__":
    unittest.main()
