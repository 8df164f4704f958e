"""Attacks of peers that do not take their answers, do not finish what they begin, or say nothing."""

import itertools
import time

import pytest

import h2
from attack_support import (
    BATCH, CACHED, CALL, DEADLINE_EXCEEDED, GET, PARTING, PING, STALLED, WATCH, connections, count_until_closed, hundred_channels,
    under_attack,
)
from h2 import ErrorCode, Kind, Setting
from support import KURZGESAGT, Stopwatch, made_up_channel, request, wait_until, watch_request

# Answers that are not taken

def test_answers_that_no_window_is_opened_for_are_given_up(bench, note):
    with under_attack(bench, "--max-deadline", "1s", synthesize=True) as scene:
        scene.origin.control(latency_ms=0)
        attacker = scene.connect(STALLED)
        attacker.catch_up()
        watch = Stopwatch()
        streams = [attacker.call(BATCH, hundred_channels()) for _ in range(100)]
        streams += [attacker.call(GET, CACHED) for _ in range(50)]
        attacker.wait_over(*streams)
        took = watch.seconds()
        assert took >= 0.9, f"the server gave up after {took:.1f} s already"
        codes = sorted({code.name for code in attacker.resets.values()})
        assert len(attacker.resets) == len(streams), "the calls that were reset"
    note(scene.note(f"{len(streams)} calls, all reset within {took:.1f} s with {codes}"))


