"""Redis in trouble, and clusters that lose a node: plaque goes on alone, and comes back.

With redis-server and redis-cli of the path. Where a check sleeps, the time that passes is the scenario.
"""

import signal
import statistics
import time
from contextlib import ExitStack

import grpc
import pytest

from relay import Relay
from store_support import (
    STORE_TIMEOUT, Replica, expect_one_lookup_for_each, key, lookups_of, refusing_server, running_cluster, running_redis,
    running_replicas, wait_until_down, wait_until_up, with_store,
)
from support import Background, Stopwatch, expect_ok, made_up_channel, made_up_channels, wait_until

StatusCode = grpc.StatusCode
pytestmark = pytest.mark.plaque(synthesize=True, latency_ms=0)


# Redis in trouble


class Callers(Background):
    """Calls for channels that nobody knows, one after another at each replica in turn, until the block ends."""

    def __init__(self, replicas):
        super().__init__(self.call)
        self.replicas = replicas
        self.failed, self.slow, self.count, self.longest = [], 0, 0, 0

    def call(self):
        while not self.leaving.is_set():
            replica, watch = self.replicas[self.count % len(self.replicas)], Stopwatch()
            answer = replica.plaque.ask(made_up_channel(10_000 + self.count))
            if answer.code is not StatusCode.OK:
                self.failed.append(str(answer))
            self.count += 1
            self.slow += watch.seconds() > STORE_TIMEOUT * 0.9
            self.longest = max(self.longest, watch.seconds())

    def expect_answered(self):
        assert not self.failed, f"{len(self.failed)} of {self.count} calls failed, such as {self.failed[:1]}"
        # At each replica the one that finds out, and one more if the first attempt to go on finds no better.
        assert self.slow <= 2 * len(self.replicas), f"{self.slow} of {self.count} calls waited for the store"
        assert self.longest < STORE_TIMEOUT * 3, f"a call took {self.longest:.1f} s"

    def __str__(self):
        return f"{self.count} calls, {self.slow} waited for the store"


def expect_full_speed(replicas, plain, first):
    """That lookups go as fast as in a plaque that has no store. Returns the medians, as text."""
    took, all_of_it = {True: [], False: []}, Stopwatch()
    for channel in made_up_channels(first, 80):
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
        proxy = stack.enter_context(Relay(redis.port))
        replicas = stack.enter_context(running_replicas(bench, f"redis://{proxy.address}", origin))
        plain = stack.enter_context(Replica(bench, origin.url))
        expect_one_lookup_for_each(replicas, origin, made_up_channels(0, 3))
        with Callers(replicas) as callers:
            end = befalls(redis, proxy, stack)
            wait_until_down(replicas)
            speed = expect_full_speed(replicas, plain, 1000)
            # Time for more than one attempt to come back.
            time.sleep(2.5)
            end()
            back = wait_until_up(replicas)
        callers.expect_answered()
        expect_one_lookup_for_each(replicas, origin, made_up_channels(2000, 3))
        expect_told(replicas)
    note(f"{speed}; {callers}; back {back:.1f} s after its end")


def test_with_redis_restarted_empty_plaque_goes_on_as_if_it_were_new(replicas, origin, redis, note):
    expect_one_lookup_for_each(replicas, origin, made_up_channels(0, 3))
    with Callers(replicas) as callers:
        redis.kill()
        redis.start()
        wait_until(lambda: all(replica.logged("the store is back") for replica in replicas), "all are back")
    callers.expect_answered()
    expect_one_lookup_for_each(replicas, origin, made_up_channels(2000, 3))
    expect_told(replicas)
    note(str(callers))


def test_with_redis_emptied_nobody_notices(replicas, origin, redis):
    expect_one_lookup_for_each(replicas, origin, made_up_channels(0, 3))
    redis.cli("flushall")
    redis.cli("script", "flush")
    expect_one_lookup_for_each(replicas, origin, made_up_channels(3, 3))
    for replica in replicas:
        assert replica.logged(" WARN ") == 0, "the warnings in the log"


def test_without_redis_at_its_start_plaque_serves_and_joins_later(bench, origin, redis):
    with ExitStack() as stack:
        redis.kill()
        replicas = [stack.enter_context(Replica(bench, origin.url, *with_store(redis.url))) for _ in range(2)]
        for replica in replicas:
            watch = Stopwatch()
            expect_ok(replica.plaque.ask(made_up_channel(1)))
            assert watch.seconds() < STORE_TIMEOUT, f"the first call took {watch.seconds():.2f} s"
        assert origin.lookups() == 2, "the lookups"
        redis.start()
        wait_until_up(replicas)
        expect_one_lookup_for_each(replicas, origin, made_up_channels(2000, 3))
        expect_told(replicas)


# A cluster

# That a connection broke does not tell whose it was. The others work, until somebody asks for a key of the lost node.
MOST_TOLD_OF_A_NODE = 2


def test_a_cluster_shares_lookups_and_goes_on_with_a_node_lost(bench, origin, note):
    with running_cluster() as cluster, running_replicas(bench, cluster.url, origin) as replicas:
        known = made_up_channels(0, 36)
        expect_one_lookup_for_each(replicas, origin, known)
        lost = cluster.nodes[0]
        holders = {cluster.owner(key(channel)).port for channel in known}
        assert len(holders) == 3, "the nodes that have keys"
        elsewhere = [channel for channel in made_up_channels(100, 36) if cluster.owner(key(channel)) is not lost]
        with Callers(replicas) as callers:
            lost.kill()
            wait_until_down(replicas, lasting=1.5)
            cost = lookups_of(replicas, origin, elsewhere) / len(elsewhere)
            assert cost <= len(replicas), f"a channel costs {cost} lookups"
            lost.start()
            wait_until(cluster.is_whole, "the node is back")
            back = wait_until_up(replicas)
        callers.expect_answered()
        expect_one_lookup_for_each(replicas, origin, made_up_channels(2000, 36))
        expect_told(replicas, most=MOST_TOLD_OF_A_NODE)
    note(f"{cost:.0f} lookups a channel of the other nodes meanwhile; {callers}; back {back:.1f} s after the node")


def test_a_cluster_that_replaces_a_lost_node_is_in_use_again(bench, origin, note):
    with running_cluster(replicas=1) as cluster, running_replicas(bench, cluster.url, origin) as replicas:
        new = made_up_channels(0, 36)
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
