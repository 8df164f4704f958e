"""A soak: random callers, batches, watches, cancellations and faults, and at the end nothing is left behind.

One origin, one plaque with short ages. What happens is random; what is checked holds for every course of it.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict

import grpc
import pytest

from support import (
    ANY, OPTIONS, SHORT, VIDEO, Answer, Stopwatch, batch_request, channel_of, expect_ok, made_up_channel, request, services,
    watch_request,
)

StatusCode = grpc.StatusCode
pytestmark = pytest.mark.soak

FRESH_FOR = 0.5
WATCH_EVERY = 1
NEGATIVE_FOR = 1
FLAGS = [
    "--fresh-for", "500ms", "--stale-while-revalidate", "1s", "--stale-if-error", "1h", "--negative-for", "1s",
    "--watch-every", "1s", "--upstream-timeout", "1s", "--max-waiters", 2000, "--log", "error"]

CHANNELS = [made_up_channel(i) for i in range(200)]
# Half of all calls, none of them with a max_age: what they cost upstream is bounded by --fresh-for alone.
HOT = CHANNELS[:5]
# Only these ever hang. The origin does not notice that plaque has given a hung lookup up, and counts it as running for ever.
HANGING = CHANNELS[5:25]
# Answered 404 and 500 from the first lookup to the end: what they cost is bounded by their backoff alone.
GONE = [made_up_channel(i) for i in range(1000, 1005)]
BROKEN = [made_up_channel(i) for i in range(1005, 1010)]
NEVER_ASKED = made_up_channel(2000)

# No 429: it stops all lookups, and there would be no load.
FAULTS = ["status:404", "status:500", "drip", "truncate", "reset", "garbage", "html200"]
# An eleventh would push the last Short out of the 15 that plaque takes from a feed. Shorts would then be looked up in a feed of
# their own, with fetch times of their own, which the origin counts as the same channel's (tests/it/kinds.rs has those).
MOST_UPLOADS = 10

CALLERS, BATCHES, WATCHES = 30, 3, 20

# What a call may end with, besides OK.
EXPECTED = {
    StatusCode.NOT_FOUND: {"CHANNEL_NOT_FOUND", "NO_UPLOADS"},
    StatusCode.UNAVAILABLE: {
        "UPSTREAM_OUTAGE", "UPSTREAM_ERROR", "UPSTREAM_TIMEOUT", "UPSTREAM_MALFORMED", "UPSTREAM_RATE_LIMITED"},
    # Of callers whom no lookup that begins by then would serve in time: those that hang make all look slow. Few, see below.
    StatusCode.RESOURCE_EXHAUSTED: {"OVERLOADED"},
    # Without a reason where the client was the first to notice.
    StatusCode.DEADLINE_EXCEEDED: {"DEADLINE", None},
}


class Soak:
    """The random load, and what was seen of it."""

    def __init__(self, plaque, origin, seconds):
        self.plaque, self.origin = plaque, origin
        self.end = time.monotonic() + seconds
        self.seconds = seconds
        self.connections = []
        # The newest fetch time that an answer for the channel had, in nanoseconds, of the calls that have ended.
        self.newest = defaultdict(int)
        self.asked = Counter()
        # Requests that may each cost a lookup although the answer is fresh.
        self.demanded = Counter()
        self.outcomes = Counter()
        # What may not be: of each kind how often it was seen, and the first.
        self.wrong, self.first_wrong = Counter(), {}
        self.told = Counter()
        self.uploads = Counter()
        self.memory = []

    def running(self):
        return time.monotonic() < self.end

    def note(self, what, seen):
        self.wrong[what] += 1
        self.first_wrong.setdefault(what, seen)

    def client(self):
        return services.LatestVideoStub(random.choice(self.connections))

    def any_channel(self):
        chance = random.random()
        return random.choice(HOT if chance < 0.5 else GONE + BROKEN if chance < 0.55 else CHANNELS)

    async def run(self):
        async with contextlib.AsyncExitStack() as connections:
            for _ in range(6):
                channel = grpc.aio.insecure_channel(self.plaque.address, options=OPTIONS)
                self.connections.append(await connections.enter_async_context(channel))
            await asyncio.gather(
                *(self.call_again_and_again() for _ in range(CALLERS)),
                *(self.batch_again_and_again() for _ in range(BATCHES)),
                *(self.watch_again_and_again() for _ in range(WATCHES)),
                self.cause_trouble(), self.measure_memory())

    # Callers

    async def call_again_and_again(self):
        while self.running():
            channel, kind = self.any_channel(), random.choice([ANY, ANY, VIDEO, SHORT])
            max_age = None if channel in HOT else random.choice([None, None, None, 0, 0.2, 1, 5])
            begun = self.begin([channel], max_age)
            # From 5 ms to 2 s, short ones as often as long ones.
            call = self.client().GetLatestVideo(request(channel, kind, max_age), timeout=0.005 * 400 ** random.random())
            cancelled = random.random() < 0.1 and asyncio.get_running_loop().call_later(random.random() / 20, call.cancel)
            found, code, reason = await outcome(call)
            if code is StatusCode.CANCELLED:
                self.outcomes["cancelled"] += 1
                if not cancelled:
                    self.note("a call was cancelled by nobody", channel)
            else:
                self.judge(begun, channel, kind, found, code, reason)
            if cancelled:
                cancelled.cancel()
            await asyncio.sleep(random.random() / 20)

    async def batch_again_and_again(self):
        while self.running():
            max_age = random.choice([None, None, None, 0, 0.2, 1])
            choice = [channel for channel in CHANNELS + GONE + BROKEN if max_age is None or channel not in HOT]
            channels = random.choices(choice, k=random.randint(1, 100))
            begun = self.begin(channels, max_age)
            call = self.client().BatchGetLatestVideos(batch_request(channels, ANY, max_age), timeout=0.05 + 2 * random.random())
            answer, code, reason = await outcome(call)
            if code is StatusCode.OK:
                if [result.channel_id for result in answer.results] != channels:
                    self.note("a batch's results are not in the order asked", channels)
                for result in answer.results:
                    failure = result.failure
                    code = CODES[failure.code]
                    found = result.found if result.HasField("found") else None
                    self.judge(begun, result.channel_id, ANY, found, code, failure.reason)
            elif code is not StatusCode.DEADLINE_EXCEEDED:
                self.note("a batch failed", f"{code.name} {reason}")
            await asyncio.sleep(random.random() / 5)

    def begin(self, channels, max_age):
        """What is known when a call for these channels begins: of each the newest answer so far, and the time."""
        self.asked.update(channels)
        if max_age is not None and max_age < FRESH_FOR:
            self.demanded.update(set(channels))
        return {channel: self.newest.get(channel) for channel in channels}, time.time_ns()

    def judge(self, begun, channel, kind, found, code, reason):
        """Whether a call that began then may end so."""
        (newest, began_at) = begun
        newest = newest[channel]
        if found is None:
            self.outcomes[reason or code.name] += 1
            if reason not in EXPECTED.get(code, ()):
                self.note("an unexpected error", f"{channel}: {code.name} {reason}")
            # The last good answer is kept for an hour: a failure is news of a channel without one.
            no_such_kind = kind != ANY and reason == "NO_UPLOADS"
            if newest and code is not StatusCode.DEADLINE_EXCEEDED and not no_such_kind:
                self.note("an error for a channel that had an answer", f"{channel}: {code.name} {reason}")
            return
        self.outcomes["found"] += 1
        fetched, stale = found.freshness.fetch_time.ToNanoseconds(), found.freshness.stale
        if newest and fetched < newest:
            self.note("an answer older than an earlier one", f"{channel}: by {(newest - fetched) / 1e9:.3f} s")
        # It was fresh at some moment of the call. A hundredth, because the ages are not reckoned by the wall clock.
        age = (began_at - fetched) / 1e9
        if not stale and age > FRESH_FOR + 0.01:
            self.note("a stale answer that is not marked stale", f"{channel}: {age:.3f} s old")
        if found.video.channel_id != channel or (kind != ANY and found.video.kind != kind):
            self.note("another channel's upload, or of another kind", f"{channel}: {found.video}")
        self.newest[channel] = max(self.newest[channel], fetched)

    # Watches

    async def watch_again_and_again(self):
        while self.running():
            channels = random.sample(CHANNELS, random.randint(1, 10))
            call = self.client().WatchLatestVideo(watch_request(channels), timeout=random.uniform(0.5, 10))
            seen = set()
            # Some leave before their deadline.
            leaves = random.random() < 0.5 and asyncio.get_running_loop().call_later(random.uniform(0, 5), call.cancel)
            try:
                async for event in call:
                    self.see(event, seen, channels)
            except grpc.aio.AioRpcError as error:
                if error.code() is not StatusCode.DEADLINE_EXCEEDED:
                    self.note("a watch failed", f"{error.code().name} {error.details()}")
            except asyncio.CancelledError:
                if not leaves:
                    self.note("a watch was cancelled by nobody", channels)
            if leaves:
                leaves.cancel()

    def see(self, event, seen, channels):
        kind, channel = event.WhichOneof("event"), channel_of(event)
        if channel not in channels:
            self.note(f"a watch told of another channel's {kind}", channel)
        if kind != "video":
            self.told[{"problem": "problems"}.get(kind, kind)] += 1
            return
        video = event.video
        self.told["initial uploads" if event.initial else "new uploads"] += 1
        if (video.channel_id, video.video_id) in seen:
            self.note("a watch repeated an upload", f"{video.channel_id}: {video.video_id}")
        if event.initial and video.channel_id in {channel for channel, _ in seen}:
            self.note("a watch called a second upload initial", f"{video.channel_id}: {video.video_id}")
        seen.add((video.channel_id, video.video_id))

    # Faults

    async def cause_trouble(self):
        published = 0
        while self.running():
            # More often well than not.
            mode = "ok" if random.random() < 0.6 else random.choice(FAULTS)
            await self.order(mode=mode, channels=random.sample(CHANNELS, random.randint(1, 10)))
            if random.random() < 0.1:
                await self.order(mode="hang", channels=[random.choice(HANGING)])
            channel = random.choice(CHANNELS)
            if self.uploads[channel] < MOST_UPLOADS:
                self.uploads[channel] += 1
                published += 1
                upload = {"channel": channel, "video_id": f"new{published:08}", "short": random.random() < 0.2}
                await self.order(publish=upload)
            await asyncio.sleep(0.1)

    async def order(self, **order):
        await asyncio.to_thread(self.origin.control, **order)

    async def measure_memory(self):
        while self.running():
            self.memory.append(self.plaque.memory_kib())
            await asyncio.sleep(0.5)


CODES = {code.value[0]: code for code in StatusCode}


async def outcome(call):
    """How a call ended: the response, the code, and the error's reason."""
    try:
        return await call, StatusCode.OK, None
    except grpc.aio.AioRpcError as error:
        return None, error.code(), Answer(error).reason
    except asyncio.CancelledError:
        return None, StatusCode.CANCELLED, None


