"""Connections that reach --max-connection-age cost no call, whatever client has them, nor do plaques that are restarted in turn.

The clients are gRPC's of Go, Java, Node.js and Python. Those of examples/clients bring their libraries. Ages are tried with no retries but the
libraries' own, restarts with deploy/service-config.json and a list of addresses.
"""

import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle

import grpc
import pytest

import h2
from attack_support import GET
from example_clients import built
from h2 import ErrorCode, Kind
from mesh_support import Instance
from support import OPTIONS, REPOSITORY, free_port, made_up_channel, request, run, running, services, wait_until

SOURCES = REPOSITORY / "tests" / "blackbox" / "aged"
SERVICE_CONFIG = REPOSITORY / "deploy" / "service-config.json"
# Milliseconds of the upstream; calls a second; all calls. At each moment 160 are in progress.
LATENCY, RATE, CALLS = 800, 200, 1000
# Every call is a lookup, and on a slow machine many wait: none is to fail because of that.
NO_OVERLOAD = "--upstream-rate", "0", "--upstream-concurrency", "4000", "--upstream-queue", "4000"


@contextmanager
def aged(bench, *flags, latency=LATENCY):
    """A plaque whose connections age within 1 s, and a slow upstream."""
    flags = "--max-connection-age", "1s", *NO_OVERLOAD, *flags
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
    return programs_calls(folder / "aged")


def java(client):
    path = f"{client.folder}/target/classes:{client.folder}/target/lib/*"
    build(client, "javac", "-cp", path, "-d", "target/classes", SOURCES / "Aged.java")
    return programs_calls("java", "-cp", path, "Aged")


def node(client):
    shutil.copy2(SOURCES / "aged.mjs", client.folder)
    return programs_calls("node", client.folder / "aged.mjs")


def build(client, *command):
    done = run("env", "-C", client.folder, *command, within=200)
    assert done.returncode == 0, f"`{command[0]}` ended with {done.returncode}: {done.stderr[-2000:]}"


def programs_calls(*command):
    def make(*arguments):
        with running([*command, *arguments]) as program:
            assert program.exit_code(within=40) == 0, "the exit code"
            return program.out.read_text().splitlines()
    return make


def python_calls(addresses, count, rate, config):
    options = ("grpc.service_config", config), ("grpc.default_authority", "plaque")
    with grpc.insecure_channel(f"ipv4:{addresses}", [*OPTIONS, *options]) as channel:
        client, calls, began = services.LatestVideoStub(channel), [], time.monotonic()
        for number in range(count):
            time.sleep(max(0, began + number / rate - time.monotonic()))
            calls.append(client.GetLatestVideo.future(request(made_up_channel(number)), timeout=10))
        codes = [call.code() for call in calls]
        return [code.name if code is grpc.StatusCode.OK else f"{code.name} {call.details()}"
                for code, call in zip(codes, calls, strict=True)]


LANGUAGES = "go", "java", "node", "python"


def caller(language):
    """Makes calls of addresses, so many, at a rate, with a service config, and returns a line for each: how it ended."""
    return python_calls if language == "python" else {"go": go, "java": java, "node": node}[language](built(language))


def outcomes(lines):
    """How many calls ended how. Addresses and durations are none of it."""
    counts = Counter(re.sub(r"[\d.]{3,}\S*", "…", line.strip()) for line in lines)
    return ", ".join(f"{count} × {how}" for how, count in counts.most_common(6))


# Builds, with their downloads.
@pytest.mark.timeout(500)
@pytest.mark.parametrize("language", LANGUAGES)
def test_aging_costs_no_call(bench, language, note):
    make_calls = caller(language)
    # Fewer streams than calls in progress: grpc-java keeps the others.
    flags = ("--max-streams", "100") if language == "java" else ()
    with aged(bench, *flags) as plaque:
        assert outcomes(make_calls(plaque.address, CALLS, RATE, "{}")) == f"{CALLS} × OK", "the calls"
        made = plaque.metric("plaque_connections_accepted_total")
    assert made >= 3, f"there were only {made:.0f} connections: this check shows nothing"
    note(f"{CALLS} calls, {made:.0f} connections")


# Restarts


ANSWERED = ('rpc_server_call_duration_seconds_count{rpc_system_name="grpc",rpc_method="plaque.v1.LatestVideo/GetLatestVideo",'
            'rpc_response_status_code="OK"}')


def restart_in_turn(instances, done):
    """Restarts one after the other until it is done, each when the one before answers calls again. Returns how often."""
    for count, instance in enumerate(cycle(instances)):
        wait_until(lambda: done() or all(each.plaque.metric(ANSWERED) for each in instances), "both answer calls")
        if done():
            return count
        instance.stop()
        instance.start()


@pytest.mark.timeout(500)
@pytest.mark.parametrize("language", LANGUAGES)
def test_restarts_in_turn_cost_no_call(bench, language, note):
    make_calls, count, rate = caller(language), 1500, 100
    with bench.origin(synthesize=True, latency_ms=100) as origin, ExitStack() as programs:
        instances = [Instance(bench, origin.url, free_port(), "--drain-delay", "1s", *NO_OVERLOAD) for _ in range(2)]
        for instance in instances:
            programs.callback(instance.process.close)
            instance.start()
        addresses = ",".join(instance.plaque.address for instance in instances)
        calls = programs.enter_context(ThreadPoolExecutor(1)).submit(make_calls, addresses, count, rate, SERVICE_CONFIG.read_text())
        restarts = restart_in_turn(instances, calls.done)
        assert outcomes(calls.result()) == f"{count} × OK", f"the calls during {restarts} restarts"
    assert restarts >= 2, f"there were only {restarts} restarts: this check shows nothing"
    note(f"{count} calls, {restarts} restarts")
