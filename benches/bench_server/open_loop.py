"""Hits in an open loop: calls arrive at a constant rate, whether or not earlier ones have been answered."""

from collections import defaultdict
from contextlib import ExitStack

from support import KURZGESAGT

from .load import get, h2load, rotated
from .report import figure, progress, ratios, spread, table

POINTS = (1, 10), (1, 50), (4, 10), (10, 1)
# Percentages of the bare server's rate in a closed loop.
PARTS = 20, 50, 80
WARM_UP = "-n", 20_000
COLUMNS = "CPU µs", "p50 ms", "p99 ms"


def run(programs, args):
    """Measures, and returns the table."""
    figures, rates = defaultdict(list), {}
    with ExitStack() as running:
        origin = running.enter_context(programs.origin(latency_ms=0))
        plaque = running.enter_context(programs.plaque(origin.url))
        programs.save_answer(plaque)
        servers = [plaque, running.enter_context(programs.bare())]
        work = {server.name: get(programs, server, KURZGESAGT) for server in servers}
        for server in servers:
            h2load(server, work[server.name], 10, 10, *WARM_UP)
        for point in POINTS:
            bare = servers[1]
            rates[point] = h2load(bare, work[bare.name], *point, "-D", args.seconds).calls_a_second
        for number in range(args.rounds):
            for point in POINTS:
                for part in PARTS:
                    progress(f"open loop: round {number + 1} of {args.rounds}, {point[0]} × {point[1]} at {part} %")
                    rate = max(1, int(rates[point] * part / 100 / point[0]))
                    for server in rotated(servers, number):
                        load = h2load(server, work[server.name], *point, "-D", args.seconds, "--rps", rate)
                        p50, p99 = load.percentiles_ms(50, 99)
                        figures[point, part, server.name].append((load.cpu_us_a_call(), p50, p99))
    rows = []
    for point in POINTS:
        for part in PARTS:
            of = {name: list(zip(*figures[point, part, name])) for name in ("plaque", "bare")}
            row = [f"{point[0]} × {point[1]} at {figure(rates[point] * part / 100)} a second ({part} %)"]
            for column in range(len(COLUMNS)):
                row += [spread(of["plaque"][column]), ratios(of["plaque"][column], of["bare"][column])]
            rows.append(row)
    head = ["", *(word for column in COLUMNS for word in (column, "/ bare"))]
    return "## A hit in an open loop\n\n" + table(head, rows)
