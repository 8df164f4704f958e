"""What tests of overload run: callers in an open loop, in processes of their own, and a bystander who calls modestly."""

import asyncio
import multiprocessing
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import NamedTuple

import grpc

from origin.feeds import Upload, feed
from snapshots import NOT_FOUND, SnapshotServer, response
from support import OPTIONS, Answer, batch_request, made_up_channel, request, services, wait_until, watch_request

# The metadata that names a caller.
HEADER = "x-caller"
# Below the 1000 calls that a connection may have at once.
CONNECTIONS = 10
# Channels of a batch or a watch.
MANY = 100

# Channels of different scenes' parts, as numbers: those from `MADE_UP` on exist nowhere.
KNOWN, WATCHED, FORBIDDEN, COLD, CROWD, MADE_UP = 0, 10_000, 20_000, 1_000_000, 2_000_000, 10_000_000


def number_of(channel_id):
    """The number of a made-up channel, or of one of its playlists."""
    return int(channel_id[-22:-1])


# The upstream


def an_upload(channel_id, number=0):
    return Upload(f"{number:03}{channel_id[-9:-1]}", datetime(2026, 1, 1, 12, number % 60, tzinfo=timezone.utc))


def found_or_not(channel_id):
    """A feed of one upload, of channels below `MADE_UP`."""
    if number_of(channel_id) >= MADE_UP:
        return NOT_FOUND
    return response(200, feed(channel_id, [an_upload(channel_id)]))


@contextmanager
def upstream(latency=0.1):
    with SnapshotServer(found_or_not, latency) as server:
        yield server


# Callers in an open loop


class Load(NamedTuple):
    """Calls that are begun at a rate, whatever becomes of those before."""

    # What is called: see `CALLS`.
    kind: str
    per_second: float
    seconds: float
    # The number of the first channel that is asked for: each call asks for others.
    first: int = MADE_UP
    timeout: float = 30
    # What each caller says its name is, with `{}` for the number of the call; None: nothing.
    caller: str = None
    # So many of the refused come again, once, when they were told to, if that is within so many seconds.
    returning: int = 0
    within: float = 0


class Outcome(NamedTuple):
    """How a call ended. Times are monotonic, in seconds, and the same in all processes."""

    number: int
    begun: float
    ended: float
    # "" for a success.
    reason: str
    # What RetryInfo says, in seconds.
    retry: float
    # When told to.
    came_again: bool

    @property
    def took(self):
        return self.ended - self.begun


async def get(client, load, number, metadata):
    asked = request(made_up_channel(load.first + number))
    await client.GetLatestVideo(asked, timeout=load.timeout, metadata=metadata)


async def renew(client, load, _, metadata):
    await client.GetLatestVideo(request(made_up_channel(load.first), max_age=0), timeout=load.timeout, metadata=metadata)


def many(load, number):
    return [made_up_channel(load.first + number * MANY + i) for i in range(MANY)]


async def batch(client, load, number, metadata):
    await client.BatchGetLatestVideos(batch_request(many(load, number)), timeout=load.timeout, metadata=metadata)


async def watch(client, load, number, metadata):
    async for _ in client.WatchLatestVideo(watch_request(many(load, number)), timeout=load.timeout, metadata=metadata):
        pass


CALLS = {"get": get, "reconnect": get, "renew": renew, "batch": batch, "watch": watch}


def told(error):
    """The reason and the pause, in seconds, of a call that failed."""
    answer = Answer(error)
    return answer.reason or error.code().name, answer.retry and answer.retry.retry_delay.ToMilliseconds() / 1000


def run_load(address, load, ready, go, sender):
    """Makes the calls, in a process of its own, and sends the outcomes of all."""

    async def one(client, number, came_again=False):
        metadata = [(HEADER, load.caller.format(number))] if load.caller else []
        reason, pause = "", None
        begun = time.monotonic()
        try:
            await CALLS[load.kind](client, load, number, metadata)
        except grpc.aio.AioRpcError as error:
            reason, pause = told(error)
        return Outcome(number, begun, time.monotonic(), reason, pause, came_again)

    async def all_of_them():
        def connection():
            return grpc.aio.insecure_channel(address, options=OPTIONS)

        connections = [connection() for _ in range(CONNECTIONS)]
        await asyncio.gather(*(connection.channel_ready() for connection in connections))
        clients = [services.LatestVideoStub(connection) for connection in connections]
        returning, outcomes = 0, []

        async def call(number):
            nonlocal returning
            if load.kind == "reconnect":
                async with connection() as newcomer:
                    outcomes.append(await one(services.LatestVideoStub(newcomer), number))
                return
            client = clients[number % CONNECTIONS]
            outcome = await one(client, number)
            outcomes.append(outcome)
            if outcome.retry and outcome.retry <= load.within and returning < load.returning:
                returning += 1
                await asyncio.sleep(outcome.retry)
                outcomes.append(await one(client, number, came_again=True))

        ready.set()
        await asyncio.to_thread(go.wait)
        begun, calls = time.monotonic(), []
        for number in range(round(load.per_second * load.seconds)):
            # Not a wait for a state: the beat itself is the scenario.
            await asyncio.sleep(max(0, begun + number / load.per_second - time.monotonic()))
            calls.append(asyncio.create_task(call(number)))
        if load.kind == "watch":
            await asyncio.sleep(max(0, begun + load.seconds - time.monotonic()))
            for one_call in calls:
                one_call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for one_connection in connections:
            await one_connection.close()
        return outcomes

    # One message: the reader gets all or nothing.
    sender.send([tuple(outcome) for outcome in asyncio.run(all_of_them())])


