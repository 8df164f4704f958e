"""CPU time of answers by size, compared with peers that send the same bytes and with file servers; and of plaque's other answers."""

import copy
import itertools
import statistics
import urllib.request
from contextlib import ExitStack

from origin.feeds import upload
from snapshots import SnapshotServer
from support import batch_request, free_port, made_up_channel

from . import chart, expect, expect_equal, floor
from .load import FRAME, Work, get, grpc_work, h2load, rotated
from .programs import BATCH_METHOD, METHOD
from .report import progress, ratios, spread, table

# Sizes of the message in bytes. "least" has a title of one byte.
SIZES = "least", 237, 300, 600, 1200
CONNECTIONS, STREAMS = 10, 10
WARM_UP = "-n", 20_000
BATCHES = 1, 10, 100
TITLE = "A title of 40 bytes, as many titles have"


def run(programs, args):
    """Measures, and returns the tables."""
    port = free_port()
    with SnapshotServer() as feeds, programs.plaque(feeds.url(), "--http-listen", f"127.0.0.1:{port}") as plaque:
        return "\n".join([sizes(programs, args, feeds, plaque), others(programs, args, feeds, plaque, port)])


def sizes(programs, args, feeds, plaque):
    rows, charted, fresh = [], [], map(made_up_channel, itertools.count(1000))
    for size in SIZES:
        channel, answer = answer_of(feeds, plaque, fresh, size)
        programs.answer.write_bytes(answer)
        with ExitStack() as running:
            peers = programs.stock(), programs.bare(), programs.go(feeds.url())
            servers = [plaque, *map(running.enter_context, peers)]
            for server in servers:
                expect_equal(f"the answer of {server.name}", server.get(channel), answer)
            jobs = [(server, get(programs, server, channel), server.name) for server in servers]
            for start in floor.h2o, floor.nghttpd, floor.envoy:
                server = running.enter_context(start(programs, answer))
                jobs.append((server, Work(floor.PATH, (), FRAME + len(answer)), server.name))
            cpu = measure(args, f"answers of {len(answer)} bytes", jobs)
        compared = (ratios(cpu["plaque"], cpu[peer]) for peer in ("stock", "bare", "go", "h2o"))
        rows.append([f"{len(answer)}", *map(spread, cpu.values()), *compared])
        charted.append((f"{len(answer)} bytes", {name: statistics.median(values) for name, values in cpu.items()}))
    if args.into:
        title = f"CPU time of an answer in µs, by its size; {CONNECTIONS} connections of {STREAMS} calls at once"
        (args.into / "answers.svg").write_text(chart.bars(title, charted))
    head = ["bytes", "plaque", "stock", "bare", "go", "h2o", "nghttpd", "envoy", "/ stock", "/ bare", "/ go", "/ h2o"]
    return f"## Answers of several sizes, {CONNECTIONS} × {STREAMS}: CPU µs a call\n\n" + table(head, rows)


def answer_of(feeds, plaque, fresh, size):
    """Makes a channel whose answer has `size` bytes. Returns both."""
    length = 1
    for _ in range(4):
        channel = next(fresh)
        feeds.show(channel, [upload(1, title="t" * length)])
        answer = plaque.get(channel)
        if size in ("least", len(answer)):
            break
        length += size - len(answer)
    expect(size in ("least", len(answer)), f"there is no answer of {size} bytes: {len(answer)}")
    return channel, answer


def others(programs, args, feeds, plaque, port):
    """Errors, batches and JSON, which no peer has; beside JSON, a file of the same bytes."""
    channels = [made_up_channel(number) for number in range(max(BATCHES))]
    for channel in channels:
        feeds.show(channel, [upload(1, title=TITLE)])
        plaque.get(channel)
    unknown = made_up_channel(999)
    jobs = [(plaque, get(programs, plaque, channels[0]), "an answer")]
    framed = programs.framed("unknown", programs.request(unknown))
    jobs.append((plaque, grpc_work(METHOD, framed, 0), "an error"))
    for count in BATCHES:
        request = batch_request(channels[:count]).SerializeToString()
        body = FRAME + len(plaque.call(BATCH_METHOD, request))
        jobs.append((plaque, grpc_work(BATCH_METHOD, programs.framed(f"batch-{count}", request), body), f"a batch of {count}"))
    by_http = copy.copy(plaque)
    by_http.address = f"127.0.0.1:{port}"
    path = f"/v1/channels/{channels[0]}/latest-video"
    with urllib.request.urlopen(f"http://{by_http.address}{path}", timeout=20) as response:
        answer = response.read()
    jobs.append((by_http, Work(path, ("--h1",), len(answer)), "JSON over HTTP/1.1, 100 × 1"))
    # The file has a prefix of its own.
    with floor.h2o(programs, answer[FRAME:]) as h2o:
        jobs.append((h2o, Work(floor.PATH, ("--h1",), len(answer)), "a file of this size, the same way, by h2o"))
        cpu = measure(args, "other answers", jobs)
    rows = []
    for name, values in cpu.items():
        channels_each = int(name.split()[-1]) if name.startswith("a batch") else 1
        rows.append([name, spread(values), spread([value / channels_each for value in values])])
    return "## Other answers\n\n" + table(["", "CPU µs a call", "a channel"], rows)


def measure(args, what, jobs):
    """The CPU time of a call in each round, by the name of the job."""
    cpu = {name: [] for _, _, name in jobs}

    def load(job, *how_long):
        server, work, name = job
        # HTTP/1.1 has one call at a time on a connection: as many calls in progress take as many connections.
        shape = (CONNECTIONS * STREAMS, 1) if "--h1" in work.options else (CONNECTIONS, STREAMS)
        return name, h2load(server, work, *shape, *how_long, log_calls=False)

    for job in jobs:
        load(job, *WARM_UP)
    for number in range(args.rounds):
        progress(f"{what}: round {number + 1} of {args.rounds}")
        for job in rotated(jobs, number):
            name, measured = load(job, "-D", args.seconds)
            cpu[name].append(measured.cpu_us_a_call())
    return cpu
