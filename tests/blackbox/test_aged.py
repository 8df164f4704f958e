"""Connections that reach --max-connection-age cost no call, whatever client has them.

The clients are gRPC's of Go, Java, Node.js and Python, with no retries but their own. Those of examples/clients bring their libraries.
"""

import re
import shutil
import time
from collections import Counter
from contextlib import contextmanager

import grpc
import pytest

import h2
from attack_support import GET
from example_clients import built
from h2 import ErrorCode, Kind
from support import REPOSITORY, made_up_channel, request, run, running, services, wait_until

SOURCES = REPOSITORY / "tests" / "blackbox" / "aged"
# Milliseconds of the upstream; calls a second; all calls. At each moment 160 are in progress.
LATENCY, RATE, CALLS = 800, 200, 1000


@contextmanager
def aged(bench, *flags, latency=LATENCY):
    """A plaque whose connections age within 1 s, and a slow upstream."""
    flags = "--max-connection-age", "1s", "--upstream-concurrency", "4000", "--upstream-queue", "4000", *flags
    with bench.plaque_and_origin(*flags, synthesize=True) as (plaque, origin):
        origin.control(latency_ms=latency)
        yield plaque


# Clients, in the order in which they write


def body(number):
    return h2.grpc_message(request(made_up_channel(number)).SerializeToString())


class CCore(h2.Connection):
    """Writes as gRPC's C core does: acknowledgements before what it had begun by then, and a WINDOW_UPDATE for each stream."""

    def __init__(self, address):
        super().__init__(address)
        self.last_streams = []

    def take(self, kind, flags, stream, payload):
        super().take(kind, flags, stream, payload)
        if kind == Kind.GOAWAY:
            self.last_streams.append(int.from_bytes(payload[:4], "big"))

    def begin(self, number):
        stream = next(self.numbers)
        head = h2.frame(Kind.HEADERS, stream, h2.request_fields(GET), h2.END_HEADERS)
        self.answer()
        self.send(head + h2.window_update(stream, 5) + h2.frame(Kind.DATA, stream, body(number), h2.END_STREAM))
        return stream


def test_a_call_that_was_begun_before_the_goaway_is_served_and_ends_no_other(bench):
    with aged(bench, latency=2 * LATENCY) as plaque, CCore(plaque.address) as client:
        client.wait_until(lambda: client.settings, "SETTINGS")
        client.answer()
        calls = [client.begin(0)]
        # It is still in progress then. Another was begun before the GOAWAY was read, and is written after it.
        wait_until(lambda: client.receive() or client.goaways or client.closed, "a GOAWAY", 5)
        calls.append(client.begin(1))
        assert [client.status(call) for call in calls] == [0, 0], "how the calls end"
        client.wait_closed(seconds=10)
        assert set(client.goaways) == {ErrorCode.NO_ERROR}, "the GOAWAYs"
        assert client.last_streams[-1] == calls[-1], "the last stream that they name"


# Clients as they are


def go(client):
    folder = client.folder / "aged"
    folder.mkdir(exist_ok=True)
    shutil.copy2(SOURCES / "main.go", folder)
    build(client, "go", "build", "-o", "aged/aged", "./aged")
    return [folder / "aged"]


def java(client):
    path = f"{client.folder}/target/classes:{client.folder}/target/lib/*"
    build(client, "javac", "-cp", path, "-d", "target/classes", SOURCES / "Aged.java")
    return ["java", "-cp", path, "Aged"]


def node(client):
    shutil.copy2(SOURCES / "aged.mjs", client.folder)
    return ["node", client.folder / "aged.mjs"]


def build(client, *command):
    done = run("env", "-C", client.folder, *command, within=200)
    assert done.returncode == 0, f"`{command[0]}` ended with {done.returncode}: {done.stderr[-2000:]}"


def outcomes(lines):
    """How many calls ended how. Addresses and durations are none of it."""
    counts = Counter(re.sub(r"[\d.]{3,}\S*", "…", line.strip()) for line in lines)
    return ", ".join(f"{count} × {how}" for how, count in counts.most_common(6))


def expect_no_failure(plaque, lines):
    assert outcomes(lines) == f"{CALLS} × OK", "the calls"
    made = plaque.metric("plaque_connections_accepted_total")
    assert made >= 3, f"there were only {made:.0f} connections: this check shows nothing"
    return f"{CALLS} calls, {made:.0f} connections"


@pytest.mark.timeout(500)
@pytest.mark.parametrize("language", [go, java, node])
def test_aging_costs_no_call(bench, language, note):
    command = language(built(language.__name__))
    # Fewer streams than calls in progress: grpc-java keeps the others.
    flags = ("--max-streams", "100") if language is java else ()
    with aged(bench, *flags) as plaque, running([*command, plaque.address, CALLS, RATE]) as program:
        assert program.exit_code(within=40) == 0, "the exit code"
        note(expect_no_failure(plaque, program.out.read_text().splitlines()))


def test_python_aging_costs_no_call(bench, note):
    with aged(bench) as plaque:
        client, calls, began = services.LatestVideoStub(plaque.channel), [], time.monotonic()
        for number in range(CALLS):
            time.sleep(max(0, began + number / RATE - time.monotonic()))
            calls.append(client.GetLatestVideo.future(request(made_up_channel(number)), timeout=10))
        codes = [call.code() for call in calls]
        lines = [code.name if code is grpc.StatusCode.OK else f"{code.name} {call.details()}"
                 for code, call in zip(codes, calls, strict=True)]
        note(expect_no_failure(plaque, lines))
