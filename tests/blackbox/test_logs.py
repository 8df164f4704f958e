"""The log under attack: what others send to plaque, or make it tell, neither steers who reads the log nor fills it.
"""

import itertools
import json
import unicodedata

import pytest

from raw_server import Listener, head
from support import KURZGESAGT, Stopwatch, expect_ok, made_up_channel, wait_until

# What a feed may have in an ID, by reference, and does something to the line that it is in.
EVIL = "a&#x202e;b&#x2028;c&#x2066;d&#x200f;e&#x61c;f&#x85;g&#x9b;2Jh&#10;i&#13;j&#9;k"
FEED = f"""<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns="http://www.w3.org/2005/Atom">
<link rel="alternate" href="https://www.youtube.com/channel/{KURZGESAGT}"/><title>T {EVIL}</title>
<entry><id>{EVIL}</id><title>{EVIL}</title><published>2026-07-01T14:00:35+00:00</published></entry></feed>""".encode()

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = FEED.replace(EVIL.encode(), b"yt:video:aaaaaaaaaaA").replace(
    b"</entry>", b'<link rel="alternate" href="https://www.youtube.com/watch?v=aaaaaaaaaaA"/></entry>')

# Categories of Unicode: control, format (changes of direction are of it), ends of lines and paragraphs.
STEERING = {"Cc", "Cf", "Zl", "Zp"}


def gives_feed(connection):
    if head(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(FEED), FEED))


@pytest.mark.parametrize("form", ["pretty", "tree", "json"])
def test_texts_of_a_feed_steer_no_log(bench, form, note):
    with Listener(gives_feed) as upstream, bench.plaque(upstream.url, "--log", "plaque=debug", "--log-format", form) as plaque:
        plaque.ask(KURZGESAGT)
        told = "left out an entry"
        wait_until(lambda: told in plaque.program.err.read_text(), "a line about the entry")
        # As it is: Python would take some of these characters for ends of lines.
        log = plaque.program.err.read_bytes().decode().removesuffix("\n")
    steering = {f"U+{ord(c):04X}" for c in log if c != "\n" and unicodedata.category(c) in STEERING}
    assert not steering, f"the log has {steering}"
    lines = log.split("\n")
    line = next(line for line in lines if told in line)
    assert "2Jh" in line, "the line"
    if form == "json":
        for each in lines:
            json.loads(each)
    note(f"{len(lines)} lines")


def test_what_repeats_is_told_with_a_count(bench, note):
    """An upstream that refuses us and takes it back, as fast as it is asked: each time is the end of a trouble and the beginning of the next."""
    answered = itertools.count()

    def refuses_every_second_time(connection):
        if not head(connection):
            return
        if next(answered) % 2:
            connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        else:
            connection.sendall(OK + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(GOOD), GOOD))

    changes = ["the upstream refuses us", "the upstream answers again"]
    with Listener(refuses_every_second_time) as upstream, bench.plaque(upstream.url) as plaque:
        expect_ok(plaque.ask(KURZGESAGT))
        watch, number = Stopwatch(), itertools.count()
        while watch.seconds() < 12:
            plaque.ask(made_up_channel(next(number)), timeout=5)
        log = plaque.program.err
        plaque.program.terminate()
        plaque.program.exit_code(10)
        lines = log.read_text().splitlines()
    notes = []
    for change in changes:
        told = [line for line in lines if change in line]
        counts = [line for line in told if "more like it in the last 10 s)" in line]
        # Five in the first 10 s, one in the next. Each is 1 s after the last at least, so that there are ten to tell in the first.
        assert len(told) - len(counts) <= 6, f"{change!r} is told {len(told)} times in full: {told}"
        assert counts, f"{change!r} is not counted: {told}"
        notes.append(f"{len(told)} × {change!r}")
    note(f"{next(number)} calls, {next(answered)} answers; {', '.join(notes)}")