class Facts:
    """What is checked in the end."""

    def __init__(self, bench):
        with bench.plaque_and_origin(*FLAGS, synthesize=True) as (plaque, origin):
            origin.control(latency_ms=20)
            origin.control(mode="status:404", channels=GONE)
            origin.control(mode="status:500", channels=BROKEN)
            took = Stopwatch()
            self.soak = Soak(plaque, origin, bench.numbers["seconds"])
            asyncio.run(self.soak.run())
            # A lookup that was begun by the last call ends within --upstream-timeout.
            time.sleep(1.5)
            self.stats = origin.stats()
            self.seconds = took.seconds()
            time.sleep(4 * WATCH_EVERY)
            self.lookups_afterwards = origin.lookups() - self.stats["total"]
            origin.control(mode="ok")
            self.last_batches = [plaque.batch(CHANNELS[i:i + 100]) for i in (0, 100)]
            self.last_new_one = plaque.ask(NEVER_ASKED, max_age=0)
            plaque.program.terminate()
            self.exit_code = plaque.program.exit_code(within=5)


@pytest.fixture(scope="module")
def facts(bench):
    return Facts(bench)


def test_every_answer_is_one_that_may_be(facts, note):
    soak = facts.soak
    wrong = [f"{count} × {what} (the first: {soak.first_wrong[what]})" for what, count in soak.wrong.items()]
    assert not wrong, "; ".join(wrong)
    assert soak.outcomes["found"] > soak.seconds * 50, f"the load was too small: {soak.outcomes}"
    refused = soak.outcomes["OVERLOADED"]
    assert refused < soak.outcomes.total() / 50, f"{refused} of {soak.outcomes.total()} calls were refused"
    note(", ".join(f"{count} {what}" for what, count in soak.outcomes.most_common()))


