"""The clients in examples/clients: how they are built and started, what they print, and what is expected of them all.

A client that runs has `wait_for_lines`, `ended` and `end`, which returns all its lines. What starts one is a context,
`start(server, *channels, **options)`.

They are built in a copy, target/clients, where the next run finds what this one built.
"""

import fcntl
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager

from grpc import StatusCode

from scripted_server import Stream, missed, problem, recovered, upload
from support import KURZGESAGT, REPOSITORY, SCISHOW, UNKNOWN, free_port, running, wait_until

COPY = REPOSITORY / "target" / "clients"
# For downloads, and a Rust build on a busy machine.
PATIENCE = 400


# What any client prints and does


ANSWERS = [
    "latest: N2FOxjtv5ns VIDEO_KIND_SHORT What is El Niño?",
    "cache-status: plaque; fwd=uri-miss",
    f"batch: {KURZGESAGT} N2FOxjtv5ns",
    f"batch: {UNKNOWN} CHANNEL_NOT_FOUND",
]
# In any order: the channels of a watch do not wait for each other.
WATCH_BEGINS = {f"watch: {KURZGESAGT} N2FOxjtv5ns initial", f"watch: {UNKNOWN} CHANNEL_NOT_FOUND"}
NEW = "new00000001"
WATCH_GOES_ON = [f"watch: {KURZGESAGT} {NEW} new"]
NEWER = "new00000002"


def expect_begun(lines):
    """The answers, and what a watch begins with."""
    assert lines[:4] == ANSWERS, "what it prints of the answers"
    assert (set(lines[4:]), len(lines)) == (WATCH_BEGINS, 6), "what it prints as the watch begins"


def expect_a_new_upload(client, origin):
    """Of a client that was started for 3 events of KURZGESAGT and UNKNOWN."""
    expect_begun(client.wait_for_lines(6))
    origin.publish(KURZGESAGT, NEW)
    assert client.end()[6:] == WATCH_GOES_ON, "what it prints then"


def expect_to_explain_errors(start, plaque, origin):
    with start(plaque, UNKNOWN) as client:
        told = plaque.ask(UNKNOWN)
        assert client.end() == [f"error: NOT_FOUND CHANNEL_NOT_FOUND: {told.message}"], "the lines"
    origin.control(mode="status:429", retry_after=90)
    with start(plaque, KURZGESAGT) as client:
        expect_refused(client.end(), plaque)


def expect_refused(lines, plaque):
    """The error of an upstream that wants to be left alone; `plaque` has told another client the same, before."""
    told = plaque.ask(KURZGESAGT)
    assert lines[:1] == [f"error: {told.code.name} {told.reason}: {told.message}"], "the first line"
    assert told.reason == "UPSTREAM_RATE_LIMITED", "the reason"
    hint = re.fullmatch(r"retry: in (\d+\.\d) s", "\n".join(lines[1:]))
    assert hint, f"the other lines are {lines[1:]}, expected when to retry"
    # That client asked first; each had at most 20 s.
    left = told.retry.retry_delay.ToMilliseconds() / 1000
    assert left - 0.1 <= float(hint.group(1)) <= left + 20, f"{lines[1]!r} when {left} s were left"


def expect_to_end_at_its_deadline(start, plaque):
    """Though plaque is frozen."""
    with start(plaque, KURZGESAGT, seconds=3) as client:
        begun = client.wait_for_lines(4)
        assert begun[3:] == [f"watch: {KURZGESAGT} N2FOxjtv5ns initial"], "the fourth line"
        assert not client.ended(), "it ended at once"
        plaque.program.process.send_signal(signal.SIGSTOP)
        assert client.end() == begun, "the lines"


