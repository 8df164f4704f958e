"""The parts of the benchmark in benches/server.py. They start programs and call them as the black-box suites do."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "blackbox"))


def expect(condition, why):
    if not condition:
        raise AssertionError(why)


def expect_equal(what, seen, expected):
    expect(seen == expected, f"{what} is {seen!r}, expected {expected!r}")
