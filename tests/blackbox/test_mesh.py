"""plaque behind a real Envoy, with faults on every side of it: what deploy/ promises to those who copy from it.

Envoy runs deploy/envoy.yaml as it is, so its ports (3777, 3779, 3789, 9901) must be free. Every check has an origin, two
plaques and an Envoy of its own; some have a load by ghz. Clients do not retry here, not even transparently: what is seen is what Envoy and plaque do.
"""

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from mesh_support import DRAIN_DELAY, PLAQUES, Front, expect_free, listens, load, mesh, running_envoy
from support import (
    KURZGESAGT, NO_UPLOADS, SCISHOW, UNKNOWN, Answer, Stopwatch, expect_a_hint_when_to_retry, expect_error, expect_ok,
    made_up_channel, request, services, wait_until,
)

StatusCode = grpc.StatusCode

# The circuit breaker in deploy/envoy.yaml.
MAX_REQUESTS = 2000


def attempts(answer):
    """How many plaques Envoy has asked for it."""
    return int(answer.headers.get("x-envoy-attempt-count") or answer.trailers["x-envoy-attempt-count"])


# Routing


def test_calls_go_to_both_plaques(bench, note):
    with mesh(bench) as m:
        for call in [m.front.start(made_up_channel(n % 10)) for n in range(200)]:
            expect_ok(Answer(call))
        shares = [m.calls_of(instance) for instance in m.instances]
    assert sum(shares) == 200, "the calls that Envoy gave to plaques"
    assert min(shares) > 20, f"the plaques got {shares}"
    note(f"{shares[0]} and {shares[1]} of 200")


