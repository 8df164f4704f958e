"""Feeds in the shape of YouTube's, made from a few words. Python's standard library alone."""

from datetime import datetime, timedelta, timezone
from typing import NamedTuple
from xml.sax.saxutils import escape

# Day 0 of the numbers of uploads.
EPOCH = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/" xmlns="http://www.w3.org/2005/Atom">
 <link rel="self" href="http://www.youtube.com/feeds/videos.xml?channel_id={channel}"/>
 <id>yt:channel:{short}</id>
 <yt:channelId>{short}</yt:channelId>
 <title>{name}</title>
 <link rel="alternate" href="https://www.youtube.com/channel/{channel}"/>
 <author>
  <name>{name}</name>
  <uri>https://www.youtube.com/channel/{channel}</uri>
 </author>
 <published>2019-01-01T00:00:00+00:00</published>
"""
ENTRY = """ <entry>
  <id>yt:video:{id}</id>
  <yt:videoId>{id}</yt:videoId>
  <yt:channelId>{channel}</yt:channelId>
  <title>{title}</title>
  <link rel="alternate" href="https://www.youtube.com/{page}{id}"/>
  <author>
   <name>{name}</name>
   <uri>https://www.youtube.com/channel/{channel}</uri>
  </author>
  <published>{published}</published>
  <updated>{updated}</updated>
  <media:group>
   <media:title>{title}</media:title>
   <media:content url="https://www.youtube.com/v/{id}?version=3" type="application/x-shockwave-flash" width="640" height="390"/>
   <media:thumbnail url="https://i{server}.ytimg.com/vi/{id}/hqdefault.jpg" width="480" height="360"/>
   <media:description>{description}</media:description>
   <media:community>
    <media:starRating count="1" average="5.00" min="1" max="5"/>
    <media:statistics views="{views}"/>
   </media:community>
  </media:group>
 </entry>
"""


class Upload(NamedTuple):
    id: str
    published: datetime
    short: bool = False
    title: str = "A title"
    views: int = 5
    # None: when it was published.
    updated: datetime = None
    description: str = ""
    # Of the servers of pictures.
    server: int = 2
    # A live stream. No feed shows that; a channel's playlist of streams does.
    stream: bool = False


def video_id(number):
    return f"vid{number:07}A"


def upload(number, **more):
    """The upload of that day."""
    return Upload(video_id(number), EPOCH + timedelta(days=number), **more)


def days(newest, oldest):
    """The uploads of these days, one a day, the newest first."""
    return [upload(number) for number in range(newest, oldest - 1, -1)]


def ids(newest, oldest=None):
    """Their IDs in the order in which a watch sends them: the oldest first."""
    return [video_id(number) for number in range(newest if oldest is None else oldest, newest + 1)]


def feed(channel, uploads, name="Tide and Time"):
    """The feed of a channel of that name, as bytes: the uploads in the order given."""
    name = escape(name)
    return "".join([
        HEAD.format(channel=channel, short=channel[2:], name=name),
        *(ENTRY.format(
            id=one.id, channel=channel, name=name, title=escape(one.title), page="shorts/" if one.short else "watch?v=",
            published=one.published.isoformat(), updated=(one.updated or one.published).isoformat(), views=one.views,
            description=escape(one.description), server=one.server)
          for one in uploads),
        "</feed>\n"]).encode()
