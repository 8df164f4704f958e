"""Mirrors that serve what Invidious and RSSHub do: they leave out much of a feed, and may serve what is no answer."""

import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from support import KURZGESAGT, SCISHOW, expect_error, expect_ok

INVIDIOUS = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/" xmlns="http://www.w3.org/2005/Atom">
  <link rel="self" href="http://192.0.2.1:3000/feed/channel/{channel}"/>
  <id>yt:channel:{channel}</id>
  <title>A channel</title>
  <link rel="alternate" href="http://192.0.2.1:3000/channel/{channel}"/>
  <author><name>A channel</name><uri>http://192.0.2.1:3000/channel/{channel}</uri></author>
  <entry>
    <id>yt:video:{video}</id>
    <title>An upload</title>
    <link rel="alternate" href="http://192.0.2.1:3000/watch?v={video}"/>
    <author><name>A channel</name><uri>http://192.0.2.1:3000/channel/{channel}</uri></author>
    <published>2026-01-02T03:04:05+00:00</published>
    <media:group><media:thumbnail url="http://192.0.2.1:3000/vi/{video}/mqdefault.jpg" width="320" height="180"/></media:group>
    <media:community><media:statistics views="4711"/></media:community>
  </entry>
</feed>"""

RSSHUB = """<feed xmlns="http://www.w3.org/2005/Atom"><title>A channel - YouTube</title>
<link rel="alternate" href="https://www.youtube.com/channel/{channel}"/><id>https://www.youtube.com/channel/{channel}</id>
<author><name>RSSHub</name></author>
<entry><title>An upload</title><content type="html">text</content><link href="https://www.youtube.com/{page}"/>
<id>https://www.youtube.com/{page}</id><published>2026-01-02T03:04:05.000Z</published><updated>2026-01-02T03:04:05.000Z</updated></entry>
</feed>"""

SHORT = RSSHUB.format(channel=KURZGESAGT, page="shorts/abcdefghijk")
NO_VIDEO = RSSHUB.format(channel=KURZGESAGT, page="post/abcdefghijk")
OTHER_CHANNEL = RSSHUB.format(channel=SCISHOW, page="watch?v=abcdefghijk")


@contextmanager
def mirror(feed):
    """The address of a server that has this feed, whatever it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = feed.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/channel/{{channel_id}}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def plaque_with(bench, origin):
    """Starts a plaque whose feed is down, with mirrors that have these feeds."""
    origin.control(mode="status:503")

    @contextmanager
    def start(*feeds):
        with ExitStack() as stack:
            addresses = [stack.enter_context(mirror(feed)) for feed in feeds]
            flags = [flag for address in addresses for flag in ("--fallback-upstream", address)]
            yield stack.enter_context(bench.plaque(origin.url, *flags)), [address.split("/")[2] for address in addresses]

    return start


def test_what_a_mirror_leaves_out_is_youtubes(plaque_with):
    with plaque_with(INVIDIOUS.format(channel=KURZGESAGT, video="abcdefghijk")) as (plaque, _):
        answer = plaque.ask(KURZGESAGT)
        expect_ok(answer)
        video = answer.response.video
        assert (video.url, video.view_count) == ("https://www.youtube.com/watch?v=abcdefghijk", 4711)
        assert video.thumbnail.url == "https://i.ytimg.com/vi/abcdefghijk/hqdefault.jpg"
    with plaque_with(SHORT) as (plaque, _):
        video = plaque.ask(KURZGESAGT).response.video
        assert (video.url, video.title) == ("https://www.youtube.com/shorts/abcdefghijk", "An upload")
        assert video.thumbnail.url == "https://i.ytimg.com/vi/abcdefghijk/hqdefault.jpg"
        assert not video.HasField("view_count")


def test_a_mirror_without_an_upload_of_the_channel_is_no_answer(plaque_with):
    with plaque_with(NO_VIDEO, OTHER_CHANNEL) as (plaque, _):
        expect_error(plaque.ask(KURZGESAGT), grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
    with plaque_with(NO_VIDEO, OTHER_CHANNEL, SHORT) as (plaque, hosts):
        answer = plaque.ask(KURZGESAGT)
        expect_ok(answer)
        assert answer.response.video.video_id == "abcdefghijk"
        for position, host in enumerate(hosts, 1):
            labels = f'{{source="mirror",position="{position}",host="{host}"}}'
            failing, sent = (plaque.metric(f"plaque_fallback_{name}{labels}") for name in ("failing", "sent_total"))
            assert (failing, sent) == (position < 3, 1), host
