"""A soak of watches: snapshots that flap at random, watchers that drop and resume, replicas that are killed.

With redis-server of the path. Two plaques share a Redis. What happens is random; what is checked holds for every course of it.
At the end the snapshots are right, everybody reads, and what each was sent is compared with what there was.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import grpc
import pytest

from origin.feeds import Upload, feed
from snapshots import SnapshotServer, response
from store_support import Replica, running_redis, wait_until_up
from support import ANY, OPTIONS, SHORT, VIDEO, brief, channel_of, made_up_channel, services, wait_until, watch_request

StatusCode = grpc.StatusCode
pytestmark = [pytest.mark.soak, pytest.mark.redis]
CHANNELS = [made_up_channel(i) for i in range(20)]
WATCHERS = 60
# Of a channel, when the soak begins, a day apart. More than a feed shows, so that old ones can move up.
AT_FIRST = 25
# Of all channels, a second.
CHANGES = 8
# For the polls with right snapshots, after the last pause for a failure, and for the last uploads.
SETTLING = 20
# As polls of each channel, with the right snapshot.
SETTLED_AFTER = 3
FLAGS = (
    "--watch-every", "1s", "--watch-at-most", "1s", "--fresh-for", "200ms", "--stale-while-revalidate", "0s", "--negative-for", "1s",
    "--store-timeout", "500ms")
# No more is sent ahead of a reader than this.
WINDOW = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16 << 10)
# A connection of its own for each session.
SESSION_OPTIONS = [*OPTIONS, *WINDOW]


class Truth:
    """What there is of a channel, and what was shown of it. Changed and asked under the upstream's lock."""

    def __init__(self, channel, chance, now):
        self.channel, self.chance = channel, chance
        self.right = False
        self.uploads, self.visible, self.created = {}, [], {}
        for i in range(AT_FIRST):
            self.publish(now - timedelta(days=AT_FIRST - i), 0)
        # What would have been right: the latest last.
        self.snapshots = [self.snapshot()]
        # What was shown: pairs of a time and a snapshot.
        self.served = []
        # Requests until another may fail, so that plaque's pauses stay short.
        self.well_for = 3
        # The names of the servers that are refused.
        self.refused = set()

    def publish(self, at, created, short=None):
        # No two of one second: which of two is newer than the other would be nobody's to say.
        if self.visible or self.uploads:
            at = max(at, max(one.published for one in self.uploads.values()) + timedelta(seconds=1))
        name = f"{len(self.uploads):04}{self.channel[-7:]}"
        title = "x" * self.chance.choice([20, 20, 4000])
        is_short = self.chance.random() < 0.3 if short is None else short
        self.uploads[name] = Upload(name, at.replace(microsecond=0), is_short, title)
        self.visible.append(name)
        self.created[name] = created
        return name

    def change(self, now, created):
        """Something happens to the channel. Returns what."""
        fate = self.chance.random()
        if fate < 0.6:
            self.publish(now, created)
            what = "uploads"
        elif fate < 0.8:
            # Mostly one of those that a feed shows.
            self.visible.remove(self.chance.choice(self.visible[-12:]))
            what = "deletions"
        else:
            name = self.chance.choice(self.visible[-12:])
            self.uploads[name] = self.uploads[name]._replace(short=True)
            what = "changes of a kind"
        self.snapshots.append(self.snapshot())
        return what

    def snapshot(self):
        """The right one: of each upload what it is now, the newest first."""
        return [self.uploads[name] for name in reversed(self.visible[-15:])]

    def answer(self, path):
        """What the upstream answers now."""
        if any(f"/{name}?" in path for name in self.refused):
            return response(429)
        snapshot, fate = self.snapshot(), self.chance.random()
        self.well_for -= 1
        if not self.right:
            if fate < 0.08 and self.well_for <= 0:
                self.well_for = 3
                return response(self.chance.choice([404, 404, 500]))
            if fate < 0.3:
                snapshot = self.snapshots[-self.chance.randint(1, min(8, len(self.snapshots)))]
            elif fate < 0.45:
                snapshot = snapshot[:self.chance.randint(0, 15)]
            elif fate < 0.5:
                # As after deletions that are taken back.
                snapshot = snapshot[self.chance.randint(0, 4):]
        self.served.append((time.monotonic(), snapshot))
        return response(200, feed(self.channel, snapshot))

    def oldest_with(self, first, kind):
        """The oldest publication in any snapshot so far with which a watch could have begun that was sent `first` first."""
        dates = [min(one.published for one in snapshot)
                 for _, snapshot in self.served
                 if first == next((one.id for one in snapshot if is_of(one, kind)), None)]
        return min(dates, default=None)


def is_of(upload, kind):
    return kind == ANY or upload.short == (kind == SHORT)


