"""`plaque get --direct` gives the answers and exit codes of `plaque get` with a server; with a file it remembers them. `plaque list`, both ways."""

import json
import re
import signal
import subprocess

import pytest

from support import (
    ENVIRONMENT, KURZGESAGT, NO_UPLOADS, SCISHOW, UNKNOWN, Program, Stopwatch, made_up_channel, running_origin, wait_until)

KEY = "test-key"
IN_A_SPELL = {"mode": "status:404"}
# How the origin is told to behave, what it is asked, and the exit code.
CASES = {
    "found": ({}, ["get", KURZGESAGT], 0),
    "a kind": ({}, ["get", "--kind", "video", KURZGESAGT], 0),
    "not found": ({}, ["get", UNKNOWN], 3),
    "no uploads": ({}, ["get", NO_UPLOADS], 3),
    "several": ({}, ["get", UNKNOWN, KURZGESAGT, SCISHOW, NO_UPLOADS], 3),
    "handle": ({}, ["get", "@kurzgesagt", "https://www.youtube.com/user/scishow"], 0),
    "no such handle": ({}, ["get", "@nobody_has_this", KURZGESAGT], 3),
    "refused": ({"mode": "status:429", "api_mode": "keyInvalid"}, ["get", KURZGESAGT], 75),
    "spell, with a key": (IN_A_SPELL, ["get", KURZGESAGT, "@scishow"], 0),
    "spell, with a key, not found": (IN_A_SPELL, ["get", UNKNOWN], 3),
    "spell, with a key that is used up": (IN_A_SPELL | {"api_mode": "quotaExceeded"}, ["get", KURZGESAGT], 3),
    "hanging": ({"mode": "hang", "api_mode": "hang"}, ["get", "--timeout", "4s", KURZGESAGT], 75),
    "hanging for longer than wanted": ({"mode": "hang"}, ["get", "--timeout", "500ms", KURZGESAGT], 75),
    "list": ({}, ["list", KURZGESAGT, "@scishow", UNKNOWN], 3),
    "list of three": ({}, ["list", "-n", "3", "--kind", "short", KURZGESAGT], 0),
    "list of none": ({}, ["list", NO_UPLOADS], 3),
    "list in a spell": (IN_A_SPELL, ["list", KURZGESAGT], 0),
}


@pytest.fixture
def settings(origin, tmp_path):
    """Flags of the sources, with a key, at the origin."""
    root = origin.url.removesuffix("/feeds/videos.xml")
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    return ["--youtube-api", f"{root}/youtube/v3", "--youtube-api-key-file", key_file, "--youtube-pages", root, "--upstream-rate", "0",
            "--canary", "none", "--upstream-timeout", "1s"]


def steady(text):
    """Without times, which differ from run to run, and without which side of a connection noticed a deadline first."""
    text = re.sub(r"(Timeout expired|no answer (from|within)|the deadline passed)[^(\"]*", "late ", text)
    return re.sub(r'("(fetchTime|retryAfter)":"[^"]*",?)|\d[\d.a-zµ ]*s\b', "", text)


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["fields", "json"])
@pytest.mark.parametrize("case", CASES)
def test_without_a_server_the_answer_and_the_exit_code_are_the_same(bench, origin, settings, case, form):
    order, arguments, code = CASES[case]
    origin.control(**order)
    with bench.plaque(origin.url, *settings) as plaque:
        served = bench.run_plaque(*arguments, *form, "--server", f"http://{plaque.address}")
    watch = Stopwatch()
    direct = bench.run_plaque(*arguments, *form, "--direct", "--upstream", origin.url, *settings)
    assert watch.seconds() < 5
    assert served.returncode == direct.returncode == code, (served, direct)
    assert steady(direct.stdout) == steady(served.stdout)
    assert steady(direct.stderr) == steady(served.stderr)
    assert direct.stdout + direct.stderr, direct


def test_in_a_spell_a_mirror_answers(bench, origin):
    with running_origin() as mirror:
        origin.control(**IN_A_SPELL)
        done = bench.run_plaque(
            "get", "--direct", "--upstream", origin.url, "--fallback-upstream", mirror.url, "--json", "--canary", SCISHOW, KURZGESAGT)
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["found"]["freshness"]["source"] == "SOURCE_MIRROR", done


def test_a_hundred_channels_never_seen_are_found_at_the_default_rate(bench):
    with running_origin(synthesize=True) as origin:
        channels = [made_up_channel(number) for number in range(100)]
        done = bench.run_plaque("get", "--direct", "--upstream", origin.url, *channels)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 100, done
        assert [line.split("\t")[1] for line in done.stdout.splitlines()] == channels


def test_a_list_goes_on_over_pages_of_the_api(bench, origin, settings):
    uploads = [{"id": f"{number:010}A", "published": f"2026-06-{30 - number // 24:02}T{23 - number % 24:02}:00:00+00:00"}
               for number in range(130)]
    origin.control(snapshots={"channel": KURZGESAGT, "uploads": [uploads]})
    ids = [upload["id"] for upload in uploads]
    direct = ["--direct", "--upstream", origin.url, *settings]
    for count in 15, 16, 64, 120, 1000:
        done = bench.run_plaque("list", "-n", count, KURZGESAGT, *direct)
        assert done.returncode == 0, done
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        assert [line[0] for line in lines] == ids[:count]
        assert {line[3] for line in lines[15:]} <= {"-"}, "older pages do not say which are Shorts"
    # A page that cannot be had ends the list, after those that could.
    origin.control(api_mode="status:503")
    done = bench.run_plaque("list", "-n", "64", KURZGESAGT, "--timeout", "1s", *direct)
    assert done.returncode == 75 and len(done.stdout.splitlines()) == 15, done
    assert KURZGESAGT in done.stderr and "UPSTREAM_ERROR" in done.stderr, done


