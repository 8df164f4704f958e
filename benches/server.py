"""plaque's server beside others, in one run. `benches/REPORT.md` says how to read what it prints.

    python benches/server.py all --plaque target/release/plaque

hits     one cached channel, by 1, 10 and 100 connections × 1, 10 and 100 streams: plaque, stock tonic, tonic on bare
         current-thread runtimes, the obvious implementation, the obvious one in Go
answers  answers of 100 to 1,200 bytes beside the same peers and servers of files (h2o, nghttpd, Envoy); errors, batches, JSON
open     one cached channel by calls at a steady rate: plaque and the bare one
burst    10,000 callers at once on a channel that nobody has asked for yet
million  a hit with one cached channel, and with a million of them
watches  100,000 open watches: memory, and what it takes to tell them all of an upload

Tables go to standard output, progress to standard error. Needs cargo, go, h2load and the packages in
tests/blackbox/requirements.txt; builds everything else but plaque. All parts: about half an hour, 4 GB.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench_server import REPOSITORY, answers, burst, hits, million, open_loop, watches
from bench_server.programs import Programs, build
from bench_server.report import machine

# And where they come from.
TOOLS = {
    "cargo": "Rust's toolchain", "go": "Go's toolchain", "h2load": "Debian's package nghttp2-client",
    "nghttpd": "Debian's package nghttp2-server", "h2o": "Debian's package h2o"}
PARTS = {"hits": hits, "answers": answers, "open": open_loop, "burst": burst, "million": million, "watches": watches}


def arguments():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("part", choices=[*PARTS, "all"])
    words.add_argument("--plaque", type=Path, default=REPOSITORY / "target/release/plaque", help="default: the release build")
    words.add_argument("--target", type=Path, default=REPOSITORY / "target/peers", help="where to build the peers")
    words.add_argument("--into", type=Path, help="a folder for the tables, a file for each part, and a chart")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--seconds", type=int, default=3, help="of each measurement; CPU time is counted in ticks of 10 ms")
    words.add_argument("--channels", type=int, default=1_000_000, help="of `million`")
    words.add_argument("--watches", type=int, default=100_000, help="of `watches`, in multiples of 500")
    return words.parse_args()


def main():
    said = arguments()
    # As an exception, so that the child processes are killed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for tool, source in TOOLS.items():
        if not shutil.which(tool):
            sys.exit(f"there is no {tool} in PATH: install {source}")
    target = build(said.target.resolve())
    with tempfile.TemporaryDirectory(prefix="plaque-bench-") as folder:
        programs = Programs(said.plaque.resolve(), target, Path(folder))
        where = machine(programs, said)
        print(where, flush=True)
        for name in (PARTS if said.part == "all" else [said.part]):
            tables = PARTS[name].run(programs, said)
            print(tables, flush=True)
            if said.into:
                (said.into / f"{name}.md").write_text(f"{where}\n{tables}")


if __name__ == "__main__":
    main()
