"""Many concurrent callers of a channel that is not cached."""

from collections import defaultdict
from contextlib import ExitStack

from support import KURZGESAGT, made_up_channel

from . import expect_equal
from .load import get, grpc_work, h2load, rotated
from .programs import METHOD
from .report import progress, spread, table

CONNECTIONS, STREAMS = 100, 100
CALLERS = CONNECTIONS * STREAMS
LATENCY_MS = 100


def run(programs, args):
    """Measures, and returns the table."""
    figures = defaultdict(list)
    with ExitStack() as running:
        origin = running.enter_context(programs.origin(LATENCY_MS))
        plaque = running.enter_context(programs.plaque(origin.url))
        programs.save_answer(plaque)
        peers = programs.obvious(origin.url), programs.go(origin.url)
        servers = [plaque, *map(running.enter_context, peers)]
        for server in servers:
            # Warms up with as many concurrent hits, so that memory for connections and callers is allocated.
            server.get(KURZGESAGT)
            h2load(server, get(programs, server, KURZGESAGT), CONNECTIONS, STREAMS, "-n", CALLERS)
        for number in range(args.rounds):
            progress(f"burst: round {number + 1} of {args.rounds}")
            for place, server in enumerate(rotated(servers, number)):
                # A new channel for each server, since lookups are counted by channel.
                channel = made_up_channel(number * len(servers) + place)
                figures[server.name].append(one(programs, origin, server, channel))
    head = ["", "last answer, ms after the upstream's", "CPU ms", "upstream calls, at most"]
    rows = []
    for server in servers:
        late_ms, cpu_ms, lookups = zip(*figures[server.name])
        rows.append([server.name, spread(late_ms), spread(cpu_ms), str(max(lookups))])
    title = f"## A burst: {CALLERS:,} callers of a channel not yet known, an upstream that takes {LATENCY_MS} ms\n\n"
    return title + table(head, rows)


def one(programs, origin, server, channel):
    """Measures one burst: ms from the upstream's answer to the last caller's, ms of the server's CPU time, lookups."""
    _, framed = programs.requests(channel)
    load = h2load(server, grpc_work(METHOD, framed, None), CONNECTIONS, STREAMS, "-n", CALLERS)
    expect_equal("the number of answers", load.calls, CALLERS)
    took_ms = (max(end for _, end in load.times) - min(begin for begin, _ in load.times)) / 1000
    return took_ms - LATENCY_MS, load.cpu * 1000, origin.lookups(channel)