class Callers:
    """A load, ready to begin: `begin` it, and `wait` for what came of it."""

    def __init__(self, address, load):
        # Not forked: gRPC's threads would not come along.
        context = multiprocessing.get_context("spawn")
        self.load = load
        self.ready, self.go = context.Event(), context.Event()
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=run_load, daemon=True, args=(address, load, self.ready, self.go, sender))
        self.process.start()
        sender.close()

    def begin(self):
        assert self.ready.wait(30), "the callers are not ready within 30 s"
        self.go.set()

    def wait(self):
        # The calls' own deadlines end them.
        patience = self.load.seconds + self.load.timeout + self.load.within + 30
        assert self.receiver.poll(patience), f"the callers have not ended within {patience} s"
        try:
            outcomes = [Outcome(*outcome) for outcome in self.receiver.recv()]
        except EOFError:
            raise AssertionError("the callers' process failed") from None
        self.process.join(10)
        return outcomes

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        self.receiver.close()


# A bystander


class Phase(NamedTuple):
    """What a bystander saw: of each, one number for each time it looked, in seconds."""

    # How long a channel took that nobody had asked for.
    cold: list
    # How old the answer for its known channel was.
    ages: list
    # How long after an upload its watch was told.
    notices: list
    failures: list

    def __str__(self):
        def worst(numbers):
            return f"{max(numbers):.2f} s" if numbers else "–"
        return f"cold ≤ {worst(self.cold)}, known ≤ {worst(self.ages)} old, told after ≤ {worst(self.notices)}"


class Bystander:
    """A modest caller: a channel a second that nobody had asked for, one known channel, one watch."""

    def __init__(self, plaque, server, address=None, caller=None, cold=True):
        self.server = server
        self.channel = grpc.insecure_channel(address or plaque.address, options=OPTIONS)
        self.client = services.LatestVideoStub(self.channel)
        self.metadata = [(HEADER, caller)] if caller else []
        self.known, self.watched = made_up_channel(KNOWN), made_up_channel(WATCHED)
        self.uploads, self.told_at = [an_upload(self.watched)], {}
        self.next_cold = COLD
        self.leaving = threading.Event()
        self.phase = None
        # One phase's numbers are not added to the next's.
        self.lock = threading.Lock()
        self.threads = [
            threading.Thread(target=target, daemon=True)
            for target in ([self.ask_for_cold_ones] if cold else []) + [self.ask_for_the_known_one, self.read]]
        self.watch = None

    def note(self, field, value):
        with self.lock:
            if self.phase:
                getattr(self.phase, field).append(value)

    def get(self, channel_id):
        call = self.client.GetLatestVideo.future(request(channel_id), timeout=5, metadata=self.metadata)
        answer = Answer(call)
        if answer.code is not grpc.StatusCode.OK:
            pause = answer.retry and answer.retry.retry_delay.ToMilliseconds()
            self.note("failures", f"{number_of(channel_id)}: {answer}, retry after {pause} ms")
        return answer

    def ask_for_cold_ones(self):
        while not self.leaving.wait(1):
            self.next_cold += 1
            begun = time.monotonic()
            self.get(made_up_channel(self.next_cold))
            self.note("cold", time.monotonic() - begun)

    def ask_for_the_known_one(self):
        while not self.leaving.wait(0.2):
            answer = self.get(self.known)
            if answer.response:
                self.note("ages", time.time() - answer.response.freshness.fetch_time.ToNanoseconds() / 1e9)

    def read(self):
        try:
            for event in self.watch:
                if event.WhichOneof("event") == "video":
                    self.told_at.setdefault(event.video.video_id, time.monotonic())
                else:
                    self.note("failures", f"the watch: {event.WhichOneof('event')} {event.problem.failure.reason}")
        except grpc.RpcError as error:
            if not self.leaving.is_set():
                self.note("failures", f"the watch: {error.code().name} {error.details()}")

    def publish(self, patience):
        """An upload on the watched channel, of which the watch is told."""
        new = an_upload(self.watched, len(self.uploads))
        self.uploads.insert(0, new)
        self.server.show(self.watched, self.uploads[:15])
        published = time.monotonic()
        wait_until(lambda: new.id in self.told_at, "the bystander's watch is told of an upload", patience)
        self.note("notices", self.told_at[new.id] - published)

    def look(self, seconds, patience):
        """Looks for so long, and a little longer if the watch is being told of something."""
        with self.lock:
            phase = self.phase = Phase([], [], [], [])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.publish(patience)
        with self.lock:
            self.phase = None
        return phase

    def __enter__(self):
        wait_until(lambda: self.get(self.known).response, "the bystander's known channel is known")
        self.watch = self.client.WatchLatestVideo(watch_request([self.watched]), timeout=600, metadata=self.metadata)
        for thread in self.threads:
            thread.start()
        wait_until(lambda: self.told_at, "the bystander's watch begins")
        return self

    def __exit__(self, *_):
        self.leaving.set()
        self.watch.cancel()
        for thread in self.threads:
            thread.join()
        self.channel.close()
