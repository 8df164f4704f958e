"""plaque against an origin that fails on demand and counts who asked: what issue 2 promises, from the outside.

Every check has an origin (100 ms a lookup) and a plaque of its own.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from support import (
    EMPTY_DESCRIPTIONS, ENVIRONMENT, KURZGESAGT, NO_UPLOADS, SCISHOW, SHORT, UNKNOWN, VIDEO, Answer, Stopwatch,
    expect_a_hint_when_to_retry, expect_error, expect_ok, free_port, made_up_channel, request, wait_until,
)

GET = "plaque.v1.LatestVideo/GetLatestVideo"
StatusCode = grpc.StatusCode


# grpcurl, with no proto file at hand


def grpcurl_json(grpcurl, method, data):
    done = grpcurl(method, data=data)
    assert (done.returncode, done.stderr) == (0, ""), "grpcurl's exit code"
    return json.loads(done.stdout)


def test_grpcurl_gets_the_newest_upload(grpcurl):
    video = grpcurl_json(grpcurl, GET, {"channel_id": KURZGESAGT})["video"]
    seen = {field: video[field] for field in ("videoId", "kind", "title", "publishTime")}
    assert seen == {
        "videoId": "N2FOxjtv5ns", "kind": "VIDEO_KIND_SHORT", "title": "What is El Niño?",
        "publishTime": "2026-07-01T14:00:35Z"}, "the video"


def test_grpcurl_gets_the_newest_upload_that_is_no_short(grpcurl):
    asked = {"channel_id": KURZGESAGT, "kind": "VIDEO_KIND_VIDEO"}
    video = grpcurl_json(grpcurl, GET, asked)["video"]
    assert video["kind"] == "VIDEO_KIND_VIDEO", "the kind"
    assert video["publishTime"] < "2026-07-01T14:00:35Z", f"published {video['publishTime']}, after the newest Short"
    assert f"watch?v={video['videoId']}" in video["url"], "the URL"


def test_grpcurl_lists_the_services_and_methods(grpcurl):
    listed = grpcurl("list").stdout.split()
    methods = grpcurl("list", "plaque.v1.LatestVideo").stdout.split()
    for service in "plaque.v1.LatestVideo", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection":
        assert service in listed, "the list"
    names = "BatchGetLatestVideos", "GetLatestVideo", "ListUploads", "ResolveChannel", "WatchLatestVideo"
    assert sorted(methods) == [f"plaque.v1.LatestVideo.{name}" for name in names], "the methods"


def test_grpcurl_describes_with_the_comments_of_the_proto(grpcurl):
    service = grpcurl("describe", "plaque.v1.LatestVideo").stdout
    message = grpcurl("describe", "plaque.v1.GetLatestVideoRequest").stdout
    assert "// Answers what a YouTube channel uploaded last" in service, "the service"
    assert "// Returns the newest upload of one channel." in service, "the service"
    assert "// Required. The channel's ID" in message, "the message"


def test_grpcurl_shows_the_reason_of_an_error(grpcurl):
    done = grpcurl(GET, data={"channel_id": UNKNOWN})
    assert done.returncode != 0, "grpcurl succeeded"
    for part in "Code: NotFound", "google.rpc.ErrorInfo", "CHANNEL_NOT_FOUND":
        assert part in done.stderr, "the error"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_service(plaque, version):
    # A request that lists the services is field 7, empty. grpcurl asks for v1alpha only where v1 is missing.
    list_services = b"\x3a\x00"
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    answers = list(plaque.channel.stream_stream(method)(iter([list_services]), timeout=10))
    assert len(answers) == 1, "the number of answers"
    assert b"plaque.v1.LatestVideo" in answers[0], "the answer"


def test_health_is_serving(grpcurl):
    for service in "", "plaque.v1.LatestVideo":
        answer = grpcurl_json(grpcurl, "grpc.health.v1.Health/Check", {"service": service})
        assert answer == {"status": "SERVING"}, f"the health of {service!r}"


# Many callers, one lookup


@contextmanager
def connections(plaque, count):
    with ExitStack() as open_ones:
        channels = [open_ones.enter_context(plaque.connect()) for _ in range(count)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=10)
        yield channels


# The second is slow enough that Python has begun all of the calls before the answer is there.
@pytest.mark.parametrize("latency_ms", [100, 2000])
def test_a_thousand_callers_cost_one_lookup(plaque, origin, latency_ms, note):
    with connections(plaque, 5) as channels:
        origin.control(latency_ms=latency_ms)
        calls = [plaque.start(KURZGESAGT, over=channels[i % len(channels)]) for i in range(1000)]
        answers = [Answer(call) for call in calls]
        for answer in answers:
            expect_ok(answer)
        assert answers[0].response.video.video_id == "N2FOxjtv5ns", "the first answer's video"
        different = {answer.response.SerializeToString(deterministic=True) for answer in answers}
        assert len(different) == 1, "the number of different answers"
        assert origin.lookups() == 1, "the lookups"
    collapsed = sum(answer.cache_status == "plaque; fwd=uri-miss; collapsed" for answer in answers)
    note(f"{collapsed} waited for another's lookup")


def call_every_5_ms(plaque, count, timeout):
    """The calls, each with when it began and a place for when it ended, all over one connection."""
    calls = []
    with connections(plaque, 1) as (channel,):
        start = time.monotonic()
        for i in range(count):
            # Not a wait for a state: the beat itself is the scenario.
            time.sleep(max(0, start + i * 0.005 - time.monotonic()))
            times = {"begun": time.monotonic()}
            call = plaque.start(KURZGESAGT, timeout=timeout, over=channel)
            call.add_done_callback(lambda _, times=times: times.update(ended=time.monotonic()))
            calls.append((call, times))
        answers = [Answer(call) for call, _ in calls]
        wait_until(lambda: all("ended" in times for _, times in calls), "every call is reported as ended")
    return [(answer, times) for answer, (_, times) in zip(answers, calls)]


def impatient_callers(bench):
    """400 callers with less patience than the lookup takes: how many were answered, and how many failed too late."""
    with bench.plaque_and_origin() as (plaque, origin):
        calls = call_every_5_ms(plaque, 400, timeout=0.040)
        assert origin.lookups() == 1, "the lookups"
    answered_at = [times["ended"] for answer, times in calls if answer.code is StatusCode.OK]
    failed = [(answer, times) for answer, times in calls if answer.code is not StatusCode.OK]
    assert answered_at, "no call was answered"
    assert failed, "no caller gave up: the deadline is not shorter than the lookup"
    assert {answer.code.name for answer, _ in failed} == {"DEADLINE_EXCEEDED"}, "the failures"
    known = min(answered_at)
    return len(answered_at), sum(times["begun"] > known for _, times in failed)


def test_impatient_callers_cost_one_lookup_and_later_ones_are_answered(bench, note):
    # A machine that is busy with other work holds up even a cached answer for 40 ms now and then: seen in one run of
    # eight with four busy loops on two cores.
    for attempt in 1, 2, 3:
        answered, too_late = impatient_callers(bench)
        if not too_late:
            note(f"{answered} of 400 answered, at attempt {attempt}")
            return
    raise AssertionError(f"{too_late} calls failed that were begun after the answer was known, at each of {attempt} attempts")


@pytest.mark.plaque(
    "--cache-bytes", "1MiB", "--upstream-timeout", "1s", "--upstream-queue", "300000", "--upstream-concurrency", "500", synthesize=True)
def test_two_hundred_thousand_channels_whose_callers_all_leave_cost_no_memory(plaque, origin, note):
    def given_up(batch):
        """Counts why its channels were given up: a batch is answered shortly before its deadline, if the machine is not too busy. The
        lookups that hang leave no turn in time to the others, whose callers are told so at once."""
        if batch.code is StatusCode.DEADLINE_EXCEEDED:
            reasons["DEADLINE"] += 100
            return
        reasons.update(result.failure.reason for result in batch.response.results)

    def ask(first, count):
        """Batches of 100 channels, each given up while its lookups hang."""
        reasons.clear()
        for start in range(first, first + count, 2000):
            batches = range(start, start + 2000, 100)
            calls = [plaque.start_batch([made_up_channel(n) for n in range(at, at + 100)], timeout=0.2) for at in batches]
            for call in calls:
                given_up(Answer(call))
        assert reasons["DEADLINE"] + reasons["OVERLOADED"] == count, "the channels whose callers gave up"
        assert reasons["DEADLINE"] > 0, f"no lookup hung: {dict(reasons)}"

    def is_answered(number):
        return plaque.ask(made_up_channel(10**6 + number), max_age=0).code is StatusCode.OK

    def rest():
        """What stays when no lookup is under way. The allocator gives memory back as it is used."""
        origin.control(mode="ok")
        # Those that hang are aborted first, which takes seconds on a busy machine; the time of a lookup passes meanwhile.
        wait_until(lambda: plaque.metric("plaque_flights") == 0, "all lookups have ended", 30)
        for number in range(100):
            wait_until(lambda number=number: is_answered(number), "a lookup works again", 30)
        return plaque.memory_kib()

    reasons = Counter()
    origin.control(latency_ms=0, mode="hang")
    ask(0, 20_000)
    before = rest()
    origin.control(mode="hang")
    ask(20_000, 200_000)
    peak = plaque.memory_kib()
    wait_until(lambda: rest() < before + 4096, f"the memory is back at {before >> 10} MiB", 30)
    after = rest()
    note(f"{before >> 10} MiB before, {peak >> 10} MiB with the last callers, {after >> 10} MiB after; {dict(reasons)}")


LONE_CLIENT = """
import sys, grpc
call = grpc.insecure_channel(sys.argv[1]).unary_unary("/plaque.v1.LatestVideo/GetLatestVideo")
call(bytes.fromhex(sys.argv[2]), timeout=60)
"""


def test_a_client_killed_in_mid_call_changes_nothing_for_the_others(plaque, origin):
    origin.control(latency_ms=2000)
    asked = request(KURZGESAGT).SerializeToString().hex()
    first = subprocess.Popen([sys.executable, "-c", LONE_CLIENT, plaque.address, asked], env=ENVIRONMENT)
    try:
        wait_until(lambda: origin.lookups() == 1, "the first caller's lookup begins")
        others = [plaque.start(KURZGESAGT) for _ in range(10)]
    finally:
        first.kill()
        ended = first.wait()
    assert ended == -signal.SIGKILL, "how the client ended"
    assert not any(call.done() for call in others), "the client was killed after the lookup"
    for call in others:
        expect_ok(Answer(call))
    expect_ok(plaque.ask(KURZGESAGT))
    assert origin.lookups() == 1, "the lookups"


# Channels


def test_a_channel_with_empty_descriptions_answers(plaque):
    answer = plaque.ask(EMPTY_DESCRIPTIONS)
    expect_ok(answer)
    assert answer.response.video.channel_title == "AeroNewsGermany", "the channel's title"


def test_a_channel_with_no_uploads_says_so(plaque):
    expect_error(plaque.ask(NO_UPLOADS), StatusCode.NOT_FOUND, "NO_UPLOADS")


def test_an_unknown_channel_is_not_found(plaque):
    expect_error(plaque.ask(UNKNOWN), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


BAD_IDS = {
    "empty": "",
    "too short": KURZGESAGT[:-1],
    "with a wrong last character": KURZGESAGT[:-1] + "Z",
    "of 10 kB": "x" * 10_000,
}


@pytest.mark.parametrize("channel_id", BAD_IDS.values(), ids=BAD_IDS)
def test_a_bad_id_is_refused(plaque, origin, channel_id):
    answer = plaque.ask(channel_id)
    expect_error(answer, StatusCode.INVALID_ARGUMENT, "INVALID_CHANNEL_ID")
    assert answer.bad_request, "there is no BadRequest"
    fields = [violation.field for violation in answer.bad_request.field_violations]
    assert fields == ["channel_id"], "the bad fields"
    assert len(answer.message) < 1000, f"the message has {len(answer.message)} characters"
    assert origin.lookups() == 0, "the lookups"
    expect_ok(plaque.ask(KURZGESAGT))


# An origin that fails


# With each the seconds that a lookup may take, and the lookups: what may be otherwise at the next moment is looked up twice.
FAULTS = [
    ("status:404", StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND", 2, 1),
    # Of one channel, it is that channel's.
    ("status:403", StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", 2, 1),
    ("status:429", StatusCode.UNAVAILABLE, "UPSTREAM_RATE_LIMITED", 2, 1),
    ("status:500", StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", 2, 2),
    ("status:503", StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", 2, 2),
    ("hang", StatusCode.UNAVAILABLE, "UPSTREAM_TIMEOUT", 2, 1),
    ("drip", StatusCode.UNAVAILABLE, "UPSTREAM_TIMEOUT", 2, 1),
    ("truncate", StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", 2, 2),
    ("reset", StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", 2, 2),
    ("garbage", StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED", 2, 1),
    ("html200", StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED", 2, 1),
    ("redirect", StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED", 2, 1),
    # The origin takes about 1 s to make this body and 5 s to compress the bomb, and several times that on a busy
    # machine: with less time neither would reach plaque.
    ("huge", StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED", 20, 1),
    ("gzipbomb", StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED", 120, 1),
    ("entities", StatusCode.UNAVAILABLE, "UPSTREAM_MALFORMED", 2, 1),
]


@pytest.mark.parametrize("mode, code, reason, budget, lookups", FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_told_in_time(bench, mode, code, reason, budget, lookups, note):
    with bench.plaque_and_origin("--upstream-timeout", f"{budget}s", "--max-deadline", "3m") as (plaque, origin):
        origin.control(mode=mode, channels=[KURZGESAGT])
        watch = Stopwatch()
        answer = plaque.ask(KURZGESAGT, timeout=budget + 5)
        took = watch.seconds()
        assert took < budget + 1, f"the answer took {took:.1f} s"
        expect_error(answer, code, reason)
        if code is StatusCode.UNAVAILABLE:
            expect_a_hint_when_to_retry(answer)

        again = plaque.ask(KURZGESAGT)
        expect_error(again, code, reason)
        # A refusal of all lookups is no failure of the channel, and not remembered as one.
        expected = "plaque; fwd=uri-miss" if reason == "UPSTREAM_RATE_LIMITED" else "plaque; hit"
        assert expected in again.cache_status, "the second call's cache-status"
        if reason == "UPSTREAM_RATE_LIMITED":
            # It has had enough of us, not of one channel.
            expect_error(plaque.ask(SCISHOW), code, reason)
            assert origin.lookups(SCISHOW) == 0, "the lookups of another channel"
        else:
            expect_ok(plaque.ask(SCISHOW))
        assert origin.lookups(KURZGESAGT) == lookups, "the lookups of the failing channel"
        peak = plaque.peak_memory_mib()
        assert peak < 150, f"the peak of memory is {peak} MiB"
    note(f"{took:.1f} s, peak of memory {peak} MiB")


def test_an_origin_that_says_when_to_come_again_is_taken_at_its_word(plaque, origin):
    origin.control(mode="status:503", retry_after=77)
    answer = plaque.ask(KURZGESAGT)
    expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
    pause = answer.retry.retry_delay.ToMilliseconds() / 1000
    assert 76 < pause <= 77, f"the pause is {pause} s"
    assert origin.lookups() == 1, "the lookups"


@pytest.mark.plaque("--upstream-rate", "20", synthesize=True)
def test_lookups_go_out_at_the_rate(plaque, note):
    watch = Stopwatch()
    expect_ok(plaque.batch([made_up_channel(n) for n in range(60)]))
    took = watch.seconds()
    # 20 at once, 40 more at 20 a second, 0.1 s each.
    assert 2 <= took < 4, f"60 lookups took {took:.1f} s"
    note(f"60 lookups in {took:.1f} s")


@pytest.mark.plaque("--upstream-concurrency", "1", "--upstream-queue", "5", synthesize=True)
def test_more_lookups_than_fit_into_the_queue_are_refused_at_once(plaque, origin):
    answer = plaque.batch([made_up_channel(n) for n in range(50)])
    expect_ok(answer)
    reasons = [result.failure.reason for result in answer.response.results]
    # The last place in the queue is left for another caller.
    assert (origin.lookups(), reasons.count(""), set(reasons)) == (5, 5, {"", "OVERLOADED"}), "the lookups"


def test_a_kind_that_the_channel_s_feed_does_not_show_is_looked_up_in_its_own(plaque, origin):
    for _ in range(2):
        answer = plaque.ask(SCISHOW, kind=SHORT)
        expect_error(answer, StatusCode.NOT_FOUND, "NO_UPLOADS")
    expect_ok(plaque.ask(SCISHOW, kind=VIDEO))
    expect_ok(plaque.ask(KURZGESAGT, kind=SHORT))
    assert origin.stats()["by_channel"] == {SCISHOW: 1, "UUSH" + SCISHOW[2:]: 1, KURZGESAGT: 1}, "the lookups"


def test_an_origin_that_is_not_there_is_an_upstream_error(bench):
    with bench.plaque(f"http://127.0.0.1:{free_port()}/feeds/videos.xml") as plaque:
        answer = plaque.ask(KURZGESAGT)
    expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
    expect_a_hint_when_to_retry(answer)


# How an answer was made


def expect_a_hit(answer, longest):
    found = re.fullmatch(r"plaque; hit; ttl=(\d+)", answer.cache_status or "")
    assert found and 0 < int(found.group(1)) <= longest, f"the cache-status is {answer.cache_status!r}"


def test_cache_status_tells_a_miss_from_a_hit(plaque):
    assert plaque.ask(KURZGESAGT).cache_status == "plaque; fwd=uri-miss", "the first cache-status"
    expect_a_hit(plaque.ask(KURZGESAGT), longest=60)


def test_max_age_zero_looks_up_again(plaque, origin):
    expect_ok(plaque.ask(KURZGESAGT))
    answer = plaque.ask(KURZGESAGT, max_age=0)
    expect_ok(answer)
    assert answer.cache_status == "plaque; fwd=request", "the cache-status"
    assert origin.lookups() == 2, "the lookups"


def test_cache_status_tells_a_remembered_404(plaque, origin):
    first = plaque.ask(UNKNOWN)
    assert first.cache_status == "plaque; fwd=uri-miss; fwd-status=404", "the first cache-status"
    second = plaque.ask(UNKNOWN)
    expect_error(second, StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
    found = re.match(r"plaque; hit; ttl=(\d+)", second.cache_status or "")
    assert found and 0 < int(found.group(1)) <= 30, f"the second cache-status is {second.cache_status!r}"
    assert origin.lookups() == 1, "the lookups"


# Stopping


def test_sigterm_lets_a_call_in_progress_finish(plaque, origin):
    origin.control(latency_ms=1000)
    call = plaque.start(KURZGESAGT)
    wait_until(lambda: origin.lookups() == 1, "the lookup begins")
    plaque.program.terminate()
    assert not call.done(), "the call ended before the signal"
    expect_ok(Answer(call))
    assert plaque.program.exit_code(within=5) == 0, "the exit code"


def test_a_sigterm_that_a_wrapper_sends_twice_is_one(plaque, origin):
    origin.control(latency_ms=1000)
    call = plaque.start(KURZGESAGT)
    wait_until(lambda: origin.lookups() == 1, "the lookup begins")
    plaque.program.terminate()
    wait_until(lambda: "draining" in plaque.program.err.read_text(), "it drains")
    plaque.program.terminate()
    expect_ok(Answer(call))
    assert plaque.program.exit_code(within=5) == 0, "the exit code"


def test_sighup_ends_nothing(plaque):
    plaque.program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "SIGHUP" in plaque.program.err.read_text(), "the log tells of it")
    expect_ok(plaque.ask(KURZGESAGT))


@pytest.mark.plaque("--drain-timeout", "1s")
def test_sigterm_with_a_silent_connection_ends_after_the_drain_timeout(plaque, note):
    host, port = plaque.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10):
        # Answered on a later connection: by then the silent one is accepted too.
        expect_ok(plaque.ask(KURZGESAGT))
        watch = Stopwatch()
        plaque.program.terminate()
        code = plaque.program.exit_code(within=3)
    note(f"{watch.seconds():.1f} s, exit code {code}")


# Starting


def expect_advice(done, code, *parts):
    assert done.returncode == code, "the exit code"
    for part in parts:
        assert part in done.stderr, "the message"
    for noise in "panicked", "backtrace", "src/":
        assert noise not in done.stderr, f"the message has {noise!r} in it: {done.stderr}"


def test_a_taken_port_is_told(bench):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        expect_advice(bench.run_plaque("serve", "--listen", address), 1, address, "choose another port", "--listen")


BAD_VALUES = [
    ("--fresh-for", "banana"),
    ("--negative-for", "10"),
    ("--upstream-timeout", "0s"),
    ("--upstream-concurrency", "0"),
    ("--cache-bytes", "12XB"),
    ("--workers", "0"),
    ("--drain-timeout", "-1s"),
    ("--upstream", "not-a-url"),
    ("--upstream", "ftp://127.0.0.1/feeds"),
]


@pytest.mark.parametrize("flag, value", BAD_VALUES)
def test_a_bad_value_is_told(bench, flag, value):
    done = bench.run_plaque("serve", "--listen", "127.0.0.1:0", f"{flag}={value}")
    expect_advice(done, 2, flag, f"'{value}'", "expected")


def test_a_bad_address_is_told(bench):
    expect_advice(bench.run_plaque("serve", "--listen", "here"), 2, "--listen", "'here'", "expected")


# plaque get


def plaque_get(bench, plaque, *arguments):
    return bench.run_plaque("get", "--server", f"http://{plaque.address}", *arguments)


def test_plaque_get_prints_an_upload_as_fields(bench, plaque):
    done = plaque_get(bench, plaque, KURZGESAGT)
    assert (done.returncode, done.stderr) == (0, ""), "the exit code"
    fields = ["N2FOxjtv5ns", KURZGESAGT, "2026-07-01T14:00:35Z", "short", "https://www.youtube.com/shorts/N2FOxjtv5ns",
              "What is El Niño?"]
    assert done.stdout == "\t".join(fields) + "\n", "the output"


def test_plaque_get_prints_the_others_where_one_channel_fails(bench, plaque):
    done = plaque_get(bench, plaque, UNKNOWN, KURZGESAGT)
    assert done.returncode == 3, "the exit code"
    assert "\tWhat is El Niño?\n" in done.stdout, "the output"
    for part in UNKNOWN, "CHANNEL_NOT_FOUND":
        assert part in done.stderr, "the error"


def test_plaque_get_prints_json(bench, plaque):
    done = plaque_get(bench, plaque, "--json", KURZGESAGT, UNKNOWN)
    assert done.returncode == 3, "the exit code"
    good, bad = map(json.loads, done.stdout.splitlines())
    assert (good["channelId"], bad["channelId"]) == (KURZGESAGT, UNKNOWN), "the channels"
    assert good["found"]["video"]["videoId"] == "N2FOxjtv5ns", "the video"
    assert (bad["failure"]["code"], bad["failure"]["reason"]) == (5, "CHANNEL_NOT_FOUND"), "the failure"


def test_plaque_get_without_a_server_says_what_to_do(bench):
    address = f"http://127.0.0.1:{free_port()}"
    done = bench.run_plaque("get", "--server", address, KURZGESAGT)
    expect_advice(done, 75, address, "plaque serve", "--server")
