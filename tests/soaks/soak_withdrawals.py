"""Withdrawals under load while Redis is killed, paused, failed over and cut off in turn.

Each withdrawal is repeated until it is confirmed (the log outside Redis holds it); only then its contact opens a mail, once, as
does a contact that stays. A failover loses what was written in the second before it, and `openveil consent restore` brings it
back. In the end those that stayed are counted, all of them, and none of the others.
"""
import hashlib
import os
import random
import signal
import socket
import sys
import threading
import time

from world import (BINARIES, GMAIL, STREAM, TESTS, Stack, day_number, dumped, json, mint, pseudonym, run_soak, sample,
                   wait_until)

sys.path.insert(0, TESTS)
from redis_server import RedisError, RedisServer  # noqa: E402

TENANT, PARTITIONS = 7, 2
PARTITION = int.from_bytes(hashlib.sha256(TENANT.to_bytes(4, "big")).digest()[:4], "big") % PARTITIONS
DAY = "2026-11-22"
BATCH, WORKERS = 20, 4
PER_SECOND = 400
CONFIRM_S = 20
CATCH_UP_S = 120


class Failed(Exception):
    """Redis did not do, or not say, what it was asked for."""


class Withdrawals:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = (count + 99) // 100 * 100  # counters on /metrics move in steps of 100
        self.primary, self.replica = self.server(), self.server()
        self.stack = Stack(directory, BINARIES, rehearsal=(DAY, 86400, -100), partitions=PARTITIONS,
                           extra={"spool": {"segment_ms": 200}, "ingest": {"workers": 1},
                                  "redis": {"timeout_ms": 1000, "address": self.primary.address}})
        self.failovers = 0  # what was confirmed by one primary says nothing of another
        self.ending = threading.Event()
        self.failure = None
        self.turn = iter(range(0, self.count, BATCH))
        self.lock = threading.Lock()
        self.done = {"killed": 0, "paused": 0, "failed over": 0, "cut off": 0}
        self.brought_back = self.repeated = 0

    @staticmethod
    def server():
        return RedisServer(["--appendonly", "yes", "--appendfsync", "always"])

    # ---- contacts: 0 … count-1 withdraw, the next as many stay

    def prepare(self):
        self.primary.start()
        self.stack.write_config()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", str(TENANT), "--stream", f"{STREAM}=news", "--exemption-basis", "test")
        keys = json.loads(self.stack.cli("tenant", "export", str(TENANT)))
        key = bytes.fromhex(keys["contact_key"])
        self.names = [pseudonym(key, TENANT, f"contact-{i}") for i in range(2 * self.count)]
        self.token = lambda name: mint(bytes.fromhex(keys["token_key"]), keys["key_id"], TENANT, name,
                                       day_number(DAY) * 1440, STREAM, GMAIL, 2, 0)
        path = self.stack.path("consent.in")
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(f"contact-{i}\tinformed\t2026-01-01\tnotice-1\n" for i in range(2 * self.count))
        self.stack.cli("consent", "import", "--tenant", str(TENANT), path)
        self.follow_primary()
        self.stack.start_edge()
        self.stack.start_aggregator()

    def follow_primary(self):
        self.replica.start()
        self.replica.call("REPLICAOF", "127.0.0.1", self.primary.port)
        self.wait_replica()

    def wait_replica(self):
        wait_until("the replica follows", lambda: "master_link_status:up" in self.replica.call("INFO", "replication"), 60)

    # ---- a worker

    def withdraw(self, link, first):
        """Confirmed when it returns."""
        words = ["FCALL", "openveil_apply", 1, "ov:{%d}:meta" % PARTITION, "rehearsal", day_number(DAY)]
        for i in range(first, first + BATCH):
            words += [TENANT, self.names[i].hex(), "withdrawn", day_number(DAY), "-", i + 1]
        failovers = self.failovers
        receipts = link.call(*words)
        if not all(isinstance(receipt, int) for receipt in receipts):
            raise AssertionError(f"withdrawals are refused: {receipts}")
        end = time.monotonic() + CONFIRM_S
        while time.monotonic() < end:
            said = link.call("XREVRANGE", "ov:{%d}:applied" % PARTITION, "+", "-", "COUNT", 20)
            if failovers != self.failovers:
                break
            if any(fields[1] == "log" and int(fields[3]) >= max(receipts) for _, fields in said):
                return
            time.sleep(0.01)
        raise Failed("not confirmed")

    def work(self):
        link = RedisServer()
        link.port = self.primary.port
        host, port = self.stack.pixel_address.rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), 30) as pixel:
                reader = pixel.makefile("rb")
                while not self.ending.is_set():
                    with self.lock:
                        first = next(self.turn, None)
                    if first is None:
                        return
                    self.ending.wait(self.pause_s())
                    self.surely(link, first)
                    for i in range(first, first + BATCH):
                        for name in (self.names[i], self.names[self.count + i]):
                            pixel.sendall(sample.request(self.token(name), sample.AGENTS["gmail"], "pixel"))
                    for _ in range(2 * BATCH):
                        status = sample.read_reply(reader)
                        assert status == 200, f"an open is answered with {status}"
        except BaseException as failure:  # pylint: disable=broad-except
            self.failure = failure
            self.ending.set()
        finally:
            link.stop()

    def pause_s(self):
        return BATCH * WORKERS / PER_SECOND * random.uniform(0.5, 1.5)

    def surely(self, link, first):
        while not self.ending.is_set():
            try:
                return self.withdraw(link, first)
            except (OSError, RedisError, Failed):
                link.disconnect()
                self.repeated += 1
                time.sleep(0.05)

    # ---- faults

    def kill(self):
        self.primary.kill()
        time.sleep(self.rng.uniform(0, 1))
        self.primary.start()

    def pause(self):
        self.primary.signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 2.5))
        self.primary.signal(signal.SIGCONT)

    def cut_off(self):
        port = self.primary.port
        self.primary.call("CONFIG", "SET", "port", RedisServer().port)
        self.primary.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(self.rng.uniform(0.2, 2))
        self.primary.call("CONFIG", "SET", "port", port)

    def fail_over(self):
        self.wait_replica()  # after a kill it loads everything again
        self.replica.call("REPLICAOF", "127.0.0.1", 1)
        time.sleep(1)  # what is written now is lost
        port = self.primary.port
        self.failovers += 1
        self.primary.kill()
        self.replica.call("REPLICAOF", "NO", "ONE")
        self.replica.call("CONFIG", "SET", "port", port)
        self.replica.disconnect()
        self.replica.port = port
        self.primary.stop()
        self.primary, self.replica = self.replica, self.server()
        time.sleep(self.rng.uniform(0, 2))
        self.restore()
        self.follow_primary()

    def restore(self):
        def restored():
            done = self.stack.cli("consent", "restore", "--json", check=False)
            if done.returncode != 0:
                return False
            self.brought_back += sum(partition["applied"] for partition in json.loads(done.stdout))
            return True
        wait_until("the repair", restored, 60)

    def disturb(self):
        faults = [("killed", self.kill), ("paused", self.pause), ("failed over", self.fail_over), ("cut off", self.cut_off)]
        try:
            for turn in range(10 ** 9):
                if self.ending.wait(self.rng.uniform(1, 3)):
                    return
                name, fault = faults[turn % len(faults)]
                fault()
                self.done[name] += 1
        except BaseException as failure:  # pylint: disable=broad-except
            self.failure = failure
            self.ending.set()

    # ---- the whole

    def run(self):
        self.prepare()
        workers = [threading.Thread(target=self.work) for _ in range(WORKERS)]
        disturber = threading.Thread(target=self.disturb)
        for thread in (*workers, disturber):
            thread.start()
        for thread in workers:
            thread.join()
        self.ending.set()
        disturber.join()
        if self.failure is not None:
            raise self.failure
        self.restore()
        self.check()
        faults = ", ".join(f"{number} times {name}" for name, number in self.done.items())
        return (f"{self.count} withdrawals confirmed, Redis {faults}; {self.repeated} batches repeated, {self.brought_back} "
                "withdrawals brought back by repairs; none of them counted, all others counted")

    def check(self):
        states = {row["state"]: row["contacts"] for row in
                  json.loads(self.stack.cli("consent", "count", "--tenant", str(TENANT), "--json"))}
        assert states == {"withdrawn": self.count, "informed": self.count}, states
        aggregator = self.stack.processes["openveil-aggregator"]
        stayed = {name.hex() for name in self.names[self.count:]}

        def counted():
            return {words[2] for words in dumped(self.stack.config) if words[0] == "open" and words[3] != "-"}
        wait_until("all that stay are counted", lambda: stayed <= counted(), CATCH_UP_S, aggregator)
        assert counted() == stayed, f"{len(counted() - stayed)} contacts that withdrew are counted"
        self.stack.cli("consent", "verify")

    def stop(self):
        self.stack.stop()
        for server in (self.primary, self.replica):
            server.stop()


def soak(directory, count, seed):
    world = Withdrawals(directory, count, seed)
    try:
        return world.run()
    finally:
        world.stop()


if __name__ == "__main__":
    os.environ.setdefault("OPENVEIL_BIN", BINARIES)
    run_soak(__doc__.split("\n", maxsplit=1)[0], soak, 10000, 100000, "withdrawals")