def test_statuses_pass_through_whole(bench, note):
    failing = {
        SCISHOW: ("status:500", "UPSTREAM_ERROR"), KURZGESAGT: ("html200", "UPSTREAM_MALFORMED"),
        made_up_channel(1): ("hang", "UPSTREAM_TIMEOUT"), made_up_channel(2): ("status:429", "UPSTREAM_RATE_LIMITED")}
    tries = {}

    def expect_told(channel, code, reason):
        answer = m.front.ask(channel)
        expect_error(answer, code, reason)
        tries[reason] = attempts(answer)
        return answer

    with mesh(bench, "--upstream-timeout", "1s", synthesize=False) as m:
        for channel, (mode, _) in failing.items():
            m.origin.control(mode=mode, channels=[channel])
        found = expect_told(UNKNOWN, StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
        assert found.cache_status == "plaque; fwd=uri-miss; fwd-status=404", "the cache-status"
        expect_told(NO_UPLOADS, StatusCode.NOT_FOUND, "NO_UPLOADS")
        bad = expect_told("here", StatusCode.INVALID_ARGUMENT, "INVALID_CHANNEL_ID")
        assert [violation.field for violation in bad.bad_request.field_violations] == ["channel_id"], "the bad fields"
        for channel, (_, reason) in failing.items():
            answer = expect_told(channel, StatusCode.UNAVAILABLE, reason)
            expect_a_hint_when_to_retry(answer)
            assert "plaque; " in answer.cache_status, "the cache-status"
        direct = m.instances[0].plaque.ask("here")
        assert bad.message == direct.message, "the message through Envoy"
        assert bad.trailers["grpc-status-details-bin"] == direct.trailers["grpc-status-details-bin"], "the details through Envoy"
    once = [reason for reason, count in tries.items() if count == 1]
    assert once == ["CHANNEL_NOT_FOUND", "NO_UPLOADS", "INVALID_CHANNEL_ID"], "what was asked of one plaque alone"
    note(", ".join(f"{reason} after {count}" for reason, count in tries.items()))


def test_an_overloaded_plaque_tells_the_client_when_to_come_again(bench, note):
    with mesh(bench, "--max-waiters", "1") as m:
        m.origin.control(latency_ms=3000)
        waiting = [instance.plaque.start(made_up_channel(1)) for instance in m.instances]
        wait_until(lambda: m.origin.lookups() == 2, "both plaques have a waiter")
        answer = m.front.ask(made_up_channel(2))
        expect_error(answer, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        expect_a_hint_when_to_retry(answer)
        assert attempts(answer) == 1, "the plaques that Envoy asked"
        for call in waiting:
            expect_ok(Answer(call))
    note(f"pushback {answer.trailers['grpc-retry-pushback-ms']} ms")


def test_an_overloaded_plaque_stays_healthy(bench):
    with mesh(bench, "--max-calls", "5") as m:
        m.origin.control(mode="hang")
        full = [instance.plaque.start(made_up_channel(n)) for instance in m.instances for n in range(5)]
        wait_until(lambda: m.calls_in_progress() >= len(full), "both plaques are full")
        checks = m.count("health_check.attempt")
        wait_until(lambda: m.count("health_check.attempt") >= checks + 6, "Envoy checks the health of both again")
        # Taken out, it would leave its load to the other, until that is taken out as well.
        assert m.routed_to() == set(PLAQUES), "the plaques that Envoy routes to"
        expect_error(m.front.ask(made_up_channel(9)), StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert not any(call.done() for call in full), "the plaques were not full all the time"


# Deadlines


def test_a_client_s_deadline_ends_the_call_everywhere(bench, note):
    with mesh(bench) as m:
        m.origin.control(mode="hang")
        client = services.LatestVideoStub(m.front.channel)
        # As metadata, so that the client has no timer: whoever answers is on the other side.
        watch = Stopwatch()
        answer = Answer(client.GetLatestVideo.future(request(made_up_channel(1)), metadata=[("grpc-timeout", "500m")]))
        took = watch.seconds()
        assert answer.code == StatusCode.DEADLINE_EXCEEDED, "the code"
        assert 0.4 < took < 1.5, f"the deadline of 0.5 s was kept after {took:.2f} s"
        by = "plaque" if answer.reason == "DEADLINE" else f"Envoy ({answer.message})"
        calls = [m.front.start(made_up_channel(2), timeout=1) for _ in range(100)]
        wait_until(lambda: m.calls_in_progress() >= 100, "plaque has the calls")
        for call in calls:
            assert Answer(call).code == StatusCode.DEADLINE_EXCEEDED, "the code"
        watch = Stopwatch()
        wait_until(lambda: m.calls_in_progress() == 0, "plaque's calls end", 2)
    note(f"kept by {by} after {took * 1000:.0f} ms; "
         f"plaque's last call ended {watch.seconds() * 1000:.0f} ms after the clients'")


class StandIn(grpc.GenericRpcHandler):
    """In a plaque's place: healthy, and tells how long it is given for each call."""

    def __init__(self):
        self.given = []

    def service(self, call):
        def answer(_, context):
            if "Health" in call.method:
                return bytes([8, 1])
            self.given.append(context.time_remaining())
            return b""
        return grpc.unary_unary_rpc_method_handler(answer)


def test_envoy_hands_the_client_s_deadline_on(note):
    stand_in = StandIn()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[stand_in])
    for port in PLAQUES:
        expect_free(port)
        server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        with running_envoy(), Front().channel as channel:
            for method in "GetLatestVideo", "WatchLatestVideo":
                for timeout in 5, 60:
                    channel.unary_unary(f"/plaque.v1.LatestVideo/{method}")(b"", timeout=timeout, wait_for_ready=True)
            channel.unary_unary("/plaque.v1.LatestVideo/GetLatestVideo")(b"")
    finally:
        server.stop(0)
    assert [round(seconds) for seconds in stand_in.given] == [5, 60, 5, 60, 35], "the seconds given"
    note(f"and {stand_in.given[-1]:.0f} s if the client has none")


def test_plaque_s_longest_deadline_comes_with_its_reason(bench):
    with mesh(bench, "--max-deadline", "500ms") as m:
        m.origin.control(mode="hang")
        answer = m.front.ask(made_up_channel(1))
        expect_error(answer, StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
        assert attempts(answer) == 1, "the plaques that Envoy asked"


# Clients that leave


def test_clients_that_cancel_at_random_leave_nothing_and_harm_nobody(bench, note):
    count, patient = 800, 40
    with mesh(bench) as m, ExitStack() as clients:
        m.origin.control(latency_ms=300)
        channels = [clients.enter_context(m.front.connect()) for _ in range(8)]
        watches = [clients.enter_context(m.front.watch([made_up_channel(n)])) for n in range(10)]
        for watch in watches:
            watch.wait_for(1)
        stayed = []
        for i in range(count):
            over, asked = channels[i % len(channels)], made_up_channel(100 + i)
            # One in four is a watch: a stream that lasts.
            call = m.front.start(asked, over=over) if i % 4 else m.front.start_watch([asked], over=over)
            # From before Envoy has read the call until after the answer.
            threading.Timer(random.choice([0, 0, random.uniform(0, 0.4)]), call.cancel).start()
            if i % (count // patient) == 0:
                stayed.append(m.front.start(made_up_channel(5000 + i)))
        for call in stayed:
            expect_ok(Answer(call))
        wait_until(lambda: m.count("upstream_rq_active") == len(watches), "Envoy is rid of the cancelled calls")
        wait_until(lambda: m.calls_in_progress() == len(watches), "plaque is rid of the cancelled calls")
        assert not any(watch.call.done() for watch in watches), "a watch that nobody cancelled has ended"
        clients.close()
        wait_until(lambda: m.calls_in_progress() == 0, "plaque has no calls in progress")
        resets = m.count("upstream_rq_tx_reset") - len(watches)
        assert m.count("upstream_cx_destroy_remote_with_active_rq") == 0, "the connections that plaque closed on calls"
    assert resets > count // 4, f"only {resets} of {count} resets reached a plaque"
    note(f"{count} cancelled, {resets} of them at a plaque; "
         f"{len(stayed)} calls and {len(watches)} watches beside them unharmed")


# Watches


def test_watches_get_their_uploads_and_learn_of_a_drain(bench, note):
    channels = [made_up_channel(n) for n in range(5)]
    with mesh(bench, "--watch-every", "500ms") as m:
        watches = [m.front.watch([channels[n % 5]]) for n in range(50)]
        for watch in watches:
            watch.wait_for(1)
        shares = [m.calls_of(instance) for instance in m.instances]
        assert min(shares) > 0, f"the plaques got {shares} of the watches"
        m.origin.publish(channels[0], "new00000001")
        arrival = Stopwatch()
        for watch in watches[0::5]:
            watch.wait_for(2)
            assert watch.uploads()[-1] == "new00000001", "the upload"
        arrived = arrival.seconds()
        m.instances[0].stop()
        wait_until(lambda: sum(watch.call.done() for watch in watches) >= shares[0], "the watches of the one end")
        ended = [watch for watch in watches if watch.call.done()]
        assert len(ended) == shares[0], "the watches that ended"
        for watch in ended:
            expect_error(Answer(watch.call), StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        # Opened again, they go on where they were, at the other plaque.
        since = ended[0].events[0].video.publish_time
        with m.front.watch([channels[0]], published_after=since) as again:
            wait_until(lambda: "new00000001" in again.uploads(), "the watch goes on at the other plaque")
        m.origin.publish(channels[1], "new00000002")
        for watch in (watch for watch in watches[1::5] if not watch.call.done()):
            watch.wait_for(2)
    note(f"the upload reached its 10 watches within {arrived:.2f} s; {shares[0]} of 50 ended with SHUTTING_DOWN, 0 others")


# Plaques that fail


def test_a_plaque_killed_under_load_costs_no_call(bench, note):
    with mesh(bench) as m, load(bench, m) as running_load:
        first, second = m.instances
        first.kill()
        out = m.wait_until_routed_to(second)
        ejections = m.ejections()
        first.start()
        back = m.wait_until_back(first)
        retried = m.count("upstream_rq_retry")
        ended = running_load.finish()
    assert ended.failed == {}, "the calls lost"
    assert retried > 0, "no call was retried: this check shows nothing"
    assert ejections > 0, f"outlier detection ejected nobody; the health checks took {out:.1f} s"
    note(f"{ended}; {retried} retried; out after {out * 1000:.0f} ms, by {ejections} ejections, in again "
         f"{back * 1000:.0f} ms after its start")


def test_a_dead_plaque_is_taken_out_by_health_checks_alone(bench, note):
    with mesh(bench) as m:
        first, second = m.instances
        first.kill()
        # Nobody calls: outlier detection sees nothing.
        out = m.wait_until_routed_to(second)
        assert m.ejections() == 0, "the ejections"
        first.start()
        back = m.wait_until_routed_to(first, second)
    note(f"out after {out * 1000:.0f} ms, in again after {back * 1000:.0f} ms")


def test_a_frozen_plaque_costs_no_call(bench, note):
    with mesh(bench) as m, load(bench, m) as running_load:
        first, second = m.instances
        try:
            first.signal(signal.SIGSTOP)
            out = m.wait_until_routed_to(second)
            # Envoy's PINGs find the dead connections, and what waits there is asked of the other.
            wait_until(lambda: m.calls_waiting_for(first) == 0, "no call waits for the frozen plaque", 20)
        finally:
            first.signal(signal.SIGCONT)
        back = m.wait_until_routed_to(first, second)
        ended = running_load.finish()
    assert ended.failed == {}, "the calls lost"
    note(f"{ended}; out after {out:.1f} s, in again after {back:.1f} s")


def test_an_outage_of_the_upstream_ejects_nobody(bench, note):
    with mesh(bench) as m:
        m.origin.control(mode="status:500")
        answers = [Answer(call) for call in [m.front.start(made_up_channel(n)) for n in range(100)]]
        for answer in answers:
            expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
            expect_a_hint_when_to_retry(answer)
        assert m.routed_to() == set(PLAQUES), "the plaques that Envoy routes to"
        detected = m.count("outlier_detection.ejections_detected_consecutive_5xx")
        assert m.ejections() == 0, "the ejections"
        assert detected > 0, "outlier detection saw no failures: this check shows nothing"
        for instance in m.instances:
            assert m.calls_of(instance) > 40, "a plaque was left out"
        m.origin.control(mode="ok")
        expect_ok(m.front.ask(made_up_channel(1000)))
    note(f"100 failed calls, {max(map(attempts, answers))} tries at most; {detected} ejections detected, none enforced")


def test_more_calls_than_the_circuit_breaker_lets_through_fail_at_once(bench, note):
    # 200 calls on a connection are Envoy's limit here.
    connections, on_each = 12, 190
    count, refused_after = connections * on_each, []

    def begin(over):
        call, watch = m.front.start(made_up_channel(1), over=over), Stopwatch()
        call.add_done_callback(lambda ended: ended.code() is not StatusCode.OK and refused_after.append(watch.seconds()))
        return call

    with mesh(bench) as m, ExitStack() as clients:
        channels = [clients.enter_context(m.front.connect()) for _ in range(connections)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=10)
        # Long enough for Python to begin all of the calls on a busy machine.
        m.origin.control(latency_ms=6000)
        answers = [Answer(call) for call in [begin(channels[n % connections]) for n in range(count)]]
        refused = [answer for answer in answers if answer.code is not StatusCode.OK]
        for answer in refused:
            assert answer.code == StatusCode.UNAVAILABLE, "the code"
            assert answer.headers.get("x-envoy-overloaded") == "true", "x-envoy-overloaded"
            assert "overflow" in answer.message, "the message"
        # Envoy's threads count together, but not in step.
        assert abs(count - len(refused) - MAX_REQUESTS) <= 20, f"{count - len(refused)} of {count} were answered"
        assert max(refused_after) < 3, f"a call was refused after {max(refused_after):.1f} s"
        expect_ok(m.front.ask(made_up_channel(1)))
        assert m.ejections() == 0, "the ejections"
    note(f"{count - len(refused)} of {count} answered, {len(refused)} refused with {refused[0].message!r}, "
         f"the last of them after {max(refused_after) * 1000:.0f} ms")


# Drains and restarts


def test_a_draining_plaque_gets_no_more_calls_before_it_closes_its_port(bench, note):
    with mesh(bench) as m, load(bench, m) as running_load:
        first, second = m.instances
        # They last until after the port is closed.
        m.origin.control(latency_ms=(DRAIN_DELAY + 1) * 1000)
        lookups = m.origin.lookups()
        slow = [m.front.start(made_up_channel(n)) for n in range(20)]
        wait_until(lambda: m.origin.lookups() >= lookups + 20, "the slow lookups begin")

        first.plaque.program.terminate()
        watch = Stopwatch()
        noticed = m.wait_until_routed_to(second)
        kept, given, last = m.calls_waiting_for(first), m.calls_of(first), noticed
        while listens(first.port):
            if m.calls_of(first) > given:
                given, last = m.calls_of(first), watch.seconds()
            assert watch.seconds() < DRAIN_DELAY + 5, "the port is still open"
        closed = watch.seconds()
        # Half a second to spare, for a busier machine.
        assert closed - last > 0.5, f"the last call came {last:.2f} s after SIGTERM; the port was closed after {closed:.2f} s"

        assert not any(call.done() for call in slow), "the slow calls ended before the port was closed"
        for call in slow:
            answer = Answer(call)
            expect_ok(answer)
            assert attempts(answer) == 1, "the tries of a slow call"
        assert first.plaque.program.exit_code(within=5) == 0, "the exit code"
        assert m.count("upstream_cx_connect_fail") == 0, "the connections refused"
        ended = running_load.finish()
    assert ended.failed == {}, "the calls lost"
    note(f"noticed {noticed * 1000:.0f} ms after SIGTERM, the last call at {last * 1000:.0f} ms, the port closed at "
         f"{closed * 1000:.0f} ms; {kept} calls finished after that; {ended}")


def test_connections_that_plaque_closes_for_their_age_cost_no_call(bench, note):
    def closed():
        return sum(instance.plaque.metric('plaque_connections_closed_total{reason="age"}') for instance in m.instances)

    with mesh(bench, "--max-connection-age", "1s") as m, load(bench, m) as running_load:
        wait_until(lambda: closed() >= 12, "connections come of age", 20)
        count, retried = closed(), m.count("upstream_rq_retry")
        ended = running_load.finish()
    assert ended.failed == {}, "the calls lost"
    note(f"{count:.0f} connections closed, {retried} calls retried by Envoy; {ended}")


def restart_in_turn(bench, m, rounds):
    """Each plaque so many times, and what became of the calls meanwhile."""
    watch, stops = Stopwatch(), []
    with load(bench, m) as running_load:
        for _ in range(rounds):
            for instance in m.instances:
                stops.append(instance.stop())
                instance.start()
                m.wait_until_back(instance)
        retried = m.count("upstream_rq_retry")
        ended = running_load.finish()
    return ended, (f"{ended}; {2 * rounds} restarts in {watch.seconds():.0f} s, the longest drain {max(stops):.1f} s, "
                   f"{retried} retried by Envoy")


@pytest.mark.slow
def test_rolling_restarts_cost_no_call(bench, note):
    with mesh(bench) as m:
        ended, course = restart_in_turn(bench, m, bench.numbers["rounds"])
        assert not ended.failed, f"{course}: {ended.errors}"
    note(course)


def test_restarts_without_a_drain_delay_are_left_to_envoy_s_retries(bench, note):
    with mesh(bench, "--drain-delay", "0s") as m:
        ended, course = restart_in_turn(bench, m, 2)
        # Not none: that is what the delay is for.
        assert ended.lost <= ended.count // 1000, f"{course}: {ended.errors}"
    note(course)
