"""Every captured feed through the running server: each field of the answer against what the file itself says.

What is expected is read from the file with Python's own XML parser, so that no error of plaque's parser can hide in it.

    python tests/blackbox/captures.py --plaque target/release/plaque --shared ../shared
"""

import re
import threading
import time
import urllib.parse
import xml.etree.ElementTree as xml
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

from support import ANY, SHORT, UNKNOWN, VIDEO, Bench, Suite, expect, expect_equal, expect_error, expect_ok

ATOM = "{http://www.w3.org/2005/Atom}"
YT = "{http://www.youtube.com/xml/schemas/2015}"
MEDIA = "{http://search.yahoo.com/mrss/}"

KINDS = {"any kind": ANY, "video": VIDEO, "Short": SHORT}


# What the file says


def read_feed(path):
    # One capture begins with an empty line, which Python's parser refuses before the XML declaration.
    return xml.fromstring(path.read_bytes().lstrip())


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
        "thumbnail": thumbnail is not None and (
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
def upstream(path, status, content_type, channel):
    """An origin that gives this file, byte for byte, for this channel's feed. The channel has no feed of a single kind."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(url.query)
            known = url.path == "/feeds/videos.xml" and query == {"channel_id": [channel]}
            of_a_kind = query in [{"playlist_id": [prefix + channel[2:]]} for prefix in ("UULF", "UULV", "UUSH")]
            body = path.read_bytes() if known else b"what was asked for is not the channel's feed"
            self.send_response(status if known else 404 if of_a_kind else 400)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

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


def ask(bench, path, channel, kind, status=200, content_type="text/xml; charset=UTF-8"):
    with upstream(path, status, content_type, channel) as url, bench.plaque(url) as plaque:
        return plaque.ask(channel, kind)


# The checks


def the_newest_upload_is_as_the_file_says(bench, path, kind):
    feed = read_feed(path)
    expected = newest_upload(feed, kind)
    answer = ask(bench, path, channel_of(feed), kind)
    if expected is None:
        expect_error(answer, grpc.StatusCode.NOT_FOUND, "NO_UPLOADS")
        return
    expect_ok(answer)
    seen = as_read(answer.response.video)
    wrong = {field: (seen[field], expected[field]) for field in expected if seen[field] != expected[field]}
    expect(not wrong, f"(seen, in the file): {wrong}")
    expect(not answer.response.freshness.stale, "a new answer is marked stale")
    age = time.time() - answer.response.freshness.fetch_time.ToNanoseconds() / 1e9
    expect(0 <= age < 60, f"the fetch time is {age} s ago")


def a_page_with_404_is_no_channel(bench, path):
    answer = ask(bench, path, UNKNOWN, ANY, status=404, content_type="text/html; charset=UTF-8")
    expect_error(answer, grpc.StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


def a_page_with_200_is_malformed(bench, path):
    answer = ask(bench, path, UNKNOWN, ANY, content_type="text/html; charset=UTF-8")
    expect_error(answer, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED")


def every_file_that_the_folder_lists_is_checked(bench, checked):
    listed = re.findall(r"^\| (\S+\.(?:xml|html)) \|", (bench.captures / "README.md").read_text(), re.MULTILINE)
    expect(listed, f"no captures in {bench.captures}")
    expect_equal("the set of files", sorted(checked), sorted(listed))
    return f"{len(checked)} files"


def main():
    bench = Bench(__doc__.splitlines()[0])
    suite = Suite()
    feeds, pages = sorted(bench.captures.glob("*.xml")), sorted(bench.captures.glob("*.html"))
    suite.add("every file that the folder lists is checked", every_file_that_the_folder_lists_is_checked,
              [path.name for path in feeds + pages])
    for path in feeds:
        for name, kind in KINDS.items():
            suite.add(f"{path.name}, {name}", the_newest_upload_is_as_the_file_says, path, kind)
    for path in pages:
        suite.add(f"{path.name} with 404", a_page_with_404_is_no_channel, path)
        suite.add(f"{path.name} with 200", a_page_with_200_is_malformed, path)
    suite.run(bench)


if __name__ == "__main__":
    main()