def test_every_watch_went_on_and_repeated_nothing(facts, note):
    told = facts.soak.told
    for what in "initial uploads", "new uploads", "problems", "recovered":
        assert told[what], f"no watch told of {what}"
    note(", ".join(f"{count} {what}" for what, count in told.items()))


def test_no_channel_was_ever_looked_up_twice_at_once(facts, note):
    at_once = facts.stats["max_concurrent_by_channel"]
    twice = {channel: count for channel, count in at_once.items() if count > 1 and channel not in HANGING}
    assert twice == {}, "the channels"
    note(f"of {len(at_once) - len(HANGING)} channels; at most {facts.stats['max_concurrent']} lookups at one moment")


def test_fresh_answers_were_not_looked_up(facts, note):
    """A lookup begins only where the last good answer is older than --fresh-for (a poll asks for half of --watch-every, which
    is no less), or where a request said a smaller max_age, which costs at most one lookup. A failed lookup is followed by a
    longer pause. So in T seconds a channel costs at most 1 + T / fresh_for, and one for each such request."""
    soak, lookups, seconds = facts.soak, facts.stats["by_channel"], facts.seconds
    fresh = 1 + seconds / FRESH_FOR
    over = {channel: lookups[channel] for channel in CHANNELS if lookups[channel] > fresh + soak.demanded[channel]}
    assert over == {}, "the channels with more lookups"
    asked, cost = min(soak.asked[channel] for channel in HOT), max(lookups[channel] for channel in HOT)
    assert asked > 5 * fresh, f"a hot channel was asked for {asked} times: no proof"
    note(f"a hot channel: {asked} calls, {cost} lookups, at most {fresh:.0f}; all: {sum(lookups.values())} lookups")


