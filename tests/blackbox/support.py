"""What the black-box tests share: plaque and its origin as child processes, gRPC calls, expectations.

Nothing here links with plaque: the tests know its command line, its proto and its answers, as any user does.
"""

import copy
import http.client
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import grpc_tools
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

REPOSITORY = Path(__file__).resolve().parents[2]

# A setting, a log filter or a proxy of whoever runs the tests must not reach the programs under test.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("PLAQUE_") and name != "RUST_LOG" and not name.lower().endswith("_proxy")
}

# The channels that the origin knows, and one that it does not.
KURZGESAGT = "UCsXVk37bltHxD1rDPwtNM8Q"
SCISHOW = "UCZYTClx2T1of7BRZ86-8fow"
EMPTY_DESCRIPTIONS = "UCipwt-3-cptv9K6uhfZ61GA"
NO_UPLOADS = "UChm_aUTJIjsy73g02bByoeA"
UNKNOWN = "UCTGjY2I-ZUGnwVoWAGRd7XQ"


# Expectations


def wait_until(condition, what, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.01)


class Stopwatch:
    def __init__(self):
        self.begun = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.begun


class Background:
    """`work` on a thread of its own, for as long as the block lasts. It is to end when `leaving` is set."""

    def __init__(self, work):
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=work, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.leaving.set()
        self.thread.join()


# The client generated from the proto


def generate_client():
    """The modules (messages, services) that protoc makes of the proto."""
    with tempfile.TemporaryDirectory(prefix="plaque-client-") as folder:
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        code = protoc.main([
            "protoc", f"-I{REPOSITORY / 'proto'}", f"-I{well_known}",
            f"--python_out={folder}", f"--grpc_python_out={folder}", "plaque/v1/latest_video.proto",
        ])
        assert code == 0, "protoc's exit code"
        sys.path.insert(0, folder)
        try:
            return (importlib.import_module("plaque.v1.latest_video_pb2"),
                    importlib.import_module("plaque.v1.latest_video_pb2_grpc"))
        finally:
            sys.path.remove(folder)


messages, services = generate_client()

ANY = messages.VIDEO_KIND_UNSPECIFIED
VIDEO = messages.VIDEO_KIND_VIDEO
SHORT = messages.VIDEO_KIND_SHORT


def duration(seconds):
    return None if seconds is None else Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds))


def request(channel_id, kind=ANY, max_age=None):
    """A GetLatestVideoRequest; `max_age` in seconds."""
    return messages.GetLatestVideoRequest(channel_id=channel_id, kind=kind, max_age=duration(max_age))


def batch_request(channel_ids, kind=ANY, max_age=None):
    return messages.BatchGetLatestVideosRequest(channel_ids=channel_ids, kind=kind, max_age=duration(max_age))


def watch_request(channel_ids, kind=ANY, published_after=None, resume_tokens=()):
    return messages.WatchLatestVideoRequest(
        channel_ids=channel_ids, kind=kind, published_after=published_after, resume_tokens=resume_tokens)


def made_up_channel(number):
    """A channel that only an origin which synthesizes knows."""
    return f"UC{number:021}A"


def made_up_channels(first, count):
    return [made_up_channel(number) for number in range(first, first + count)]


def upload_id(number):
    """Of an upload that a test publishes."""
    return f"new{number:08}"


class Answer:
    """How a call ended. Making one waits for that end, at most until the call's deadline."""

    def __init__(self, call):
        self.code = call.code()
        self.message = call.details()
        self.response = call.result() if self.code is grpc.StatusCode.OK else None
        self.trailers = dict(call.trailing_metadata())
        # An error may come without headers of its own: then what they would hold is in the trailers.
        self.headers = dict(call.initial_metadata()) or self.trailers
        self.error = self.detail(error_details_pb2.ErrorInfo)
        self.retry = self.detail(error_details_pb2.RetryInfo)
        self.bad_request = self.detail(error_details_pb2.BadRequest)

    def detail(self, kind):
        """The detail of this kind in `grpc-status-details-bin`, if there is one."""
        status = status_pb2.Status.FromString(self.trailers.get("grpc-status-details-bin", b""))
        for packed in status.details:
            found = kind()
            if packed.Unpack(found):
                return found
        return None

    @property
    def reason(self):
        return self.error and self.error.reason

    @property
    def cache_status(self):
        return self.headers.get("cache-status")

    def __str__(self):
        return f"{self.code.name} {self.reason or ''} {self.message or ''}"


