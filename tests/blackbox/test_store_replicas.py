"""Replicas that share a store: one lookup among all, leases, clocks that differ, formats of other versions, watches.

With redis-server and redis-cli of the path, and Debian's faketime. Where a check sleeps, the time that passes is the scenario.
"""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from store_support import (
    LEASE, Replica, begin, calls_in_progress, expect_one_lookup_for_each, key, lookups_of, ttl, wait_until_up, with_store,
)
from support import (
    Answer, Stopwatch, expect_error, expect_ok, fetch_time, made_up_channel, made_up_channels, upload_id, video_id, wait_until,
)

StatusCode = grpc.StatusCode
pytestmark = pytest.mark.plaque(synthesize=True, latency_ms=0)


# One lookup among all


def test_a_thousand_callers_of_three_replicas_cost_one_lookup(replicas, origin):
    # Longer than a lease, and for Python to begin all of the calls.
    origin.control(latency_ms=3000)
    calls = begin(replicas, [made_up_channel(1)], 1000)
    wait_until(lambda: calls_in_progress(replicas) == 1000, "all calls are there", 3)
    answers = [Answer(call) for call in calls]
    assert {video_id(answer) for answer in answers} == {video_id(answers[0])}, "the uploads"
    assert origin.lookups() == 1, "the lookups"


def test_a_thousand_callers_of_twenty_channels_cost_twenty_lookups(replicas, origin):
    origin.control(latency_ms=300)
    assert lookups_of(replicas, origin, made_up_channels(0, 20), 50) == 20, "the lookups"


