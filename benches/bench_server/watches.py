"""Many open watches on one channel: what each takes, and what it takes to tell them all of an upload."""

import time

from support import made_up_channel, running, wait_until

from .report import progress, spread, table

STREAMS = 500
CHANNEL = made_up_channel(0)
# Room for the watches. No poll: an upload is found when the benchmark has it looked for.
FLAGS = "--max-calls", "200000", "--max-streams", "1000", "--watch-every", "1h", "--min-refetch", "0s"
# For 100,000 watches to be opened, or told, on a busy machine.
PATIENCE = 120


def run(programs, said):
    """Measures, and returns the table."""
    connections = said.watches // STREAMS
    rounds = []
    with programs.origin(latency_ms=0) as origin, programs.plaque(origin.url, *FLAGS) as plaque:
        plaque.ask(CHANNEL)
        idle = plaque.resident_bytes()
        progress(f"watches: opening {connections * STREAMS:,}")
        command = [programs.client("watch"), "--address", plaque.address, "--channel", CHANNEL,
                   "--connections", connections, "--streams", STREAMS]
        with running(command) as watch:
            told(watch, 0)
            each = (plaque.resident_bytes() - idle) / (connections * STREAMS)
            for number in range(1, said.rounds + 1):
                progress(f"watches: upload {number} of {said.rounds}")
                origin.publish(CHANNEL, f"new{number:08}")
                cpu, began = plaque.cpu_seconds(), time.time()
                plaque.ask(CHANNEL, max_age=0)
                first, last = told(watch, number)
                took = last - began, last - first, plaque.cpu_seconds() - cpu
                rounds.append([1000 * seconds for seconds in took])
    head = ["", "ms from the lookup's start to the last watch", "ms from the first to the last", "CPU ms of plaque"]
    rows = [["one upload", *(spread(column) for column in zip(*rounds))]]
    title = f"## {connections * STREAMS:,} open watches ({each / 1024:.1f} KiB each), on {connections} connections\n\n"
    return title + table(head, rows)


def told(watch, number):
    """When the first and the last watch were told of an upload, in seconds since 1970. Upload 0 is there from the beginning."""
    wait_until(lambda: watch.out.read_text().count("\n") > number or watch.process.poll() is not None,
               f"all watches are told of upload {number}", PATIENCE)
    lines = watch.out.read_text().splitlines()
    if len(lines) <= number:
        raise RuntimeError(f"the watches have ended: {watch.err.read_text()}")
    return [int(moment) / 1e6 for moment in lines[number].split()]
