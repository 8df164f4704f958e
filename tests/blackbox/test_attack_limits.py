"""Attacks with more than may be: connections, streams, calls, file descriptors, ages; and with messages that are too large or bad."""

import time
import urllib.parse

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import h2
from attack_support import CACHED, GET, HANGING, WATCH, Bystander, connections, count_until_closed, under_attack
from h2 import ErrorCode, Kind, Setting
from support import (
    KURZGESAGT, SCISHOW, Answer, Stopwatch, batch_request, expect_a_hint_when_to_retry, expect_error, expect_ok,
    few_file_descriptors, made_up_channel, processor_seconds, request, services, wait_until, watch_request,
)

StatusCode = grpc.StatusCode

# Limits


def test_more_connections_than_may_be_are_for_health_checks(bench, note):
    """What is over the limit and wants something else is told so and closed at once; what wants nothing is closed soon."""
    # The sixth is the bystander's.
    with under_attack(bench, "--max-connections", "6") as scene:
        accepted = [scene.connect() for _ in range(5)]
        for connection in accepted:
            scene.expect_still_served(connection)
        silent = [scene.connect() for _ in range(20)]
        watch = Stopwatch()
        for _ in range(20):
            one = scene.connect()
            assert one.status(one.call(GET, CACHED)) == StatusCode.UNAVAILABLE.value[0], "the status of a call"
            one.wait_closed(1)
        took = watch.seconds()
        ends = {connection.wait_closed(3) for connection in silent}
        for connection in accepted:
            scene.expect_still_served(connection)
        for connection in accepted[:2]:
            connection.socket.close()
        wait_until(lambda: connections(scene.plaque) == 4, "two connections are gone")
        scene.expect_still_served(scene.connect())
    note(scene.note(f"20 too many closed within {took * 1000:.0f} ms, 20 silent ones: {ends}"))


def test_more_streams_than_may_be_are_refused(bench, note):
    with under_attack(bench, "--max-streams", "10") as scene:
        scene.origin.control(mode="hang", channels=[SCISHOW])
        attacker = scene.connect()
        streams = [attacker.call(GET, HANGING) for _ in range(30)]
        attacker.wait_over(*streams[10:])
        assert attacker.settings.get(Setting.MAX_CONCURRENT_STREAMS) == 10, "the advertised limit"
        assert attacker.resets == dict.fromkeys(streams[10:], ErrorCode.REFUSED_STREAM), "the streams refused"
        scene.origin.control(mode="ok")
        attacker.send(h2.rst_stream(streams[0]))
        scene.expect_still_served(attacker)
        # A client that heeds the limit never notices it.
        with scene.plaque.connect() as one:
            for call in [scene.plaque.start(KURZGESAGT, over=one) for _ in range(50)]:
                expect_ok(Answer(call))
    note(scene.note("10 of 30 accepted, the others REFUSED_STREAM"))


