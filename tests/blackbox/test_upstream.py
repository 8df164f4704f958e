"""plaque before an upstream that is hostile or broken, and behind proxies: what that costs, and what it tells to whom.
"""

import gzip
import ssl
import threading
import time

import grpc
import pytest

from h2 import ACK, END_HEADERS, END_STREAM, Kind, frame, settings, window_update
from raw_server import Listener, head
from support import KURZGESAGT, Stopwatch, expect_ok, made_up_channel, make_certificate, processor_seconds

# What an attack may add to the peak of memory, in MiB, with four lookups under way.
GROWTH = 32

# What a lookup may take, in seconds.
LIMIT = 1

# The threads on which lookups are read. What an upstream sends without end can keep them busy for as long as a lookup may take, and no longer.
THREADS = 2


def answers(*pieces, then=b"", every=0):
    """Sends the pieces, and then something again and again, as fast as it is taken or with pauses."""

    def handle(connection):
        if not head(connection):
            return
        for piece in pieces:
            connection.sendall(piece)
        while then:
            connection.sendall(then)
            time.sleep(every)
        head(connection)

    return handle


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"content-type: text/xml\r\ntransfer-encoding: chunked\r\n\r\n"
ZIPPED = OK + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def many(piece):
    return piece * max(1, 65536 // len(piece))


EMPTY_MEMBER = gzip.compress(b"")

HOSTILE = {
    "103s without end": answers(then=many(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    "103s with links without end": answers(then=many(b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n")),
    "100s without end": answers(then=many(b"HTTP/1.1 100 Continue\r\n\r\n")),
    "headers without end": answers(OK, then=many(b"x: y\r\n")),
    "one header without end": answers(OK + b"x: ", then=b"y" * 65536),
    "a header a byte at a time": answers(OK + b"x: ", then=b"y", every=0.05),
    "a body a byte at a time": answers(CHUNKED, then=chunk(b" "), every=0.05),
    "chunks of a byte without end": answers(CHUNKED, then=many(chunk(b" "))),
    "a chunk extension without end": answers(CHUNKED + b"1;", then=b"x" * 65536),
    "trailers without end": answers(CHUNKED + b"0\r\n", then=many(b"x: y\r\n")),
    "an answer, and interim ones without end": answers(
        OK + b"content-length: 0\r\n\r\n", then=many(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    "nothing but zeros, packed": answers(ZIPPED, then=chunk(gzip.compress(bytes(16 << 20)))),
    "empty members of gzip without end": answers(ZIPPED, then=chunk(many(EMPTY_MEMBER))),
    "a name without end in a header of gzip": answers(ZIPPED, chunk(b"\x1f\x8b\x08\x08" + bytes(6)), then=chunk(b"x" * 65536)),
}


EARLY_HINTS, FOUND = b"\x08\x03103", b"\x88"


def answers_h2(*frames, then):
    """The same over HTTP/2, whether that is asked for or not: of each frame, a function of the stream."""

    def handle(connection):
        seen = connection.recv(4096)
        connection.sendall(settings() + frame(Kind.SETTINGS, flags=ACK))
        # The first request's stream is 1. Its HEADERS come after our SETTINGS, or with the preface.
        while b"\x00\x00\x00\x01" not in seen:
            piece = connection.recv(4096)
            if not piece:
                return
            seen += piece
        threading.Thread(target=read_all, args=(connection,), daemon=True).start()
        for each in frames:
            connection.sendall(each(1))
        piece = many(then(1))
        while True:
            connection.sendall(piece)

    return handle


def read_all(connection):
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass


HOSTILE_H2 = {
    "103s without end": answers_h2(then=lambda stream: frame(Kind.HEADERS, stream, EARLY_HINTS, END_HEADERS)),
    "CONTINUATIONs without end": answers_h2(
        lambda stream: frame(Kind.HEADERS, stream, FOUND), then=lambda stream: frame(Kind.CONTINUATION, stream, b"\x00\x01x\x01y")),
    "DATA of a byte without end": answers_h2(
        lambda stream: frame(Kind.HEADERS, stream, FOUND, END_HEADERS), then=lambda stream: frame(Kind.DATA, stream, b" ")),
    "empty DATA without end": answers_h2(
        lambda stream: frame(Kind.HEADERS, stream, FOUND, END_HEADERS), then=lambda stream: frame(Kind.DATA, stream)),
    "PINGs without end": answers_h2(then=lambda stream: frame(Kind.PING, payload=bytes(8))),
    "SETTINGS without end": answers_h2(then=lambda stream: settings()),
    "WINDOW_UPDATEs without end": answers_h2(then=lambda stream: window_update(0, 1)),
    "an answer, and PINGs without end": answers_h2(
        lambda stream: frame(Kind.HEADERS, stream, FOUND, END_HEADERS | END_STREAM),
        then=lambda stream: frame(Kind.PING, payload=bytes(8))),
}


def attack(plaque):
    pid = plaque.program.process.pid
    before, memory = processor_seconds(pid), plaque.memory_kib()
    watch, hits = Stopwatch(), []
    calls = [plaque.start(made_up_channel(number), timeout=10) for number in range(4)]
    while not all(call.done() for call in calls):
        hit = Stopwatch()
        expect_ok(plaque.ask(KURZGESAGT))
        hits.append(hit.seconds())
        time.sleep(0.02)
    took = watch.seconds()
    codes = {call.code() for call in calls}
    spent = processor_seconds(pid) - before
    before = processor_seconds(pid)
    time.sleep(1)
    after = processor_seconds(pid) - before
    growth = (plaque.memory_kib("VmHWM") - memory) // 1024
    told = (
        f"{took:.2f} s, {spent:.2f} s of processor time, {after:.2f} s in the second after; {len(hits)} hits within "
        f"{max(hits) * 1000:.0f} ms; peak memory +{growth} MiB; {min(call.details() for call in calls)}")
    assert codes == {grpc.StatusCode.UNAVAILABLE}, "the codes"
    assert took < LIMIT + 5, f"it took {told}"
    assert spent < THREADS * LIMIT + 0.5, f"it spent {told}"
    assert after < 0.3, f"it did not end: {told}"
    assert max(hits) < 0.5, f"hits waited: {told}"
    assert growth <= GROWTH, f"it grew: {told}"
    return told


FEED = (
    '<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns="http://www.w3.org/2005/Atom">'
    f'<link rel="alternate" href="https://www.youtube.com/channel/{KURZGESAGT}"/><title>T</title>'
    '<entry><id>yt:video:aaaaaaaaaaA</id><yt:videoId>aaaaaaaaaaA</yt:videoId><title>An upload</title>'
    '<link rel="alternate" href="https://www.youtube.com/watch?v=aaaaaaaaaaA"/><published>2026-07-01T14:00:35+00:00</published></entry></feed>'
).encode()


@pytest.mark.parametrize("handle, over_h2", [
    *(pytest.param(handle, False, id=name) for name, handle in HOSTILE.items()),
    *(pytest.param(handle, True, id=f"{name} over HTTP/2") for name, handle in HOSTILE_H2.items())])
def test_an_upstream_that_sends_without_end_is_bounded(bench, tmp_path, handle, over_h2, note):
    """Four lookups under way, each with a second. They fail, cost little, and leave nothing; hits are answered meanwhile."""
    hostile = threading.Event()
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def serve(connection):
        if over_h2:
            context.set_alpn_protocols(["h2" if hostile.is_set() else "http/1.1"])
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            if hostile.is_set():
                handle(connection)
            elif head(connection):
                connection.sendall(OK + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(FEED), FEED))

    with Listener(serve) as upstream:
        url = upstream.url.replace("http://127.0.0.1", "https://localhost") if over_h2 else upstream.url
        flags = "--upstream-timeout", f"{LIMIT}s", "--upstream-concurrency", "4", "--upstream-ca", certificate
        with bench.plaque(url, *flags) as plaque:
            expect_ok(plaque.ask(KURZGESAGT))
            hostile.set()
            said = attack(plaque)
            hostile.clear()
            expect_ok(plaque.ask(KURZGESAGT, max_age=0))
            note(said)
