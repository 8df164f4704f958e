"""An upstream that shows the snapshot that a test says.

The snapshots change when a test says so and never with time: what it waits for is the number of requests that came since.
"""

import asyncio
import re
import threading
from collections import Counter

from origin.feeds import feed
from support import wait_until


def response(status, body=b"", *fields):
    """An HTTP response, as bytes."""
    head = [f"HTTP/1.1 {status} Whatever", "content-type: text/xml; charset=UTF-8", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


NOT_FOUND = response(404)


class SnapshotServer:
    """An upstream. What it shows of each channel or playlist is a response, or a function that makes one of the request's path.

    Runs in a thread of its own until the block ends. 404 for what it is not to show.
    """

    def __init__(self, fallback=None, latency=0):
        self.loop = asyncio.new_event_loop()
        # In seconds.
        self.latency = latency
        # Guards what follows: a request is counted in the same step in which it is answered.
        self.lock = threading.Lock()
        self.shown, self.requests = {}, Counter()
        # Requests whose answer nobody waited for.
        self.abandoned = 0
        # What is shown of all others: a function of their IDs.
        self.fallback = fallback or (lambda _: NOT_FOUND)
        self.port = None

    # What a test says

    def answer(self, key, answer):
        """Shows a response (or a function's) of this channel or playlist from now on."""
        with self.lock:
            self.shown[key] = answer

    def show(self, channel, uploads, key=None):
        """Shows these uploads of a channel from now on, or of its playlist `key`."""
        self.answer(key or channel, response(200, feed(channel, uploads)))

    def count(self, key):
        with self.lock:
            return self.requests[key]

    def total(self):
        with self.lock:
            return self.requests.total()

    def wait_for_polls(self, *keys, polls=3, seconds=40):
        """Waits until so many lookups of each that see what is shown now have come, and been taken in: until one more has begun."""
        with self.lock:
            before = Counter(self.requests)

        def have_come():
            with self.lock:
                return all(self.requests[key] > before[key] + polls for key in keys)

        wait_until(have_come, f"{polls} polls of {len(keys)} channels and the begin of one more", seconds)

    def url(self, name="feeds"):
        """Its address; the name is in the path of each request, so that an answer may depend on who asks."""
        return f"http://127.0.0.1:{self.port}/{name}"

    # The server

    def reply(self, path):
        key = re.search(r"[?&](?:channel_id|playlist_id)=([\w-]+)", path)
        key = key.group(1) if key else ""
        with self.lock:
            self.requests[key] += 1
            answer = self.shown.get(key)
            if answer is None:
                answer = self.fallback(key)
            return answer(path) if callable(answer) else answer

    def __enter__(self):
        ready = threading.Event()

        async def listen():
            server = await self.loop.create_server(lambda: Conversation(self), "127.0.0.1", 0, backlog=1000)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        def run():
            self.loop.create_task(listen())
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


class Conversation(asyncio.Protocol):
    """A connection: as much of HTTP/1.1 as a client needs that sends GETs and waits for each answer."""

    def __init__(self, server):
        self.server, self.received = server, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            path = self.received[:self.received.index(b"\r\n")].decode().split(" ")[1]
            self.received = self.received[end + 4:]
            reply = self.server.reply(path)
            if self.server.latency:
                self.server.loop.call_later(self.server.latency, self.answer, reply)
            else:
                self.answer(reply)

    def answer(self, reply):
        if self.transport.is_closing():
            with self.server.lock:
                self.server.abandoned += 1
        else:
            self.transport.write(reply)
