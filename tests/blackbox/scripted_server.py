"""A server of plaque's API that follows a script: what a watch sends, and how it ends. It proves what a client does then."""

import base64
import struct
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message_factory import GetMessageClass
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
        # As plaque does. A call that has begun is not retried by a service config.
        context.send_initial_metadata(())
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


# The same for pages


class WebCall(BaseHTTPRequestHandler):
    """A call by gRPC-Web, as much of it as a page of another origin needs: the servicer is its own context."""

    def do_OPTIONS(self):
        self.send_response(204)
        self.send_header("access-control-allow-origin", "*")
        self.send_header("access-control-allow-headers", "*")
        self.end_headers()

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("access-control-allow-origin", "*")
        self.send_header("content-type", "application/grpc-web+proto")
        self.end_headers()
        self.trailers = {"grpc-status": 0}
        try:
            for message in self.answers(self.path.rpartition("/")[2], asked[5:]):
                self.write(0, message.SerializeToString())
        except grpc.RpcError:
            # `abort` has put it into the trailers.
            pass
        self.write(0x80, "".join(f"{name}: {value}\r\n" for name, value in self.trailers.items()).encode())

    def answers(self, name, asked):
        method = messages.DESCRIPTOR.services_by_name["LatestVideo"].methods_by_name[name]
        answer = getattr(self.server.servicer, name)(GetMessageClass(method.input_type).FromString(asked), self)
        return answer if method.server_streaming else [answer]

    def write(self, flags, frame):
        self.wfile.write(struct.pack(">BI", flags, len(frame)) + frame)

    def send_initial_metadata(self, _):
        """It is sent."""

    def set_trailing_metadata(self, metadata):
        self.trailers |= {name: base64.b64encode(value).decode() for name, value in metadata}

    def abort(self, code, message):
        self.trailers |= {"grpc-status": code.value[0], "grpc-message": message}
        raise grpc.RpcError

    def log_message(self, *_):
        pass


@contextmanager
def scripted_web_server(script):
    servicer = ScriptedServer(script)
    with ThreadingHTTPServer(("127.0.0.1", 0), WebCall) as server:
        server.servicer, servicer.address = servicer, f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield servicer
        finally:
            server.shutdown()
            thread.join()
