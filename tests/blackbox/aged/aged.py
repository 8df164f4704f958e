"""Makes many calls over one connection, and prints how they ended: aged.py ADDRESS CALLS RATE [SERVICE_CONFIG]."""

import sys
import time
from pathlib import Path

import grpc

from plaque.v1.latest_video_pb2 import GetLatestVideoRequest
from plaque.v1.latest_video_pb2_grpc import LatestVideoStub

address, calls, rate, *config = sys.argv[1:]
options = [("grpc.service_config", Path(file).read_text()) for file in config]
with grpc.insecure_channel(address, options) as channel:
    client, made, began = LatestVideoStub(channel), [], time.monotonic()
    for number in range(int(calls)):
        time.sleep(max(0, began + number / int(rate) - time.monotonic()))
        request = GetLatestVideoRequest(channel_id=f"UC{number:021}A")
        made.append(client.GetLatestVideo.future(request, timeout=10))
    for call in made:
        print("OK" if call.code() is grpc.StatusCode.OK else f"{call.code().name} {call.details()}".replace("\n", " "))