@pytest.mark.plaque("--max-calls", "10")
def test_more_calls_than_may_be_are_refused_at_once(plaque, origin, note):
    expect_ok(plaque.ask(KURZGESAGT))
    origin.control(mode="hang", channels=[SCISHOW])
    calls = [plaque.start(SCISHOW) for _ in range(10)]
    with plaque.connect() as other:
        grpc.channel_ready_future(other).result(timeout=5)

        def ask():
            watch = Stopwatch()
            answer = plaque.ask(KURZGESAGT, over=other)
            return answer, watch.seconds()
        # Until the ten have arrived, one more may be answered.
        wait_until(lambda: ask()[0].code is StatusCode.RESOURCE_EXHAUSTED, "one more call is refused", 5)
        answer, took = ask()
        expect_error(answer, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        expect_a_hint_when_to_retry(answer)
        assert took < 0.5, f"the refusal took {took:.1f} s"
        hint = answer.retry.retry_delay.ToMilliseconds()
        calls[0].cancel()
        wait_until(lambda: ask()[0].code is StatusCode.OK, "one is answered when one has left", 5)
        assert not any(call.done() for call in calls[1:]), "a call in progress ended"
    for call in calls:
        call.cancel()
    note(f"refused in {took * 1000:.0f} ms, to come again in {hint} ms")


def test_running_out_of_file_descriptors_harms_no_open_connection(bench, note):
    with few_file_descriptors(bench, 506) as limited, under_attack(limited, synthesize=True) as scene:
        first = [scene.connect() for _ in range(4)]
        for connection in first:
            scene.expect_still_served(connection)
        many = [scene.connect() for _ in range(200)]
        scene.bystander.wait_for_more(10)
        pid = scene.plaque.program.process.pid
        before, watch = processor_seconds(pid), Stopwatch()
        # What is measured is a second in which nothing changes.
        time.sleep(1)
        spent = (processor_seconds(pid) - before) / watch.seconds()
        assert spent < 0.5, f"it spends {spent:.2f} s of processor time a second"
        for connection in first:
            scene.expect_still_served(connection)
        for connection in many:
            # What it was told, and its end: some were over the limit, and served as probes for a moment.
            connection.receive()
            connection.receive()
        served = sum(bool(connection.settings) and not connection.closed and not connection.goaways for connection in many)
        assert served < len(many), "all connections were served: the descriptors did not run out"
        # Lookups need descriptors, too.
        asked = batch_request([made_up_channel(number) for number in range(10)])
        answer = Answer(services.LatestVideoStub(scene.bystander.channel).BatchGetLatestVideos.future(asked, timeout=5))
        expect_ok(answer)
        failures = {result.failure.message for result in answer.response.results if not result.HasField("found")}
        assert failures == set(), "the failures of lookups"
        for connection in many:
            connection.socket.close()
    note(scene.note(f"{served} of {len(many)} more served, {spent:.2f} s of processor time a second"))


def test_connections_of_age_end_without_a_failed_call(bench, note):
    flags = "--max-connection-age", "1s", "--watch-every", "200ms"
    with under_attack(bench, *flags) as scene, Bystander(scene.plaque, max_age=0) as slow:
        aged = scene.connect()
        # The watch goes on after the GOAWAY. It tells of uploads from now on, so that what it sends is news.
        old_news = Timestamp(seconds=int(time.time()))
        message = watch_request([KURZGESAGT], published_after=old_news).SerializeToString()
        aged.call(WATCH, h2.grpc_message(message))
        aged.wait_until(lambda: aged.goaways, "a GOAWAY", 3)
        assert set(aged.goaways) == {ErrorCode.NO_ERROR}, "the GOAWAYs"
        wait_until(lambda: slow.connected >= 3 and scene.bystander.connected >= 3, "the bystanders connect a third time")
        scene.origin.publish(KURZGESAGT, "newnewnew01")
        aged.wait_until(lambda: aged.frames[Kind.DATA], "the watch tells of an upload")
        slow.expect_no_failure()
    note(scene.note(f"{scene.bystander.connected} connections of the bystander, {slow.connected} of the slow one, "
         f"whose {len(slow.took)} calls took lookups"))


# Messages


def raw_call(scene, body, *fields):
    attacker = scene.connect()
    stream = attacker.call(GET, body, *fields)
    status = attacker.status(stream)
    scene.expect_still_served(attacker)
    return status, urllib.parse.unquote(attacker.fields[stream].get("grpc-message", ""))


def test_a_message_that_is_too_large_fails_alone(bench, note):
    with under_attack(bench) as scene, scene.plaque.connect() as channel:
        large = scene.plaque.ask("x" * 17_000, over=channel)
        assert large.code in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.OUT_OF_RANGE), f"it ended with {large}"
        assert "16384" in large.message, "the message"
        expect_ok(scene.plaque.ask(KURZGESAGT, over=channel))
        # One that goes on after its refusal, for nearly as long as the connection's window lets it.
        attacker = scene.connect()
        attacker.catch_up()
        stream = attacker.call(GET, h2.grpc_message(b"", length=2**32 - 1), ends=False)
        sent = count_until_closed(attacker, (h2.frame(Kind.DATA, stream, b"x" * 16_000) for _ in range(60)))
        ended = attacker.status(stream)
        scene.expect_still_served(attacker)
    note(scene.note(f"{large.code.name}, {large.message!r}; 4 GiB announced and {sent * 16} kB sent: {ended}"))


