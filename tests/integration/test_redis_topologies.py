"""Consent on several Redis servers, behind Sentinels and in a Redis Cluster: real servers, a real edge and aggregator."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import sample  # noqa: E402
from redis_server import RedisError, RedisServer, free_port  # noqa: E402
from stack import Stack, http_get, wait_until  # noqa: E402

DAY = "2026-11-22"
PARTITIONS = 8
CONTACTS = 160
# Of 8 partitions they lie on 0, 1, 3, 5 and 6; slots of the tags spread over a cluster of three.
TENANTS = (7, 1, 4294967295)


def role(server):
    """A server that becomes a primary ends the connections of its clients."""
    try:
        return server.call("ROLE")[0]
    except (OSError, RedisError):
        server.disconnect()
        return None


class World:
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-topology-")
        self.servers = []
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(self.stop)
        self.stack = None

    def stop(self):
        if self.stack is not None:
            self.stack.stop()
        for server in self.servers:
            server.stop()

    def server(self, *args, config=None):
        server = RedisServer(args, config)
        self.servers.append(server)
        server.start()
        return server

    def configure(self, redis, tenants=TENANTS):
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], rehearsal=(DAY, 86400, -100), partitions=PARTITIONS,
                           extra={"ingest": {"workers": 1}, "spool": {"segment_ms": 100},
                                  "redis": {"timeout_ms": 1000, **redis}})
        self.stack.write_config()
        self.stack.cli("keys", "init")
        self.tokens = {}
        for tenant in tenants:
            self.stack.cli("tenant", "add", "--stream", "3=receipts", "--exemption-basis", "test", str(tenant))
            lines = "".join(f"contact-{i}\ttransactional\t3\tgmail\t2026-11-01T00:00:00Z\n" for i in range(CONTACTS))
            self.tokens[tenant] = self.stack.cli("token", "mint", "--tenant", str(tenant), stdin=lines).split()

    def consent(self, tenant, contact, state, check=True):
        notice = ["--notice", "v1"] if state == "granted" else []
        return self.stack.cli("consent", "set", "--tenant", str(tenant), "--contact", contact, "--state", state,
                              "--since", DAY if state == "withdrawn" else "2026-11-01", *notice, check=check)

    def state(self, tenant, contact):
        return self.stack.cli("consent", "get", "--tenant", str(tenant), "--contact", contact)

    def grant_all(self, tenant):
        text = "".join(f"contact-{i}\tgranted\t2026-11-01\tv1\n" for i in range(CONTACTS))
        self.stack.cli("consent", "import", "--tenant", str(tenant), "-", stdin=text)

    def open(self, tenant, first, last):
        host, port = self.stack.pixel_address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as link:
            reader = link.makefile("rb")
            for token in self.tokens[tenant][first:last]:
                link.sendall(f"GET /p/{token}.gif HTTP/1.1\r\nHost: p\r\nUser-Agent: Thunderbird\r\n\r\n".encode())
                self.assertEqual(sample.read_reply(reader), 200)

    def counted(self):
        text = http_get(self.stack.aggregator_admin, "/metrics")[1]
        return int(re.search(r"^openveil_aggregator_counted_total (\d+)", text, re.M).group(1))

    def edge_metric(self, line):
        return line in http_get(self.stack.edge_admin, "/metrics")[1]

    def run_pipeline(self):
        """Both programs at work: what is granted is counted, by way of every server."""
        for tenant in self.tokens:
            self.grant_all(tenant)
        self.stack.start_edge()
        self.stack.start_aggregator()
        wait_until("the drop list", lambda: self.edge_metric("openveil_edge_drop_list_in_use 1\n"), 20)
        wanted = 0
        for tenant in self.tokens:
            self.open(tenant, 0, 100)
            wanted += 100
        wait_until(f"{wanted} counted", lambda: self.counted() == wanted, 20)
        return wanted

    def refused(self, *parts):
        done = self.stack.cli("consent", "get", "--tenant", str(TENANTS[0]), "--contact", "contact-1", check=False)
        self.assertEqual(done.returncode, 69, done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr.decode())


class Several(World, unittest.TestCase):
    def test_partitions_are_spread_and_the_list_stays(self):
        a, b = self.server(), self.server()
        self.configure({"address": f"{a.address}, {b.address}"})
        self.run_pipeline()
        for server, rest in ((a, 0), (b, 1)):
            partitions = {int(key[4:].split("}")[0]) for key in server.call("KEYS", "ov:{*")}
            self.assertTrue(partitions, "every server has some")
            self.assertEqual({p % 2 for p in partitions}, {rest})
            self.assertEqual(server.call("HGET", "ov:place", "number"), f"{rest + 1}/2")
        c = self.server()
        for address in (f"{b.address}, {a.address}", f"{a.address}, {c.address}, {b.address}", a.address):
            self.stack.extra["redis"]["address"] = address
            self.stack.write_config()
            self.refused("the list cannot be changed")
        self.assertEqual(c.call("DBSIZE"), 0)

    def test_one_that_grew(self):
        a, b = self.server(), self.server()
        self.configure({"address": a.address})
        for tenant in TENANTS:
            self.consent(tenant, "contact-1", "granted")
        self.stack.extra["redis"]["address"] = f"{a.address}, {b.address}"
        self.stack.write_config()
        self.refused("holds partitions that lie elsewhere")

    def test_one_of_them_away(self):
        a, b = self.server(), self.server()
        self.configure({"address": f"{a.address}, {b.address}"})
        for tenant in TENANTS:
            self.consent(tenant, "contact-1", "granted")
        b.kill()
        codes = {self.consent(tenant, "contact-1", "withdrawn", check=False).returncode for tenant in TENANTS}
        self.assertEqual(codes, {0, 69}, "who lies on the other one is served")


class Sentinels(World, unittest.TestCase):
    def test_failover(self):
        primary = self.server()
        replica = self.server("--replicaof", "127.0.0.1", str(primary.port))
        wait_until("replication", lambda: "master_link_status:up" in replica.call("INFO", "replication"), 20)
        config = (f"sentinel monitor mails 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds mails 500\n"
                  "sentinel failover-timeout mails 4000\n")
        sentinel = self.server("--sentinel", config=config)
        wait_until("the sentinel knows the replica",
                   lambda: len(sentinel.call("SENTINEL", "REPLICAS", "mails")) == 1, 20)
        self.configure({"address": None, "sentinels": f"127.0.0.1:{free_port()}, {sentinel.address}",
                        "master": "mails", "timeout_ms": 3000})
        counted = self.run_pipeline()
        self.consent(7, "contact-101", "withdrawn")
        wait_until("replicated", lambda: replica.call("HGET", "ov:{0}:meta", "epoch")
                   == primary.call("HGET", "ov:{0}:meta", "epoch"), 10)
        primary.kill()
        wait_until("failover", lambda: sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mails")[1]
                   == str(replica.port), 30)
        wait_until("a primary", lambda: role(replica) == "master", 20)
        self.assertIn("withdrawn", self.state(7, "contact-101"))
        self.consent(7, "contact-102", "withdrawn")
        self.open(7, 110, 160)
        self.open(1, 110, 160)
        wait_until("counted after the failover", lambda: self.counted() == counted + 100, 20)
        wait_until("the drop list", lambda: self.edge_metric("openveil_edge_drop_list_in_use 1\n"), 20)

    def test_one_that_hangs_is_passed_over(self):
        primary = self.server()
        config = f"sentinel monitor mails 127.0.0.1 {primary.port} 1\n"
        hanging, sentinel = (self.server("--sentinel", config=config) for _ in range(2))
        self.configure({"address": None, "sentinels": f"{hanging.address}, {sentinel.address}", "master": "mails",
                        "timeout_ms": 4000})
        hanging.signal(signal.SIGSTOP)
        self.consent(7, "contact-1", "granted")
        self.assertIn("granted", self.state(7, "contact-1"))

    def test_unknown_name(self):
        sentinel = self.server("--sentinel", config="")
        self.configure({"address": None, "sentinels": sentinel.address, "master": "mails"})
        self.refused("does not know the primary \"mails\"")

    def test_replica_is_not_read(self):
        primary = self.server()
        replica = self.server("--replicaof", "127.0.0.1", str(primary.port))
        wait_until("replication", lambda: "master_link_status:up" in replica.call("INFO", "replication"), 20)
        sentinel = self.server("--sentinel", config=f"sentinel monitor mails 127.0.0.1 {replica.port} 1\n")
        self.configure({"address": None, "sentinels": sentinel.address, "master": "mails"})
        self.refused("is not the primary")


class Cluster(World, unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.nodes = []
        for _ in range(3):
            bus = free_port()
            node = self.server("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port",
                               str(bus), "--cluster-node-timeout", "2000")
            node.bus = bus
            self.nodes.append(node)
        for node, (first, last) in zip(self.nodes, ((0, 5460), (5461, 10922), (10923, 16383))):
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in self.nodes[1:]:
            self.nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        wait_until("the cluster", lambda: all("cluster_state:ok" in node.call("CLUSTER", "INFO")
                                              and "cluster_known_nodes:3" in node.call("CLUSTER", "INFO")
                                              for node in self.nodes), 30)

    def node_of(self, slot):
        for first, last, master in (row[:3] for row in self.nodes[0].call("CLUSTER", "SLOTS")):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError("a slot without a node")

    def move(self, slot, target):
        source = self.node_of(slot)
        ids = {node: node.call("CLUSTER", "MYID") for node in self.nodes}
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def test_every_node_and_a_move(self):
        self.configure({"address": self.nodes[0].address, "cluster": "yes"})
        counted = self.run_pipeline()
        self.assertGreater(sum(node.call("DBSIZE") > 0 for node in self.nodes), 1)
        self.stack.cli("contact", "erase", "--tenant", "7", "contact-101")
        self.assertIn("unknown", self.state(7, "contact-101"))
        slot = self.nodes[0].call("CLUSTER", "KEYSLOT", "ov:{0}:meta")
        self.move(slot, next(node for node in self.nodes if node is not self.node_of(slot)))
        self.consent(7, "contact-102", "withdrawn")
        self.assertIn("withdrawn", self.state(7, "contact-102"))
        self.open(7, 103, 153)
        self.open(1, 103, 153)
        wait_until("counted after the move", lambda: self.counted() == counted + 100, 20)
        wait_until("the drop list", lambda: self.edge_metric("openveil_edge_drop_list_in_use 1\n"), 20)
        # The aggregator's report of it went to the node that no longer has the slot, and comes again.
        self.stack.cli("contact", "erase", "--tenant", "7", "--wait", "20", "contact-102")
        self.assertIn("unknown", self.state(7, "contact-102"))

    def test_without_saying_so(self):
        self.configure({"address": self.nodes[0].address})
        codes = set()
        for tenant in TENANTS:
            done = self.consent(tenant, "contact-1", "granted", check=False)
            codes.add(done.returncode)
            if done.returncode != 0:
                self.assertIn("MOVED", done.stderr.decode())
        self.assertIn(69, codes)


class AclAndTls(World, unittest.TestCase):
    def test_user_with_the_documented_rights(self):
        server = self.server()
        server.call("ACL", "SETUSER", "centre", "on", ">secret", "~ov:*", "+fcall", "+hmget", "+hget", "+hset", "+exists",
                    "+xadd", "+function|load", "+hgetall", "+xrange")
        with open(os.path.join(self.dir, "password"), "w", encoding="ascii") as out:
            out.write("secret\n")
        self.configure({"address": server.address, "username": "centre",
                        "password_file": os.path.join(self.dir, "password")})
        server.call("ACL", "SETUSER", "default", "off")
        self.consent(7, "contact-1", "granted")
        self.assertIn("granted", self.state(7, "contact-1"))
        self.stack.extra["redis"]["username"] = "another"
        self.stack.write_config()
        self.refused("refuses the password")

    def test_tls_is_refused_where_the_configuration_is_checked(self):
        self.configure({})
        self.stack.extra["redis"]["tls"] = "yes"
        self.stack.write_config()
        for program in ("openveil-ingest", "openveil-aggregator"):
            done = subprocess.run([self.stack.program(program), "--config", self.stack.config, "--check-config"],
                                  capture_output=True, text=True, timeout=20, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("tls must be no", done.stderr)


if __name__ == "__main__":
    unittest.main()
