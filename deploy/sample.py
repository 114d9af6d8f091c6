"""A sample sender: contacts in every consent state, mails, opens by real kinds of clients, and what truly happened.

The truth is computed here from the rules in words, independently of the programs, so that the quick start can print it
beside what was released and the tests can compare.
"""
import collections
import random
import socket
import threading

AGENTS = {
    "gmail": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "yahoo": "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
    "outlook": "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Win64; x64; Microsoft Outlook 16.0.5134)",
    "icloud": "Mozilla/5.0",
    "orange": "Mozilla/5.0 (X11; Linux x86_64; rv:102.0) Gecko/20100101 Thunderbird/102.15.1",
    "laposte": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)",
}
SCANNER_AGENT = "Barracuda Sentinel (EE)"
MACHINES = {"icloud"}  # Apple Mail Privacy Protection loads every image at delivery
PROVIDERS = list(AGENTS)
WEIGHTS = [30, 15, 20, 15, 10, 10]
STATES = ["informed", "granted", "refused", "withdrawn", "objected", "unknown"]
STATE_WEIGHTS = [58, 20, 5, 5, 4, 8]
ALLOWING = {"informed", "granted"}

RECEIPTS, NEWSLETTER = 1, 2


class Contact:
    def __init__(self, number, rng, old_day, young_day):
        self.id = f"customer-{number:05d}@example.test"
        self.provider = rng.choices(PROVIDERS, WEIGHTS)[0]
        self.state = rng.choices(STATES, STATE_WEIGHTS)[0]
        self.since = young_day if rng.random() < 0.08 else old_day
        self.last_open = None  # a day brought in from before

    def allowed_on(self, day):
        return self.state in ALLOWING and self.since < day


class Sender:
    """One tenant with its contacts. All days are numbers since 1970."""

    def __init__(self, tenant, n_contacts, old_day, young_day, seed=1):
        self.tenant = tenant
        self.rng = random.Random(seed)
        self.contacts = [Contact(i, self.rng, old_day, young_day) for i in range(n_contacts)]
        self.opens = []  # (contact, class, stream, sent day, open day, fetch) of every counted kind of fetch
        self.requests = collections.Counter()  # by open day

    def consent_lines(self, day_text, notice):
        return "".join(f"{c.id}\t{c.state}\t{day_text(c.since)}\t{notice}\n" for c in self.contacts if c.state != "unknown")

    def give_history(self, newest_day, oldest_day):
        """Most contacts opened something in the last weeks, some long ago, some never."""
        for contact in self.contacts:
            luck = self.rng.random()
            if luck < 0.80:
                contact.last_open = newest_day - self.rng.randrange(60)
            elif luck < 0.93:
                contact.last_open = self.rng.randrange(oldest_day, newest_day - 120)

    def history_lines(self, day_text):
        return "".join(f"{c.id}\t{day_text(c.last_open)}\n" for c in self.contacts if c.last_open is not None)

    def note_open(self, contact, message_class, stream, sent_day, open_day):
        fetch = "machine" if contact.provider in MACHINES else "person"
        self.opens.append((contact, message_class, stream, sent_day, open_day, fetch))
        if contact.allowed_on(open_day) and (contact.last_open is None or contact.last_open < open_day):
            contact.last_open = open_day

    def deliverability(self, sent_day, horizon_days):
        """{(stream, provider, fetch): distinct contacts}, as of now, of one day of sending."""
        cells = {}
        for contact, message_class, stream, sent, opened, fetch in self.opens:
            if message_class != "transactional" or sent != sent_day or not sent <= opened <= sent + horizon_days:
                continue
            if not contact.allowed_on(opened):
                continue
            cell = (fetch != "person", stream, contact.provider)
            cells[contact.id] = min(cells.get(contact.id, cell), cell)
        return collections.Counter((stream, provider, "machine" if machine else "person")
                                   for machine, stream, provider in cells.values())

    def inactive(self, contact, first_day, n_days):
        """The list-cleaning answer for requested mail with the exemption: first_day is the month's first."""
        if not contact.allowed_on(first_day - n_days):
            return False
        return contact.last_open is None or contact.last_open < first_day - n_days


def request(token, agent, host):
    head = f"GET /p/{token}.gif HTTP/1.1\r\nHost: {host}\r\n"
    if agent:
        head += f"User-Agent: {agent}\r\n"
    return (head + "\r\n").encode()


def send(address, requests, connections=8, depth=16):
    """Sends prepared requests over keep-alive connections, pipelined; returns how many were answered 200."""
    host, port = address.rsplit(":", 1)
    answered = [0] * connections
    failures = []

    def run(index):
        mine = requests[index::connections]
        try:
            with socket.create_connection((host, int(port)), 10) as link:
                reader = link.makefile("rb")
                for at in range(0, len(mine), depth):
                    part = mine[at:at + depth]
                    link.sendall(b"".join(part))
                    for _ in part:
                        if read_reply(reader) == 200:
                            answered[index] += 1
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(answered)


def read_reply(reader):
    status = reader.readline().split(b" ", 2)
    length = 0
    while True:
        line = reader.readline()
        if line in (b"\r\n", b""):
            break
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if len(status) < 2 or len(reader.read(length)) != length:
        raise OSError("the connection ended inside an answer")
    return int(status[1])
