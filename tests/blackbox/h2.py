"""A raw HTTP/2 client (RFC 9113) that sends whatever it is told to: frames that no well-behaved client makes, and none at all.

One thread: it reads only while it sends or waits, and not even then if told so.
"""

import itertools
import select
import socket
import struct
import time
from collections import Counter, defaultdict
from enum import IntEnum

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM = ACK = 0x1
END_HEADERS = 0x4

Kind = IntEnum("Kind", "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION", start=0)
Setting = IntEnum(
    "Setting", "HEADER_TABLE_SIZE ENABLE_PUSH MAX_CONCURRENT_STREAMS INITIAL_WINDOW_SIZE MAX_FRAME_SIZE MAX_HEADER_LIST_SIZE")
ErrorCode = IntEnum(
    "ErrorCode",
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM "
    "CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED", start=0)


# Frames


def frame(kind, stream=0, payload=b"", flags=0, length=None):
    """`length` is what the frame claims, if that is not the payload's."""
    length = len(payload) if length is None else length
    return struct.pack(">IBI", length << 8 | kind, flags, stream) + payload


def settings(values=()):
    return frame(Kind.SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in dict(values).items()))


def window_update(stream, increment):
    return frame(Kind.WINDOW_UPDATE, stream, struct.pack(">I", increment))


def rst_stream(stream, code=ErrorCode.CANCEL):
    return frame(Kind.RST_STREAM, stream, struct.pack(">I", code))


def literal(name, value, first=0x00):
    """A header field, neither indexed nor Huffman coded. `first` 0x40 puts it into the dynamic table."""
    def string(text):
        return bytes(hpack.hpack.encode_integer(len(text), 7)) + text
    return bytes([first]) + string(name) + string(value)


def request_fields(path, *more):
    """The header block of a gRPC call, with more fields as pairs of bytes."""
    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"plaque"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more]
    return b"".join(literal(*field) for field in fields)


def grpc_message(payload, compressed=0, length=None):
    return struct.pack(">BI", compressed, len(payload) if length is None else length) + payload


# A connection


class Connection:
    """A connection, and what came over it so far: counts of frames, and what the server told in them."""

    def __init__(self, address, greeting=PREFACE + settings(), reads=True):
        host, port = address.split(":")
        self.socket = socket.socket()
        self.socket.settimeout(5)
        if not reads:
            # What the system would take in on our behalf, until the server notices that we do not read.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((host, int(port)))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reads = reads
        # Whether it acknowledges SETTINGS and PING, as a client has to.
        self.answers = greeting.startswith(PREFACE)
        # How the server closed it: "EOF" or "reset".
        self.closed = None
        self.received, self.unanswered = bytearray(), b""
        self.decoder = hpack.Decoder()
        self.numbers = itertools.count(1, 2)
        self.frames, self.pongs = Counter(), 0
        self.settings, self.goaways, self.resets = {}, [], {}
        # Of a stream: the fields of its headers and trailers; and those that the server has ended.
        self.fields, self.ended = defaultdict(dict), set()
        self.send(greeting)

    def send(self, data, seconds=5):
        """Sends, reading meanwhile. Whether all of it went out: not if the server closes, or stops reading for so long."""
        left, end = memoryview(data), time.monotonic() + seconds
        while left and not self.closed and time.monotonic() < end:
            readable, writable, _ = select.select([self.socket] if self.reads else [], [self.socket], [], 0.1)
            if readable:
                self.receive()
            elif writable:
                try:
                    left = left[self.socket.send(left):]
                except BlockingIOError:
                    pass
                except OSError:
                    # What the server said before it closed can be read still.
                    while not self.closed:
                        self.receive()
        return not left

    def receive(self):
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self.closed = "reset"
            return
        if not data:
            self.closed = "EOF"
        self.received += data
        at = 0
        while len(self.received) - at >= 9:
            head, flags, stream = struct.unpack_from(">IBI", self.received, at)
            end = at + 9 + (head >> 8)
            if len(self.received) < end:
                break
            self.take(head & 0xff, flags, stream, bytes(self.received[at + 9:end]))
            at = end
        del self.received[:at]

    def take(self, kind, flags, stream, payload):
        self.frames[kind] += 1
        if kind == Kind.HEADERS:
            assert flags & END_HEADERS, "the server sends more headers than fit into a frame"
            self.fields[stream].update(self.decoder.decode(payload))
        elif kind == Kind.RST_STREAM:
            # The first one tells why; what comes in for a stream that was reset may be answered with another.
            self.resets.setdefault(stream, ErrorCode(*struct.unpack(">I", payload)))
        elif kind == Kind.GOAWAY:
            self.goaways.append(ErrorCode(*struct.unpack(">I", payload[4:8])))
        elif kind == Kind.SETTINGS and not flags & ACK:
            self.settings = dict(struct.iter_unpack(">HI", payload))
            self.unanswered += frame(Kind.SETTINGS, flags=ACK)
        elif kind == Kind.PING and flags & ACK:
            self.pongs += 1
        elif kind == Kind.PING:
            self.unanswered += frame(Kind.PING, payload=payload, flags=ACK)
        if kind in (Kind.DATA, Kind.HEADERS) and flags & END_STREAM:
            self.ended.add(stream)

    def wait_until(self, condition, what, seconds=5):
        """Reads, and answers what a client has to, until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert not self.closed, f"{what}: the server closed the connection ({self.end()})"
            assert time.monotonic() < end, f"{what}: not within {seconds} s"
            self.answer()
            if select.select([self.socket], [], [], 0.05)[0]:
                self.receive()

    def answer(self):
        answer, self.unanswered = self.unanswered, b""
        if self.answers:
            self.send(answer)

    def wait_closed(self, seconds=5):
        """How the server closed the connection."""
        self.wait_until(lambda: self.closed, "the server closes the connection", seconds)
        return self.end()

    def end(self):
        told = [f"GOAWAY {code.name}" for code in self.goaways] + [self.closed or "open"]
        return ", ".join(told)

    def call(self, path, body=b"", *fields, ends=True):
        """Begins a call. Returns the number of its stream."""
        stream = next(self.numbers)
        frames = frame(Kind.HEADERS, stream, request_fields(path, *fields), END_HEADERS)
        if body or ends:
            frames += frame(Kind.DATA, stream, body, END_STREAM if ends else 0)
        self.send(frames)
        return stream

    def catch_up(self):
        """Waits until the server has read what was sent and has replied to it: until it answers a PING, or closes."""
        pongs = self.pongs
        self.send(frame(Kind.PING, payload=b"catch up"))
        self.wait_until(lambda: self.closed or self.pongs > pongs, "the answer to a PING")

    def wait_over(self, *streams, seconds=5):
        """Waits until the server has ended or reset these streams."""
        self.wait_until(
            lambda: all(stream in self.ended or stream in self.resets for stream in streams),
            f"the end of {len(streams)} calls", seconds)

    def status(self, stream):
        """What a call ended with: its grpc-status, or how it was reset."""
        self.wait_over(stream)
        # One that is answered before its request has ended is reset as well, with NO_ERROR.
        if stream not in self.ended:
            return self.resets[stream].name
        return int(self.fields[stream].get("grpc-status", -1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
