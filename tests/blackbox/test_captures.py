"""Feeds through the running server: each field of the answer against what the feed itself says.

The feeds are the origin's and, where a folder has them, responses that were recorded of YouTube. What is expected is read from the feed
with Python's own XML parser, so that no error of plaque's parser can hide in it.
"""

import re
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as xml
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from support import ANY, EMPTY_DESCRIPTIONS, KURZGESAGT, NO_UPLOADS, SCISHOW, SHORT, UNKNOWN, VIDEO, expect_error, expect_ok

ATOM = "{http://www.w3.org/2005/Atom}"
YT = "{http://www.youtube.com/xml/schemas/2015}"
MEDIA = "{http://search.yahoo.com/mrss/}"

# The recorded responses. They are not part of the repository.
RECORDED_FEEDS = (
    "aeronewsgermany-2025-04.xml", "empty-channel-2026-08.xml", "google-2015-05.xml", "kurzgesagt-2021-04.xml",
    "kurzgesagt-2022-11.xml", "kurzgesagt-2024-07.xml", "kurzgesagt-2026-07.xml", "scishow-2024-02.xml", "websub-push-2021-07.xml")
RECORDED_PAGES = "not-found-2026-07.html",

KINDS = {"any kind": ANY, "video": VIDEO, "Short": SHORT}


# What the feed says


def read_feed(body):
    # One that was recorded begins with an empty line, which Python's parser refuses before the XML declaration.
    return xml.fromstring(body.lstrip())


def channel_of(feed):
    """The channel that this is the feed of."""
    uri = feed.findtext(f"{ATOM}entry/{ATOM}author/{ATOM}uri")
    if uri is None:
        uri = feed.find(f"{ATOM}link[@rel='alternate']").get("href")
    return re.search(r"/channel/(UC[\w-]{22})$", uri).group(1)


def newest_upload(feed, kind):
    uploads = [upload for upload in map(read_entry, feed.iter(f"{ATOM}entry")) if kind in (ANY, upload["kind"])]
    return max(uploads, key=lambda upload: upload["publish_time"], default=None)


def read_entry(entry):
    video_id = entry.findtext(f"{YT}videoId")
    is_short = "/shorts/" in entry.find(f"{ATOM}link[@rel='alternate']").get("href")
    thumbnail = entry.find(f"{MEDIA}group/{MEDIA}thumbnail")
    statistics = entry.find(f"{MEDIA}group/{MEDIA}community/{MEDIA}statistics")
    return {
        "video_id": video_id,
        "channel_id": entry.findtext(f"{YT}channelId"),
        "channel_title": entry.findtext(f"{ATOM}author/{ATOM}name"),
        "title": entry.findtext(f"{ATOM}title"),
        "url": f"https://www.youtube.com/{'shorts/' if is_short else 'watch?v='}{video_id}",
        "kind": SHORT if is_short else VIDEO,
        "publish_time": read_time(entry.findtext(f"{ATOM}published")),
        "update_time": read_time(entry.findtext(f"{ATOM}updated")),
        # What a hub pushes has none: every video has this one.
        "thumbnail": (f"https://i.ytimg.com/vi/{video_id}/hqdefault.jpg", 480, 360) if thumbnail is None else (
            thumbnail.get("url"), int(thumbnail.get("width")), int(thumbnail.get("height"))),
        "view_count": None if statistics is None else int(statistics.get("views")),
    }


def read_time(text):
    """(seconds, nanoseconds): datetime alone would lose the last three digits."""
    date_and_time, fraction, zone = re.fullmatch(r"([^.+]+?)(?:\.(\d+))?(\+00:00)", text).groups()
    return int(datetime.fromisoformat(date_and_time + zone).timestamp()), int((fraction or "0").ljust(9, "0"))


# What plaque says, in the same shape


