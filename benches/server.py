"""Benchmarks plaque's server and other servers in one run. `benches/REPORT.md` explains the output.

    python benches/server.py all --plaque target/dist/plaque

hits     one cached channel, by 1, 10 and 100 connections × 1, 10 and 100 streams: plaque, stock tonic, tonic on bare
         current-thread runtimes, the obvious implementation, the obvious one in Go
answers  answers of 100 to 1,200 bytes, also from file servers (h2o, nghttpd, Envoy); errors, batches, JSON
open     one cached channel in an open loop (calls at a constant rate): plaque and the bare server
burst    10,000 concurrent callers of a channel that is not cached
million  hits with one cached channel, and with a million
watches  100,000 open watches: memory, and the cost of sending an upload to all of them
training calls of many kinds to plaque alone, for `just dist`; not among `all`

Tables go to standard output, progress to standard error. Needs cargo, go, h2load and the packages in
tests/blackbox/requirements.txt; builds everything else but plaque. All parts: about half an hour, 4 GB.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench_server import REPOSITORY, answers, burst, hits, million, open_loop, training, watches
from bench_server.programs import Programs, build
from bench_server.report import machine

# The tools needed, and their sources.
TOOLS = {
    "cargo": "Rust's toolchain", "go": "Go's toolchain", "h2load": "Debian's package nghttp2-client",
    "nghttpd": "Debian's package nghttp2-server", "h2o": "Debian's package h2o"}
PARTS = {"hits": hits, "answers": answers, "open": open_loop, "burst": burst, "million": million, "watches": watches}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all", "training"])
    parser.add_argument("--plaque", type=Path, default=REPOSITORY / "target/dist/plaque", help="default: the build of the profile dist")
    parser.add_argument("--target", type=Path, default=REPOSITORY / "target/peers", help="where the peers are built")
    parser.add_argument("--into", type=Path, help="a folder for the tables, a file for each part, and a chart")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="duration of each measurement; CPU time is counted in ticks of 10 ms")
    parser.add_argument("--channels", type=int, default=1_000_000, help="of `million`")
    parser.add_argument("--watches", type=int, default=100_000, help="of `watches`, in multiples of 500")
    return parser.parse_args()


def main():
    args = arguments()
    # Raises SystemExit, so that child processes are killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    alone = args.part == "training"
    for tool, source in {"h2load": TOOLS["h2load"]}.items() if alone else TOOLS.items():
        if not shutil.which(tool):
            sys.exit(f"there is no {tool} in PATH: install {source}")
    target = args.target.resolve() if alone else build(args.target.resolve())
    with tempfile.TemporaryDirectory(prefix="plaque-bench-") as folder:
        programs = Programs(args.plaque.resolve(), target, Path(folder))
        if alone:
            print(training.run(programs, args))
            return
        environment = machine(programs, args)
        print(environment, flush=True)
        for name in (PARTS if args.part == "all" else [args.part]):
            tables = PARTS[name].run(programs, args)
            print(tables, flush=True)
            if args.into:
                (args.into / f"{name}.md").write_text(f"{environment}\n{tables}")


if __name__ == "__main__":
    main()
