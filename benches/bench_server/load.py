"""Loading a server, and what it took: by h2load, and by ghz as a second opinion."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support import run

from . import expect, expect_equal
from .programs import METHOD

# What gRPC puts before a message: a flag and the length.
FRAME = 5


@dataclass
class Load:
    """What one load has shown."""

    calls: int
    calls_a_second: float
    # Of the server, in seconds.
    cpu: float
    # Of the server, in bytes, at most.
    resident: int
    # Of each call, when it began and ended, in microseconds since any moment.
    times: list

    def cpu_us_a_call(self):
        return self.cpu * 1e6 / self.calls

    def percentiles_ms(self, *wanted):
        took = sorted(end - begin for begin, end in self.times)
        return [took[min(len(took) - 1, int(len(took) * part / 100))] / 1000 for part in wanted]


def in_turn(servers, number):
    """The order in which they are loaded in this round: none is always first."""
    first = number % len(servers)
    return servers[first:] + servers[:first]


@dataclass
class Work:
    """What h2load asks again and again, and how many bytes of body one answer has: `None` if that is not known beforehand."""

    path: str
    options: tuple
    body: int | None


def get(programs, server, channel_id):
    """The latest video of a channel, by gRPC. The server has to know it."""
    _, framed_request = programs.requests(channel_id)
    return grpc_work(METHOD, framed_request, FRAME + len(server.ask(channel_id)))


def grpc_work(method, framed_request, body):
    return Work(method, ("-d", framed_request, "-H", "content-type: application/grpc", "-H", "te: trailers"), body)


def h2load(server, work, connections, streams, *how_long):
    """Asks a server, over so many connections with so many calls at once on each.

    `how_long` is h2load's: `-D` seconds or `-n` calls; with `--rps` as many a second on each connection.
    """
    server.forget_peak()
    before = server.cpu_seconds()
    # In memory: h2load writes a line for each call.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        log = Path(folder) / "log"
        ended = run("h2load", "-c", connections, "-m", streams, *how_long, *work.options, f"--log-file={log}",
                    f"http://{server.address}{work.path}", within=120)
        cpu = server.cpu_seconds() - before
        expect_equal(f"h2load's exit code ({ended.stderr})", ended.returncode, 0)
        times = read_log(log)
    said = ended.stdout
    done, *failed = (int(number(rf"(\d+) {what}", said)) for what in ("done", "failed", "errored", "timeout"))
    expect_equal(f"the number of calls of {server.name} that failed", failed, [0, 0, 0])
    expect_equal("the number of calls in h2load's log", len(times), done)
    # h2load knows HTTP's status only. A call that fails in gRPC has status 200 and no message.
    data = number(r"\((\d+)\) data", said)
    if work.body is None:
        expect(data >= FRAME * done, f"{server.name} sent {data} bytes in {done} answers")
    else:
        # Those in progress at the end may have come half.
        expect(done * work.body <= data <= (done + connections * streams) * work.body,
               f"{server.name} sent {data} bytes in {done} answers, expected {work.body} each")
    return Load(done, number(r"([\d.]+) req/s", said), cpu, server.peak_resident_bytes(), times)


def number(pattern, text):
    return float(re.search(pattern, text).group(1))


def read_log(path):
    """Lines of the beginning since 1970 in µs, the HTTP status, how long it took in µs."""
    rows = (line.split() for line in path.read_text().splitlines())
    return [(int(begin), int(begin) + int(took)) for begin, status, took in rows if status == "200"]


def ghz(programs, server, channel_id, connections, streams, seconds):
    """The same by a gRPC client: grpc-go's. Its workers share the connections, as many as can be in progress."""
    bare_request, _ = programs.requests(channel_id)
    server.forget_peak()
    before = server.cpu_seconds()
    ended = run(
        programs.tool("ghz"), "--insecure", "--protoset", programs.tool("descriptors.bin"), "--call", METHOD.lstrip("/"),
        "--binary-file", bare_request, "--connections", connections, "--concurrency", connections * streams,
        "--duration", f"{seconds}s", "--duration-stop", "wait", "--format", "json", server.address, within=120)
    cpu = server.cpu_seconds() - before
    expect_equal(f"ghz's exit code ({ended.stderr})", ended.returncode, 0)
    said = json.loads(ended.stdout)
    expect_equal(f"what calls of {server.name} ended with", set(said["statusCodeDistribution"]), {"OK"})
    times = [(0, call["latency"] / 1000) for call in said["details"]]
    return Load(said["count"], said["rps"], cpu, server.peak_resident_bytes(), times)