# With a file


@pytest.fixture
def remembering(bench, origin, tmp_path):
    """Runs `plaque get --direct` with a file."""
    def get(*arguments):
        return bench.run_plaque(
            "get", "--direct", "--upstream", origin.url, "--store", f"file:{tmp_path}/store", "--min-refetch", "0s", *arguments)
    return get


def test_a_file_remembers_answers_for_the_next_run(remembering, origin):
    first = remembering(KURZGESAGT)
    assert first.returncode == 0, first
    assert remembering(KURZGESAGT).stdout == first.stdout
    assert origin.lookups() == 1, "the second run needs none"
    # Too old, and not revalidated in a background that would end with the command.
    assert remembering("--fresh-for", "0s", KURZGESAGT).stdout == first.stdout
    assert origin.lookups() == 2
    origin.control(mode="status:503")
    last = remembering("--fresh-for", "0s", KURZGESAGT)
    assert (last.returncode, last.stdout) == (0, first.stdout), last
    assert origin.lookups() > 2
    unseen = remembering("--timeout", "2s", SCISHOW)
    assert unseen.returncode == 75 and "UPSTREAM_ERROR" in unseen.stderr, unseen


def test_the_units_of_a_day_are_counted_in_the_file(remembering, origin, settings):
    origin.control(**IN_A_SPELL)
    asked = ["--youtube-api-quota", "2", "--max-age", "0s", *settings]
    codes = [remembering(*asked, channel).returncode for channel in (KURZGESAGT, SCISHOW)]
    assert codes[-1] == 3 and origin.stats()["api"]["units"] <= 2, (codes, origin.stats())


@pytest.mark.parametrize("path, advice", [("", "is a folder"), ("no/such/folder", "cannot open the store")])
def test_a_path_that_cannot_be_a_store_is_named(bench, origin, tmp_path, path, advice):
    done = bench.run_plaque("get", "--direct", "--upstream", origin.url, "--store", f"file:{tmp_path}/{path}", KURZGESAGT)
    assert done.returncode == 2 and "--store" in done.stderr and advice in done.stderr, done
    assert origin.lookups() == 0


@pytest.fixture
def waiting(bench, origin, tmp_path):
    """A `plaque list --direct` with the same file, which has found SciShow and waits for Kurzgesagt."""
    origin.control(mode="hang", channels=[KURZGESAGT])
    flags = ["--direct", "--upstream", origin.url, "--store", f"file:{tmp_path}/store"]
    program = Program([bench.program, "list", "-n", "1", *flags, SCISHOW, KURZGESAGT], tmp_path)
    try:
        assert SCISHOW in program.first_line()
        wait_until(lambda: origin.lookups(KURZGESAGT), "it waits for the other")
        yield program
    finally:
        program.kill()


def test_two_at_once_cannot_have_the_same_file(remembering, waiting):
    done = remembering(SCISHOW)
    assert done.returncode == 2 and "in use by another program" in done.stderr, done


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_ends_it_at_once_and_saves_what_was_found(remembering, waiting, origin, by):
    waiting.process.send_signal(by)
    assert waiting.exit_code(within=5) == 128 + by
    assert waiting.err.read_text() == ""
    origin.control(mode="status:503")
    done = remembering(SCISHOW)
    assert done.returncode == 0 and SCISHOW in done.stdout, done


# Flags


@pytest.mark.parametrize("arguments, parts", [
    (["--direct", "--server", "http://127.0.0.1:1"], ["--server", "--direct"]),
    (["--direct", "--tls-ca", "ca.pem"], ["--tls-ca", "--direct"]),
    (["--store", "file:store"], ["--store", "--direct"]),
    (["--fresh-for", "1s", "--server", "http://127.0.0.1:1"], ["--fresh-for", "--direct"]),
])
@pytest.mark.parametrize("command", ["get", "list"])
def test_flags_for_a_server_and_for_direct_are_not_mixed(bench, command, arguments, parts):
    done = bench.run_plaque(command, *arguments, KURZGESAGT)
    assert done.returncode == 2 and all(part in done.stderr for part in parts), done


def test_the_environment_may_have_settings_of_both(bench, origin):
    with bench.plaque(origin.url) as plaque:
        environment = ENVIRONMENT | {"PLAQUE_SERVER": f"http://{plaque.address}", "PLAQUE_UPSTREAM": origin.url, "PLAQUE_FRESH_FOR": "1m"}
        for direct in [], ["--direct"]:
            command = [bench.program, "get", *direct, KURZGESAGT]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
            assert done.returncode == 0 and KURZGESAGT in done.stdout, done
            assert plaque.metric("plaque_cache_entries") == 1, "the server was asked first"
