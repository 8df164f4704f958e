"""Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes."""

import argparse
import sys
from itertools import islice

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from plaque.v1 import latest_video_pb2 as plaque
from plaque.v1.latest_video_pb2_grpc import LatestVideoStub

# In seconds. A call without a deadline waits for as long as the server lets it.
DEADLINE = 10


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
    events = client.WatchLatestVideo(plaque.WatchLatestVideoRequest(channel_ids=channels), timeout=seconds)
    try:
        for event in islice(events, count):
            if event.HasField("video"):
                told = f"{event.video.channel_id} {event.video.video_id} {'initial' if event.initial else 'new'}"
            else:
                told = f"{event.problem.channel_id} {outcome(event.problem)}"
            print(f"watch: {told}", flush=True)
    except grpc.RpcError as error:
        # Its deadline is one of the two ways in which this watch ends.
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
    events.cancel()


def explain(error):
    """Prints an error: the reason is for programs to switch on, the message is for people."""
    details = {ErrorInfo: None, RetryInfo: None}
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        for kind in details:
            if packed.Is(kind.DESCRIPTOR):
                details[kind] = kind.FromString(packed.value)
    info, retry = details.values()
    print(f"error: {error.code().name} {info.reason if info else '-'}: {error.details()}")
    if retry:
        print(f"retry: in {retry.retry_delay.ToTimedelta().total_seconds():.1f} s")


def main():
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--server", default="127.0.0.1:3779")
    words.add_argument("--events", type=int, default=10, help="watch until so many, 10 unless given")
    words.add_argument("--seconds", type=int, default=60, help="or for so long, 60 unless given")
    words.add_argument("channels", nargs="*", default=["UCsXVk37bltHxD1rDPwtNM8Q"], metavar="CHANNEL_ID")
    said = words.parse_args()
    with grpc.insecure_channel(said.server) as connection:
        client = LatestVideoStub(connection)
        try:
            get(client, said.channels[0])
            batch(client, said.channels)
            watch(client, said.channels, said.events, said.seconds)
        except grpc.RpcError as error:
            explain(error)
            sys.exit(1)


if __name__ == "__main__":
    main()
