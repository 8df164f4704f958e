"""Formats results as Markdown tables of medians and ranges."""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

BEGAN = time.monotonic()


def progress(text):
    print(f"{time.monotonic() - BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


def spread(values):
    """The median, with the minimum and the maximum if they differ."""
    least, median, most = (figure(of(values)) for of in (min, statistics.median, max))
    return median if least == most else f"{median} ({least} to {most})"


def figure(value):
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def ratios(values, others):
    """The ratios of values of the same round."""
    return spread([value / other for value, other in zip(values, others, strict=True)])


def table(head, rows):
    """A table whose first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine(programs, args):
    """Describes the measurement: time, machine, versions."""

    def version(*command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]

    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1)
    facts = [
        time.strftime("%Y-%m-%d %H:%M"), f"{os.cpu_count()} cores ({model})", f"Linux {platform.release()}",
        version(programs.plaque_program, "--version"), version("rustc", "--version"), version("go", "version"),
        version("h2load", "--version"), f"{args.rounds} rounds of {args.seconds} s",
        f"load average {os.getloadavg()[0]:.2f} at the start"]
    return "# plaque's server beside others\n\n" + "; ".join(facts) + ".\n"
