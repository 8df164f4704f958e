"""The channels that the origin knows. Their IDs, names and newest uploads are real, and in the documentation; all else is made up."""

import base64
import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

from feeds import EPOCH, Upload

# As long as descriptions are, with what has to be escaped in XML and what takes several bytes in UTF-8.
DESCRIPTION = """What rivers carry & where they leave it: a journey in <three> parts. 🦆

""" + "▀" * 28 + """
Sources & further reading:
https://example.org/sources?part=1&page=2

OTHER LANGUAGES
German:    https://example.org/de   – für alle
Japanese:  https://example.org/ja   – 川と海
Arabic:    https://example.org/ar   – الأنهار

#rivers #sea #longdescription
""" * 4


class Channel(NamedTuple):
    id: str
    name: str
    # Its handle, and its name from before there were handles.
    handle: str
    user: str
    uploads: tuple


def made_up_id(channel_id, number):
    """The ID of a channel's upload: 11 characters."""
    digest = hashlib.sha1(f"{channel_id}/{number}".encode()).digest()
    return base64.urlsafe_b64encode(digest)[:10].decode() + "A"


def below(channel_id, newest, shorts=(), empty=()):
    """A feed's uploads: the newest, and 14 older ones; at which places there are Shorts, and at which no description."""
    older = (
        Upload(made_up_id(channel_id, 15 - i), newest.published - timedelta(days=3 * i, minutes=7 * i), short=i in shorts,
               title=f"Part {15 - i}: Rivers & seas, “{15 - i}”", views=100_003 * i, updated=newest.published - timedelta(hours=i),
               description="" if i in empty else DESCRIPTION, server=1 + i % 4)
        for i in range(1, 15))
    return newest, *older


def known():
    kurzgesagt = Upload(
        "N2FOxjtv5ns", datetime.fromisoformat("2026-07-01T14:00:35+00:00"), short=True, title="What is El Niño?", views=482355,
        updated=datetime.fromisoformat("2026-07-02T06:56:01+00:00"), description=DESCRIPTION, server=3)
    scishow = Upload(
        "19N79Z4Htl4", datetime.fromisoformat("2024-02-02T22:00:00+00:00"), title="This Crystal Is ELECTRIC", views=41100,
        updated=datetime.fromisoformat("2024-02-03T05:58:17+00:00"), description=DESCRIPTION)
    aero = Upload(
        "IGciw-yYlo4", datetime.fromisoformat("2025-04-16T17:50:36+00:00"), views=71584,
        title="AeroNewsGermany auf der AERO Friedrichshafen ✈️ #aeronews #shorts",
        updated=datetime.fromisoformat("2025-04-17T07:08:29+00:00"))
    return (
        Channel("UCsXVk37bltHxD1rDPwtNM8Q", "Kurzgesagt – In a Nutshell", "@kurzgesagt", "Kurzgesagt",
                below("UCsXVk37bltHxD1rDPwtNM8Q", kurzgesagt, shorts=(1, 2, 4, 5, 6, 7, 10, 11, 12, 13))),
        Channel("UCZYTClx2T1of7BRZ86-8fow", "SciShow", "@SciShow", "scishow", below("UCZYTClx2T1of7BRZ86-8fow", scishow)),
        Channel("UCipwt-3-cptv9K6uhfZ61GA", "AeroNewsGermany", "@AeroNewsGermany", "",
                below("UCipwt-3-cptv9K6uhfZ61GA", aero, empty=(1, 4, 7, 8, 10, 11))),
        Channel("UChm_aUTJIjsy73g02bByoeA", "Fishing Unfiltered", "@fishingunfiltered", "", ()),
    )


def synthesize(channel_id):
    """A channel that there could be."""
    newest = EPOCH + timedelta(days=323)
    uploads = tuple(
        Upload(made_up_id(channel_id, 15 - i), newest - timedelta(days=11 * i), short=i % 5 == 4,
               title=f"Upload {15 - i} of {channel_id}", views=100 * i)
        for i in range(15))
    return Channel(channel_id, f"Channel {channel_id}", f"@{channel_id.lower()}", "", uploads)
