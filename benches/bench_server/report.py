"""What is printed: markdown, medians and the spread."""

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
    """The median, and the least and the most if they are not the same."""
    least, median, most = (figure(of(values)) for of in (min, statistics.median, max))
    return median if least == most else f"{median} ({least} to {most})"


def figure(value):
    """Three digits, or all there are before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def ratios(values, others):
    """Of each value to the other of the same round."""
    return spread([value / other for value, other in zip(values, others, strict=True)])


def table(head, rows):
    """The first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine(programs, said):
    """What was measured, where and when."""

    def version(*command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]

    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1)
    facts = [
        time.strftime("%Y-%m-%d %H:%M"), f"{os.cpu_count()} cores ({model})", f"Linux {platform.release()}",
        version(programs.plaque_program, "--version"), version("rustc", "--version"), version("go", "version"),
        version("h2load", "--version"), f"{said.rounds} rounds of {said.seconds} s",
        f"load average {os.getloadavg()[0]:.2f} at the start"]
    return "# plaque's server beside others\n\n" + "; ".join(facts) + ".\n"
