"""Replicas that share a store, and restarts: what `--store` promises, from the outside.

With redis-server and redis-cli of the path, and Debian's faketime. Every check has an origin and servers of its own. Where a
check sleeps, the time that passes is the scenario.
"""

import random
import re
import signal
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from store_support import (
    LEASE, STORE_TIMEOUT, Proxy, Replica, begin, calls_in_progress, expect_one_lookup_for_each, files_beside, lookups_of,
    refusing_server, running_cluster, running_redis, running_replicas, wait_until_down, wait_until_up, with_store,
)
from support import Answer, Plaque, Stopwatch, expect_error, expect_ok, made_up_channel, running, wait_until

StatusCode = grpc.StatusCode


@pytest.fixture
def origin(bench):
    """It knows every channel there could be, and takes no time."""
    with bench.origin(synthesize=True) as origin:
        origin.control(latency_ms=0)
        yield origin


@pytest.fixture
def count():
    """Of replicas."""
    return 3


@pytest.fixture
def replicas(bench, redis, origin, flags, count):
    """Replicas that share a Redis."""
    with running_replicas(bench, redis.url, origin, *flags, count=count) as replicas:
        yield replicas


def upload_id(number):
    return f"new{number:08}"


def channels(first, count):
    return [made_up_channel(number) for number in range(first, first + count)]


def key(channel):
    return f"plaque:1:{{{channel}/all}}"


def video_id(answer):
    expect_ok(answer)
    return answer.response.video.video_id


def fetch_time(answer):
    return answer.response.freshness.fetch_time.ToNanoseconds() / 1e9


def ttl(answer):
    """For how many seconds more the answer is fresh, as plaque tells of one that it knew."""
    expect_ok(answer)
    found = re.fullmatch(r"plaque; hit; ttl=(-?\d+)", answer.cache_status or "")
    assert found, f"the cache-status is {answer.cache_status!r}"
    return int(found.group(1))


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
    assert lookups_of(replicas, origin, channels(0, 20), 50) == 20, "the lookups"


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


# Redis in trouble


class Callers:
    """Calls for channels that nobody knows, one after another at each replica in turn, until the block ends."""

    def __init__(self, replicas):
        self.replicas, self.ended = replicas, threading.Event()
        self.failed, self.slow, self.count, self.longest = [], 0, 0, 0
        self.thread = threading.Thread(target=self.call, daemon=True)

    def call(self):
        while not self.ended.is_set():
            replica, watch = self.replicas[self.count % len(self.replicas)], Stopwatch()
            answer = replica.plaque.ask(made_up_channel(10_000 + self.count))
            if answer.code is not StatusCode.OK:
                self.failed.append(str(answer))
            self.count += 1
            self.slow += watch.seconds() > STORE_TIMEOUT * 0.9
            self.longest = max(self.longest, watch.seconds())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def expect_answered(self):
        assert not self.failed, f"{len(self.failed)} of {self.count} calls failed, such as {self.failed[:1]}"
        # At each replica the one that finds out, and one more if the first attempt to go on finds no better.
        assert self.slow <= 2 * len(self.replicas), f"{self.slow} of {self.count} calls waited for the store"
        assert self.longest < STORE_TIMEOUT * 3, f"a call took {self.longest:.1f} s"

    def __str__(self):
        return f"{self.count} calls, {self.slow} waited for the store"


def expect_full_speed(replicas, plain, first):
    """That lookups go as fast as in a plaque that has no store. Told are the medians in milliseconds."""
    took, all_of_it = {True: [], False: []}, Stopwatch()
    for channel in channels(first, 80):
        assert all_of_it.seconds() < 60, f"{len(took[True])} lookups of each took a minute"
        for replica in *replicas, plain:
            watch = Stopwatch()
            expect_ok(replica.plaque.ask(channel))
            took[replica is plain].append(watch.seconds() * 1000)
    with_it, without = (statistics.median(took[alone]) for alone in (False, True))
    assert with_it < without + 10, f"a lookup takes {with_it:.1f} ms, without a store {without:.1f} ms"
    late = sorted(took[False])[-5]
    assert late < STORE_TIMEOUT * 500, f"at least five lookups took {late:.0f} ms: they waited for the store"
    return f"{with_it:.1f} ms a lookup meanwhile, {without:.1f} ms without a store"


def expect_told(replicas, most=1):
    """That each has told of the trouble once, or at most so often, and as often of its end, and nothing else."""
    for replica in replicas:
        told = [replica.logged(text) for text in ("the store is in trouble", "the store is back", " WARN ", " ERROR ")]
        assert 1 <= told[0] <= most and told == [told[0]] * 3 + [0], f"the log tells of trouble and its end so: {replica.log()}"


