"""A store in a file: restarts, damage, its limit, and being killed at any moment."""

import random
import re
import threading
import time
from pathlib import Path

import grpc
import pytest

from store_support import Replica, files_beside, ttl
from support import (
    Answer, Plaque, Stopwatch, expect_ok, fetch_time, made_up_channel, made_up_channels, running, wait_until,
)

StatusCode = grpc.StatusCode
pytestmark = pytest.mark.plaque(synthesize=True, latency_ms=0)


def expect_clean(replica, path):
    """That it has started without a word, and that nothing was set aside."""
    assert not re.search(r" (WARN|ERROR) ", replica.log()), f"the log says {replica.log()}"
    assert files_beside(path) == [], "the files beside the store"


def ask_all(replica, wanted, **options):
    answers = []
    for first in range(0, len(wanted), 100):
        answers += [Answer(call) for call in [replica.plaque.start(c, **options) for c in wanted[first:first + 100]]]
    return answers


def test_after_a_restart_in_a_404_spell_all_that_was_known_is_told_with_its_age(bench, origin, tmp_path, note):
    rate, known, last = 20, made_up_channels(0, 100), made_up_channels(100, 10)
    path = tmp_path / "store"
    settings = origin.url, "--store", f"file:{path}", "--fresh-for", "1s"
    with Replica(bench, *settings) as replica:
        before = ask_all(replica, known)
        for answer in before + ask_all(replica, last):
            expect_ok(answer)
        replica.stop()
    origin.control(mode="status:404")
    time.sleep(1.1)
    looked_up = origin.lookups()
    # Long enough for all of them: a refresh whose turn would come later is not begun.
    pace = "--upstream-rate", rate, "--max-queue-wait", "30s"
    with Replica(bench, *settings, *pace, "--stale-while-revalidate", "1h") as replica:
        expect_clean(replica, path)
        # What a refresh of everything would need to begin.
        time.sleep(1)
        assert origin.lookups() - looked_up == 0, "the lookups before anybody asks"
        watch = Stopwatch()
        after = ask_all(replica, known)
        took, now = watch.seconds(), time.time()
        for was, answer in zip(before, after):
            age = now - fetch_time(was) / 1e9
            assert abs(1 - ttl(answer) - age) < 1.5, f"{answer.cache_status} is said of {age:.1f} s"
            assert answer.response.freshness.stale, "the old answer is not marked stale"
            assert fetch_time(answer) == fetch_time(was), "the fetch time"
            assert answer.response.video == was.response.video, "the upload"
        time.sleep(2)
        paced = origin.lookups() - looked_up
        most = rate * (1 + watch.seconds())
        assert rate < paced <= most, f"there were {paced} lookups in {watch.seconds():.1f} s"
        wait_until(lambda: origin.lookups() - looked_up == len(known), "each is looked up behind its answer")
        # They failed, and the old answers are still given.
        for was, answer in zip(before, ask_all(replica, known)):
            assert fetch_time(answer) == fetch_time(was), "the fetch time"
        ask_all(replica, last)
        wait_until(lambda: sum(map(origin.lookups, last)) == 2 * len(last), "the last are looked up, too")
        replica.stop()
    # The failures are remembered, too: no lookup for at least four seconds.
    looked_up = origin.lookups()
    with Replica(bench, *settings, "--stale-while-revalidate", "0s") as replica:
        for answer in ask_all(replica, last):
            assert answer.response.freshness.stale, "the old answer is not marked stale"
        assert origin.lookups() - looked_up == 0, "the lookups"
    note(f"{len(known)} answers in {took:.2f} s; {paced} lookups within {most / rate - 1:.1f} s at {rate}/s")


def overwritten(path):
    path.write_bytes(b"This is no store. " * 10_000)