@pytest.mark.parametrize("path", [
    GET, b"/grpc.health.v1.Health/Check", b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"])
def test_a_large_message_is_not_collected(bench, path, note):
    """Many calls send a message of 4 MiB each, and do not finish."""
    with under_attack(bench) as scene:
        for attacker in [scene.connect() for _ in range(2)]:
            attacker.catch_up()
            streams = [attacker.call(path, h2.grpc_message(b"", length=4 << 20), ends=False) for _ in range(200)]
            for number, stream in enumerate(streams * 20):
                if number % 16 == 0:
                    # No more than the window lets in.
                    attacker.catch_up()
                attacker.send(h2.frame(Kind.DATA, stream, b"x" * 16_000))
    note(scene.note(f"2 × 200 messages of 4 MiB begun; {attacker.end()}"))


def test_a_length_that_is_announced_is_not_allocated(bench, note):
    with under_attack(bench) as scene:
        before = scene.plaque.memory_kib("VmPeak")
        status, said = raw_call(scene, h2.grpc_message(b"short", length=2**32 - 1))
        assert status in (StatusCode.RESOURCE_EXHAUSTED.value[0], StatusCode.OUT_OF_RANGE.value[0]), f"it ended with {status}"
        # Threads may reserve address space for their heaps, but not 4 GiB.
        grown = (scene.plaque.memory_kib("VmPeak") - before) // 1024
        assert grown < 1024, f"{grown} MiB of address space more"
    note(scene.note(f"status {status}, {said!r}, {grown} MiB of address space more"))


# By their statuses: https://github.com/grpc/grpc/blob/master/doc/compression.md and PROTOCOL-HTTP2.md.
UNIMPLEMENTED, INTERNAL, INVALID_ARGUMENT = (
    code.value[0] for code in (StatusCode.UNIMPLEMENTED, StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT))
BAD_MESSAGES = {
    "compressed in an unknown way": (h2.grpc_message(b"\x1f\x8b", 1), {UNIMPLEMENTED}, (b"grpc-encoding", b"banana")),
    "compressed with no encoding named": (h2.grpc_message(b"\x1f\x8b", 1), {INTERNAL}),
    "with a bad compression flag": (h2.grpc_message(b"", 77), {INTERNAL}),
    "shorter than announced": (h2.grpc_message(b"short", length=1000), {INVALID_ARGUMENT}),
    "that is no protobuf": (h2.grpc_message(b"\xff" * 100), {INVALID_ARGUMENT}),
    "that ends in its length": (b"\0\0\0", {INVALID_ARGUMENT}),
    "that is missing": (b"", {INVALID_ARGUMENT}),
}


@pytest.mark.parametrize("bad", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_bad_message_fails_alone(bench, bad, note):
    body, expected, *fields = bad
    with under_attack(bench) as scene:
        status, said = raw_call(scene, body, *fields)
        assert status in expected, f"it ended with {status} {said!r}, expected one of {expected}"
    note(scene.note(f"status {status}, {said!r}"))


def test_a_compressed_message_is_unimplemented_with_a_reason(bench, note):
    with under_attack(bench) as scene, scene.plaque.connect() as channel:
        client = services.LatestVideoStub(channel)
        call = client.GetLatestVideo.future(request(KURZGESAGT), timeout=5, compression=grpc.Compression.Gzip)
        answer = Answer(call)
        expect_error(answer, StatusCode.UNIMPLEMENTED, "COMPRESSED_MESSAGE")
    note(scene.note(str(answer).strip()))
