"""Connections that reach --max-connection-age cost no call, whatever client has them.

The clients are gRPC's of Go, Java, Node.js and Python, with no retries but their own. Those of examples/clients bring their libraries.
"""

from contextlib import contextmanager

import pytest

import h2
from attack_support import GET
from callers import LANGUAGES, caller, java, outcomes
from h2 import ErrorCode, Kind
from support import made_up_channel, request, running, wait_until

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


def expect_no_failure(plaque, lines):
    assert outcomes(lines) == f"{CALLS} × OK", "the calls"
    made = plaque.metric("plaque_connections_accepted_total")
    assert made >= 3, f"there were only {made:.0f} connections: this check shows nothing"
    return f"{CALLS} calls, {made:.0f} connections"


@pytest.mark.timeout(500)
@pytest.mark.parametrize("language", LANGUAGES)
def test_aging_costs_no_call(bench, language, note):
    command = caller(language)
    # Fewer streams than calls in progress: grpc-java keeps the others.
    flags = ("--max-streams", "100") if language is java else ()
    with aged(bench, *flags) as plaque, running([*command, plaque.address, CALLS, RATE]) as program:
        assert program.exit_code(within=40) == 0, "the exit code"
        note(expect_no_failure(plaque, program.out.read_text().splitlines()))
