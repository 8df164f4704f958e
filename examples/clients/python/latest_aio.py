"""Gets the newest upload of a channel, then of several in a batch, and then watches them: latest.py with asyncio and types."""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from plaque.v1 import latest_video_pb2 as plaque
from plaque.v1.latest_video_pb2_grpc import LatestVideoStub

# In seconds, for a call and its retries. The service config says which errors are retried, after which backoff (or the pause
# that the server asks for), and that calls wait for a server that restarts.
DEADLINE = 10
SERVICE_CONFIG = Path(__file__).parent / "../../../deploy/service-config.json"

# Pings the connection, so that a watch detects that the server's machine is gone.
KEEPALIVE = [("grpc.keepalive_time_ms", 60_000), ("grpc.http2.max_pings_without_data", 0)]

# A watch is resumed after these. Proxies answer INTERNAL when they lose the server.
TRANSIENT = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL

# In seconds, the pause before a watch is resumed. Doubles until an event arrives.
MIN_BACKOFF, MAX_BACKOFF = 1.0, 15.0

Detail = TypeVar("Detail", bound=Message)


async def get(client: LatestVideoStub, channel: str) -> None:
    call = client.GetLatestVideo(plaque.GetLatestVideoRequest(channel_id=channel), timeout=DEADLINE)
    answer: plaque.GetLatestVideoResponse = await call
    video, headers = answer.video, dict(await call.initial_metadata())
    print(f"latest: {video.video_id} {plaque.VideoKind.Name(video.kind)} {video.title}")
    print(f"cache-status: {headers.get('cache-status')}")


async def batch(client: LatestVideoStub, channels: Sequence[str]) -> None:
    request = plaque.BatchGetLatestVideosRequest(channel_ids=channels)
    answer: plaque.BatchGetLatestVideosResponse = await client.BatchGetLatestVideos(request, timeout=DEADLINE)
    # The call succeeds even if some of its channels fail.
    for result in answer.results:
        print(f"batch: {result.channel_id} {outcome(result)}")


def outcome(result: plaque.LookupResult) -> str:
    return result.found.video.video_id if result.HasField("found") else result.failure.reason


async def watch(client: LatestVideoStub, channels: Sequence[str], count: int, seconds: float) -> None:
    # Closed at once: otherwise the call would go on until the generator is collected.
    async with aclosing(events(client, channels, seconds)) as stream:
        async for channel, event in stream:
            print(f"watch: {channel} {describe(event)}", flush=True)
            count -= 1
            if count <= 0:
                return


async def events(
    client: LatestVideoStub, channels: Sequence[str], seconds: float
) -> AsyncGenerator[tuple[str, plaque.WatchLatestVideoResponse], None]:
    """Yields channels with events for this many seconds. Resumes the stream when it breaks."""
    end = time.monotonic() + seconds
    tokens: dict[str, bytes] = {}
    backoff = MIN_BACKOFF
    while (left := end - time.monotonic()) > 0:
        request = plaque.WatchLatestVideoRequest(channel_ids=channels, resume_tokens=tokens.values())
        call, hint = client.WatchLatestVideo(request, timeout=left), 0.0
        try:
            event: plaque.WatchLatestVideoResponse
            async for event in call:
                # Ignores kinds of events that only newer servers have.
                if kind := event.WhichOneof("event"):
                    channel: str = getattr(event, kind).channel_id
                    yield channel, event
                    # Stored only after the event was handled; otherwise it is sent again.
                    if event.resume_token:
                        tokens[channel] = event.resume_token
                backoff = MIN_BACKOFF
        except grpc.aio.AioRpcError as error:
            hint = retry_delay(error)
            if not hint and error.code() not in TRANSIENT:
                raise
        finally:
            call.cancel()
        # With jitter, so that the clients of a stopped server do not all reconnect at once.
        pause = max(hint, backoff) * random.uniform(1, 2)
        backoff = min(2 * backoff, MAX_BACKOFF)
        await asyncio.sleep(max(0.0, min(pause, end - time.monotonic())))


def describe(event: plaque.WatchLatestVideoResponse) -> str:
    if event.HasField("video"):
        return f"{event.video.video_id} {'initial' if event.initial else 'new'}"
    if event.HasField("problem"):
        return outcome(event.problem)
    return "lookups work again" if event.HasField("recovered") else "uploads may have been missed"


def explain(error: grpc.aio.AioRpcError) -> None:
    """Prints an error. Programs switch on the reason; the message is for humans."""
    info, delay = detail(error, ErrorInfo), retry_delay(error)
    print(f"error: {error.code().name} {info.reason if info else '-'}: {error.details()}")
    if delay:
        print(f"retry: in {delay:.1f} s")


def retry_delay(error: grpc.aio.AioRpcError) -> float:
    """The delay that the server asks for, in seconds; 0 if none."""
    info = detail(error, RetryInfo)
    return info.retry_delay.ToTimedelta().total_seconds() if info else 0.0


def detail(error: grpc.aio.AioRpcError, kind: type[Detail]) -> Detail | None:
    """The error's detail of this type, or None."""
    # Reads what a grpc.Call has, and an AioRpcError has the same.
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for packed in status.details if status else []:
        if packed.Is(kind.DESCRIPTOR):
            return kind.FromString(packed.value)
    return None


async def run(args: argparse.Namespace) -> int:
    options = [*KEEPALIVE, ("grpc.service_config", args.service_config.read_text())]
    async with grpc.aio.insecure_channel(args.server, options) as connection:
        client = LatestVideoStub(connection)
        try:
            await get(client, args.channels[0])
            await batch(client, args.channels)
            await watch(client, args.channels, args.events, args.seconds)
        except grpc.aio.AioRpcError as error:
            explain(error)
            return 1
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:3779")
    parser.add_argument("--service-config", type=Path, default=SERVICE_CONFIG, help="of retries, in JSON (default: deploy's)")
    parser.add_argument("--events", type=int, default=10, help="stop the watch after this many events (default 10)")
    parser.add_argument("--seconds", type=int, default=60, help="or after this many seconds (default 60)")
    parser.add_argument("channels", nargs="*", default=["UCsXVk37bltHxD1rDPwtNM8Q"], metavar="CHANNEL_ID")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