def as_read(video):
    def time_of(field):
        return video.HasField(field) and (getattr(video, field).seconds, getattr(video, field).nanos)

    thumbnail = video.thumbnail
    return {
        "video_id": video.video_id,
        "channel_id": video.channel_id,
        "channel_title": video.channel_title,
        "title": video.title,
        "url": video.url,
        "kind": video.kind,
        "publish_time": time_of("publish_time"),
        "update_time": time_of("update_time"),
        "thumbnail": video.HasField("thumbnail") and (thumbnail.url, thumbnail.width, thumbnail.height),
        "view_count": video.view_count if video.HasField("view_count") else None,
    }


@contextmanager
def upstream(body, status, content_type, channel):
    """An origin that gives this body, byte for byte, for this channel's feed. The channel has no feed of a single kind."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(url.query)
            known = url.path == "/feeds/videos.xml" and query == {"channel_id": [channel]}
            of_a_kind = query in [{"playlist_id": [prefix + channel[2:]]} for prefix in ("UULF", "UULV", "UUSH")]
            answer = body if known else b"what was asked for is not the channel's feed"
            self.send_response(status if known else 404 if of_a_kind else 400)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/feeds/videos.xml"
        finally:
            server.shutdown()
            thread.join()


def ask(bench, body, channel, kind, status=200, content_type="text/xml; charset=UTF-8"):
    with upstream(body, status, content_type, channel) as url, bench.plaque(url) as plaque:
        return plaque.ask(channel, kind)


# The checks


def the_newest_upload_is_as_the_feed_says(bench, body, kind):
    feed = read_feed(body)
    expected = newest_upload(feed, kind)
    answer = ask(bench, body, channel_of(feed), kind)
    if expected is None:
        expect_error(answer, grpc.StatusCode.NOT_FOUND, "NO_UPLOADS")
        return
    expect_ok(answer)
    seen = as_read(answer.response.video)
    wrong = {field: (seen[field], expected[field]) for field in expected if seen[field] != expected[field]}
    assert not wrong, f"(seen, in the feed): {wrong}"
    assert not answer.response.freshness.stale, "a new answer is marked stale"
    age = time.time() - answer.response.freshness.fetch_time.ToNanoseconds() / 1e9
    assert 0 <= age < 60, f"the fetch time is {age} s ago"


@pytest.fixture
def recorded(bench):
    """What is recorded in a file of this name."""
    if not bench.captures.is_dir():
        pytest.skip(f"recorded responses: not there ({bench.captures})")
    return lambda name: (bench.captures / name).read_bytes()


@pytest.mark.parametrize("channel", [KURZGESAGT, SCISHOW, EMPTY_DESCRIPTIONS, NO_UPLOADS])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_origins_newest_upload_is_as_its_feed_says(bench, origin, channel, kind):
    with urllib.request.urlopen(f"{origin.url}?channel_id={channel}") as answer:
        the_newest_upload_is_as_the_feed_says(bench, answer.read(), kind)


@pytest.mark.parametrize("name", RECORDED_FEEDS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_newest_upload_is_as_the_recorded_feed_says(bench, recorded, name, kind):
    the_newest_upload_is_as_the_feed_says(bench, recorded(name), kind)


@pytest.mark.parametrize("name", RECORDED_PAGES)
def test_a_recorded_page_with_404_is_no_channel(bench, recorded, name):
    answer = ask(bench, recorded(name), UNKNOWN, ANY, status=404, content_type="text/html; charset=UTF-8")
    expect_error(answer, grpc.StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


@pytest.mark.parametrize("name", RECORDED_PAGES)
def test_a_recorded_page_with_200_is_malformed(bench, recorded, name):
    answer = ask(bench, recorded(name), UNKNOWN, ANY, content_type="text/html; charset=UTF-8")
    expect_error(answer, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED")


def test_every_recorded_file_is_read_here(recorded):
    listed = re.findall(r"^\| (\S+\.(?:xml|html)) \|", recorded("README.md").decode(), re.MULTILINE)
    assert sorted(RECORDED_FEEDS + RECORDED_PAGES) == sorted(listed), "the files"
