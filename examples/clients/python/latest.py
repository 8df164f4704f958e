"""Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes."""

import argparse
import random
import sys
import time
from itertools import islice

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from plaque.v1 import latest_video_pb2 as plaque
from plaque.v1.latest_video_pb2_grpc import LatestVideoStub

# In seconds. A call without a deadline waits for as long as the server lets it.
DEADLINE = 10

# The connection is pinged: otherwise a watch would not notice that the machine at its other end is gone.
KEEPALIVE = [("grpc.keepalive_time_ms", 60_000), ("grpc.http2.max_pings_without_data", 0)]

# A watch goes on after these. INTERNAL is what a proxy answers when it loses the server.
TRANSIENT = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL

# In seconds, before a watch is resumed. It doubles until an event comes.
MIN_BACKOFF, MAX_BACKOFF = 1, 15


def get(client, channel):
    answer, call = client.GetLatestVideo.with_call(plaque.GetLatestVideoRequest(channel_id=channel), timeout=DEADLINE)
    video = answer.video
    print(f"latest: {video.video_id} {plaque.VideoKind.Name(video.kind)} {video.title}")
    print(f"cache-status: {dict(call.initial_metadata()).get('cache-status')}")


def batch(client, channels):
    answer = client.BatchGetLatestVideos(plaque.BatchGetLatestVideosRequest(channel_ids=channels), timeout=DEADLINE)
    # The call succeeds although some of its channels fail.
    for result in answer.results:
        print(f"batch: {result.channel_id} {outcome(result)}")


def outcome(result):
    return result.found.video.video_id if result.HasField("found") else result.failure.reason


def watch(client, channels, count, seconds):
    for channel, kind, event in islice(events(client, channels, seconds), count):
        if kind == "video":
            text = f"{event.video.video_id} {'initial' if event.initial else 'new'}"
        elif kind == "problem":
            text = outcome(event.problem)
        elif kind == "recovered":
            text = "lookups work again"
        else:
            text = "uploads may have been missed"
        print(f"watch: {channel} {text}", flush=True)


def events(client, channels, seconds):
    """Yields (channel, kind, event) for so long. When the stream breaks, it is resumed where it was."""
    end = time.monotonic() + seconds
    tokens, backoff = {}, MIN_BACKOFF
    while (left := end - time.monotonic()) > 0:
        request = plaque.WatchLatestVideoRequest(channel_ids=channels, resume_tokens=tokens.values())
        call, hint = client.WatchLatestVideo(request, timeout=left), 0
        try:
            for event in call:
                # A newer server may have kinds that are not known here.
                if kind := event.WhichOneof("event"):
                    channel = getattr(event, kind).channel_id
                    yield channel, kind, event
                    # Only now: an event that was not handled to its end comes again.
                    if event.resume_token:
                        tokens[channel] = event.resume_token
                backoff = MIN_BACKOFF
        except grpc.RpcError as error:
            hint = retry_delay(error)
            if not hint and error.code() not in TRANSIENT:
                raise
        finally:
            call.cancel()
        # With jitter: the clients of a server that stopped must not all come back at once.
        pause = max(hint, backoff) * random.uniform(1, 2)
        backoff = min(2 * backoff, MAX_BACKOFF)
        time.sleep(max(0, min(pause, end - time.monotonic())))


def explain(error):
    """Prints an error: the reason is for programs to switch on, the message is for people."""
    info, delay = detail(error, ErrorInfo), retry_delay(error)
    print(f"error: {error.code().name} {info.reason if info else '-'}: {error.details()}")
    if delay:
        print(f"retry: in {delay:.1f} s")


def retry_delay(error):
    """How long the server asks to wait, in seconds; 0 if it does not."""
    info = detail(error, RetryInfo)
    return info.retry_delay.ToTimedelta().total_seconds() if info else 0


def detail(error, kind):
    """The detail of this kind that an error carries, if any."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        if packed.Is(kind.DESCRIPTOR):
            return kind.FromString(packed.value)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:3779")
    parser.add_argument("--events", type=int, default=10, help="watch until so many, 10 unless given")
    parser.add_argument("--seconds", type=int, default=60, help="or for so long, 60 unless given")
    parser.add_argument("channels", nargs="*", default=["UCsXVk37bltHxD1rDPwtNM8Q"], metavar="CHANNEL_ID")
    args = parser.parse_args()
    with grpc.insecure_channel(args.server, options=KEEPALIVE) as connection:
        client = LatestVideoStub(connection)
        try:
            get(client, args.channels[0])
            batch(client, args.channels)
            watch(client, args.channels, args.events, args.seconds)
        except grpc.RpcError as error:
            explain(error)
            sys.exit(1)


if __name__ == "__main__":
    main()
