"""The main part of deploy/quickstart: see there. Needs the built programs (--bin DIR)."""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import sample  # noqa: E402
import stack as stacks  # noqa: E402
from stack import day_number, day_text  # noqa: E402

TENANT = 7
NOTICE = "notice-1"
START_DAY = "2026-11-27"  # so that a month ends on the fourth rehearsed day
CLEAN_DAY = "2026-12-01"
MEASURED_SINCE = "2026-06-01"
INACTIVE_DAYS = 90
HORIZON_DAYS = 1
MAIL_DAYS = ["2026-11-27", "2026-11-28", "2026-11-29"]


def say(text=""):
    print(text, flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog="deploy/quickstart", description="Runs the whole pipeline once on loopback.")
    parser.add_argument("--bin", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--exit", action="store_true", help="stop when done")
    parser.add_argument("--kafka", action="store_true", help="through a real Kafka broker")
    parser.add_argument("--port", type=int, default=8080, help="where the edge listens")
    parser.add_argument("--dir", help="working directory (default: temporary)")
    return parser.parse_args()


def prepare(stack, sender):
    """Keys, a tenant, its contacts' consent and history: everything a sender brings."""
    stack.cli("keys", "init")
    stack.cli("tenant", "add", str(TENANT), "--stream", f"{sample.RECEIPTS}=receipts", "--stream",
              f"{sample.NEWSLETTER}=newsletter", "--exemption-basis", "sample: CNIL 2026-042, art. 82 exemption",
              "--inactive-days", str(INACTIVE_DAYS))
    consent = stack.path("consent.tsv")
    with open(consent, "w", encoding="utf-8") as out:
        out.write(sender.consent_lines(day_text, NOTICE))
    stack.cli("consent", "import", "--tenant", str(TENANT), consent)


def bring_history(stack, sender):
    history = stack.path("history.tsv")
    with open(history, "w", encoding="utf-8") as out:
        out.write(sender.history_lines(day_text))
    stack.cli("last-open", "import", "--tenant", str(TENANT), "--measured-since", MEASURED_SINCE, history)


def mint(stack, mails):
    """Tokens for (contact, class, stream, sent day)."""
    lines = "".join(f"{c.id}\t{kind}\t{stream}\t{c.provider}\t{day_text(sent)}T00:00:00Z\n"
                    for c, kind, stream, sent in mails)
    return stack.cli("token", "mint", "--tenant", str(TENANT), stdin=lines).split()


def mail_day(stack, sender, day):
    """One day of mail: receipts and a newsletter go out, most are opened the same day or the next."""
    sent = day_number(day)
    mails = [(c, "transactional", sample.RECEIPTS, sent) for c in sender.rng.sample(sender.contacts, 1500)]
    mails += [(c, "requested", sample.NEWSLETTER, sent) for c in sender.rng.sample(sender.contacts, 500)]
    today, tomorrow = [], []
    for mail, token in zip(mails, mint(stack, mails)):
        luck = sender.rng.random()
        if luck < 0.75 or mail[0].provider in sample.MACHINES:
            today.append((mail, token))
        elif luck < 0.85:
            tomorrow.append((mail, token))
    return today, tomorrow


def open_mails(stack, sender, opened, open_day, extra=()):
    requests = []
    for (contact, kind, stream, sent), token in opened:
        requests.append(sample.request(token, sample.AGENTS[contact.provider], "pixel.example.test"))
        sender.note_open(contact, kind, stream, sent, open_day)
    requests.extend(extra)
    sender.rng.shuffle(requests)
    answered = sample.send(stack.pixel_address, requests)
    sender.requests[open_day] += answered
    return answered, len(requests)


def noise_requests(opened):
    """What is not an open: a scanner that fetches real pixels, and forged tokens."""
    scanned = [sample.request(token, sample.SCANNER_AGENT, "pixel.example.test") for _, token in opened[:120]]
    forged = [sample.request("A" * 51, sample.AGENTS["gmail"], "pixel.example.test") for _ in range(80)]
    return scanned + forged


def rehearse(stack, sender):
    late = []
    withdrawn = 0
    for day in MAIL_DAYS:
        stack.wait_for_day(day, 0.05)
        today, tomorrow = mail_day(stack, sender, day)
        answered, sent = open_mails(stack, sender, today + late, day_number(day), noise_requests(today))
        say(f"  {day}: {sent} pixel requests sent, {answered} answered, each only once it was durable on disk")
        late = tomorrow
        if day == MAIL_DAYS[1]:
            withdrawn = withdraw(stack, sender, [mail[0] for mail, _ in today[:25]], day)
            say(f"  {day}: {withdrawn} contacts withdrew after their opens; they must vanish from every number")
    last = day_text(day_number(MAIL_DAYS[-1]) + 1)
    stack.wait_for_day(last, 0.05)
    answered, sent = open_mails(stack, sender, late, day_number(last))
    say(f"  {last}: {sent} opens of the day before's mail, {answered} answered")


def withdraw(stack, sender, contacts, day):
    """Withdrawals arrive while their opens are already recorded."""
    count = 0
    for contact in contacts:
        if contact.state in sample.ALLOWING:
            stack.cli("consent", "set", "--tenant", str(TENANT), "--contact", contact.id, "--state", "withdrawn",
                      "--since", day, "--notice", NOTICE)
            contact.state = "withdrawn"
            count += 1
    return count


def release_file(stack, kind, period):
    return stack.path("releases", str(TENANT), f"{kind}-{period}.json")


def wait_for_release(stack, kind, period, timeout):
    path = release_file(stack, kind, period)
    stacks.wait_until(f"waiting for the release of {period}", lambda: os.path.exists(path), timeout,
                      stack.processes["openveil-aggregator"])
    with open(path, encoding="utf-8") as text:
        return json.load(text)


def show_releases(stack, sender, timeout):
    say("\nReleased, with noise (ε = 1/4, so about ±4), beside what really happened. null: below the threshold of 40")
    say(f"  {'sent on':<11}{'stream':<12}{'provider':<10}{'opened by':<10}{'released':>9}{'truth':>7}")
    for period in MAIL_DAYS:
        line = wait_for_release(stack, "deliverability", period, timeout)
        truth = sender.deliverability(day_number(period), HORIZON_DAYS)
        for cell in line["cells"]:
            true = truth[(cell["stream"], cell["provider"], cell["fetch"])]
            if true == 0 and cell["contacts"] is None:
                continue
            released = "null" if cell["contacts"] is None else cell["contacts"]
            say(f"  {period:<11}{cell['stream_name']:<12}{cell['provider']:<10}{cell['fetch']:<10}{released:>9}{true:>7}")


def show_audit(stack):
    say("\nAccounting: every answered request is somewhere (openveil audit --day DAY --exact)")
    for day in MAIL_DAYS:
        done = stack.cli("audit", "--day", day, "--exact", check=False)
        say(done.stdout.decode().rstrip())
        if done.returncode != 0:
            raise stacks.StackError(f"audit of {day}: exit {done.returncode}: {done.stderr.decode().strip()}")


def show_cleaning(stack, sender):
    say(f"\nList cleaning on {CLEAN_DAY}: who is clearly inactive, N = {INACTIVE_DAYS} days (openveil clean)")
    contacts = "".join(c.id + "\n" for c in sender.contacts)
    answer = stack.cli("clean", "--tenant", str(TENANT), "--class", "requested", stdin=contacts)
    ones = {line.split("\t")[0] for line in answer.splitlines() if line.endswith("\t1")}
    first = day_number(CLEAN_DAY)
    truth = {c.id for c in sender.contacts if sender.inactive(c, first, INACTIVE_DAYS)}
    for line in answer.splitlines()[:4]:
        say("  " + line)
    say(f"  … {len(sender.contacts)} contacts asked, {len(ones)} answered 1; truly inactive and measurable: {len(truth)}"
        f" ({'the same contacts' if ones == truth else 'NOT the same contacts'})")
    if ones != truth:
        raise stacks.StackError("the list-cleaning answer differs from the truth")


def wait_for_cleaning(stack, timeout):
    probe = "nobody@example.test\n"
    stacks.wait_until("waiting for the month's frozen answer",
                      lambda: stack.cli("clean", "--tenant", str(TENANT), "--class", "requested", stdin=probe,
                                        check=False).returncode == 0, timeout)


def run(stack, options):
    day_seconds = stack.rehearsal[1]
    sender = sample.Sender(TENANT, 4000, day_number("2025-06-01"), day_number("2026-10-15"))
    sender.give_history(day_number("2026-11-26"), day_number(MEASURED_SINCE))
    say(f"starting Redis{', Kafka' if stack.kafka else ''}, an edge and an aggregator in {stack.dir}")
    stack.start_all()
    stack.start_unix_s = None  # the clock begins now, however long the servers took
    stack.write_config()
    prepare(stack, sender)
    stack.start_edge()
    stack.start_aggregator()
    bring_history(stack, sender)
    say(f"\nrehearsing {MAIL_DAYS[0]} to {CLEAN_DAY}, a day in {day_seconds} seconds: 4000 contacts in every state of consent,"
        "\nopens by people, Gmail's proxy, Apple's prefetch, a scanner, and forged tokens")
    rehearse(stack, sender)
    show_releases(stack, sender, 6 * day_seconds)
    show_audit(stack)
    stack.wait_for_day(CLEAN_DAY, 0.05)
    wait_for_cleaning(stack, 2 * day_seconds)
    show_cleaning(stack, sender)
    if options.exit:
        return
    token = mint(stack, [(sender.contacts[0], "transactional", sample.RECEIPTS, day_number(stack.today()))])[0]
    say(f"\nOpen a pixel by hand:  http://{stack.pixel_address}/p/{token}.gif")
    say(f"Metrics: http://{stack.edge_admin}/metrics and http://{stack.aggregator_admin}/metrics. Ctrl-C ends everything.")
    threading.Event().wait()


def check_ground(options):
    if stacks.port_taken(options.port):
        raise stacks.StackError(f"port {options.port} is in use: stop what listens there, or use --port N")
    if options.dir and os.path.isdir(options.dir) and os.listdir(options.dir):
        raise stacks.StackError(f"{options.dir} is not empty: a rehearsal begins in a directory of its own")
    if shutil.which("redis-server") is None:
        raise stacks.StackError("redis-server is missing: run deploy/install-deps")


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the caller had it ignored
    directory = options.dir or tempfile.mkdtemp(prefix="openveil-quickstart-")
    stack = None
    try:
        check_ground(options)
        stack = stacks.Stack(directory, options.bin, kafka=options.kafka, pixel_port=options.port,
                             rehearsal=(START_DAY, 12 if options.kafka else 10, 12 if options.kafka else 8),
                             release={"horizon_days": HORIZON_DAYS})
        run(stack, options)
        say("\ndone.")
        return 0
    except KeyboardInterrupt:
        say("\nstopping")
        return 130
    except (stacks.StackError, OSError, subprocess.SubprocessError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    finally:
        if stack is not None:
            stack.stop()
        if options.dir is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
