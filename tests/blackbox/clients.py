"""The clients in examples/clients, each built and started as its README says, and grpcurl: all tell the same of the same answers.

    python tests/blackbox/clients.py --plaque target/release/plaque --grpcurl PATH

Needs what the READMEs name. The clients are built in a copy, target/clients, where the next run finds what this one built.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager

import grpc
from grpc import StatusCode

from scripted_server import Stream, missed, problem, recovered, scripted_server, upload
from support import (
    KURZGESAGT, REPOSITORY, SCISHOW, UNKNOWN, Bench, Stopwatch, Suite, expect, expect_equal, free_port, run, running,
    wait_until,
)

SERVICE = "plaque.v1.LatestVideo"
LANGUAGES = "python", "go", "node", "java", "rust"
COPY = REPOSITORY / "target" / "clients"
# For downloads, and a Rust build on a busy machine.
PATIENCE = 400

suite = Suite()


# What any client prints


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
    expect_equal("what it prints of the answers", lines[:4], ANSWERS)
    expect_equal("what it prints as the watch begins", (set(lines[4:]), len(lines)), (WATCH_BEGINS, 6))


def expect_refused(lines, plaque):
    """The error of an upstream that wants to be left alone; `plaque` has told another client the same, before."""
    told = plaque.ask(KURZGESAGT)
    expect_equal("the first line", lines[:1], [f"error: {told.code.name} {told.reason}: {told.message}"])
    expect_equal("the reason", told.reason, "UPSTREAM_RATE_LIMITED")
    hint = re.fullmatch(r"retry: in (\d+\.\d) s", "\n".join(lines[1:]))
    expect(hint, f"the other lines are {lines[1:]}, expected when to retry")
    # That client asked first; each had at most 20 s.
    left = told.retry.retry_delay.ToMilliseconds() / 1000
    expect(left - 0.1 <= float(hint.group(1)) <= left + 20, f"{lines[1]!r} when {left} s were left")


def expect_to_survive_a_restart(bench, start, *flags):
    """A watch goes on when plaque is killed, and an upload is published before it is there again; nothing is sent twice.

    `start`, given a plaque, is the context of a client that watches KURZGESAGT and SCISHOW for 4 events.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="plaque-store-"))
        origin = stack.enter_context(bench.origin())
        listen = f"127.0.0.1:{free_port()}"
        command = origin.url, "--store", f"file:{folder}/store", "--listen", listen, "--watch-every", "1s", *flags
        with bench.plaque(*command) as plaque:
            client = stack.enter_context(start(plaque))
            begun = client.wait_for_lines(6)
            expect_equal("the events", sorted(line.split()[1::2] for line in begun[4:]),
                         sorted([channel, "initial"] for channel in (KURZGESAGT, SCISHOW)))
            plaque.program.kill()
        origin.publish(KURZGESAGT, NEW)
        with bench.plaque(*command):
            expect_equal("what it prints when it goes on", client.wait_for_lines(7)[6:], WATCH_GOES_ON)
            # Whatever came twice would be before this.
            origin.publish(SCISHOW, NEWER)
            expect_equal("what it prints then", client.end()[7:], [f"watch: {SCISHOW} {NEWER} new"])


