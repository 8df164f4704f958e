"""10,000 watchers on 100 channels: what they cost upstream and in memory, and how long one upload takes to reach its own.

One origin, one plaque. The watchers live in processes of their own, 200 on a connection, which is HTTP/2's limit here.
"""

import asyncio
import multiprocessing
import queue
import time

import grpc
import pytest

from support import OPTIONS, Stopwatch, made_up_channel, services, wait_until, watch_request

CHANNELS = [made_up_channel(i) for i in range(100)]
PROCESSES = 2
ON_A_CONNECTION = 200
WATCH_EVERY = 5
UPLOAD = "new00000001"
# For 10,000 calls begun by Python on a busy machine; it takes 10 s on an idle one.
PATIENCE = 120


def watch_in_a_process(address, numbers, told, leave):
    """Watches one channel for each number, puts each event into `told`, and ends when told to `leave`."""

    async def watch(client, number):
        channel = CHANNELS[number % len(CHANNELS)]
        async for event in client.WatchLatestVideo(watch_request([channel])):
            told.put((time.monotonic(), number, event.initial, event.video.video_id))

    async def watch_all():
        connections = []
        watches = []
        for i, number in enumerate(numbers):
            if i % ON_A_CONNECTION == 0:
                connections.append(grpc.aio.insecure_channel(address, options=OPTIONS))
                client = services.LatestVideoStub(connections[-1])
            watches.append(asyncio.create_task(watch(client, number)))
        await asyncio.to_thread(leave.wait)
        for connection in connections:
            await connection.close()
        await asyncio.gather(*watches, return_exceptions=True)

    asyncio.run(watch_all())


class Watchers:
    """All the watchers, and what they were told."""

    def __init__(self, address, count):
        # Not forked: gRPC's threads would not come along.
        context = multiprocessing.get_context("spawn")
        self.told, self.leave = context.Queue(), context.Event()
        self.processes = [
            context.Process(target=watch_in_a_process, daemon=True,
                            args=(address, range(i, count, PROCESSES), self.told, self.leave))
            for i in range(PROCESSES)]

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_):
        self.leave.set()
        for process in self.processes:
            process.join(20)
            process.kill()

    def events(self, count, what):
        """The next `count` things that any of them is told."""
        events, end = [], time.monotonic() + PATIENCE
        while len(events) < count:
            try:
                events.append(self.told.get(timeout=max(0, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"{what}: {len(events)} of {count} within {PATIENCE} s")
        return events


@pytest.mark.plaque("--watch-every", f"{WATCH_EVERY}s", synthesize=True)
@pytest.mark.slow
def test_ten_thousand_watchers_cost_one_poll_a_channel(bench, plaque, origin, note):
    count = bench.numbers["watchers"]
    for channel in CHANNELS:
        plaque.ask(channel)
    before, began = plaque.memory_kib(), Stopwatch()
    with Watchers(plaque.address, count) as watchers:
        first = watchers.events(count, "the initial events")
        opened = began.seconds()
        told = sorted(number for _, number, initial, _ in first if initial)
        assert told == list(range(count)), "the watchers told of an initial upload"
        a_watch = (plaque.memory_kib() - before) / count

        polls_before, polling = origin.stats()["by_channel"], Stopwatch()
        time.sleep(3 * WATCH_EVERY)
        polls_after, polled = origin.stats()["by_channel"], polling.seconds()
        polls = [polls_after[channel] - polls_before[channel] for channel in CHANNELS]
        # Each pause is shorter by a tenth at most, and longer by a tenth and a busy machine's delay.
        most = 1 + polled / (WATCH_EVERY * 0.9)
        assert 2 <= min(polls) and max(polls) <= most, f"{min(polls)} to {max(polls)} polls a channel in {polled:.1f} s"

        origin.publish(CHANNELS[0], UPLOAD)
        wait_until(lambda: plaque.ask(CHANNELS[0]).response.video.video_id == UPLOAD, "the upload is known")
        watchers_of_it = range(0, count, len(CHANNELS))
        news = watchers.events(len(watchers_of_it), "the upload")
        told = sorted((number, initial, video) for _, number, initial, video in news)
        assert told == [(number, False, UPLOAD) for number in watchers_of_it], "who was told of what"
        arrived = [at for at, *_ in news]
        # All polls that come may bring nothing more.
        time.sleep(1.2 * WATCH_EVERY)
        assert watchers.told.empty(), "somebody was told of something else"
    stopping = Stopwatch()
    plaque.program.terminate()
    assert plaque.program.exit_code(within=10) == 0, "the exit code"
    note(f"{count} watches open after {opened:.1f} s, {a_watch:.2f} KiB each; the upload reached {len(arrived)} within "
         f"{(max(arrived) - min(arrived)) * 1000:.0f} ms; {min(polls)} to {max(polls)} polls a channel in {polled:.1f} s; "
         f"stopped in {stopping.seconds():.2f} s")
