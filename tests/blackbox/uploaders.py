"""Channels that upload at random times: how soon uploads are told is measured on them."""

import bisect
import time
from datetime import datetime, timezone

from origin.feeds import Upload, feed
from snapshots import response
from overload_support import number_of


class Uploader:
    """A channel that uploads at random times, `rate` a second on average: from the wall clock, its feed at that time."""

    def __init__(self, channel, rate, until, dice):
        self.channel = channel
        now = time.time()
        times, at = [], now
        for _ in range(15):
            at -= dice.expovariate(rate)
            times.insert(0, at)
        at = now
        while (at := at + dice.expovariate(rate)) < until:
            times.append(at)
        self.times = times

    def video_id(self, number):
        return f"{number_of(self.channel):05}{number:05}A"

    def feed(self, now):
        end = bisect.bisect_right(self.times, now)
        uploads = [
            Upload(self.video_id(number), datetime.fromtimestamp(max(0, self.times[number]), timezone.utc))
            for number in range(end - 1, max(0, end - 15) - 1, -1)]
        return response(200, feed(self.channel, uploads))

    def between(self, begin, end):
        """The uploads of that time: their IDs and times."""
        return {self.video_id(number): at for number, at in enumerate(self.times) if begin <= at < end}