def test_failures_were_remembered(facts, note):
    """Whatever max_age says, a pause follows each failed lookup, twice as long as the one before and at least 4 min (5 min
    less a fifth) in the end."""
    lookups, seconds = facts.stats["by_channel"], facts.seconds
    told = []
    for what, channels, first, attempts in ("404", GONE, NEGATIVE_FOR, 1), ("500", BROKEN, 5 * 0.8, 2):
        limit, pause, begins = attempts, first, first
        while begins < seconds:
            limit, pause = limit + attempts, min(2 * pause, 240)
            begins += pause
        cost = max(lookups[channel] for channel in channels)
        assert cost <= limit, f"a channel that answers {what} was looked up {cost} times, at most {limit} expected"
        asked = min(facts.soak.asked[channel] for channel in channels)
        told.append(f"{what}: {asked} calls, {cost} lookups, at most {limit}")
    note("; ".join(told))


def test_lookups_ceased_with_the_clients(facts):
    assert facts.lookups_afterwards == 0, "the lookups afterwards"


def test_memory_stayed_flat(facts, note):
    memory = facts.soak.memory
    third = len(memory) // 3
    # The greatest of a few: a single sample may meet a busy or an idle moment.
    warm, last = max(memory[third:third + 10]), max(memory[-10:])
    assert last <= warm * 1.15 + 8 * 1024, f"VmRSS grew from {warm} to {last} KiB"
    note(f"VmRSS {memory[0]} KiB at the start, {warm} after a third, {last} at the end, {max(memory)} at most")


def test_it_answers_afterwards_and_ends(facts):
    for answer in facts.last_batches:
        expect_ok(answer)
        # One that never had an answer may be in its backoff still.
        failed = [result.channel_id for result in answer.response.results
                  if not result.HasField("found") and facts.soak.newest[result.channel_id]]
        assert failed == [], "the channels that fail"
    expect_ok(facts.last_new_one)
    assert facts.exit_code == 0, "the exit code"