def expect_ok(answer):
    assert answer.code is grpc.StatusCode.OK, f"the call failed: {answer}"


def video_id(answer):
    expect_ok(answer)
    return answer.response.video.video_id


def fetch_time(answer):
    """In nanoseconds."""
    return answer.response.freshness.fetch_time.ToNanoseconds()


def expect_error(answer, code, reason):
    assert (answer.code.name, answer.reason) == (code.name, reason), "the outcome"
    assert answer.error.domain == "plaque", "the error's domain"


def expect_a_hint_when_to_retry(answer):
    assert answer.retry, "there is no RetryInfo"
    told = answer.retry.retry_delay.ToMilliseconds()
    assert told > 0, f"the RetryInfo says {told} ms"
    # -1: the caller's deadline would not last as long.
    assert answer.trailers.get("grpc-retry-pushback-ms") in (str(told), "-1"), "grpc-retry-pushback-ms"


class Watch:
    """A WatchLatestVideo call whose events a thread collects."""

    def __init__(self, call):
        self.call, self.events = call, []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for event in self.call:
                self.events.append(event)
        except grpc.RpcError:
            # How it ended is asked of the call.
            pass

    def uploads(self):
        return [event.video.video_id for event in self.events if event.WhichOneof("event") == "video"]

    def problems(self):
        return [event.problem for event in self.events if event.WhichOneof("event") == "problem"]

    def history(self):
        """What it was sent, in short: the IDs of uploads, the reasons of problems, and `recovered` and `missed`."""
        return [brief(event) for event in self.events]

    def tokens(self):
        """Where it is: of each channel the last resume token."""
        last = {channel_of(event): event.resume_token for event in self.events}
        return list(last.values())

    def wait_for_upload(self, video_id, seconds=40):
        wait_until(lambda: video_id in self.uploads(), f"the upload {video_id} arrives, after {self.history()}", seconds)

    def wait_for(self, count, seconds=10):
        """Waits for this many events, and no more."""
        wait_until(lambda: len(self.events) >= count, f"{count} events of a watch", seconds)
        assert len(self.events) == count, "the number of events"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call.cancel()
        self.reader.join()


def brief(event):
    kind = event.WhichOneof("event")
    return {"video": event.video.video_id, "problem": event.problem.failure.reason}.get(kind, kind)


def channel_of(event):
    """The channel that an event of a watch is about."""
    return getattr(event, event.WhichOneof("event")).channel_id


# Of a connection. Those of one process are one unless told otherwise.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


# Child processes


class Program:
    """A child process. Its output goes to files, so that it never waits for a reader."""

    def __init__(self, command, folder):
        self.name = Path(command[0]).name
        self.command = [str(word) for word in command]
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=ENVIRONMENT)

    def first_line(self):
        """What it prints once it is ready."""
        wait_until(lambda: "\n" in self.out.read_text() or self.process.poll() is not None, f"{self.name} starts")
        assert "\n" in self.out.read_text(), f"{self.name} did not start: {self.err.read_text()}"
        return self.out.read_text().splitlines()[0]

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def exit_code(self, within):
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within} s") from None


@contextmanager
def running(command):
    """A child process that is killed when the block ends."""
    with tempfile.TemporaryDirectory(prefix="plaque-blackbox-") as folder:
        program = Program(command, Path(folder))
        try:
            yield program
        finally:
            program.kill()


