"""What the origin knows and counts, and what it is told to do. No network here."""

import re
from collections import Counter
from datetime import datetime, timezone

from channels import known, synthesize
from feeds import Upload, feed

MODES = "ok", "hang", "drip", "truncate", "reset", "garbage", "html200", "redirect", "huge", "gzipbomb", "entities"
PLAYLIST = re.compile(r"UU(LF|SH|LV)?([\w-]{22})")


def now():
    """Whole seconds, as YouTube's feeds have them."""
    return datetime.now(timezone.utc).replace(microsecond=0)


class State:
    def __init__(self, latency_ms=0, synthesizes=False, api_key="test-key", api_quota=10_000):
        self.started_with = latency_ms
        self.synthesizes, self.api_key, self.api_quota = synthesizes, api_key, api_quota
        self.reset()

    def reset(self):
        """Forgets what was counted, ordered and published."""
        # Those that are not as they are made by default.
        self.channels = {channel.id: channel for channel in known()}
        self.seen = set(self.channels)
        self.names = {name.lower(): channel.id for channel in known() for name in (channel.handle, channel.user) if name}
        self.latency_ms, self.retry_after, self.gone = self.started_with, None, set()
        # Of channels, and of all others (None).
        self.modes, self.api_mode, self.page_mode = {}, "ok", "ok"
        # What a channel's next requests see, one after the other; the last stays.
        self.snapshots = {}
        self.total, self.by_channel, self.by_status = 0, Counter(), Counter()
        self.running, self.max_running, self.max_running_by = Counter(), 0, Counter()
        self.units, self.by_method, self.ids, self.pages = 0, Counter(), 0, 0

    # Channels

    def channel(self, channel_id):
        """None if it exists nowhere."""
        if not channel_id or channel_id in self.gone:
            return None
        return self.channels.get(channel_id) or (synthesize(channel_id) if self.synthesizes else None)

    def named(self, name):
        """The ID of the channel with this handle, with or without `@`, or legacy name; None if there is none."""
        return self.names.get(name.lower()) or self.names.get("@" + name.lower().lstrip("@"))

    def owner(self, video_id):
        """The channel that uploaded it and the upload, of channels that were asked for or known from the start."""
        for channel in filter(None, map(self.channel, self.seen)):
            for upload in channel.uploads:
                if upload.id == video_id:
                    return channel, upload
        return None

    def feed(self, channel_id, kind):
        """A channel's feed, or that of its playlist of a kind, as it is shown to this request; None for 404."""
        channel = self.channel(channel_id)
        if channel is None:
            return None
        if self.snapshots.get(channel_id):
            self.channels[channel_id] = channel = channel._replace(uploads=self.snapshots[channel_id].pop(0))
        return feed(channel.id, of_kind(channel.uploads, kind), channel.name)

    # Orders

    def control(self, order):
        if "latency_ms" in order:
            self.latency_ms = order["latency_ms"]
        if "retry_after" in order:
            self.retry_after = order["retry_after"]
        if "mode" in order:
            if order["mode"] not in MODES and not order["mode"].startswith("status:"):
                raise ValueError(f"no such mode: {order['mode']}")
            channels = order.get("channels")
            if channels:
                self.modes.update(dict.fromkeys(channels, order["mode"]))
            else:
                self.modes = {None: order["mode"]}
        self.api_mode = order.get("api_mode", self.api_mode)
        self.api_key = order.get("api_key", self.api_key)
        self.page_mode = order.get("page_mode", self.page_mode)
        self.gone.update(order.get("gone", ()))
        if "handle" in order:
            self.names[order["handle"]["name"].lower()] = order["handle"]["channel"]
        if "snapshots" in order:
            asked = order["snapshots"]
            self.snapshots[asked["channel"]] = [tuple(map(read_upload, one)) for one in asked["uploads"]]
        if "publish" in order:
            self.publish(**order["publish"])

    def publish(self, channel, video_id, title="A new upload", short=False, stream=False, views=1):
        """Puts an upload on top of a channel's feed. One that is there already gets a new title."""
        shown = self.channel(channel)
        before = next((one for one in shown.uploads if one.id == video_id), None)
        if before:
            edited = before._replace(title=title, updated=now())
            uploads = tuple(edited if one is before else one for one in shown.uploads)
        else:
            uploads = Upload(video_id, now(), short, title, views, stream=stream), *shown.uploads
        self.channels[channel] = shown._replace(uploads=uploads)

    # Counts

    def begin(self, channel_id, asked):
        """Counts a request for a feed, of this channel or of a playlist of its."""
        self.seen.add(channel_id)
        self.total += 1
        self.by_channel[asked] += 1
        self.running[channel_id] += 1
        self.max_running = max(self.max_running, self.running.total())
        self.max_running_by[channel_id] = max(self.max_running_by[channel_id], self.running[channel_id])

    def end(self, channel_id):
        self.running[channel_id] -= 1
        if not self.running[channel_id]:
            del self.running[channel_id]

    def stats(self):
        return {
            "total": self.total, "by_channel": self.by_channel, "by_status": self.by_status,
            "max_concurrent": self.max_running, "max_concurrent_by_channel": self.max_running_by,
            "pages": self.pages, "api": {"units": self.units, "by_method": self.by_method, "ids": self.ids}}


def of_kind(uploads, kind):
    """Those that the playlist shows: videos (`LF`), Shorts (`SH`), streams (`LV`), or all."""
    if kind == "LF":
        return [one for one in uploads if not one.short and not one.stream]
    return [one for one in uploads if kind is None or (one.short if kind == "SH" else one.stream)]


def read_upload(order):
    return Upload(**{**order, "published": datetime.fromisoformat(order["published"])})