# Each begins, and returns what ends it. What needs to last as long as the check is in its `stack`.


def stopped(redis, _, __):
    redis.kill()
    return redis.start


def frozen(redis, _, __):
    redis.signal(signal.SIGSTOP)
    return lambda: redis.signal(signal.SIGCONT)


def slow(_, proxy, __):
    proxy.delay = STORE_TIMEOUT * 1.2

    def end():
        proxy.delay = 0
    return end


def out_of_memory(redis, _, __):
    redis.cli("config", "set", "maxmemory", "1", "maxmemory-policy", "noeviction")
    return lambda: redis.cli("config", "set", "maxmemory", "0")


def without_the_right_to_run_scripts(redis, _, __):
    redis.cli("acl", "setuser", "default", "-evalsha", "-eval")
    return lambda: redis.cli("acl", "setuser", "default", "+@all")


def without_the_right_to_hear_messages(redis, _, __):
    redis.cli("acl", "setuser", "default", "resetchannels")
    return lambda: redis.cli("acl", "setuser", "default", "allchannels")


def behind_another_password(redis, proxy, _):
    redis.cli("config", "set", "requirepass", "another")
    proxy.drop_connections()
    return lambda: redis.cli("config", "set", "requirepass", "", password="another")


def answering_errors(error, redis, proxy, stack):
    proxy.turn_to(stack.enter_context(refusing_server(error)))
    return lambda: proxy.turn_to(redis.port)


def loading(*places):
    return answering_errors("LOADING Redis is loading the dataset in memory", *places)


def broken(*places):
    return answering_errors("ERR nothing works here", *places)


def failing_over(redis, proxy, stack):
    successor = stack.enter_context(running_redis("--replicaof", "127.0.0.1", redis.port))
    wait_until(lambda: b"master_link_status:up" in successor.cli("info", "replication"), "the replica has it all")
    successor.cli("replicaof", "no", "one")
    redis.cli("replicaof", "127.0.0.1", successor.port)

    def end():
        # Those who are connected find out by themselves.
        proxy.target = successor.port
    return end


@pytest.mark.parametrize("befalls", [
    stopped, frozen, slow, out_of_memory, without_the_right_to_run_scripts, without_the_right_to_hear_messages, behind_another_password,
    loading, broken, failing_over])
def test_with_redis_in_trouble_plaque_goes_on_alone_and_comes_back(bench, redis, origin, befalls, note):
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(redis.port))
        replicas = stack.enter_context(running_replicas(bench, proxy.url, origin))
        plain = stack.enter_context(Replica(bench, origin.url))
        expect_one_lookup_for_each(replicas, origin, channels(0, 3))
        with Callers(replicas) as callers:
            end = befalls(redis, proxy, stack)
            wait_until_down(replicas)
            speed = expect_full_speed(replicas, plain, 1000)
            # Time for more than one attempt to come back.
            time.sleep(2.5)
            end()
            back = wait_until_up(replicas)
        callers.expect_answered()
        expect_one_lookup_for_each(replicas, origin, channels(2000, 3))
        expect_told(replicas)
    note(f"{speed}; {callers}; back {back:.1f} s after its end")


def test_with_redis_restarted_empty_plaque_goes_on_as_if_it_were_new(replicas, origin, redis, note):
    expect_one_lookup_for_each(replicas, origin, channels(0, 3))
    with Callers(replicas) as callers:
        redis.kill()
        redis.start()
        wait_until(lambda: all(replica.logged("the store is back") for replica in replicas), "all are back")
    callers.expect_answered()
    expect_one_lookup_for_each(replicas, origin, channels(2000, 3))
    expect_told(replicas)
    note(str(callers))


def test_with_redis_emptied_nobody_notices(replicas, origin, redis):
    expect_one_lookup_for_each(replicas, origin, channels(0, 3))
    redis.cli("flushall")
    redis.cli("script", "flush")
    expect_one_lookup_for_each(replicas, origin, channels(3, 3))
    for replica in replicas:
        assert replica.logged(" WARN ") == 0, "the warnings in the log"


def test_without_redis_at_its_start_plaque_serves_and_joins_later(bench, origin, redis):
    with ExitStack() as stack:
        origin.control(latency_ms=0)
        redis.kill()
        replicas = [stack.enter_context(Replica(bench, origin.url, *with_store(redis.url))) for _ in range(2)]
        for replica in replicas:
            watch = Stopwatch()
            expect_ok(replica.plaque.ask(made_up_channel(1)))
            assert watch.seconds() < STORE_TIMEOUT, f"the first call took {watch.seconds():.2f} s"
        assert origin.lookups() == 2, "the lookups"
        redis.start()
        wait_until_up(replicas)
        expect_one_lookup_for_each(replicas, origin, channels(2000, 3))
        expect_told(replicas)


