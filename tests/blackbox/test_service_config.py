"""A gRPC client with deploy/service-config.json and no proxy: what it retries, waits for and keeps off.

Each check also runs without what it shows, and must then see the difference.
"""

import json
import time
from contextlib import ExitStack

import grpc

from support import OPTIONS, REPOSITORY, UNKNOWN, Answer, Stopwatch, expect_error, expect_ok, free_port, made_up_channel, wait_until

StatusCode = grpc.StatusCode

CONFIG = (REPOSITORY / "deploy" / "service-config.json").read_text()
CHANNEL, UPLOAD = made_up_channel(1), "new00000001"


def without(part):
    return json.dumps({name: value for name, value in json.loads(CONFIG).items() if name != part})


def configured(plaque, config):
    return plaque.connect(("grpc.enable_retries", 1), ("grpc.service_config", config))


def test_an_overload_is_waited_out(bench, note):
    def second_call(config):
        """What a second call gets where only one may wait, and when."""
        with bench.plaque_and_origin("--max-waiters", "1", synthesize=True) as (plaque, origin):
            origin.control(latency_ms=700)
            with configured(plaque, config) as channel:
                first = plaque.start(made_up_channel(1))
                wait_until(lambda: origin.lookups() == 1, "the first call waits")
                watch = Stopwatch()
                answer, took = Answer(plaque.start(made_up_channel(2), over=channel)), watch.seconds()
                expect_ok(Answer(first))
                return answer, took

    refused, took = second_call("{}")
    expect_error(refused, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert took < 0.6, f"a client without the config was told after {took:.2f} s"
    pushback = int(refused.trailers["grpc-retry-pushback-ms"]) / 1000
    answer, took = second_call(CONFIG)
    expect_ok(answer)
    # The config's own first pause is 0.1 s.
    assert took > pushback, f"it was retried after {took:.2f} s, and the pushback was {pushback} s"
    note(f"answered after {took:.2f} s with a pushback of {pushback} s; without the config: {refused.code.name}")


def test_what_is_not_found_is_asked_for_once(bench):
    def cache_status(config):
        with bench.plaque_and_origin() as (plaque, _), configured(plaque, config) as channel:
            answer = plaque.ask(UNKNOWN, over=channel)
            expect_error(answer, StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
            return answer.cache_status

    # The first answer says that it was looked up; a second one would come from memory.
    assert cache_status(CONFIG) == "plaque; fwd=uri-miss; fwd-status=404", "the cache-status"
    retried = cache_status(CONFIG.replace('"RESOURCE_EXHAUSTED"', '"NOT_FOUND"'))
    assert "plaque; hit" in retried, "the cache-status of a client that does retry"


def test_a_plaque_that_restarts_is_waited_for(bench):
    def restart_under(config):
        address = f"127.0.0.1:{free_port()}"
        with bench.origin(synthesize=True) as origin, ExitStack() as clients:
            with bench.plaque(origin.url, "--listen", address) as plaque:
                channel = clients.enter_context(configured(plaque, config))
                expect_ok(plaque.ask(made_up_channel(1), over=channel))
            call = plaque.start(made_up_channel(1), over=channel)
            # Not a wait for a state: this is how long there is no plaque.
            time.sleep(1)
            with bench.plaque(origin.url, "--listen", address):
                return Answer(call)

    assert restart_under("{}").code == StatusCode.UNAVAILABLE, "the code without the config"
    expect_ok(restart_under(CONFIG))


class Pair:
    """Two plaques and a client of both. The first one's channel has an upload that the other's has not."""

    def __init__(self, bench, programs, config, *flags):
        self.origins = [programs.enter_context(bench.origin(synthesize=True)) for _ in range(2)]
        self.origins[0].publish(CHANNEL, UPLOAD)
        self.first, self.second = [programs.enter_context(bench.plaque(origin.url, *flags)) for origin in self.origins]
        # Without the authority the client sends its list of addresses as one, escaped, which h2 takes for malformed.
        options = ("grpc.service_config", config), ("grpc.default_authority", "plaque")
        target = f"ipv4:{self.first.address},{self.second.address}"
        self.channel = programs.enter_context(grpc.insecure_channel(target, [*OPTIONS, *options]))
        wait_until(lambda: {self.first_answers(), self.first_answers()} == {True, False}, "both get calls")

    def first_answers(self):
        answer = self.first.ask(CHANNEL, over=self.channel)
        expect_ok(answer)
        return answer.response.video.video_id == UPLOAD


def test_a_call_to_a_plaque_that_dies_is_made_again_at_the_other(bench, note):
    def outcome(config):
        with ExitStack() as programs:
            pair = Pair(bench, programs, config)
            pair.origins[0].control(mode="hang")
            # One of each two goes to the first.
            calls = [pair.first.start(made_up_channel(n), over=pair.channel) for n in range(2, 82)]
            # With the one in which the client watches its health.
            wait_until(lambda: pair.first.metric("plaque_calls") >= 41, "the first has its calls")
            pair.first.program.kill()
            return [Answer(call).code.name for call in calls]

    failed = outcome(without("methodConfig")).count("UNAVAILABLE")
    assert failed > 0, "without retries no call failed either: this check shows nothing"
    assert set(outcome(CONFIG)) == {"OK"}, "the outcomes"
    note(f"80 of 80 answered; without retries {80 - failed}")


def test_a_draining_plaque_gets_no_calls(bench, note):
    def calls_in_drain(config):
        """How many of 100 calls went to a plaque that drains."""
        with ExitStack() as programs:
            pair = Pair(bench, programs, config, "--drain-delay", "3s")
            pair.first.program.terminate()
            # Health tells at once; this is for the news to arrive.
            time.sleep(0.3)
            count = sum(pair.first_answers() for _ in range(100))
            assert pair.first.program.process.poll() is None, "the drain is over"
            # Until it has ended, and after, every call succeeds.
            wait_until(lambda: not pair.first_answers() and pair.first.program.process.poll() is not None, "the drain ends")
            assert not pair.first_answers(), "a plaque that has ended answers"
            return count

    sent = calls_in_drain(without("healthCheckConfig"))
    assert sent > 0, "without healthCheckConfig there were no calls in the drain either: this check shows nothing"
    assert calls_in_drain(CONFIG) == 0, "the calls in the drain"
    note(f"0 of 100 calls; without healthCheckConfig {sent}")