# Bytes, not text. In the order in which they come.
A1, B1, B2, A2, B3, A3 = (bytes([0, 0xff, n]) for n in range(6))
BROKEN_WATCH = [
    Stream([upload(KURZGESAGT, "a", A1, initial=True), problem(SCISHOW, "UPSTREAM_ERROR", B1)],
           StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
    # An older server has no tokens.
    Stream([recovered(SCISHOW, B2), missed(KURZGESAGT, A2), upload(KURZGESAGT, "aa", b"")]),
    Stream([upload(SCISHOW, "b", B3)], StatusCode.INTERNAL),
    Stream([upload(KURZGESAGT, "aaa", A3)], StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay=2.5),
    Stream([], StatusCode.UNAVAILABLE, "SHUTTING_DOWN"),
    # Another try would not mend that.
    Stream([], StatusCode.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN"),
]
# The backoff begins with 1 s, doubles until an event comes, and is no shorter than the server asks.
LEAST_PAUSES = [1, 1, 1, 2.5, 2]


def expect_to_resume_by_tokens(lines, server):
    """What a client prints of BROKEN_WATCH, which `server` followed, and what it sends."""
    expect_equal("what it prints of the watch", lines[4:], [
        f"watch: {KURZGESAGT} a initial",
        f"watch: {SCISHOW} UPSTREAM_ERROR",
        f"watch: {SCISHOW} lookups work again",
        f"watch: {KURZGESAGT} uploads may have been missed",
        f"watch: {KURZGESAGT} aa new",
        f"watch: {SCISHOW} b new",
        f"watch: {KURZGESAGT} aaa new",
        "error: INVALID_ARGUMENT INVALID_RESUME_TOKEN: as the script says",
    ])
    expect_equal("the tokens it sends", server.tokens(), [[], [A1, B1], [B2, A2], [A2, B3], [B3, A3], [B3, A3]])
    short = [(pause, least) for pause, least in zip(server.pauses(), LEAST_PAUSES, strict=True) if pause < least]
    expect_equal("the pauses that are too short", short, [])
    return "pauses of " + ", ".join(f"{pause:.1f}" for pause in server.pauses()) + " s"


# The clients


def copy_the_sources():
    """Only what git does not ignore, with its times: what was built from it stays good."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "proto", "examples/clients"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, COPY / name)


class Client:
    """One of examples/clients. Its README's last command starts it, for one channel; those before build it."""

    def __init__(self, language):
        self.folder = COPY / "examples" / "clients" / language
        source = REPOSITORY / "examples" / "clients" / language / "README.md"
        *self.build, start = re.findall(r"^\$ (.+)$", source.read_text(), re.M)
        *self.command, _channel = shlex.split(start)

    @contextmanager
    def started(self, plaque, *arguments):
        # In UTF-8, as a terminal would be: Java writes in the locale's encoding.
        where = "env", "-C", self.folder, "LC_ALL=C.UTF-8"
        with running([*where, *self.command, "--server", plaque.address, *arguments]) as program:
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

    def end(self, code=0, within=20):
        """Waits for its end with this exit code. Returns all its lines."""
        ended = self.program.exit_code(within)
        expect(ended == code, f"it ended with {ended}, expected {code}: {self.lines()} {self.program.err.read_text()}")
        return self.lines()


def it_is_built_as_its_readme_says(_bench, language):
    copy_the_sources()
    client, watch = Client(language), Stopwatch()
    for command in client.build:
        # With the settings of whoever runs this: it may take a proxy to reach a registry.
        done = subprocess.run(
            command, shell=True, cwd=client.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=os.environ, timeout=PATIENCE)
        expect(done.returncode == 0, f"`{command}` ended with {done.returncode}: {done.stdout[-2000:]}")
    return f"{watch.seconds():.1f} s"


def it_prints_the_answers_and_a_new_upload(bench, language):
    with bench.plaque_and_origin("--watch-every", "1s") as (plaque, origin):
        with Client(language).started(plaque, "--events", "3", KURZGESAGT, UNKNOWN) as client:
            expect_begun(client.wait_for_lines(6))
            origin.publish(KURZGESAGT, NEW)
            expect_equal("what it prints then", client.end(code=0)[6:], WATCH_GOES_ON)


def it_tells_why_a_call_failed_and_when_to_retry(bench, language):
    with bench.plaque_and_origin() as (plaque, origin):
        with Client(language).started(plaque, UNKNOWN) as client:
            told = plaque.ask(UNKNOWN)
            expect_equal("the lines", client.end(code=1), [f"error: NOT_FOUND CHANNEL_NOT_FOUND: {told.message}"])
        origin.control(mode="status:429", retry_after=90)
        with Client(language).started(plaque, KURZGESAGT) as client:
            expect_refused(client.end(code=1), plaque)


def its_watch_ends_at_its_deadline_though_the_server_is_frozen(bench, language):
    with bench.plaque_and_origin() as (plaque, _):
        with Client(language).started(plaque, "--seconds", "3", KURZGESAGT) as client:
            begun = client.wait_for_lines(4)
            expect_equal("the fourth line", begun[3:], [f"watch: {KURZGESAGT} N2FOxjtv5ns initial"])
            expect(not client.ended(), "it ended at once")
            plaque.program.process.send_signal(signal.SIGSTOP)
            expect_equal("the lines", client.end(code=0), begun)


def its_watch_survives_a_restart(bench, language):
    expect_to_survive_a_restart(
        bench, lambda plaque: Client(language).started(plaque, "--events", "4", KURZGESAGT, SCISHOW))


def its_watch_resumes_with_the_last_token_of_each_channel(_bench, language):
    with scripted_server(BROKEN_WATCH) as server, Client(language).started(server, KURZGESAGT, SCISHOW) as client:
        return expect_to_resume_by_tokens(client.end(code=1, within=40), server)


for built_by in LANGUAGES:
    for check in (it_is_built_as_its_readme_says, it_prints_the_answers_and_a_new_upload,
                  it_tells_why_a_call_failed_and_when_to_retry, its_watch_ends_at_its_deadline_though_the_server_is_frozen,
                  its_watch_survives_a_restart, its_watch_resumes_with_the_last_token_of_each_channel):
        suite.add(f"{built_by}: {check.__name__.replace('_', ' ')}", check, built_by)


# grpcurl, whose JSON is put into the clients' words


def grpcurl(bench, plaque, flag, method, **asked):
    """The command of a call."""
    expect(bench.grpcurl_program, "no grpcurl in PATH: name one with --grpcurl")
    flags = "-plaintext", "-max-time", 20, flag, "-d", json.dumps(asked)
    return bench.grpcurl_program, *flags, plaque.address, f"{SERVICE}/{method}"


def messages(text):
    """The messages in what `grpcurl -v` prints, as far as they are whole."""
    contents = re.findall(r"^Response contents:\n(\{.*?^\})$", text, re.M | re.S)
    return [json.loads(message) for message in contents]


def upload_or_reason(result):
    return result["found"]["video"]["videoId"] if "found" in result else result["failure"]["reason"]


def event_line(event):
    if "problem" in event:
        return f"watch: {event['problem']['channelId']} {upload_or_reason(event['problem'])}"
    return f"watch: {event['video']['channelId']} {event['video']['videoId']} {'initial' if event.get('initial') else 'new'}"


@suite.check
def grpcurl_is_told_the_same_answers_and_the_same_new_upload(bench):
    both = [KURZGESAGT, UNKNOWN]
    with bench.plaque_and_origin("--watch-every", "1s") as (plaque, origin):
        got = run(*grpcurl(bench, plaque, "-v", "GetLatestVideo", channel_id=KURZGESAGT)).stdout
        [video] = [answer["video"] for answer in messages(got)]
        lines = [f"latest: {video['videoId']} {video['kind']} {video['title']}", *re.findall("^cache-status: .*", got, re.M)]
        [batch] = messages(run(*grpcurl(bench, plaque, "-v", "BatchGetLatestVideos", channel_ids=both)).stdout)
        lines += [f"batch: {result['channelId']} {upload_or_reason(result)}" for result in batch["results"]]

        with running(grpcurl(bench, plaque, "-v", "WatchLatestVideo", channel_ids=both)) as watch:
            def events(count):
                wait_until(lambda: len(messages(watch.out.read_text())) >= count, f"{count} events")
                return [event_line(event) for event in messages(watch.out.read_text())]

            expect_begun(lines + events(2))
            origin.publish(KURZGESAGT, NEW)
            expect_equal("what it tells then", events(3)[2:], WATCH_GOES_ON)


@suite.check
def grpcurl_is_told_the_same_error_and_when_to_retry(bench):
    with bench.plaque_and_origin() as (plaque, origin):
        origin.control(mode="status:429", retry_after=90)
        told = json.loads(run(*grpcurl(bench, plaque, "-format-error", "GetLatestVideo", channel_id=KURZGESAGT)).stderr)
        code = next(code.name for code in grpc.StatusCode if code.value[0] == told["code"])
        details = {detail["@type"].rpartition(".")[2]: detail for detail in told["details"]}
        expect_refused([
            f"error: {code} {details['ErrorInfo']['reason']}: {told['message']}",
            f"retry: in {float(details['RetryInfo']['retryDelay'].rstrip('s')):.1f} s"], plaque)


if __name__ == "__main__":
    suite.run(Bench(__doc__.splitlines()[0]))
