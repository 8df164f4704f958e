"""Pages of channels, as far as one must read them to find a channel's ID, and what /oembed says of a video."""

import html
import re
from urllib.parse import unquote

# Other channels' IDs, which come before the page's own.
DECOYS = "".join(f'"channelId":"UC{number:021d}Q",' for number in range(3))
CONSENT = f"<!doctype html><title>Before you continue to YouTube</title><script>var x={{{DECOYS}}}</script>".encode()
PAGE = """<!doctype html><html><head><script>var x={{{decoys}}}</script>{filler}\
<link rel="canonical" href="https://www.youtube.com/channel/{id}">\
<link rel="alternate" type="application/rss+xml" title="RSS" href="https://www.youtube.com/feeds/videos.xml?channel_id={id}">\
<title>{name} - YouTube</title></head><body></body></html>"""


def page(state, path):
    """The page of /@HANDLE, /c/NAME, /user/NAME or /channel/ID: None if there is none."""
    name = unquote(path.rsplit("/", 1)[1])
    channel = state.channel(name if path.startswith("/channel/") else state.named(name))
    return channel and PAGE.format(
        decoys=DECOYS, filler="<!-- filler -->" * 2000, id=channel.id, name=html.escape(channel.name)).encode()


def oembed(state, url):
    """None if there is no such video."""
    video = re.search(r"(?:[?&]v=|youtu\.be/|/shorts/|/live/)([\w-]{11})", url)
    owner = video and state.owner(video.group(1))
    if not owner:
        return None
    channel, upload = owner
    return {"title": upload.title, "author_name": channel.name, "author_url": f"https://www.youtube.com/{channel.handle}"}
