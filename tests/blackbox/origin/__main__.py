"""An origin on loopback that stands in for YouTube: feeds, the Data API and pages, with faults on demand and counts.

    python tests/blackbox/origin --port 8099 [--latency-ms 50] [--synthesize] [--api-key test-key] [--api-quota 10000]

GET  /feeds/videos.xml     a channel's feed by channel_id=, user= (its legacy name) or playlist_id= (UU…: all, UULF…: videos,
                           UUSH…: Shorts, UULV…: streams). 404 for unknown channels; with --synthesize there are none.
GET  /youtube/v3/…         channels, playlistItems and videos, with the key in X-Goog-Api-Key or key=. Each request costs a unit.
GET  /@HANDLE /c/NAME /user/NAME /channel/ID, /oembed?url=…
GET  /stats                {"total", "by_channel", "by_status", "max_concurrent", "max_concurrent_by_channel", "pages",
                           "api": {"units", "by_method", "ids"}}
POST /reset                forgets counts, orders and what was published
POST /control              orders, any of them at once:
  {"mode": M, "channels": ["UC…"]}    how feeds are answered, of these channels or of all. M: ok, status:NNN, hang, drip, truncate,
                                      reset, garbage, html200, redirect, huge, gzipbomb or entities
  {"latency_ms": N}, {"retry_after": SECONDS}
  {"publish": {"channel", "video_id", "title", "short", "stream", "views"}}    a new upload, or a new title of one
  {"snapshots": {"channel", "uploads": [[{"id", "published", "title", …}, …], …]}}    what its next requests see, one by one
  {"gone": ["UC…"]}                   channels that exist nowhere any more
  {"api_mode": "ok" | "status:NNN" | "hang" | "empty" | "keyInvalid" | "quotaExceeded" | "accessNotConfigured" | "rateLimitExceeded"}
  {"api_key": the one that is valid from now on}
  {"page_mode": "ok" | "status:NNN" | "hang" | "consent"}    consent: who sends no cookie SOCS is redirected to a consent page
  {"handle": {"name", "channel"}}

Prints its address when it is ready; with --port 0 the port is any that is free. Python's standard library alone.
"""

import argparse
import asyncio
import functools
import gzip
import json
import re
from datetime import timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs, urlsplit

import data_api
import pages
from state import PLAYLIST, State, now

HTML = {"content-type": "text/html; charset=utf-8"}
JSON = {"content-type": "application/json; charset=UTF-8"}
# What YouTube sends with a feed.
FEED = {"content-type": "text/xml; charset=UTF-8", "cache-control": "public, max-age=900", "server": "YouTube RSS Feeds server",
        "x-frame-options": "SAMEORIGIN", "x-xss-protection": "0"}
NOT_FOUND = b"<!DOCTYPE html><html lang=en><title>Error 404 (Not Found)!!1</title><p>That's an error.</html>"
ENTITIES = (
    b'<?xml version="1.0"?><!DOCTYPE feed [<!ENTITY a "lol">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    + b']><feed xmlns="http://www.w3.org/2005/Atom"><title>&j;</title></feed>')
# What breaks off ends the connection.
END = False


@functools.cache
def gzip_bomb():
    """256 MiB in some 250 kB."""
    return gzip.compress(b"<feed>" + b" " * (256 << 20))