class Watcher:
    """A client that watches a few channels over many sessions."""

    def __init__(self, soak, number, chance):
        self.soak, self.number, self.chance = soak, number, chance
        self.channels = chance.sample(CHANNELS, chance.randint(1, 5))
        self.kind = chance.choice([ANY, ANY, ANY, VIDEO, SHORT])
        self.tokens = {}
        # Of each channel: the uploads in the order sent, whether the first was there at the beginning, since when it watches,
        # and what is older than all that it may be sent.
        self.sent = {channel: [] for channel in self.channels}
        self.initial, self.began, self.floor = {}, {}, {}

    async def run(self):
        # Not all at once.
        await asyncio.sleep(self.chance.uniform(0, self.soak.flapping / 4))
        while not self.soak.over.is_set():
            replica = self.chance.choice(self.soak.replicas)
            lasts = None if self.soak.settling.is_set() else self.chance.uniform(0.5, 8)
            # Between two events.
            pause = self.chance.choice([0, 0, 0, 0.1, 0.5, 4])
            async with grpc.aio.insecure_channel(replica.plaque.address, options=SESSION_OPTIONS) as connection:
                self.soak.counts["sessions"] += 1
                self.soak.counts["resumed channels"] += len(self.tokens)
                reading = asyncio.create_task(self.read(connection, pause))
                over = asyncio.create_task(self.soak.over.wait())
                await asyncio.wait({reading, over}, timeout=lasts, return_when=asyncio.FIRST_COMPLETED)
                reading.cancel()
                over.cancel()
                await asyncio.gather(reading, over, return_exceptions=True)
                if not reading.cancelled() and (error := reading.exception()):
                    self.failed(error)
            await asyncio.sleep(0.1)

    def failed(self, error):
        if not isinstance(error, grpc.aio.AioRpcError):
            raise error
        # One that was killed.
        if error.code() is not StatusCode.UNAVAILABLE:
            self.soak.note("a watch failed", f"{error.code().name} {error.details()}")

    async def read(self, connection, pause):
        began = time.monotonic()
        # What is continued; the others begin anew.
        continued = set(self.tokens)
        call = services.LatestVideoStub(connection).WatchLatestVideo(
            watch_request(self.channels, self.kind, resume_tokens=list(self.tokens.values())))
        async for event in call:
            self.see(event, began, continued)
            if pause and not self.soak.settling.is_set():
                await asyncio.sleep(pause)

    def see(self, event, began, continued):
        channel, what = channel_of(event), event.WhichOneof("event")
        if channel not in self.channels:
            return self.note("another channel's event", event)
        if not 0 < len(event.resume_token) <= 128:
            self.note("a token of another length", event)
        self.soak.counts[f"{what}s sent"] += 1
        if channel not in self.tokens:
            self.began[channel] = began
        self.tokens[channel] = event.resume_token
        if what == "video":
            self.see_upload(event, channel, channel in continued)

    def see_upload(self, event, channel, continued):
        truth, sent, name = self.soak.truths[channel], self.sent[channel], event.video.video_id
        upload = truth.uploads.get(name)
        if upload is None:
            return self.note("an upload that there is not", event)
        if name in sent:
            self.note("an upload twice", event)
        if self.kind != ANY and event.video.kind != self.kind:
            self.note("an upload of another kind", event)
        if event.initial:
            if sent:
                self.note("a later upload marked initial", event)
            with self.soak.upstream.lock:
                self.floor[channel] = truth.oldest_with(name, self.kind)
            if self.floor[channel] is None:
                self.note("a beginning that was never shown", event)
            self.initial[channel] = upload
            self.soak.counts["initial, though continued"] += continued
        elif (floor := self.floor.get(channel)) and upload.published <= floor:
            self.note("an upload that is not newer than the oldest at the beginning", event)
        sent.append(name)

    def note(self, what, event):
        sent = self.sent.get(channel_of(event))
        self.soak.note(what, f"watcher {self.number}: {brief(event)} of {channel_of(event)} after {sent}")

    def named_kind(self):
        return {ANY: "all uploads", VIDEO: "videos", SHORT: "Shorts"}[self.kind]

    def wants(self, channel, upload):
        """Whether it has to be sent an upload that is shown in the end."""
        if not is_of(upload, self.kind):
            return False
        if channel in self.initial:
            return upload.published > self.initial[channel].published
        truth = self.soak.truths[channel]
        return channel in self.began and truth.created[upload.id] > self.began[channel]

    def lacks(self, channel, uploads):
        return [one.id for one in uploads if self.wants(channel, one) and one.id not in self.sent[channel]]


