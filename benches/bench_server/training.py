"""Calls of many kinds to a build that records a profile, which `just dist` then compiles by. Nothing is compared."""

import itertools

from snapshots import SnapshotServer
from support import free_port, made_up_channel

from . import answers, expect_equal
from .load import get, h2load
from .report import progress

# Connections × calls at once on each.
SHAPES = (1, 10), (10, 1), (10, 10), (100, 10)
CALLS = 20_000
# A steady rate on each connection, in calls a second.
RATE = "--rps", 2000


def run(programs, args):
    """Loads plaque, and returns the CPU time of some calls, which says little: recording takes most of it."""
    port = free_port()
    with SnapshotServer() as feeds, programs.plaque(feeds.url(), "--http-listen", f"127.0.0.1:{port}") as plaque:
        fresh = map(made_up_channel, itertools.count(1000))
        for size in answers.SIZES:
            progress(f"training: answers of {size} bytes")
            channel, _ = answers.answer_of(feeds, plaque, fresh, size)
            for shape in SHAPES:
                h2load(plaque, get(programs, plaque, channel), *shape, "-n", CALLS)
            h2load(plaque, get(programs, plaque, channel), 1, 10, "-D", 1, *RATE)
        # As much of these as of single answers, or they are compiled as rare.
        table = answers.others(programs, args, feeds, plaque, port)
        # The profile is written when the program ends.
        plaque.program.terminate()
        expect_equal("the exit code", plaque.program.exit_code(40), 0)
    return table
