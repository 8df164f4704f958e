"""The clients in examples/clients, each built and started as its README says, and grpcurl: all tell the same of the same answers.

Needs what the READMEs name.
"""

import json
import re

import grpc
import pytest

from example_clients import (
    BROKEN_WATCH, NEW, WATCH_GOES_ON, built, expect_a_new_upload, expect_begun, expect_refused, expect_to_end_at_its_deadline,
    expect_to_explain_errors, expect_to_resume_by_tokens, expect_to_survive_a_restart,
)
from scripted_server import scripted_server
from support import KURZGESAGT, UNKNOWN, run, running, wait_until

SERVICE = "plaque.v1.LatestVideo"
EVERY_SECOND = pytest.mark.plaque("--watch-every", "1s")
CLIENTS = {"python": ("python", "latest.py"), "asyncio": ("python", "latest_aio.py"), **{name: (name,) for name in ("go", "node", "java", "rust")}}


# The first test of each builds it.
@pytest.fixture(scope="module", params=CLIENTS)
def start(request):
    return built(*CLIENTS[request.param]).started


# A Rust build, and its downloads.
pytestmark = pytest.mark.timeout(500)


@EVERY_SECOND
def test_it_prints_the_answers_and_a_new_upload(start, plaque, origin):
    with start(plaque, KURZGESAGT, UNKNOWN, events=3) as client:
        expect_a_new_upload(client, origin)


def test_it_tells_why_a_call_failed_and_when_to_retry(start, plaque, origin):
    expect_to_explain_errors(start, plaque, origin)


def test_its_watch_ends_at_its_deadline_though_the_server_is_frozen(start, plaque):
    expect_to_end_at_its_deadline(start, plaque)


def test_its_watch_survives_a_restart(bench, start):
    expect_to_survive_a_restart(bench, start)


def test_its_watch_resumes_with_the_last_token_of_each_channel(start, note):
    with scripted_server(BROKEN_WATCH) as server:
        note(expect_to_resume_by_tokens(start, server))


# grpcurl, whose JSON is put into the clients' words


def grpcurl(bench, plaque, flag, method, **asked):
    """The command of a call."""
    assert bench.grpcurl_program, "no grpcurl in PATH: name one with --grpcurl"
    flags = "-plaintext", "-max-time", 20, flag, "-d", json.dumps(asked)
    return bench.grpcurl_program, *flags, plaque.address, f"{SERVICE}/{method}"


def messages(text):
    """The messages in what `grpcurl -v` prints, as far as they are whole."""
    contents = re.findall(r"^Response contents:\n(\{.*?^\})$", text, re.M | re.S)
    return [json.loads(message) for message in contents]


def upload_or_reason(result):
    return result["found"]["video"]["videoId"] if "found" in result else result["failure"]["reason"]


def event_line(event):
    if "problem" in event:
        return f"watch: {event['problem']['channelId']} {upload_or_reason(event['problem'])}"
    return f"watch: {event['video']['channelId']} {event['video']['videoId']} {'initial' if event.get('initial') else 'new'}"


@EVERY_SECOND
def test_grpcurl_is_told_the_same_answers_and_the_same_new_upload(bench, plaque, origin):
    both = [KURZGESAGT, UNKNOWN]
    got = run(*grpcurl(bench, plaque, "-v", "GetLatestVideo", channel_id=KURZGESAGT)).stdout
    [video] = [answer["video"] for answer in messages(got)]
    lines = [f"latest: {video['videoId']} {video['kind']} {video['title']}", *re.findall("^cache-status: .*", got, re.M)]
    [batch] = messages(run(*grpcurl(bench, plaque, "-v", "BatchGetLatestVideos", channel_ids=both)).stdout)
    lines += [f"batch: {result['channelId']} {upload_or_reason(result)}" for result in batch["results"]]

    with running(grpcurl(bench, plaque, "-v", "WatchLatestVideo", channel_ids=both)) as watch:
        def events(count):
            wait_until(lambda: len(messages(watch.out.read_text())) >= count, f"{count} events")
            return [event_line(event) for event in messages(watch.out.read_text())]

        expect_begun(lines + events(2))
        origin.publish(KURZGESAGT, NEW)
        assert events(3)[2:] == WATCH_GOES_ON, "what it tells then"


def test_grpcurl_is_told_the_same_error_and_when_to_retry(bench, plaque, origin):
    origin.control(mode="status:429", retry_after=90)
    told = json.loads(run(*grpcurl(bench, plaque, "-format-error", "GetLatestVideo", channel_id=KURZGESAGT)).stderr)
    code = next(code.name for code in grpc.StatusCode if code.value[0] == told["code"])
    details = {detail["@type"].rpartition(".")[2]: detail for detail in told["details"]}
    expect_refused([
        f"error: {code} {details['ErrorInfo']['reason']}: {told['message']}",
        f"retry: in {float(details['RetryInfo']['retryDelay'].rstrip('s')):.1f} s"], plaque)