def run(*command, within=20, stdin=None):
    """Runs a command to its end. What it says is bytes if what it is told is."""
    words = [str(word) for word in command]
    told = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        return subprocess.run(
            words, capture_output=True, text=not isinstance(stdin, bytes), env=ENVIRONMENT, timeout=within, **told)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"`{' '.join(words)}` did not end within {within} s") from None


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def make_certificate(folder):
    """The files of a certificate of localhost, which nobody vouches for, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", key, "-out", certificate)
    assert made.returncode == 0, f"openssl made no certificate: {made.stderr}"
    return certificate, key


def processor_seconds(pid):
    # After the name, which may have spaces in it, user and system time are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


class Clocks:
    """Clocks that a check moves, of the programs that run `under` them: see clocks.c. Needs a C compiler."""

    def __init__(self, folder):
        library = folder / "clocks.so"
        self.offsets = folder / "offsets"
        source = Path(__file__).with_name("clocks.c")
        made = run("cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source)
        assert made.returncode == 0, f"cc made no library: {made.stderr}"
        self.under = "env", f"LD_PRELOAD={library}", f"CLOCK_OFFSETS={self.offsets}"
        self.set()

    def set(self, suspended=0, wall=0):
        """So many seconds were slept through since the start, and the wall clock is so many ahead."""
        changed = self.offsets.with_suffix(".new")
        changed.write_text(f"{suspended} {wall}\n")
        changed.rename(self.offsets)


class Plaque:
    """A running `plaque serve`."""

    def __init__(self, program):
        self.program = program
        if {"json", "--log-format=json"} & set(program.command):
            wait_until(self.listening, "the record of where plaque listens")
            record = self.listening()
            self.address, self.admin = record["grpc"], f"http://{record['admin']}"
            self.http = f"http://{record['http']}" if "http" in record else None
        else:
            said = program.first_line()
            found = re.fullmatch(r"plaque \S+ serves gRPC on (127\.0\.0\.1:\d+)(?: with TLS)?", said)
            assert found, f"plaque's first line is {said!r}"
            self.address = found.group(1)
            self.admin = re.search(r"^admin: (http://\S+)/metrics", program.out.read_text(), re.M).group(1)
            http = re.search(r"^answers as JSON: (https?://[^/]+)/v1/", program.out.read_text(), re.M)
            self.http = http and http.group(1)
        self.channel = self.connect()

    def listening(self):
        """The fields of the record that says where plaque listens, of a log in JSON."""
        whole = [line for line in self.program.err.read_text().splitlines(keepends=True) if line.endswith("\n")]
        records = [json.loads(line)["fields"] for line in whole]
        return next((record for record in records if record["message"] == "listening"), None)

    def connect(self, *options):
        """A connection of its own."""
        return grpc.insecure_channel(self.address, options=[*OPTIONS, *options])

    def start(self, channel_id, kind=ANY, max_age=None, timeout=20, over=None):
        """Begins a GetLatestVideo call, over the connection `over` if given."""
        client = services.LatestVideoStub(over or self.channel)
        return client.GetLatestVideo.future(request(channel_id, kind, max_age), timeout=timeout)

    def ask(self, *arguments, **options):
        return Answer(self.start(*arguments, **options))

    def start_batch(self, channel_ids, kind=ANY, max_age=None, timeout=20):
        client = services.LatestVideoStub(self.channel)
        asked = batch_request(channel_ids, kind, max_age)
        return client.BatchGetLatestVideos.future(asked, timeout=timeout)

    def batch(self, *arguments, **options):
        return Answer(self.start_batch(*arguments, **options))

    def start_watch(self, channel_ids, kind=ANY, published_after=None, resume_tokens=(), timeout=60, over=None):
        """Begins a WatchLatestVideo call, of which nothing is read yet."""
        client = services.LatestVideoStub(over or self.channel)
        return client.WatchLatestVideo(watch_request(channel_ids, kind, published_after, resume_tokens), timeout=timeout)

    def watch(self, *arguments, **options):
        return Watch(self.start_watch(*arguments, **options))

    def ask_json(self, channel_id, max_age=None):
        """The headers of an answer over HTTP; `max_age` in seconds."""
        parameters = "" if max_age is None else f"?max_age={max_age}s"
        with urllib.request.urlopen(f"{self.admin}/v1/channels/{channel_id}/latest-video{parameters}", timeout=20) as answer:
            return answer.headers

    def peak_memory_mib(self):
        return self.memory_kib("VmHWM") // 1024

    def metric(self, name):
        """The value of a metric, such as `plaque_calls`, or `plaque_connections_closed_total{reason="Age"}`; 0 if it is not told."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=10) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.M)
        return float(found.group(1)) if found else 0

    def memory_kib(self, field="VmRSS"):
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1))


