"""Generates load on a server and measures it: with h2load, and with ghz as a second opinion."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support import run

from . import expect, expect_equal
from .programs import METHOD

# The length of gRPC's message prefix: a flag and the length.
FRAME = 5


@dataclass
class Load:
    """The measurements of one load."""

    calls: int
    calls_a_second: float
    # The server's CPU time in seconds.
    cpu: float
    # The server's peak resident memory in bytes.
    resident: int
    # The start and the end of each call, in microseconds since an arbitrary time; empty if they were not logged.
    times: list

    def cpu_us_a_call(self):
        return self.cpu * 1e6 / self.calls

    def percentiles_ms(self, *wanted):
        took = sorted(end - begin for begin, end in self.times)
        return [took[min(len(took) - 1, int(len(took) * part / 100))] / 1000 for part in wanted]


def rotated(servers, number):
    """The order of the servers in this round, so that none is always first."""
    first = number % len(servers)
    return servers[first:] + servers[:first]


@dataclass
class Work:
    """A request that h2load repeats, and the length of the response body: `None` if it is not known."""

    path: str
    options: tuple
    body: int | None


def get(programs, server, channel_id):
    """A GetLatestVideo call for a cached channel."""
    _, framed_request = programs.requests(channel_id)
    return grpc_work(METHOD, framed_request, FRAME + len(server.get(channel_id)))


def grpc_work(method, framed_request, body):
    return Work(method, ("-d", framed_request, "-H", "content-type: application/grpc", "-H", "te: trailers"), body)


def h2load(server, work, connections, streams, *duration, log_calls=True):
    """Loads a server over `connections`, with `streams` concurrent calls on each.

    `duration` is passed to h2load: `-D` seconds or `-n` calls, with `--rps` calls a second on each connection. A log of calls is for
    their times. It slows h2load down, and a server that waits more often needs more CPU time a call.
    """
    server.reset_peak()
    before = server.cpu_seconds()
    # On tmpfs, since h2load writes a line for each call.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        log = Path(folder) / "log"
        logging = [f"--log-file={log}"] if log_calls else []
        ended = run("h2load", "-c", connections, "-m", streams, *duration, *work.options, *logging,
                    f"http://{server.address}{work.path}", within=120)
        cpu = server.cpu_seconds() - before
        expect_equal(f"h2load's exit code ({ended.stderr})", ended.returncode, 0)
        times = read_log(log) if log_calls else []
    output = ended.stdout
    done, *failed = (int(number(rf"(\d+) {what}", output)) for what in ("done", "failed", "errored", "timeout"))
    expect_equal(f"the number of calls of {server.name} that failed", failed, [0, 0, 0])
    if log_calls:
        expect_equal("the number of calls in h2load's log", len(times), done)
    # h2load checks only the HTTP status. A call that fails in gRPC has status 200 and no message.
    data = number(r"\((\d+)\) data", output)
    if work.body is None:
        expect(data >= FRAME * done, f"{server.name} sent {data} bytes in {done} answers")
    else:
        # Responses in progress at the end may be incomplete.
        expect(done * work.body <= data <= (done + connections * streams) * work.body,
               f"{server.name} sent {data} bytes in {done} answers, expected {work.body} each")
    return Load(done, number(r"([\d.]+) req/s", output), cpu, server.peak_resident_bytes(), times)


def number(pattern, text):
    return float(re.search(pattern, text).group(1))


def read_log(path):
    """Reads lines of the start in µs since 1970, the HTTP status, and the duration in µs."""
    rows = (line.split() for line in path.read_text().splitlines())
    return [(int(begin), int(begin) + int(took)) for begin, status, took in rows if status == "200"]


def ghz(programs, server, channel_id, connections, streams, seconds):
    """The same with grpc-go, a gRPC client. Its `connections * streams` workers share the connections."""
    bare_request, _ = programs.requests(channel_id)
    server.reset_peak()
    before = server.cpu_seconds()
    ended = run(
        programs.tool("ghz"), "--insecure", "--protoset", programs.tool("descriptors.bin"), "--call", METHOD.lstrip("/"),
        "--binary-file", bare_request, "--connections", connections, "--concurrency", connections * streams,
        "--duration", f"{seconds}s", "--duration-stop", "wait", "--format", "json", server.address, within=120)
    cpu = server.cpu_seconds() - before
    expect_equal(f"ghz's exit code ({ended.stderr})", ended.returncode, 0)
    output = json.loads(ended.stdout)
    expect_equal(f"what calls of {server.name} ended with", set(output["statusCodeDistribution"]), {"OK"})
    times = [(0, call["latency"] / 1000) for call in output["details"]]
    return Load(output["count"], output["rps"], cpu, server.peak_resident_bytes(), times)