@pytest.mark.parametrize("count", [2])
def test_what_one_replica_has_found_no_other_looks_up(replicas, origin, redis):
    answers = [replica.plaque.ask(made_up_channel(1)) for replica in replicas]
    assert fetch_time(answers[0]) == fetch_time(answers[1]), "the fetch times"
    again = replicas[1].plaque.ask(made_up_channel(1))
    assert ttl(again) in (58, 59, 60), f"it is fresh for {ttl(again)} s more"
    origin.control(mode="status:404", channels=[made_up_channel(2)])
    for replica in replicas:
        expect_error(replica.plaque.ask(made_up_channel(2)), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
    assert origin.lookups() == 2, "the lookups"
    keys = set(redis.cli("keys", "*").decode().split())
    assert keys and all(name.startswith("plaque:1:") for name in keys), f"the keys are {keys}"
    assert all(int(redis.cli("pttl", name)) > 0 for name in keys), "a key does not expire"


@pytest.mark.parametrize("count", [1])
def test_replicas_with_other_prefixes_share_nothing(bench, replicas, origin, redis):
    with Replica(bench, origin.url, *with_store(redis.url), "--store-prefix", "staging") as other:
        wait_until_up([other])
        for replica in [*replicas, other]:
            expect_ok(replica.plaque.ask(made_up_channel(1)))
        assert origin.lookups() == 2, "the lookups"


# The holder of a lease


def test_the_lookup_of_a_replica_that_is_killed_is_made_by_another(replicas, origin, note):
    holder, *others = replicas
    origin.control(mode="hang")
    lost = holder.plaque.start(made_up_channel(1))
    wait_until(lambda: origin.lookups() == 1, "the lookup begins")
    calls = begin(others, [made_up_channel(1)], 100)
    wait_until(lambda: calls_in_progress(others) == 100, "all calls are there")
    origin.control(mode="ok")
    watch = Stopwatch()
    holder.signal(signal.SIGKILL)
    assert Answer(lost).code == StatusCode.UNAVAILABLE, "the holder's call"
    for call in calls:
        expect_ok(Answer(call))
    took = watch.seconds()
    assert took < LEASE + 1, f"the others' callers waited for {took:.1f} s"
    assert origin.lookups() == 2, "the lookups"
    note(f"answered {took:.1f} s after its death")


def test_the_late_answer_of_a_frozen_replica_replaces_no_newer_one(bench, replicas, origin, redis, note):
    holder, *others = replicas
    channel = made_up_channel(1)
    origin.control(latency_ms=500)
    late = holder.plaque.start(channel)
    wait_until(lambda: origin.lookups() == 1, "the lookup begins")
    holder.signal(signal.SIGSTOP)
    watch = Stopwatch()
    # The origin has answered, and nobody has read it.
    wait_until(lambda: origin.stats()["by_status"].get("200") == 1, "the origin answers")
    origin.publish(channel, upload_id(1))
    for call in begin(others, [channel], 20):
        assert video_id(Answer(call)) == upload_id(1), "the upload"
    took = watch.seconds()
    assert took < LEASE + 1.5, f"the others' callers waited for {took:.1f} s"
    assert origin.lookups() == 2, "the lookups"

    holder.signal(signal.SIGCONT)
    assert video_id(Answer(late)) == upload_id(1), "the late upload"
    with Replica(bench, origin.url, *with_store(redis.url)) as fresh:
        wait_until_up([fresh])
        for replica in *replicas, fresh:
            assert video_id(replica.plaque.ask(channel)) == upload_id(1), "the upload"
            assert video_id(replica.plaque.ask(channel, max_age=30)) == upload_id(1), "the upload"
    assert origin.lookups() == 2, "the lookups"
    note(f"answered {took:.1f} s after it froze")


# Clocks


def faketime(seconds):
    """Goes before a program whose wall clock is to be this much ahead."""
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "no libfaketime: apt-get install faketime"
    return "env", f"LD_PRELOAD={found[0]}", f"FAKETIME={seconds:+}s", "FAKETIME_DONT_FAKE_MONOTONIC=1"


def test_ages_are_right_although_clocks_are_ten_seconds_apart(bench, origin, redis):
    fresh_for = 3
    with ExitStack() as stack:
        def replica(ahead):
            settings = *with_store(redis.url), "--fresh-for", f"{fresh_for}s"
            return stack.enter_context(Replica(bench, origin.url, *settings, under=faketime(ahead)))

        def expect_age(replica, who):
            # Redis tells ages in milliseconds: what was looked up within one counts as looked up since this call arrived, and has no ttl.
            replica.plaque.ask(channel)
            answer, age = replica.plaque.ask(channel), watch.seconds()
            assert abs(fresh_for - ttl(answer) - age) <= 1.1, f"{who} says {answer.cache_status} of {age:.1f} s"
            assert answer.response.freshness.stale == (age > fresh_for), f"what {who} calls stale"
            assert fetch_time(answer) == fetch_time(first), f"the fetch time of {who}"

        channel, all_clocks = made_up_channel(1), (10, 0, -10)
        replicas = [replica(ahead) for ahead in all_clocks]
        wait_until_up(replicas)
        expect_one_lookup_for_each(replicas, origin, made_up_channels(100, 3))
        before = origin.lookups()
        watch = Stopwatch()
        first = replicas[0].plaque.ask(channel)
        assert abs(fetch_time(first) / 1e9 - time.time() - 10) < 1, "its clock is not ahead: this check shows nothing"
        for one, ahead in zip(replicas[1:], all_clocks[1:]):
            expect_age(one, f"the replica at {ahead:+} s")
        time.sleep(2 - watch.seconds())
        for one, ahead in zip(replicas, all_clocks):
            expect_age(one, f"the replica at {ahead:+} s")
        assert origin.lookups() - before == 1, "the lookups"

        # Who knows nothing yet has the age from Redis alone.
        late = [replica(ahead) for ahead in all_clocks]
        wait_until_up(late)
        origin.control(latency_ms=3000)
        time.sleep(max(0, 4.5 - watch.seconds()))
        for one, ahead in zip(late, all_clocks):
            expect_age(one, f"a new replica at {ahead:+} s")
        wait_until(lambda: origin.lookups() - before == 2, "it is looked up behind them")
        origin.control(latency_ms=0)
        wait_until(lambda: not late[0].plaque.ask(channel).response.freshness.stale, "the newer answer is there")
        assert origin.lookups() - before == 2, "the lookups"


# Formats


def protobuf(number, value):
    """A field: of bytes, or a small number."""
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    return bytes([number << 3, value])


@pytest.mark.parametrize("count", [1])
def test_what_a_later_version_writes_is_read_or_looked_up_and_no_key_of_it_is_touched(bench, replicas, origin, redis):
    [replica], (more, failed, garbled, other_type, broken_hash) = replicas, made_up_channels(0, 5)
    expect_ok(replica.plaque.ask(more))
    answer = replica.plaque.ask(more)
    value = redis.cli("hget", key(more), "v")
    # Fields that this version does not know: a number, and a message.
    redis.cli("hset", key(more), "v", last=value + protobuf(14, 1) + protobuf(15, protobuf(1, b"later")))
    redis.cli("hset", key(more), "w", "a field of the hash")

    def keep(channel, value, *more):
        redis.cli("hset", key(channel), "k", 60_000, "f", 1, "n", 1, *more, "v", last=value)
        redis.cli("pexpire", key(channel), 60_000)

    # A failure of a kind that this version does not know, a second ago, not to be repeated for 60 s.
    ago, pause = protobuf(1, 1), protobuf(1, 60)
    keep(failed, protobuf(4, protobuf(15, 1) + protobuf(7, ago) + protobuf(8, pause) + protobuf(9, 1)))
    keep(garbled, b"\xff" * 40)
    redis.cli("set", key(other_type), "not a hash")
    redis.cli("hset", key(broken_hash), "k", "sixty", "n", "x", "v", last=value)

    later = [f"plaque:2:{{{more}/all}}", f"plaque:2:{{{more}/all}}:lease", f"plaque:10:{{{failed}/all}}", "plaque:news"]
    for name in later:
        redis.cli("set", name, f"what {name} is", "px", 600_000)
    redis.cli("hset", f"plaque:2:{{{garbled}/all}}", "v", "a hash")
    for message in "sung 1 UC/all", f"saved later {more}/live", f"saved later {more}/all and more", "garbage":
        redis.cli("publish", "plaque:1:news", message)
        redis.cli("publish", "plaque:2:news", message)

    with Replica(bench, origin.url, *with_store(redis.url)) as reader:
        wait_until_up([reader])
        before = origin.lookups()
        read = reader.plaque.ask(more)
        assert read.response.video == answer.response.video, "the upload"
        assert fetch_time(read) == fetch_time(answer), "the fetch time"
        assert origin.lookups() - before == 0, "the lookups"
        unread = [failed, garbled, other_type, broken_hash]
        for channel in unread:
            expect_ok(reader.plaque.ask(channel))
            assert origin.lookups(channel) == 1, "the lookups"
        assert reader.is_up() and reader.logged(" WARN ") == 0, f"it is in trouble: {reader.log()}"
        # What cannot be read is replaced.
        for channel in unread:
            expect_ok(replica.plaque.ask(channel))
            assert origin.lookups(channel) == 1, "the lookups"
        # What it says is of a known channel, and changes nothing.
        expect_ok(reader.plaque.ask(more, max_age=0))
    for name in later:
        assert redis.cli("get", name).decode() == f"what {name} is", "another version's value"
    assert redis.cli("hget", f"plaque:2:{{{garbled}/all}}", "v") == b"a hash", "another version's hash"


# Watches


@pytest.mark.plaque("--watch-every", "10m")
def test_an_upload_that_one_replica_finds_reaches_the_watchers_of_all(replicas, origin, note):
    with ExitStack() as watching:
        channel = made_up_channel(1)
        watches = [watching.enter_context(replica.plaque.watch([channel])) for replica in replicas for _ in range(5)]
        for watch in watches:
            watch.wait_for(1)
        assert origin.lookups() == 1, "the lookups"
        slowest = 0
        for number in range(1, 6):
            origin.publish(channel, upload_id(number))
            assert video_id(replicas[0].plaque.ask(channel, max_age=0)) == upload_id(number), "the upload"
            told = Stopwatch()
            for watch in watches:
                watch.wait_for(number + 1, seconds=2)
                assert (watch.uploads()[-1], watch.events[-1].initial) == (upload_id(number), False), "the new upload"
            slowest = max(slowest, told.seconds())
        # Who asks gets it, too.
        for replica in replicas:
            assert video_id(replica.plaque.ask(channel)) == upload_id(5), "the upload"
        assert origin.lookups() == 6, "the lookups"
    note(f"the slowest within {slowest * 1000:.0f} ms")