@contextmanager
def running_origin(latency_ms=100, synthesize=False):
    """An origin that knows some channels, or every channel there could be."""
    command = [sys.executable, REPOSITORY / "tests/blackbox/origin", "--port", 0, "--latency-ms", latency_ms]
    with running([*command, "--synthesize"] if synthesize else command) as program:
        yield Origin(program.first_line().removeprefix("origin on "))


class Origin:
    """A running origin."""

    def __init__(self, url):
        self.url = url
        self.port = urlsplit(url).port

    def control(self, **order):
        self.talk("POST", "/control", json.dumps(order))

    def publish(self, channel_id, video_id, title="A new upload"):
        self.control(publish={"channel": channel_id, "video_id": video_id, "title": title})

    def stats(self):
        return self.talk("GET", "/stats")

    def lookups(self, channel_id=None):
        """How often it was asked for a feed: for that channel's, or for any."""
        stats = self.stats()
        return stats["by_channel"].get(channel_id, 0) if channel_id else stats["total"]

    def talk(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class Bench:
    """What tests start: the plaque under test, its origin, grpcurl. See conftest.py for the command line that it comes from."""

    def __init__(self, program, grpcurl_program, captures, numbers):
        self.program, self.grpcurl_program, self.captures = program, grpcurl_program, captures
        # Of the tests whose length or load can be chosen.
        self.numbers = numbers

    @contextmanager
    def plaque(self, upstream, *flags, under=()):
        """A running plaque; `under` is what goes before its name on the command line."""
        # As fast as it comes, and with no lookups but those for callers, where a check says nothing else.
        defaults = {
            "--listen": "127.0.0.1:0", "--admin-listen": "127.0.0.1:0", "--upstream-rate": "0", "--canary": "none",
            "--min-refetch": "0s"}
        given = [word for pair in defaults.items() if pair[0] not in flags for word in pair]
        command = [*under, self.program, "serve", "--upstream", upstream, *given, *flags]
        with running(command) as program:
            try:
                plaque = Plaque(program)
                with plaque.channel:
                    yield plaque
            finally:
                # pytest shows it if the test fails.
                print(program.err.read_text(), file=sys.stderr)
            assert "panicked" not in program.err.read_text(), "plaque panicked"

    def origin(self, **options):
        return running_origin(**options)

    @contextmanager
    def plaque_and_origin(self, *flags, **options):
        with self.origin(**options) as origin, self.plaque(origin.url, *flags) as plaque:
            yield plaque, origin

    def run_plaque(self, *arguments):
        return run(self.program, *arguments)

    def grpcurl(self, plaque, *arguments, data=None):
        """Runs grpcurl against a plaque: the flags go before the address, the other arguments after it."""
        assert self.grpcurl_program, "no grpcurl in PATH: name one with --grpcurl"
        body = [] if data is None else ["-d", json.dumps(data)]
        return run(self.grpcurl_program, "-plaintext", "-max-time", 15, *body, plaque.address, *arguments)


@contextmanager
def few_file_descriptors(bench, count):
    """A bench whose plaque may open so many files, and cannot allow itself more."""
    with tempfile.TemporaryDirectory(prefix="plaque-blackbox-") as folder:
        limited = copy.copy(bench)
        limited.program = Path(folder) / "plaque"
        limited.program.write_text(f"""#!/bin/sh\nulimit -n {count} && exec '{bench.program}' "$@"\n""")
        limited.program.chmod(0o755)
        yield limited
