"""Gets the newest upload of a channel, then of several in a batch, and then watches them."""

import argparse
import random
import sys
import time
from itertools import islice
from pathlib import Path

import grpc
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
MIN_BACKOFF, MAX_BACKOFF = 1, 15


def get(client, channel):
    answer, call = client.GetLatestVideo.with_call(plaque.GetLatestVideoRequest(channel_id=channel), timeout=DEADLINE)
    video = answer.video
    print(f"latest: {video.video_id} {plaque.VideoKind.Name(video.kind)} {video.title}")
    print(f"cache-status: {dict(call.initial_metadata()).get('cache-status')}")


def batch(client, channels):
    answer = client.BatchGetLatestVideos(plaque.BatchGetLatestVideosRequest(channel_ids=channels), timeout=DEADLINE)
    # The call succeeds even if some of its channels fail.
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
    """Yields (channel, kind, event) for this many seconds. Resumes the stream when it breaks."""
    end = time.monotonic() + seconds
    tokens, backoff = {}, MIN_BACKOFF
    while (left := end - time.monotonic()) > 0:
        request = plaque.WatchLatestVideoRequest(channel_ids=channels, resume_tokens=tokens.values())
        call, hint = client.WatchLatestVideo(request, timeout=left), 0
        try:
            for event in call:
                # Ignores kinds of events that only newer servers have.
                if kind := event.WhichOneof("event"):
                    channel = getattr(event, kind).channel_id
                    yield channel, kind, event
                    # Stored only after the event was handled; otherwise it is sent again.
                    if event.resume_token:
                        tokens[channel] = event.resume_token
                backoff = MIN_BACKOFF
        except grpc.RpcError as error:
            hint = retry_delay(error)
            if not hint and error.code() not in TRANSIENT:
                raise
        finally:
            call.cancel()
        # With jitter, so that the clients of a stopped server do not all reconnect at once.
        pause = max(hint, backoff) * random.uniform(1, 2)
        backoff = min(2 * backoff, MAX_BACKOFF)
        time.sleep(max(0, min(pause, end - time.monotonic())))


def explain(error):
    """Prints an error. Programs switch on the reason; the message is for humans."""
    info, delay = detail(error, ErrorInfo), retry_delay(error)
    print(f"error: {error.code().name} {info.reason if info else '-'}: {error.details()}")
    if delay:
        print(f"retry: in {delay:.1f} s")


def retry_delay(error):
    """The delay that the server asks for, in seconds; 0 if none."""
    info = detail(error, RetryInfo)
    return info.retry_delay.ToTimedelta().total_seconds() if info else 0


def detail(error, kind):
    """The error's detail of this type, or None."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        if packed.Is(kind.DESCRIPTOR):
            return kind.FromString(packed.value)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:3779")
    parser.add_argument("--service-config", type=Path, default=SERVICE_CONFIG, help="of retries, in JSON (default: deploy's)")
    parser.add_argument("--events", type=int, default=10, help="stop the watch after this many events (default 10)")
    parser.add_argument("--seconds", type=int, default=60, help="or after this many seconds (default 60)")
    parser.add_argument("channels", nargs="*", default=["UCsXVk37bltHxD1rDPwtNM8Q"], metavar="CHANNEL_ID")
    args = parser.parse_args()
    options = [*KEEPALIVE, ("grpc.service_config", args.service_config.read_text())]
    with grpc.insecure_channel(args.server, options) as connection:
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
