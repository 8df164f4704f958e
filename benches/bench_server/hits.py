"""Hits: the same answer from plaque and its peers, under the same loads."""

from collections import defaultdict
from contextlib import ExitStack

from support import KURZGESAGT

from . import expect_equal
from .load import get, ghz, h2load, rotated
from .report import progress, ratios, spread, table

POINTS = [(connections, streams) for connections in (1, 10, 100) for streams in (1, 10, 100)]
SECOND_OPINION = 10, 10
# Lets allocators grow, and Go's garbage collector run.
WARM_UP = "-n", 20_000


def run(programs, args):
    """Measures, and returns the tables."""
    loads = defaultdict(list)
    with ExitStack() as running:
        origin = running.enter_context(programs.origin(latency_ms=0))
        plaque = running.enter_context(programs.plaque(origin.url))
        programs.save_answer(plaque)
        peers = programs.stock(), programs.bare(), programs.obvious(origin.url), programs.go(origin.url)
        servers = [plaque, *map(running.enter_context, peers)]
        for server in servers:
            expect_equal(f"the answer of {server.name}", server.get(KURZGESAGT), programs.answer.read_bytes())
            h2load(server, get(programs, server, KURZGESAGT), 10, 10, *WARM_UP)
        for number in range(args.rounds):
            order = rotated(servers, number)
            for point in POINTS:
                progress(f"hits: round {number + 1} of {args.rounds}, {named(point)}")
                for server in order:
                    load = h2load(server, get(programs, server, KURZGESAGT), *point, "-D", args.seconds)
                    loads["h2load", point, server.name].append(columns(load))
            for server in order:
                load = ghz(programs, server, KURZGESAGT, *SECOND_OPINION, args.seconds)
                loads["ghz", SECOND_OPINION, server.name].append(columns(load))
    return report(loads, [server.name for server in servers])


def columns(load):
    """The figures of a load, without its calls."""
    p50, p99, p999 = load.percentiles_ms(50, 99, 99.9)
    return {"CPU µs a call": load.cpu_us_a_call(), "calls a second": load.calls_a_second, "p50 ms": p50, "p99 ms": p99,
            "p99.9 ms": p999, "resident MiB": load.resident / (1 << 20)}


def report(loads, names):
    parts = ["## A hit\n", "Each figure: median (least to most) of the rounds; a ratio is of two figures of one round.\n"]
    for tool, point in [*(("h2load", point) for point in POINTS), ("ghz", SECOND_OPINION)]:
        of = {name: Rounds(loads[tool, point, name]) for name in names}
        parts += [f"### {named(point)}, by {tool}\n", one_point(of)]
    return "\n".join([*parts, "### plaque beside each\n", beside(loads)])


class Rounds:
    """The figures of one server at one point: for each column, a list of rounds."""

    def __init__(self, rounds):
        self.of = {column: [figures[column] for figures in rounds] for column in rounds[0]}


def one_point(of):
    cpu, rate = "CPU µs a call", "calls a second"
    head = ["", cpu, "/ stock", rate, "/ stock", "p50 ms", "p99 ms", "p99.9 ms", "resident MiB"]
    rows = []
    for name, rounds in of.items():
        row = [name]
        for column in (cpu, rate, "p50 ms", "p99 ms", "p99.9 ms", "resident MiB"):
            row.append(spread(rounds.of[column]))
            if column in (cpu, rate):
                row.append(ratios(rounds.of[column], of["stock"].of[column]))
        rows.append(row)
    return table(head, rows)


def beside(loads):
    """plaque's ratio to each peer, at each point."""
    compared = [("CPU µs a call", "stock"), ("CPU µs a call", "bare"), ("CPU µs a call", "obvious"), ("CPU µs a call", "go"),
                ("calls a second", "stock"), ("calls a second", "go"), ("p99 ms", "stock"), ("p99 ms", "go")]
    head = ["", *(f"{column.split()[0]} / {peer}" for column, peer in compared)]
    rows = []
    for tool, point in [*(("h2load", point) for point in POINTS), ("ghz", SECOND_OPINION)]:
        of = {peer: Rounds(loads[tool, point, peer]).of for peer in ("plaque", "stock", "bare", "obvious", "go")}
        label = named(point) + ("" if tool == "h2load" else f", {tool}")
        rows.append([label, *(ratios(of["plaque"][column], of[peer][column]) for column, peer in compared)])
    return table(head, rows)


def named(point):
    return f"{point[0]} × {point[1]}"
