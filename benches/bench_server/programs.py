"""Builds and starts the servers and load generators, and reads their CPU time and memory."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc

from support import KURZGESAGT, OPTIONS, request, running, running_origin

from . import REPOSITORY

PEERS = REPOSITORY / "benches" / "peers"
GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"
PROTO = "plaque/v1/latest_video.proto"
METHOD = "/plaque.v1.LatestVideo/GetLatestVideo"
BATCH_METHOD = "/plaque.v1.LatestVideo/BatchGetLatestVideos"
# Longer than any part takes, so that cached channels stay fresh.
FRESH = "--fresh-for", "24h"


# Building


def build(target):
    """Builds the peers and the load generators in the folder `target`. Returns it."""
    tools = target / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    run_tool("cargo", "build", "--release", "--locked", "--target-dir", target, folder=PEERS / "tonic")
    # With the generators that go.mod pins, so that generated code is never outdated, and not in the repository.
    run_tool("go", "install", "tool", folder=PEERS / "go", GOBIN=tools)
    generator = [sys.executable, "-m", "grpc_tools.protoc", f"-I{REPOSITORY / 'proto'}", PROTO]
    package = f"module=peers,M{PROTO}=peers/plaquev1"
    run_tool(*generator, *(f"--plugin={tools / name}" for name in ("protoc-gen-go", "protoc-gen-go-grpc")),
             "--go_out=.", f"--go_opt={package}", "--go-grpc_out=.", f"--go-grpc_opt={package}", folder=PEERS / "go")
    run_tool("go", "build", "-o", tools / "go-peer", ".", folder=PEERS / "go")
    run_tool("go", "install", GHZ, folder=target, GOBIN=tools)
    # ghz's own parser of .proto files does not support `optional`.
    run_tool(*generator, "--include_imports", f"--descriptor_set_out={tools / 'descriptors.bin'}", folder=target)
    return target


def run_tool(*command, folder, **environment):
    arguments = [str(word) for word in command]
    variables = {name: str(value) for name, value in environment.items()}
    # Standard output is for the report only.
    subprocess.run(arguments, cwd=folder, env=os.environ | variables, stdout=sys.stderr, check=True)


# Running


class Server:
    """A running gRPC server: plaque or a peer."""

    def __init__(self, name, program):
        self.name, self.program = name, program
        line = program.first_line()
        self.address = re.fullmatch(r".* serves gRPC on (127\.0\.0\.1:\d+)", line).group(1)
        self.channel = grpc.insecure_channel(self.address, options=OPTIONS)

    def get(self, channel_id, max_age=None):
        """Calls GetLatestVideo, and returns the encoded answer. Raises an error if the status is not OK."""
        return self.call(METHOD, request(channel_id, max_age=max_age).SerializeToString())

    def call(self, method, message):
        """Calls any method with an encoded message."""
        return self.channel.unary_unary(method)(message, timeout=20)

    def cpu_seconds(self):
        """The CPU time so far of all threads, in user and kernel mode."""
        stat = Path(f"/proc/{self.program.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self, field="VmRSS"):
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024

    def peak_resident_bytes(self):
        """The peak since `reset_peak`."""
        return self.resident_bytes("VmHWM")

    def reset_peak(self):
        # See proc_pid_clear_refs(5).
        Path(f"/proc/{self.program.process.pid}/clear_refs").write_text("5")


class Programs:
    """Starts programs. `folder` is for files."""

    def __init__(self, plaque_program, target, folder):
        self.plaque_program, self.target, self.folder = plaque_program, target, folder
        self.answer = folder / "answer"

    def client(self, name):
        """The path of a load generator."""
        return self.target / "release" / name

    def tool(self, name):
        return self.target / "bin" / name

    @contextmanager
    def server(self, name, *command):
        with running(command) as program:
            server = Server(name, program)
            with server.channel:
                try:
                    yield server
                except BaseException:
                    print(f"{name}'s standard error: {program.err.read_text()[-2000:]}", file=sys.stderr)
                    raise

    def plaque(self, upstream, *flags):
        # On free ports, and without a rate limit. Everything else has its default.
        common = "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream-rate", "0", *FRESH
        return self.server("plaque", self.plaque_program, "serve", "--upstream", upstream, *common, *flags)

    def stock(self):
        return self.server("stock", self.client("stock"), "--answer", self.answer)

    def bare(self):
        return self.server("bare", self.client("bare"), "--answer", self.answer)

    def obvious(self, upstream):
        return self.server("obvious", self.client("obvious"), "--answer", self.answer, "--upstream", upstream)

    def go(self, upstream):
        return self.server("go", self.tool("go-peer"), "--answer", self.answer, "--upstream", upstream)

    def origin(self, latency_ms):
        return running_origin(latency_ms, synthesize=True)

    @contextmanager
    def fast_origin(self):
        """Yields the URL of its feeds."""
        with running([self.client("origin")]) as program:
            yield program.first_line().removeprefix("origin on ")

    def save_answer(self, plaque):
        """Saves plaque's answer, which the peers then send, too."""
        self.answer.write_bytes(plaque.get(KURZGESAGT))

    def request(self, channel_id):
        return request(channel_id).SerializeToString()

    def framed(self, name, message):
        """A file with a message in gRPC's framing."""
        path = self.folder / f"framed-{name}"
        path.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        return path

    def requests(self, channel_id):
        """Files with a request for this channel: unframed, and in gRPC's framing."""
        message = self.request(channel_id)
        bare = self.folder / f"request-{channel_id}"
        bare.write_bytes(message)
        return bare, self.framed(channel_id, message)