class Connection:
    def __init__(self, state, reader, writer):
        self.state, self.reader, self.writer = state, reader, writer

    async def serve(self):
        try:
            while await self.answer((await self.reader.readuntil(b"\r\n\r\n")).decode()) is not END:
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writer.close()

    async def answer(self, head):
        target = urlsplit(head.split(" ", 2)[1])
        fields = {name.lower(): value for name, value in re.findall(r"\r\n([^:]+): *([^\r]*)", head)}
        body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        path, query = target.path, parse_qs(target.query)
        if path == "/feeds/videos.xml":
            return await self.count_feed({name: values[0] for name, values in query.items()})
        if path == "/stats":
            return await self.send(200, JSON, json.dumps(self.state.stats()).encode(), counted=False)
        if path in ("/control", "/reset"):
            self.state.control(json.loads(body)) if path == "/control" else self.state.reset()
            return await self.send(200, JSON, b'{"ok": true}', counted=False)
        if path.startswith("/youtube/v3/"):
            await self.wait(self.state.api_mode)
            key = fields.get("x-goog-api-key") or query.get("key", [""])[0]
            status, message = data_api.answer(self.state, path.removeprefix("/youtube/v3/"), query, key)
            return await self.send(status, JSON, json.dumps(message).encode())
        if path == "/oembed" or re.match(r"/(@|c/|user/|channel/)", path):
            return await self.answer_page(path, query, fields)
        return await self.send(404, HTML, NOT_FOUND)

    async def wait(self, mode):
        await asyncio.sleep(3600 if mode == "hang" else self.state.latency_ms / 1000)

    # Pages

    async def answer_page(self, path, query, fields):
        self.state.pages += 1
        mode = self.state.page_mode
        await self.wait(mode)
        if mode.startswith("status:"):
            return await self.send(int(mode.removeprefix("status:")), HTML, NOT_FOUND)
        if mode == "consent" and "SOCS=" not in fields.get("cookie", ""):
            return await self.send(302, {"location": "https://consent.youtube.com/m?continue=x"}, pages.CONSENT)
        if path == "/oembed":
            found = pages.oembed(self.state, query.get("url", [""])[0])
            return await self.send(200 if found else 404, JSON, json.dumps(found).encode() if found else b"Not Found")
        found = pages.page(self.state, path)
        return await self.send(200 if found else 404, HTML, found or NOT_FOUND)

    # Feeds

    async def count_feed(self, query):
        channel, kind = query.get("channel_id") or self.state.named(query.get("user", "")) or "", None
        playlist = PLAYLIST.fullmatch(query.get("playlist_id", ""))
        if playlist:
            channel, kind = "UC" + playlist.group(2), playlist.group(1)
        self.state.begin(channel, query.get("playlist_id") or channel)
        try:
            return await self.answer_feed(channel, kind)
        finally:
            self.state.end(channel)

    async def answer_feed(self, channel, kind):
        mode = self.state.modes.get(channel, self.state.modes.get(None, "ok"))
        if self.state.latency_ms:
            await self.wait("ok")
        if mode == "hang":
            await self.wait(mode)
        if mode == "reset":
            self.writer.transport.abort()
            return END
        if mode.startswith("status:"):
            pause = {} if self.state.retry_after is None else {"retry-after": self.state.retry_after}
            return await self.send(int(mode.removeprefix("status:")), HTML | pause, NOT_FOUND)
        if mode == "redirect":
            return await self.send(302, {"location": "https://consent.youtube.com/m?continue=x"}, b"")
        body = self.state.feed(channel, kind)
        if body is None:
            return await self.send(404, HTML, NOT_FOUND)
        headers = FEED | {"expires": format_datetime(now() + timedelta(seconds=900), usegmt=True)}
        if mode == "html200":
            return await self.send(200, HTML, b"<!doctype html><title>Before you continue</title>")
        if mode == "garbage":
            body = bytes(range(256)) * 64
        elif mode == "entities":
            body = ENTITIES
        elif mode == "huge":
            body = body.removesuffix(b"</feed>\n") + b"<!-- " + b"x" * (256 << 20) + b" --></feed>"
        elif mode == "gzipbomb":
            headers, body = headers | {"content-encoding": "gzip"}, gzip_bomb()
        return await self.send(200, headers, body, how=mode)

    async def send(self, status, headers, body, how="ok", counted=True):
        if counted:
            self.state.by_status[status] += 1
        lines = [f"HTTP/1.1 {status} Status", f"date: {format_datetime(now(), usegmt=True)}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if how == "truncate":
            body = body[:len(body) // 2]
        for piece in (body[i:i + 1] for i in range(len(body))) if how == "drip" else [body]:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.25 if how == "drip" else 0)
        return END if how == "truncate" else not END


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--synthesize", "--synthesise", action="store_true")
    parser.add_argument("--api-key", default="test-key")
    parser.add_argument("--api-quota", type=int, default=10_000)
    args = parser.parse_args()
    state = State(args.latency_ms, args.synthesize, args.api_key, args.api_quota)
    server = await asyncio.start_server(
        lambda reader, writer: Connection(state, reader, writer).serve(), "127.0.0.1", args.port, backlog=4096, limit=1 << 20)
    print(f"origin on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feeds/videos.xml", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
