"""Many open watches of one channel: their memory, and the cost of sending an upload to all of them."""

import time

from support import made_up_channel, running, wait_until

from .report import progress, spread, table

STREAMS = 500
CHANNEL = made_up_channel(0)
# Limits for the watches. Without polls: uploads are found by the benchmark's own calls.
FLAGS = "--max-calls", "200000", "--max-streams", "1000", "--watch-every", "1h", "--min-refetch", "0s"
# Time limit in seconds for 100,000 watches to open, or to receive an upload, on a busy machine.
TIMEOUT = 120


def run(programs, args):
    """Measures, and returns the table."""
    connections = args.watches // STREAMS
    rounds = []
    with programs.origin(latency_ms=0) as origin, programs.plaque(origin.url, *FLAGS) as plaque:
        plaque.get(CHANNEL)
        idle = plaque.resident_bytes()
        progress(f"watches: opening {connections * STREAMS:,}")
        command = [programs.client("watch"), "--address", plaque.address, "--channel", CHANNEL,
                   "--connections", connections, "--streams", STREAMS]
        with running(command) as watch:
            upload_times(watch, 0)
            each = (plaque.resident_bytes() - idle) / (connections * STREAMS)
            for number in range(1, args.rounds + 1):
                progress(f"watches: upload {number} of {args.rounds}")
                origin.publish(CHANNEL, f"new{number:08}")
                cpu, began = plaque.cpu_seconds(), time.time()
                plaque.get(CHANNEL, max_age=0)
                first, last = upload_times(watch, number)
                took = last - began, last - first, plaque.cpu_seconds() - cpu
                rounds.append([1000 * seconds for seconds in took])
    head = ["", "ms from the lookup's start to the last watch", "ms from the first to the last", "CPU ms of plaque"]
    rows = [["one upload", *(spread(column) for column in zip(*rounds))]]
    title = f"## {connections * STREAMS:,} open watches ({each / 1024:.1f} KiB each), on {connections} connections\n\n"
    return title + table(head, rows)


def upload_times(watch, number):
    """When the first and the last watch received an upload, in seconds since 1970. Upload 0 exists from the start."""
    wait_until(lambda: watch.out.read_text().count("\n") > number or watch.process.poll() is not None,
               f"all watches have received upload {number}", TIMEOUT)
    lines = watch.out.read_text().splitlines()
    if len(lines) <= number:
        raise RuntimeError(f"the watches have ended: {watch.err.read_text()}")
    return [int(moment) / 1e6 for moment in lines[number].split()]