def expect_to_survive_a_restart(bench, start, *flags):
    """A watch goes on when plaque is killed, and an upload is published before it is there again; nothing is sent twice."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="plaque-store-"))
        origin = stack.enter_context(bench.origin())
        listen = f"127.0.0.1:{free_port()}"
        command = origin.url, "--store", f"file:{folder}/store", "--listen", listen, "--watch-every", "1s", *flags
        with bench.plaque(*command) as plaque:
            client = stack.enter_context(start(plaque, KURZGESAGT, SCISHOW, events=4))
            begun = client.wait_for_lines(6)
            assert sorted(line.split()[1::2] for line in begun[4:]) == sorted([channel, "initial"] for channel in (KURZGESAGT, SCISHOW)), (
                "the events")
            plaque.program.kill()
        origin.publish(KURZGESAGT, NEW)
        with bench.plaque(*command):
            assert client.wait_for_lines(7)[6:] == WATCH_GOES_ON, "what it prints when it goes on"
            # Whatever came twice would be before this.
            origin.publish(SCISHOW, NEWER)
            assert client.end()[7:] == [f"watch: {SCISHOW} {NEWER} new"], "what it prints then"


# Bytes, not text. In the order in which they come.
A1, B1, B2, A2, B3, A3 = (bytes([0, 0xff, n]) for n in range(6))
BROKEN_WATCH = [
    Stream([upload(KURZGESAGT, "a", A1, initial=True), problem(SCISHOW, "UPSTREAM_ERROR", B1)],
           StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
    # An older server has no tokens.
    Stream([recovered(SCISHOW, B2), missed(KURZGESAGT, A2), upload(KURZGESAGT, "aa", b"")]),
    Stream([upload(SCISHOW, "b", B3)], StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
    Stream([upload(KURZGESAGT, "aaa", A3)], StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay=2.5),
    # Not a status that the service config retries: gRPC's C core may retry a call that ends as soon as it begins.
    Stream([], StatusCode.INTERNAL),
    # A retry would not help.
    Stream([], StatusCode.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"),
]
# The backoff begins with 1 s, doubles until an event comes, and is no shorter than the server asks.
LEAST_PAUSES = [1, 1, 1, 2.5, 2]


def expect_to_resume_by_tokens(start, server):
    """Whose script is BROKEN_WATCH: what a client prints of it, and what it sends."""
    with start(server, KURZGESAGT, SCISHOW) as client:
        lines = client.end(within=40)
    assert lines[4:] == [
        f"watch: {KURZGESAGT} a initial",
        f"watch: {SCISHOW} UPSTREAM_ERROR",
        f"watch: {SCISHOW} lookups work again",
        f"watch: {KURZGESAGT} uploads may have been missed",
        f"watch: {KURZGESAGT} aa new",
        f"watch: {SCISHOW} b new",
        f"watch: {KURZGESAGT} aaa new",
        "error: INVALID_ARGUMENT INVALID_RESUME_TOKEN: as the script says",
    ], "what it prints of the watch"
    assert server.tokens() == [[], [A1, B1], [B2, A2], [A2, B3], [B3, A3], [B3, A3]], "the tokens it sends"
    short = [(pause, least) for pause, least in zip(server.pauses(), LEAST_PAUSES, strict=True) if pause < least]
    assert short == [], "the pauses that are too short"
    return "pauses of " + ", ".join(f"{pause:.1f}" for pause in server.pauses()) + " s"


# The clients


def copy_the_sources():
    """Only what git does not ignore, with its times: what was built from it stays good."""
    used = "proto", "examples/clients", "deploy/service-config.json"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *used],
        cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, COPY / name)


class Client:
    """One of examples/clients, by its README: commands that end with a channel or a port start it, those before build it.

    `program` is in the command of one of several.
    """

    def __init__(self, language, program=""):
        self.folder = COPY / "examples" / "clients" / language
        source = REPOSITORY / "examples" / "clients" / language / "README.md"
        commands = re.findall(r"^\$ (.+)$", source.read_text(), re.M)
        starts = [command for command in commands if re.search(r" (UC[\w-]{22}|\d+)$", command)]
        self.build = [command for command in commands if command not in starts]
        *self.command, _last = shlex.split(next(command for command in starts if program in command))

    @contextmanager
    def started(self, server, *channels, **options):
        # In UTF-8, as a terminal would be: Java writes in the locale's encoding.
        where = "env", "-C", self.folder, "LC_ALL=C.UTF-8"
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        with running([*where, *self.command, "--server", server.address, *flags, *channels]) as program:
            yield Started(program)


class Started:
    """A client that runs."""

    def __init__(self, program):
        self.program = program

    def lines(self):
        # A line that is not whole yet is none.
        return self.program.out.read_text().rpartition("\n")[0].splitlines()

    def ended(self):
        return self.program.process.poll() is not None

    def wait_for_lines(self, count):
        wait_until(lambda: len(self.lines()) >= count or self.ended(), f"{count} lines of the client", 20)
        return self.lines()

    def end(self, within=20):
        """Waits for its end, with code 1 if it has printed an error. Returns all its lines."""
        ended, lines = self.program.exit_code(within), self.lines()
        code = int(any(line.startswith("error: ") for line in lines))
        assert ended == code, f"it ended with {ended}, expected {code}: {lines} {self.program.err.read_text()}"
        return lines


@functools.cache
def built(*names):
    """The Client of these names, built as its README says."""
    client = Client(*names)
    once_a_run("sources", copy_the_sources)
    once_a_run(names[0], lambda: build(client))
    return client


def once_a_run(name, make):
    """Calls this unless another process of this run of pytest has: a build replaces files that clients use."""
    run, stamp = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid())), COPY / f"{name}.made"
    COPY.mkdir(parents=True, exist_ok=True)
    with (COPY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != run:
            make()
            stamp.write_text(run)


def build(client):
    for command in client.build:
        # With the settings of whoever runs this: it may take a proxy to reach a registry.
        done = subprocess.run(
            command, shell=True, cwd=client.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=os.environ, timeout=PATIENCE)
        assert done.returncode == 0, f"`{command}` ended with {done.returncode}: {done.stdout[-2000:]}"
