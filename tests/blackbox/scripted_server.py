"""A server of plaque's API that follows a script: what a watch sends, and how it ends. It proves what a client does then."""

import time
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from support import duration, messages, services


@dataclass
class Stream:
    """One call of WatchLatestVideo: its messages, and the status that it ends with. `retry_delay` is in seconds."""

    messages: list
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = None
    retry_delay: float = None

    def end(self, context):
        if self.code is grpc.StatusCode.OK:
            return
        status = status_pb2.Status(code=self.code.value[0], message="as the script says")
        if self.reason:
            status.details.append(packed(error_details_pb2.ErrorInfo(domain="plaque", reason=self.reason)))
        if self.retry_delay:
            status.details.append(packed(error_details_pb2.RetryInfo(retry_delay=duration(self.retry_delay))))
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, status.message)


def packed(detail):
    packed = Any()
    packed.Pack(detail)
    return packed


# Messages of a watch


def upload(channel_id, video_id, token, initial=False):
    video = messages.Video(channel_id=channel_id, video_id=video_id)
    return messages.WatchLatestVideoResponse(video=video, initial=initial, resume_token=token)


def problem(channel_id, reason, token):
    failure = messages.LookupFailure(code=grpc.StatusCode.UNAVAILABLE.value[0], reason=reason)
    result = messages.LookupResult(channel_id=channel_id, failure=failure)
    return messages.WatchLatestVideoResponse(problem=result, resume_token=token)


def recovered(channel_id, token):
    return messages.WatchLatestVideoResponse(recovered=messages.Recovered(channel_id=channel_id), resume_token=token)


def missed(channel_id, token):
    return messages.WatchLatestVideoResponse(missed=messages.Missed(channel_id=channel_id), resume_token=token)


# The server


class ScriptedServer(services.LatestVideoServicer):
    """Answers calls of WatchLatestVideo with one stream of the script after the other."""

    def __init__(self, script):
        self.script, self.address = script, None
        # Of each watch: its request, and when it began and ended.
        self.requests, self.begun, self.ended = [], [], []

    def GetLatestVideo(self, request, context):
        return messages.GetLatestVideoResponse(video=messages.Video(channel_id=request.channel_id))

    def BatchGetLatestVideos(self, request, context):
        found = messages.GetLatestVideoResponse(video=messages.Video())
        results = [messages.LookupResult(channel_id=channel, found=found) for channel in request.channel_ids]
        return messages.BatchGetLatestVideosResponse(results=results)

    def WatchLatestVideo(self, request, context):
        self.begun.append(time.monotonic())
        self.requests.append(request)
        if len(self.requests) > len(self.script):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "the script is over")
        stream = self.script[len(self.requests) - 1]
        yield from stream.messages
        self.ended.append(time.monotonic())
        stream.end(context)

    def tokens(self):
        """The resume tokens of each watch, sorted: their order does not matter."""
        return [sorted(request.resume_tokens) for request in self.requests]

    def pauses(self):
        """Between the end of each watch and the next, in seconds."""
        return [begun - ended for ended, begun in zip(self.ended, self.begun[1:])]


@contextmanager
def scripted_server(script):
    servicer, server = ScriptedServer(script), grpc.server(futures.ThreadPoolExecutor(4))
    services.add_LatestVideoServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