def cut_short(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


def with_a_hole(path):
    with path.open("r+b") as file:
        # The first pages have the header, which there is twice.
        file.seek(4096 * 3)
        file.write(bytes(path.stat().st_size // 2))


@pytest.mark.parametrize("damage", [overwritten, cut_short, with_a_hole])
def test_a_file_that_cannot_be_read_is_set_aside(bench, origin, tmp_path, damage):
    path = tmp_path / "store"
    settings = origin.url, "--store", f"file:{path}"
    with Replica(bench, *settings) as replica:
        ask_all(replica, made_up_channels(0, 100))
        replica.stop()
    damage(path)
    damaged = path.read_bytes()
    with Replica(bench, *settings) as replica:
        lines = [line for line in replica.log().splitlines() if " WARN " in line]
        assert len(lines) == 1, "the number of warnings"
        aside = f"{path}.bad-1"
        assert str(path) in lines[0], "the warning"
        assert aside in lines[0], "the warning"
        assert Path(aside).read_bytes() == damaged, "the file that was set aside is not what it was"
        expect_ok(replica.plaque.ask(made_up_channel(1)))
        replica.stop()
    with Replica(bench, *settings) as replica:
        assert ttl(replica.plaque.ask(made_up_channel(1))) > 0, "the new file keeps nothing"
        assert files_beside(path) == ["store.bad-1"], "the files beside the store"


def test_a_second_plaque_on_a_file_ends_and_says_what_to_do(bench, origin, tmp_path):
    path = tmp_path / "store"
    with Replica(bench, origin.url, "--store", f"file:{path}") as replica:
        said = bench.run_plaque("serve", "--upstream", origin.url, "--listen", "127.0.0.1:0", "--store", f"file:{path}")
        assert said.returncode == 2, "the exit code"
        assert f"{path} is in use by another program" in said.stderr, "the error"
        assert "give each plaque a file of its own" in said.stderr, "the error"
        assert files_beside(path) == [], "the files beside the store"
        assert replica.is_up(), "the first one is in trouble"


def test_a_file_grows_no_longer_than_store_bytes(bench, origin, tmp_path, note):
    limit, count = 4 << 20, 4000
    path = tmp_path / "store"
    settings = origin.url, "--store", f"file:{path}", "--store-bytes", "4MiB", "--fresh-for", "1h"
    with Replica(bench, *settings) as replica:
        longest = 0
        for first in range(0, count, 500):
            for answer in ask_all(replica, made_up_channels(first, 500)):
                expect_ok(answer)
            longest = max(longest, path.stat().st_size)
            assert replica.store_bytes() == path.stat().st_size, "what is told of its length"
        replica.stop()
        longest = max(longest, path.stat().st_size)
    assert longest <= limit, f"the file has grown to {longest} bytes"
    looked_up = origin.lookups()
    with Replica(bench, *settings) as replica:
        expect_clean(replica, path)
        found = re.search(r"(\d+) feeds are kept", replica.log())
        kept = int(found.group(1))
        assert 50 < kept < count, f"{kept} channels are kept"
        # The newest are, and the others are not.
        ask_all(replica, made_up_channels(count - kept // 2, kept // 2))
        assert origin.lookups() - looked_up == 0, "the lookups of the newest"
        ask_all(replica, made_up_channels(0, 50))
        assert origin.lookups() - looked_up == 50, "the lookups of the oldest"
    note(f"{longest} bytes at most, with the newest {kept} of {count} channels")


# As plaque has it: when so many channels wait, they are committed within a second.
MUCH = 256
AT_ONCE = 50


class Life:
    """One plaque, from its start until it is killed at a moment that nobody has chosen."""

    def __init__(self, bench, origin, path, chance):
        self.chance = chance
        self.command = [
            bench.program, "serve", "--upstream", origin.url, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
            # A disk that stalls for longer than the usual 250 ms is told of in the log, where nothing should be.
            "--upstream-rate", 0, "--store", f"file:{path}", "--store-timeout", "10s", "--fresh-for", "1h"]
        self.path = path
        # What was found in this life, in order: when a channel was answered, which, and when that was fetched.
        self.found = []
        self.seen = set()
        self.born = time.time_ns()
        self.checked = 0
        self.killed = None

    def kill(self, process):
        self.killed = time.monotonic()
        process.kill()

    def live(self, known, wanted, seconds):
        """Whether it got as far as to serve. Checks what is `known`, and asks for what is `wanted`, again and again."""
        with running(self.command) as program:
            killer = threading.Timer(seconds, self.kill, [program.process])
            killer.start()
            try:
                wait_until(lambda: "admin: " in program.out.read_text() or program.process.poll() is not None, "it starts")
                served = program.process.poll() is None
                if served:
                    plaque = Plaque(program)
                    with plaque.channel:
                        self.check(plaque, known)
                        while program.process.poll() is None:
                            self.load(plaque, wanted)
            finally:
                killer.cancel()
            log = program.err.read_text()
            assert not re.search(r"WARN|ERROR|panicked", log), f"the log says {log}"
            assert files_beside(self.path) == [], "the files beside the store"
            return served

    def check(self, plaque, known):
        asked = [(channel, fetched, plaque.start(channel)) for channel, fetched in known.items()]
        for channel, fetched, call in asked:
            answer = Answer(call)
            if answer.code is StatusCode.UNAVAILABLE:
                # Killed before it could tell.
                return
            assert ttl(answer) > 0 and fetch_time(answer) >= fetched, f"{channel} was fetched at {fetched}, and it says {answer}"
            self.checked += 1

    def committed(self):
        """What must be in the file: what had much come after it a second before the end."""
        in_time = [one for one in self.found if one[0] < self.killed - 1]
        after = set()
        for place, (_, channel, _) in reversed(list(enumerate(in_time))):
            after.add(channel)
            # Those that are asked for at once are not saved in the order of their answers.
            if len(after) == MUCH + 2 * AT_ONCE:
                return {channel: fetched for _, channel, fetched in in_time[:place]}
        return {}

    def load(self, plaque, wanted):
        asked = [(channel, plaque.start(channel, max_age=0)) for channel in self.chance.sample(wanted, AT_ONCE)]
        for channel, call in asked:
            answer = Answer(call)
            if answer.code is StatusCode.OK:
                found = channel, fetch_time(answer)
                # Others were not looked up, and so not saved.
                if found not in self.seen and found[1] > self.born:
                    self.seen.add(found)
                    self.found.append((time.monotonic(), *found))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_it_starts_clean_and_knows_all_that_was_committed(bench, origin, tmp_path, note):
    kills, seed = bench.numbers["kills"], bench.numbers["seed"]
    chance, pool, known = random.Random(seed), made_up_channels(0, 5000), {}
    served = checked = 0
    for _ in range(kills):
        life = Life(bench, origin, tmp_path / "store", chance)
        some = dict(chance.sample(sorted(known.items()), min(30, len(known))))
        # Some have hardly begun, and some live long enough for commits of more than a second ago.
        served += life.live(some, pool, chance.uniform(*chance.choice([(0, 0.3), (1.8, 2.8)])))
        checked += life.checked
        known.update(life.committed())
    assert checked > 10 * kills, f"only {checked} answers were compared: this check shows little"
    note(f"{kills} kills, {served} of them while it served; {checked} answers from before them compared")
