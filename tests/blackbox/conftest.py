"""The fixtures of the black-box tests, and what the command line may say.

    pytest tests/blackbox -k "batch and not watch"
    pytest tests/blackbox/test_timeline.py -n 8 --plaque target/debug/plaque
    pytest tests/blackbox -m "not slow" --junit-xml results.xml

A test takes what it needs: `plaque` and `origin` (with `@pytest.mark.plaque(*flags, synthesize=True, latency_ms=0)`), `redis`, `browser`, or `bench`
to start others. What it tells with `note` stands beside its result and in the JUnit file.
"""

import collections
import functools
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest

# Where .ci/run installs what it needs.
TOOLS = Path(__file__).resolve().parents[2] / "target/ci/bin"
os.environ["PATH"] = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
pytest.register_assert_rewrite(
    "attack_support", "browser_support", "deploy_support", "example_clients", "h2", "mesh_support", "overload_support", "snapshots",
    "store_support", "stories", "support")

from browser_support import chromium  # noqa: E402 (after the above)
from store_support import running_redis, running_replicas  # noqa: E402
from support import REPOSITORY, Bench  # noqa: E402

# What can be chosen of tests that run for a time, at a rate or with random numbers.
NUMBERS = {
    "seconds": (60, "how long each soak lasts"), "seed": (random.randrange(1, 1 << 32), "of random numbers; default: another each time"),
    "kills": (60, "how often a plaque with a file is killed"), "watches": (10_000, "whose memory is measured"),
    "watchers": (10_000, "that watch at once"), "rps": (2000, "calls a second through Envoy"), "rounds": (10, "of rolling restarts"),
}


def pytest_addoption(parser):
    group = parser.getgroup("plaque")
    group.addoption("--plaque", type=Path, default=REPOSITORY / "target/dist/plaque", help="the program under test: %(default)s")
    group.addoption("--grpcurl", default=shutil.which("grpcurl"), help="default: the one in PATH")
    for name, (default, meaning) in NUMBERS.items():
        group.addoption(f"--{name}", type=int, default=default, help=f"{meaning}: %(default)s")


def pytest_configure():
    # As an exception, so that the child processes are killed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def pytest_report_header(config):
    return f"plaque: {config.option.plaque}, seed: {config.option.seed}"


def pytest_report_teststatus(report):
    notes = ", ".join(text for name, text in getattr(report, "user_properties", ()) if name == "note")
    if notes and report.when == "call" and report.passed:
        return "passed", ".", f"PASSED ({notes})"
    return None


@pytest.fixture
def note(record_property):
    """Tells something about a test that passes: `note(text)`."""
    return lambda text: record_property("note", text)


@pytest.fixture(scope="session")
def bench(pytestconfig):
    """Starts plaques, origins and grpcurl: see `support.Bench`."""
    options = pytestconfig.option
    if not options.plaque.exists():
        pytest.exit(f"no {options.plaque}: `cargo build --profile dist`, or name another with --plaque", 4)
    numbers = {name: getattr(options, name) for name in NUMBERS}
    captures = Path(os.environ.get("PLAQUE_SHARED", REPOSITORY.parent / "shared")) / "captures"
    return Bench(options.plaque.resolve(), options.grpcurl, captures, numbers)


@pytest.fixture
def flags(request):
    """What `plaque` is started with."""
    mark = request.node.get_closest_marker("plaque")
    return mark.args if mark else ()


@pytest.fixture
def origin(bench, request):
    """An origin of this test alone, which takes 100 ms a lookup. It knows some channels; with `synthesize`, all there could be."""
    options = [mark.kwargs for mark in request.node.iter_markers("plaque")]
    with bench.origin(**dict(collections.ChainMap(*options))) as origin:
        yield origin


@pytest.fixture
def plaque(bench, origin, flags):
    """A plaque of this test alone, whose upstream is `origin`."""
    with bench.plaque(origin.url, *flags) as plaque:
        yield plaque


@pytest.fixture
def grpcurl(bench, plaque):
    """Runs grpcurl against `plaque`: `grpcurl(method, data={…})`, or as `support.Bench.grpcurl` has it."""
    return functools.partial(bench.grpcurl, plaque)


@pytest.fixture
def redis():
    """An empty redis-server of this test alone, or the server that PLAQUE_TEST_REDIS names."""
    with running_redis() as redis:
        yield redis


@pytest.fixture
def count():
    """Of `replicas`."""
    return 3


@pytest.fixture
def replicas(bench, redis, origin, flags, count):
    """Replicas that share a Redis."""
    with running_replicas(bench, redis.url, origin, *flags, count=count) as replicas:
        yield replicas


@pytest.fixture(scope="module")
def browser(request):
    """Chromium, with the CHROMIUM_FLAGS of the module."""
    with chromium(*getattr(request.module, "CHROMIUM_FLAGS", ())) as browser:
        yield browser


def pytest_collection_modifyitems(config, items):
    # The longest first: then others run beside them to the end, where several run at once.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        for name in "redis", "browser":
            if name in item.fixturenames:
                item.add_marker(name)
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(config.option.seconds + 180))