def test_answers_that_the_system_cannot_hand_over_are_given_up(bench, note):
    """The windows are as wide as can be, but the socket is never read: the answers wait in the server."""
    wide = h2.PREFACE + h2.settings({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) + h2.window_update(0, 2**31 - 2**16)
    flags = "--max-deadline", "1s", "--idle-timeout", "1s"
    with under_attack(bench, *flags, synthesize=True) as scene:
        scene.origin.control(latency_ms=0)
        attackers = [scene.connect(wide, reads=False) for _ in range(3)]
        for attacker in attackers:
            attacker.catch_up()
            for _ in range(200):
                attacker.call(BATCH, hundred_channels())
        watch = Stopwatch()
        wait_until(lambda: connections(scene.plaque) == 1, "the server closes the attacker's connections", PARTING)
        took = watch.seconds()
        ends = {attacker.wait_closed() for attacker in attackers}
    note(scene.note(f"{len(attackers)} × 200 batches, closed after {took:.1f} s: {ends}"))


def test_watches_that_are_not_read_hold_no_queue(bench, note):
    with under_attack(bench, "--watch-every", "100ms", "--upstream-timeout", "5s", synthesize=True) as scene:
        scene.origin.control(latency_ms=0)
        attacker = scene.connect(STALLED)
        attacker.catch_up()
        streams = [attacker.call(WATCH, hundred_channels(watch_request)) for _ in range(100)]
        attacker.wait_until(lambda: len(attacker.fields) == len(streams), "the watches begin")
        watch, published = Stopwatch(), 0
        while watch.seconds() < 3:
            scene.origin.publish(made_up_channel(published % 100), f"new{published:08}")
            published += 1
            time.sleep(0.01)
        assert not attacker.closed and not attacker.resets, f"the watches ended: {attacker.end()}"
    note(scene.note(f"{len(streams)} watches of 100 channels, {published} uploads"))


@pytest.mark.plaque("--drain-timeout", "1s", synthesize=True)
def test_answers_that_are_not_taken_do_not_hold_up_the_drain(plaque, origin, note):
    origin.control(latency_ms=0)
    with h2.Connection(plaque.address, STALLED) as stalled, h2.Connection(plaque.address, reads=False) as silent:
        streams = [stalled.call(path, body) for path, body in (
            (BATCH, hundred_channels()), (GET, CACHED), (WATCH, hundred_channels(watch_request)))]
        stalled.wait_until(lambda: len(stalled.fields) == len(streams), "the answers begin")
        silent.call(BATCH, hundred_channels())
        watch = Stopwatch()
        plaque.program.terminate()
        code = plaque.program.exit_code(within=3)
        took = watch.seconds()
        said = plaque.program.err.read_text().splitlines()[-1]
    assert code == 1, "the exit code"
    note(f"{took:.1f} s, {said!r}")


# Peers that say little or nothing


def test_a_preface_that_does_not_come_in_time_is_not_waited_for(bench, note):
    with under_attack(bench, "--preface-timeout", "1s") as scene:
        silent = [scene.connect(b"") for _ in range(10)]
        dripping = [scene.connect(b"") for _ in range(10)]
        watch = Stopwatch()
        for byte in h2.PREFACE[:4]:
            if all(connection.closed for connection in dripping):
                break
            for connection in dripping:
                connection.send(bytes([byte]))
                connection.receive()
            # The drip is the attack.
            time.sleep(max(0, 1 - watch.seconds() % 1))
        ends = {connection.wait_closed(1) for connection in silent + dripping}
        took = watch.seconds()
        assert took >= 0.9, f"all were closed after {took:.1f} s already"
    note(scene.note(f"closed within {took:.1f} s: {ends}"))


def test_connections_without_a_call_are_closed(bench, note):
    half = {
        "after the preface": h2.PREFACE,
        "after SETTINGS": h2.PREFACE + h2.settings(),
        "in mid frame": h2.PREFACE + h2.settings() + h2.frame(Kind.PING, payload=b"1234", length=8),
        "in mid headers": h2.PREFACE + h2.settings() + h2.frame(Kind.HEADERS, 1, CALL),
    }
    with under_attack(bench, "--idle-timeout", "1s") as scene:
        attackers = [(name, scene.connect(greeting)) for name, greeting in half.items() for _ in range(75)]
        for _, attacker in attackers:
            attacker.answers = False
        wait_until(lambda: connections(scene.plaque) == len(attackers) + 1, "all connections are there")
        watch = Stopwatch()
        for name, attacker in attackers:
            attacker.wait_closed(PARTING)
            assert set(attacker.goaways) == {ErrorCode.NO_ERROR}, f"the GOAWAYs to one silent {name}"
        took = watch.seconds()
        wait_until(lambda: connections(scene.plaque) == 1, "all connections are gone")
    note(scene.note(f"{len(attackers)} connections closed within {took:.1f} s"))


def test_peers_that_are_gone_are_found_out(bench, note):
    """Those that do not answer PINGs, although they hold a watch, and one that lets the server write nothing. It takes the 20 s
    that a peer has for its answer."""
    with under_attack(bench, "--keepalive", "1s") as scene:
        silent, alive = ([scene.connect() for _ in range(50)] for _ in range(2))
        body = h2.grpc_message(watch_request([KURZGESAGT]).SerializeToString())
        for connection in silent + alive:
            connection.answers = connection in alive
            connection.call(WATCH, body)
        full = scene.connect(reads=False)
        count_until_closed(full, itertools.repeat(PING, 1_000_000), at_once=1000)
        watch = Stopwatch()
        while watch.seconds() < 25 and not all(connection.closed for connection in silent):
            for connection in silent + alive:
                if not connection.closed:
                    connection.answer()
                    connection.receive()
            time.sleep(0.1)
        took = watch.seconds()
        assert not any(connection.closed for connection in alive), "some that answer are closed"
        assert all(connection.closed for connection in silent), f"some that do not answer are open after {took:.0f} s"
        wait_until(lambda: connections(scene.plaque) == len(alive) + 1, "only those that answer are left")
        pings = min(connection.frames[Kind.PING] for connection in alive)
        assert pings >= 3, f"one had {pings} PINGs only"
    note(scene.note(f"closed within {took:.1f} s; those that answer are open after {pings} PINGs"))


@pytest.mark.plaque(synthesize=True)
def test_deadlines_are_kept_to_the_millisecond(plaque, origin, note):
    """By the server alone: this client knows of none. Never early; how late is measured, on a machine that may be busy."""
    origin.control(mode="hang")
    late = []
    with h2.Connection(plaque.address) as caller:
        body = h2.grpc_message(request(made_up_channel(1)).SerializeToString())
        for asked in [0.02, 0.05, 0.1] * 20:
            timeout = (b"grpc-timeout", str(round(asked * 1e6)).encode() + b"u")
            watch = Stopwatch()
            stream = caller.call(GET, body, timeout)
            assert caller.status(stream) == DEADLINE_EXCEEDED, "the status"
            late.append(1000 * (watch.seconds() - asked))
    assert min(late) >= 0, f"one came {-min(late):.2f} ms early"
    late.sort()
    note(f"{late[len(late) // 2]:.1f} ms late in the median, {late[-1]:.1f} at most, of {len(late)}")


def test_calls_whose_request_does_not_come_end_at_their_deadline(bench, note):
    with under_attack(bench, "--max-deadline", "1s") as scene:
        attacker = scene.connect()
        watch = Stopwatch()
        nothing = [attacker.call(GET, ends=False) for _ in range(50)]
        # The message is announced, and a byte of it comes now and then.
        dripping = [attacker.call(GET, CACHED[:5], ends=False) for _ in range(50)]
        for byte in CACHED[5:15]:
            attacker.send(b"".join(h2.frame(Kind.DATA, stream, bytes([byte])) for stream in dripping))
            time.sleep(0.05)
        attacker.wait_over(*nothing, *dripping)
        took = watch.seconds()
        assert 0.9 <= took < 3, f"they ended after {took:.1f} s"
        seen = {attacker.status(stream) for stream in nothing + dripping}
        assert seen <= {DEADLINE_EXCEEDED, "CANCEL"}, f"they ended with {seen}"
        scene.expect_still_served(attacker)
    note(scene.note(f"100 calls over after {took:.1f} s, {seen}"))