class Soak:
    """The random course of things, and what was seen of it."""

    def __init__(self, bench, upstream, replicas, seed):
        self.upstream, self.replicas = upstream, replicas
        self.flapping = max(10, bench.numbers["seconds"] - SETTLING)
        self.chance = random.Random(seed)
        now = datetime.now(timezone.utc)
        self.truths = {channel: Truth(channel, random.Random(f"{seed} {channel}"), now) for channel in CHANNELS}
        for channel, truth in self.truths.items():
            upstream.answer(channel, truth.answer)
        self.watchers = [Watcher(self, i, random.Random(f"{seed} watcher {i}")) for i in range(WATCHERS)]
        self.counts = Counter()
        # What may not be: of each kind how often it was seen, and the first.
        self.wrong, self.first_wrong = Counter(), {}

    def note(self, what, seen):
        self.wrong[what] += 1
        self.first_wrong.setdefault(what, seen)

    async def run(self):
        self.settling, self.over = asyncio.Event(), asyncio.Event()
        watching = [asyncio.create_task(watcher.run()) for watcher in self.watchers]
        self.end = time.monotonic() + self.flapping
        try:
            await asyncio.gather(self.change_things(), self.kill_replicas())
            await self.settle()
        finally:
            self.over.set()
            for result in await asyncio.gather(*watching, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    async def change_things(self):
        while time.monotonic() < self.end:
            with self.upstream.lock:
                truth = self.truths[self.chance.choice(CHANNELS)]
                self.counts[truth.change(datetime.now(timezone.utc), time.monotonic())] += 1
            await asyncio.sleep(1 / CHANGES)

    async def kill_replicas(self):
        """Now and then one is killed, which perhaps was refused before, and started again: one at a time."""
        number = 0
        while time.monotonic() + 8 < self.end:
            await asyncio.sleep(self.chance.uniform(3, 6))
            number = 1 - number
            replica, name = self.replicas[number], NAMES[number]
            if self.chance.random() < 0.5:
                self.refuse({name})
                self.counts["refusals (429)"] += 1
                await asyncio.sleep(2)
            await asyncio.to_thread(replica.plaque.program.kill)
            self.refuse(set())
            await asyncio.sleep(self.chance.uniform(0, 2))

            def start():
                replica.close()
                replica.start()
                wait_until_up([replica])

            await asyncio.to_thread(start)
            self.counts["kills"] += 1

    def refuse(self, names):
        with self.upstream.lock:
            for truth in self.truths.values():
                truth.refused = names

    async def settle(self):
        """Right snapshots for some polls, and then two last uploads of each channel, which come after all others."""
        self.settling.set()
        with self.upstream.lock:
            for truth in self.truths.values():
                truth.right = True
            begun = dict(self.upstream.requests)

        def is_settled():
            return all(self.upstream.count(channel) > begun[channel] + SETTLED_AFTER for channel in CHANNELS)

        await asyncio.to_thread(wait_until, is_settled, "polls of each channel", SETTLING)
        with self.upstream.lock:
            self.final = {channel: truth.snapshot() for channel, truth in self.truths.items()}
            last = {}
            for channel, truth in self.truths.items():
                names = [truth.publish(datetime.now(timezone.utc), time.monotonic(), short) for short in (False, True)]
                last[channel] = [truth.uploads[name] for name in names]

        def is_over():
            return not any(watcher.lacks(channel, last[channel]) for watcher in self.watchers for channel in watcher.channels)

        end = time.monotonic() + SETTLING
        while not is_over() and time.monotonic() < end:
            await asyncio.sleep(0.1)
        for watcher in self.watchers:
            for channel in watcher.channels:
                for what, uploads in ("the last uploads", last[channel]), ("what stayed visible", self.final[channel]):
                    wanted = [one.id for one in uploads if watcher.wants(channel, one)]
                    self.counts[f"of {what} wanted"] += len(wanted)
                    if lacking := watcher.lacks(channel, uploads):
                        self.note(f"a lack of {what}", f"watcher {watcher.number} of {watcher.named_kind()} of {channel} lacks "
                                                       f"{lacking} after {watcher.sent[channel]}")


NAMES = "a", "b"


@pytest.fixture(scope="module")
def soak(bench):
    with running_redis() as redis, SnapshotServer() as upstream, ExitStack() as places:
        replicas = [
            places.enter_context(Replica(bench, upstream.url(name), *FLAGS, "--store", redis.url)) for name in NAMES]
        wait_until_up(replicas)
        course = Soak(bench, upstream, replicas, bench.numbers["seed"])
        asyncio.run(course.run())
    return course


def test_nothing_was_sent_that_may_not_be_and_nothing_lacks(soak, note):
    wrong = [f"{count} × {what} (the first: {soak.first_wrong[what]})" for what, count in soak.wrong.items()]
    assert not wrong, "; ".join(wrong)
    note(", ".join(f"{count} {what}" for what, count in soak.counts.items()))


def test_enough_happened_to_tell(bench, soak):
    counts, seconds = soak.counts, bench.numbers["seconds"]
    least = {
        "uploads": 2 * seconds, "deletions": seconds / 2, "changes of a kind": seconds / 2, "sessions": 3 * seconds,
        "resumed channels": 5 * seconds, "kills": max(1, seconds // 20), "videos sent": 10 * seconds, "problems sent": seconds / 2,
        "recovereds sent": seconds / 2, "of the last uploads wanted": 2 * WATCHERS, "of what stayed visible wanted": 5 * WATCHERS}
    few = {what: counts[what] for what, count in least.items() if counts[what] < count}
    assert not few, f"too few to tell: {few}"