# A cluster

# That a connection broke does not tell whose it was. The others work, until somebody asks for a key of the lost node.
MOST_TOLD_OF_A_NODE = 2


def test_a_cluster_shares_lookups_and_goes_on_with_a_node_lost(bench, origin, note):
    with running_cluster() as cluster, running_replicas(bench, cluster.url, origin) as replicas:
        known = channels(0, 36)
        expect_one_lookup_for_each(replicas, origin, known)
        lost = cluster.nodes[0]
        holders = {cluster.owner(key(channel)).port for channel in known}
        assert len(holders) == 3, "the nodes that have keys"
        elsewhere = [channel for channel in channels(100, 36) if cluster.owner(key(channel)) is not lost]
        with Callers(replicas) as callers:
            lost.kill()
            wait_until_down(replicas, lasting=1.5)
            cost = lookups_of(replicas, origin, elsewhere) / len(elsewhere)
            assert cost <= len(replicas), f"a channel costs {cost} lookups"
            lost.start()
            wait_until(cluster.is_whole, "the node is back")
            back = wait_until_up(replicas)
        callers.expect_answered()
        expect_one_lookup_for_each(replicas, origin, channels(2000, 36))
        expect_told(replicas, most=MOST_TOLD_OF_A_NODE)
    note(f"{cost:.0f} lookups a channel of the other nodes meanwhile; {callers}; back {back:.1f} s after the node")


def test_a_cluster_that_replaces_a_lost_node_is_in_use_again(bench, origin, note):
    with running_cluster(replicas=1) as cluster, running_replicas(bench, cluster.url, origin) as replicas:
        new = channels(0, 36)
        lost = cluster.nodes[0]
        moved = [channel for channel in new if cluster.owner(key(channel)) is lost]
        assert moved, "no channel is on the node"
        with Callers(replicas) as callers:
            watch = Stopwatch()
            lost.kill()
            wait_until_down(replicas)
            wait_until(lambda: all(cluster.owner(key(channel)) is not lost for channel in moved[:3]), "others have its keys")
            replaced = watch.seconds()
            wait_until_up(replicas)
            took = watch.seconds()
        callers.expect_answered()
        expect_one_lookup_for_each(replicas, origin, new)
        expect_told(replicas, most=MOST_TOLD_OF_A_NODE)
    note(f"replaced {replaced:.1f} s after it was lost, in use {took:.1f} s after it was; {callers}")


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
        expect_one_lookup_for_each(replicas, origin, channels(100, 3))
        before = origin.lookups()
        watch = Stopwatch()
        first = replicas[0].plaque.ask(channel)
        assert abs(fetch_time(first) - time.time() - 10) < 1, "its clock is not ahead: this check shows nothing"
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
    [replica], (more, failed, garbled, other_type, broken_hash) = replicas, channels(0, 5)
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


# A file


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
    rate, known, last = 20, channels(0, 100), channels(100, 10)
    origin.control(latency_ms=0)
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
            age = now - fetch_time(was)
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
        ask_all(replica, channels(0, 100))
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
    origin.control(latency_ms=0)
    path = tmp_path / "store"
    settings = origin.url, "--store", f"file:{path}", "--store-bytes", "4MiB", "--fresh-for", "1h"
    with Replica(bench, *settings) as replica:
        longest = 0
        for first in range(0, count, 500):
            for answer in ask_all(replica, channels(first, 500)):
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
        ask_all(replica, channels(count - kept // 2, kept // 2))
        assert origin.lookups() - looked_up == 0, "the lookups of the newest"
        ask_all(replica, channels(0, 50))
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
            "--upstream-rate", 0, "--store", f"file:{path}", "--fresh-for", "1h"]
        self.path = path
        # What was found in this life, in order: when a channel was answered, which, and when that was fetched.
        self.found = []
        self.seen = set()
        self.born = time.time()
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
    chance, pool, known = random.Random(seed), channels(0, 5000), {}
    served = checked = 0
    origin.control(latency_ms=0)
    for _ in range(kills):
        life = Life(bench, origin, tmp_path / "store", chance)
        some = dict(chance.sample(sorted(known.items()), min(30, len(known))))
        # Some have hardly begun, and some live long enough for commits of more than a second ago.
        served += life.live(some, pool, chance.uniform(*chance.choice([(0, 0.3), (1.8, 2.8)])))
        checked += life.checked
        known.update(life.committed())
    assert checked > 10 * kills, f"only {checked} answers were compared: this check shows little"
    note(f"{kills} kills, {served} of them while it served; {checked} answers from before them compared")
