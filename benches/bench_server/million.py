"""Hits with one cached channel, and with a million."""

import re
from collections import defaultdict
from contextlib import ExitStack

from support import run as run_to_its_end

from . import expect_equal
from .load import rotated
from .report import progress, ratios, spread, table

CONNECTIONS, STREAMS = 10, 10
WARM_UP_SECONDS = 1
# The number of channels that a busy server gets calls for, most of them rarely.
POPULAR = 10_000
# A million channels of 15 uploads take 2.3 GB. `fill` has 1,000 lookups in progress.
FLAGS = "--cache-bytes", "4GiB", "--upstream-concurrency", "64", "--upstream-queue", "20000", "--log", "warn"


def run(programs, args):
    """Measures, and returns the table."""
    costs = defaultdict(list)
    with ExitStack() as running:
        origin = running.enter_context(programs.fast_origin())
        single, full = (running.enter_context(programs.plaque(origin, *FLAGS)) for _ in range(2))
        empty = full.resident_bytes()
        progress(f"million: filling {args.channels:,} channels")
        client(programs, "fill", single, "--channels", 1)
        client(programs, "fill", full, "--channels", args.channels, within=3600)
        each = (full.resident_bytes() - empty) / args.channels
        one, many = "the only channel", f"of {args.channels:,}"
        every, popular = ("--channels", args.channels), ("--channels", POPULAR, "--zipf")
        loads = [(one, single, ["--channels", 1]), (f"one {many}", full, ["--channels", 1]),
                 (f"of {POPULAR:,}, by Zipf's law", full, popular), (f"any {many}, by Zipf's law", full, [*every, "--zipf"]), (f"any {many}, evenly", full, every)]
        for _, plaque, choice in loads:
            cpu_us_a_call(programs, plaque, choice, WARM_UP_SECONDS)
        for number in range(args.rounds):
            progress(f"million: round {number + 1} of {args.rounds}")
            for name, plaque, choice in rotated(loads, number):
                costs[name].append(cpu_us_a_call(programs, plaque, choice, args.seconds))
    rows = [[name, spread(costs[name]), ratios(costs[name], costs[one])] for name, *_ in loads]
    title = f"## A hit among {args.channels:,} cached channels ({each:,.0f} bytes each), {CONNECTIONS} × {STREAMS}\n\n"
    return title + table(["", "CPU µs a call", f"/ {one}"], rows)


def cpu_us_a_call(programs, plaque, choice, seconds):
    before = plaque.cpu_seconds()
    shape = "--connections", CONNECTIONS, "--streams", STREAMS, "--seconds", seconds
    output = client(programs, "load", plaque, *choice, *shape)
    return (plaque.cpu_seconds() - before) * 1e6 / int(re.fullmatch(r"(\d+) calls\n", output).group(1))


def client(programs, name, plaque, *flags, within=120):
    """Runs one of the clients in benches/peers/tonic against a plaque, and returns its output."""
    ended = run_to_its_end(programs.client(name), "--address", plaque.address, *flags, within=within)
    expect_equal(f"the exit code of {name} ({ended.stderr})", ended.returncode, 0)
    return ended.stdout
