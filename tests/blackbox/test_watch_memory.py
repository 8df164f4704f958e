"""What a watch costs in memory: of 100 channels that all share, of one channel, and of 100 channels of its own.

Each check has an upstream and a plaque of its own. The client is a raw one: 10,000 streams of Python's gRPC would take a GiB.
"""

import select
import time
from collections import Counter
from contextlib import ExitStack

from attack_support import WATCH
from origin.feeds import days, feed
from snapshots import SnapshotServer, response
from h2 import PREFACE, Connection, Kind, Setting, grpc_message, settings, window_update
from support import Stopwatch, made_up_channel, wait_until, watch_request

# As many streams as plaque allows by default.
ON_A_CONNECTION = 200
LARGEST_WINDOW = (1 << 31) - 1
PATIENCE = 60
# Nothing is polled twice, and nobody has to answer a PING.
FLAGS = (
    "--watch-every", "1h", "--keepalive", "1h", "--max-watched", 2_000_000, "--max-calls", 100_000, "--upstream-queue", 1_000_000,
    "--log", "warn")

# What a watch may cost, in KiB: of 100 channels that others watch too, of one, and of 100 that nobody else does, beside the cache.
SHARED, SINGLE, OWN = 20, 8, 100
# What a channel may take of the cache, in KiB.
CACHE_ENTRY = 2.5


def snapshots(newest):
    """What shows 15 uploads of any channel, as a function of its ID."""
    sample = made_up_channel(0)
    whole = response(200, feed(sample, days(newest, newest - 14)))
    # An ID is there with and without its UC.
    return lambda channel: whole.replace(sample[2:].encode(), channel[2:].encode())


class Watches(Connection):
    """A connection with watches, which reads all that comes at once, and counts it."""

    def __init__(self, address):
        greeting = settings({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})
        super().__init__(address, PREFACE + greeting + window_update(0, LARGEST_WINDOW - 0xffff))
        # Of a stream: its messages, and what came of the next one.
        self.messages, self.partial = Counter(), {}
        # What may be sent over the connection, in bytes.
        self.room = 0xffff

    def take(self, kind, flags, stream, payload):
        super().take(kind, flags, stream, payload)
        if kind == Kind.WINDOW_UPDATE and stream == 0:
            self.room += int.from_bytes(payload, "big")
        elif kind == Kind.DATA:
            data = self.partial.pop(stream, b"") + payload
            at = 0
            while len(data) - at >= 5:
                end = at + 5 + int.from_bytes(data[at + 1:at + 5], "big")
                if end > len(data):
                    break
                self.messages[stream] += 1
                at = end
            self.partial[stream] = data[at:]

    def watch(self, channels):
        body = grpc_message(watch_request(channels).SerializeToString())
        self.wait_until(lambda: self.room >= len(body), "room for a request", PATIENCE)
        self.room -= len(body)
        self.call(WATCH, body)

    def count(self):
        return sum(self.messages.values())


def read_all(connections, count, what):
    """Reads from all until so many messages came over them."""
    end = time.monotonic() + PATIENCE
    while (have := sum(connection.count() for connection in connections)) < count:
        assert time.monotonic() < end, f"{what}: {have} of {count} messages within {PATIENCE} s"
        for readable in select.select([connection.socket for connection in connections], [], [], 0.1)[0]:
            next(one for one in connections if one.socket is readable).receive()
        assert not any(connection.closed for connection in connections), f"{what}: the server closed a connection"
    assert have == count, f"{what}: the messages"


def settled_memory(plaque):
    """Its resident memory in KiB, once it has given back what it gives back."""
    least, since = plaque.memory_kib(), Stopwatch()
    while since.seconds() < 1:
        time.sleep(0.05)
        now = plaque.memory_kib()
        if now < least:
            least, since = now, Stopwatch()
    return least


def cost(bench, count, channels_of, limit, at_once=ON_A_CONNECTION):
    """What `count` watches cost, each of the channels that the function of its number gives; `limit` in KiB.

    So many begin `at_once`.
    """
    with SnapshotServer(snapshots(30)) as upstream, bench.plaque(upstream.url(), *FLAGS) as plaque, ExitStack() as opened:
        each = len(channels_of(0))
        # What the first watch brings with it is not counted. It is of channels of its own unless all are shared.
        first = opened.enter_context(Watches(plaque.address))
        first.watch(channels_of(count))
        first.wait_until(lambda: first.count() == each, "the first watch", PATIENCE)
        before, took, connections = settled_memory(plaque), Stopwatch(), []
        for begin in range(0, count, ON_A_CONNECTION):
            connection = opened.enter_context(Watches(plaque.address))
            connections.append(connection)
            for number in range(begin, min(begin + ON_A_CONNECTION, count)):
                connection.watch(channels_of(number))
                begun = number + 1 - begin
                if begun % at_once == 0 or number + 1 == count:
                    connection.wait_until(
                        lambda c=connection, n=begun: c.count() == n * each, "the first uploads", PATIENCE)
        took = took.seconds()
        memory = settled_memory(plaque)
        a_watch = (memory - before) / count

        # They are watches: an upload reaches all who watch its channel.
        channel = channels_of(0)[0]
        watchers = sum(channel in channels_of(number) for number in range(count))
        upstream.answer(channel, snapshots(31)(channel))
        wait_until(lambda: upstream.count(channel) > 1 or not plaque.ask(channel, max_age=0), "it is looked up", PATIENCE)
        read_all(connections, count * each + watchers, "the new upload")
        woken = (settled_memory(plaque) - before) / count
        for connection in connections:
            connection.socket.close()
        wait_until(lambda: plaque.metric("plaque_calls") <= 1, "the watches have ended", PATIENCE)
        left = (settled_memory(plaque) - before) / 1024
        told = (f"{count} watches of {each}: {a_watch:.1f} KiB each, {woken:.1f} KiB after an upload reached {watchers}, "
                f"of at most {limit} KiB; opened in {took:.1f} s; VmRSS {before // 1024} MiB before, {memory // 1024} MiB with them, "
                f"{left:+.0f} MiB when they had ended, {plaque.peak_memory_mib()} MiB at most")
    assert max(a_watch, woken) <= limit, told
    return told


def test_watches_of_100_channels_that_all_share(bench, note):
    channels = [made_up_channel(i) for i in range(100)]
    note(cost(bench, bench.numbers["watches"], lambda _: channels, SHARED))


def test_watches_of_one_channel(bench, note):
    channels = [[made_up_channel(i)] for i in range(100)]
    note(cost(bench, bench.numbers["watches"], lambda number: channels[number % 100], SINGLE))


def test_watches_of_100_channels_of_their_own(bench, note):
    def own(number):
        return [made_up_channel(100 * number + i) for i in range(100)]

    note(cost(bench, bench.numbers["watches"] // 40, own, OWN + 100 * CACHE_ENTRY, at_once=5))
