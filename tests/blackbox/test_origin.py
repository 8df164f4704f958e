"""The origin itself: what it shows of a channel is one thing, however it is asked, and its faults are those that it is told to have.

As a client of YouTube sees it: no plaque runs here.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as xml

import pytest

from support import KURZGESAGT, NO_UPLOADS, SCISHOW, UNKNOWN

ENTRY, VIDEO_ID = "{http://www.w3.org/2005/Atom}entry", "{http://www.youtube.com/xml/schemas/2015}videoId"
KEY = {"X-Goog-Api-Key": "test-key"}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def get(origin, path, headers=(), **query):
    """The status, the headers and the body."""
    url = urllib.parse.urljoin(origin.url, path) + ("?" + urllib.parse.urlencode(query) if query else "")
    opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=5) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def ids_of(origin, **query):
    """The uploads that a feed shows."""
    status, _, body = get(origin, "/feeds/videos.xml", **query)
    assert status == 200
    return [entry.findtext(VIDEO_ID) for entry in xml.fromstring(body).iter(ENTRY)]


def api(origin, method, headers=KEY, **query):
    status, _, body = get(origin, f"/youtube/v3/{method}", headers, **query)
    said = json.loads(body)
    return said if status == 200 else (status, said["error"]["errors"][0]["reason"])


def test_a_channel_is_the_same_by_feed_playlists_api_and_pages(origin):
    own = ids_of(origin, channel_id=KURZGESAGT)
    assert len(own) == 15 and ids_of(origin, user="Kurzgesagt") == own
    videos, shorts = (ids_of(origin, playlist_id=kind + KURZGESAGT[2:]) for kind in ("UULF", "UUSH"))
    assert sorted(videos + shorts) == sorted(own) and own[0] in shorts and len(videos) == 4
    pages = [api(origin, "playlistItems", playlistId="UU" + KURZGESAGT[2:], maxResults=10, pageToken=at) for at in (0, 10)]
    assert [item["contentDetails"]["videoId"] for page in pages for item in page["items"]] == own
    assert [page.get("nextPageToken") for page in pages] == ["10", None]
    [channel] = api(origin, "channels", forHandle="kurzgesagt")["items"]
    assert (channel["id"], channel["contentDetails"]["relatedPlaylists"]["uploads"]) == (KURZGESAGT, "UU" + KURZGESAGT[2:])
    for path in "/@kurzgesagt", "/user/kurzgesagt", f"/channel/{KURZGESAGT}":
        body = get(origin, path)[2]
        assert body.index("UC") < body.index(KURZGESAGT) and f'rel="canonical" href="https://www.youtube.com/channel/{KURZGESAGT}"' in body
    video = f"https://www.youtube.com/watch?v={own[3]}"
    assert json.loads(get(origin, "/oembed", url=video)[2])["author_url"] == "https://www.youtube.com/@kurzgesagt"


def test_what_is_published_shows_everywhere_and_an_edit_replaces_it(origin):
    for title in "First", "Second":
        origin.publish(SCISHOW, "new00000001", title)
    assert ids_of(origin, channel_id=SCISHOW).count("new00000001") == 1
    [item] = api(origin, "videos", id="new00000001,no-such-id0")["items"]
    assert (item["snippet"]["title"], item["snippet"]["channelId"]) == ("Second", SCISHOW)


def test_snapshots_show_one_after_the_other(origin):
    first, second = ([{"id": f"vid{n:07}A", "published": f"2026-01-{n:02}T12:00:00+00:00"}] for n in (1, 2))
    origin.control(snapshots={"channel": SCISHOW, "uploads": [first, second]})
    assert [ids_of(origin, channel_id=SCISHOW) for _ in range(3)] == [["vid0000001A"], ["vid0000002A"], ["vid0000002A"]]


def test_the_api_refuses_as_youtube_does_and_counts_units(origin):
    assert api(origin, "channels", headers={}, id=KURZGESAGT) == (400, "keyInvalid")
    assert api(origin, "channels", headers={}, id=KURZGESAGT, key="test-key")["items"]
    assert "items" not in api(origin, "channels", id=UNKNOWN)
    assert api(origin, "channels", id=",".join([KURZGESAGT] * 51)) == (400, "invalidFilters")
    for channel in UNKNOWN, NO_UPLOADS:
        assert api(origin, "playlistItems", playlistId="UU" + channel[2:]) == (404, "playlistNotFound")
    for mode, refusal in ("quotaExceeded", (403, "quotaExceeded")), ("status:503", (503, "backendError")):
        origin.control(api_mode=mode)
        assert api(origin, "channels", id=KURZGESAGT) == refusal
    assert ids_of(origin, channel_id=KURZGESAGT), "feeds go on"
    assert origin.stats()["api"] == {"units": 8, "by_method": {"channels": 6, "playlistItems": 2}, "ids": 56}


def test_a_page_asks_for_consent_unless_there_is_a_cookie(origin):
    origin.control(page_mode="consent")
    status, headers, _ = get(origin, "/@scishow")
    assert (status, headers["location"].split("?")[0]) == (302, "https://consent.youtube.com/m")
    assert SCISHOW in get(origin, "/@scishow", {"Cookie": "SOCS=CAI"})[2]


@pytest.mark.plaque(synthesize=True)
def test_what_is_gone_is_found_nowhere_and_a_reset_brings_it_back(origin):
    origin.control(gone=[SCISHOW], mode="status:500", channels=[KURZGESAGT])
    for path, query in ("/feeds/videos.xml", {"channel_id": SCISHOW}), ("/@scishow", {}):
        assert get(origin, path, **query)[0] == 404
    assert get(origin, "/feeds/videos.xml", channel_id=KURZGESAGT)[0] == 500
    assert len(ids_of(origin, channel_id=UNKNOWN)) == 15, "any channel is known to an origin that synthesizes"
    origin.talk("POST", "/reset")
    assert ids_of(origin, channel_id=SCISHOW) and ids_of(origin, channel_id=KURZGESAGT)
    assert origin.stats()["total"] == 2
