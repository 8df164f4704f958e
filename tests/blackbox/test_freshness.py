"""How old an answer may be, what an outage of the origin does, batches and watches: what issue 3 promises, from the outside.

Every check has an origin (100 ms a lookup) and a plaque of its own. Where a check sleeps, the time that passes is the scenario.
"""

import re
import time
from contextlib import ExitStack

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from support import (
    KURZGESAGT, SCISHOW, SHORT, UNKNOWN, Answer, Clocks, Stopwatch, expect_a_hint_when_to_retry, expect_error, expect_ok, fetch_time,
    made_up_channel, upload_id, wait_until,
)

StatusCode = grpc.StatusCode
NEWEST = "N2FOxjtv5ns"


def expect_stale_hit(answer):
    expect_ok(answer)
    assert answer.response.freshness.stale, "the old answer is not marked stale"
    found = re.fullmatch(r"plaque; hit; ttl=-(\d+)", answer.cache_status or "")
    assert found and int(found.group(1)) > 0, f"the cache-status is {answer.cache_status!r}"


# Stale while revalidate


@pytest.mark.plaque("--fresh-for", "1s")
def test_readers_of_a_stale_answer_get_it_at_once_and_cost_one_lookup(plaque, origin, note):
    first = plaque.ask(KURZGESAGT)
    expect_ok(first)
    time.sleep(2.1)
    origin.control(latency_ms=3000)
    watch = Stopwatch()
    answers = [Answer(call) for call in [plaque.start(KURZGESAGT) for _ in range(200)]]
    took = watch.seconds()
    for answer in answers:
        expect_stale_hit(answer)
        assert fetch_time(answer) == fetch_time(first), "the fetch time"
    assert took < 3, f"the readers waited for the lookup: {took:.1f} s"
    wait_until(lambda: fetch_time(plaque.ask(KURZGESAGT)) > fetch_time(first), "the newer answer is there")
    fresh = plaque.ask(KURZGESAGT)
    assert not fresh.response.freshness.stale, "the newer answer is marked stale"
    assert origin.lookups() == 2, "the lookups"
    note(f"200 readers in {took:.2f} s")


@pytest.mark.plaque("--fresh-for", "1s")
def test_max_age_takes_no_older_answer_although_a_stale_one_is_there(plaque):
    first = plaque.ask(KURZGESAGT)
    time.sleep(1.1)
    answer = plaque.ask(KURZGESAGT, max_age=1)
    assert fetch_time(answer) > fetch_time(first), "the old answer was given"
    assert not answer.response.freshness.stale, "the new answer is marked stale"
    assert answer.cache_status == "plaque; fwd=stale", "the cache-status"


# Clocks


HOUR = 3600


def expect_ages_of(plaque, age, within):
    """The stale answer is so many seconds old, by gRPC and by JSON."""
    answer = plaque.ask(KURZGESAGT, max_age=2 * HOUR)
    expect_stale_hit(answer)
    headers = plaque.ask_json(KURZGESAGT, max_age=2 * HOUR)
    ttls = [int(re.search(r"ttl=(-?\d+)", said).group(1)) for said in (answer.cache_status, headers["cache-status"])]
    ages = [60 - ttl for ttl in ttls] + [int(headers["age"])]
    assert all(age <= seen <= age + within for seen in ages), f"the ages are {ages}, expected {age} and up to {within} more"
    assert int(headers["age"]) == 60 - ttls[1], "the Age beside the ttl"


def test_ages_count_the_time_that_the_machine_was_suspended(bench, origin, tmp_path):
    watch = Stopwatch()
    clocks = Clocks(tmp_path)
    with bench.plaque(origin.url, under=clocks.under) as plaque:
        first = plaque.ask(KURZGESAGT)
        expect_error(plaque.ask(UNKNOWN), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
        again = plaque.ask(KURZGESAGT)
        assert "plaque; hit; ttl=5" in again.cache_status, "the cache-status"
        assert origin.lookups() == 2, "the lookups"

        clocks.set(suspended=HOUR)
        expect_ages_of(plaque, HOUR, within=watch.seconds() + 2)
        newer = plaque.ask(KURZGESAGT)
        assert newer.cache_status == "plaque; fwd=stale", "the cache-status"
        assert fetch_time(newer) > fetch_time(first), "the old answer was given"
        assert not newer.response.freshness.stale, "the new answer is marked stale"
        assert int(plaque.ask_json(KURZGESAGT, max_age=0)["age"]) == 0, "the Age of the new answer"
        # A remembered failure is over, too.
        expect_error(plaque.ask(UNKNOWN), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
        assert origin.lookups(UNKNOWN) == 2, "the lookups of what was unknown"

        # The wall clock makes nothing older or younger.
        clocks.set(suspended=HOUR, wall=-HOUR)
        headers = plaque.ask_json(KURZGESAGT)
        assert 0 <= int(headers["age"]) <= watch.seconds() + 2, f"the Age is {headers['age']}"


def test_what_a_file_has_from_the_future_is_looked_up_and_given_only_if_that_fails(bench, origin, tmp_path):
    clocks, store = Clocks(tmp_path), ("--store", f"file:{tmp_path / 'store'}")
    clocks.set(wall=HOUR)
    with bench.plaque(origin.url, *store, under=clocks.under) as plaque:
        first = plaque.ask(KURZGESAGT)
        plaque.ask(SCISHOW)
        plaque.program.terminate()
        assert plaque.program.exit_code(within=10) == 0, "the exit code"
    clocks.set(wall=0)
    origin.control(mode="status:500", channels=[SCISHOW])
    with bench.plaque(origin.url, *store, under=clocks.under) as plaque:
        answer = plaque.ask(KURZGESAGT)
        assert answer.cache_status == "plaque; fwd=uri-miss", "the cache-status"
        assert fetch_time(answer) < fetch_time(first), "it was not looked up"
        old = plaque.ask(SCISHOW)
        expect_ok(old)
        assert old.response.freshness.stale, "the old answer is not marked stale"
        # By default it counts as 6 days old.
        old = plaque.ask(SCISHOW)
        assert f"plaque; hit; ttl=-{6 * 24 * HOUR - 60}"[:-2] in old.cache_status, "the cache-status"


# Stale if error


@pytest.mark.plaque("--fresh-for", "1s", "--stale-while-revalidate", "0s")
def test_a_404_spell_over_a_known_channel_gives_the_old_answer_until_it_ends(plaque, origin, note):
    first = plaque.ask(KURZGESAGT)
    time.sleep(2.1)
    origin.control(mode="status:404", channels=[KURZGESAGT])
    answer = plaque.ask(KURZGESAGT)
    began = Stopwatch()
    expect_ok(answer)
    assert answer.response.video == first.response.video, "the video"
    assert fetch_time(answer) == fetch_time(first), "the fetch time"
    assert answer.response.freshness.stale, "the old answer is not marked stale"
    assert answer.cache_status == "plaque; fwd=stale; fwd-status=404", "the cache-status"
    for max_age in None, 0:
        expect_stale_hit(plaque.ask(KURZGESAGT, max_age=max_age))
    assert origin.lookups() == 2, "the lookups in the backoff"

    origin.control(mode="ok", channels=[KURZGESAGT])
    wait_until(lambda: not plaque.ask(KURZGESAGT, max_age=0).response.freshness.stale, "recovery")
    took = began.seconds()
    assert 3.9 < took < 7, f"the backoff took {took:.1f} s, expected 5 s and at most a fifth more or less"
    assert origin.lookups() == 3, "the lookups"
    note(f"a backoff of {took:.1f} s")


# One that went well, and then one that fails; where that makes sense, it is repeated.
@pytest.mark.parametrize("mode, lookups", [
    ("status:500", 3), ("status:429", 2), ("hang", 2), ("reset", 3), ("truncate", 3), ("html200", 2)])
@pytest.mark.plaque("--fresh-for", "1s", "--stale-while-revalidate", "0s", "--upstream-timeout", "1s")
def test_a_fault_over_a_known_channel_gives_the_old_answer_marked_stale(plaque, origin, mode, lookups):
    first = plaque.ask(KURZGESAGT)
    time.sleep(2.1)
    origin.control(mode=mode, channels=[KURZGESAGT])
    # The first waits for the lookup, the second meets the backoff.
    for answer in plaque.ask(KURZGESAGT), plaque.ask(KURZGESAGT):
        expect_ok(answer)
        assert fetch_time(answer) == fetch_time(first), "the fetch time"
        assert answer.response.freshness.stale, f"not marked stale; its cache-status is {answer.cache_status!r}"
    assert origin.lookups() == lookups, "the lookups"


@pytest.mark.plaque("--fresh-for", "1s", "--stale-while-revalidate", "0s", "--stale-if-error", "1s")
def test_an_answer_older_than_stale_if_error_is_not_given_and_the_channel_is_gone(plaque, origin):
    expect_ok(plaque.ask(KURZGESAGT))
    time.sleep(1.1)
    origin.control(mode="status:404", channels=[KURZGESAGT])
    expect_error(plaque.ask(KURZGESAGT), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


# Remembered failures


def test_the_pause_after_a_failure_doubles(plaque, origin, note):
    origin.control(mode="status:500")
    first = plaque.ask(KURZGESAGT)
    expect_error(first, StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
    wait_until(lambda: plaque.ask(KURZGESAGT) and origin.lookups() == 4, "the second lookup and its repetition")
    second = plaque.ask(KURZGESAGT)
    assert origin.lookups() == 4, "the lookups"
    pauses = [answer.retry.retry_delay.ToMilliseconds() / 1000 for answer in (first, second)]
    assert 3.9 < pauses[0] <= 6 and 7.5 < pauses[1] <= 12, f"the pauses are {pauses} s, expected 5 and 10, ±20 %"
    note(f"{pauses} s")


@pytest.mark.plaque("--negative-for", "1s")
def test_a_channel_never_seen_is_not_found_for_exactly_negative_for_doubling(plaque, origin):
    watch = Stopwatch()
    for lookups, since_the_first in (1, 0), (2, 1), (3, 3):
        wait_until(lambda: plaque.ask(UNKNOWN, max_age=0) and origin.lookups() == lookups, f"lookup {lookups}")
        took = watch.seconds()
        assert since_the_first <= took < since_the_first + 0.9, f"lookup {lookups} ended after {took:.2f} s"
    expect_error(plaque.ask(UNKNOWN), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


# Outages


@pytest.mark.plaque(synthesize=True)
def test_a_404_means_nothing_while_known_channels_answer_404_too(plaque, origin):
    known, unknown = [made_up_channel(i) for i in range(3)], made_up_channel(3)
    for channel in known:
        expect_ok(plaque.ask(channel))
    origin.control(mode="status:404")
    for channel in known:
        expect_ok(plaque.ask(channel, max_age=0))
    answer = plaque.ask(unknown)
    expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE")
    expect_a_hint_when_to_retry(answer)
    assert answer.cache_status == "plaque; fwd=uri-miss; fwd-status=404", "the cache-status"
    again = plaque.ask(unknown)
    expect_error(again, StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE")
    assert origin.lookups() == 7, "the lookups"


def test_a_404_counts_where_only_unknown_channels_answer_it(plaque):
    expect_ok(plaque.ask(KURZGESAGT))
    for i in range(10):
        expect_error(plaque.ask(made_up_channel(i)), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


def test_one_known_channel_that_goes_missing_is_no_outage(plaque, origin):
    for channel in KURZGESAGT, SCISHOW:
        expect_ok(plaque.ask(channel))
    origin.control(mode="status:404", channels=[KURZGESAGT])
    expect_ok(plaque.ask(KURZGESAGT, max_age=0))
    expect_error(plaque.ask(UNKNOWN), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


def test_a_start_in_a_spell_of_404_is_told_from_unknown_channels_by_the_canary(bench):
    flags = "--canary", KURZGESAGT
    with bench.plaque_and_origin(*flags, synthesize=True) as (plaque, origin):
        origin.control(mode="status:404")
        calls = [plaque.start(made_up_channel(i)) for i in range(100)]
        for call in calls:
            answer = Answer(call)
            expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE")
            expect_a_hint_when_to_retry(answer)
        assert origin.lookups(KURZGESAGT) == 1, "the lookups of the canary"
        assert plaque.metric("plaque_upstream_outage") == 1, "the outage"
    with bench.plaque_and_origin(*flags) as (plaque, origin):
        for _ in range(3):
            expect_error(plaque.ask(UNKNOWN), StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
        assert origin.lookups(KURZGESAGT) == 1, "the lookups of the canary"


# The limit on waiters


@pytest.mark.plaque("--max-waiters", 10)
def test_callers_over_max_waiters_are_told_so_at_once_and_the_others_feel_nothing(plaque, origin):
    origin.control(latency_ms=3000)
    calls = [plaque.start(KURZGESAGT) for _ in range(30)]
    wait_until(lambda: sum(call.done() for call in calls) >= 20, "20 callers are turned away", seconds=2)
    refused = [Answer(call) for call in calls if call.done()]
    assert len(refused) == 20, "the callers turned away before the lookup ended"
    for answer in refused:
        expect_error(answer, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        expect_a_hint_when_to_retry(answer)
    answers = [Answer(call) for call in calls]
    assert sum(answer.code is StatusCode.OK for answer in answers) == 10, "the callers answered"
    # The places are free again.
    expect_ok(plaque.ask(SCISHOW))
    assert origin.lookups(KURZGESAGT) == 1, "the lookups"


# Batches


@pytest.mark.plaque(synthesize=True)
def test_a_batch_keeps_the_order_and_looks_a_repeated_channel_up_once(plaque, origin):
    channels = [made_up_channel(i % 40) for i in range(100)]
    answer = plaque.batch(channels)
    expect_ok(answer)
    results = answer.response.results
    assert [result.channel_id for result in results] == channels, "the channels"
    assert [result.found.video.channel_id for result in results] == channels, "the videos' channels"
    assert origin.lookups() == 40, "the lookups"
    assert origin.lookups(channels[0]) == 1, "the lookups of a repeated channel"


def test_a_batch_answers_each_channel_for_itself(plaque, origin):
    origin.control(mode="status:500", channels=[SCISHOW])
    answer = plaque.batch([UNKNOWN, KURZGESAGT, "@kurzgesagt", "", SCISHOW, KURZGESAGT])
    expect_ok(answer)
    assert "plaque" in answer.cache_status, "the cache-status"
    results = answer.response.results
    assert [(result.failure.code, result.failure.reason) for result in results] == [
        (StatusCode.NOT_FOUND.value[0], "CHANNEL_NOT_FOUND"), (0, ""),
        (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_CHANNEL_ID"),
        (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_CHANNEL_ID"),
        (StatusCode.UNAVAILABLE.value[0], "UPSTREAM_ERROR"), (0, "")], "the failures"
    for i in 1, 5:
        assert results[i].found.video.video_id == NEWEST, "the video"
    waits = [result.failure.HasField("retry_after") for result in results]
    assert waits == [False, False, False, False, True, False], "where asking again makes sense"
    assert origin.lookups() == 4, "the lookups"


@pytest.mark.plaque(synthesize=True)
def test_a_batch_takes_kind_and_max_age_for_every_channel(plaque, origin):
    channels = [made_up_channel(i) for i in range(10)]
    for _ in range(2):
        answer = plaque.batch(channels, kind=SHORT, max_age=0)
        assert {result.found.video.kind for result in answer.response.results} == {SHORT}, "the kinds"
    assert origin.lookups() == 20, "the lookups"


@pytest.mark.plaque(synthesize=True)
def test_a_channel_that_hangs_costs_a_batch_nothing_but_its_own_answer(plaque, origin, note):
    channels = [made_up_channel(i) for i in range(100)]
    origin.control(mode="hang", channels=[channels[42]])
    watch = Stopwatch()
    answer = plaque.batch(channels, timeout=3)
    took = watch.seconds()
    expect_ok(answer)
    failures = {i: (result.failure.code, result.failure.reason)
                for i, result in enumerate(answer.response.results) if result.HasField("failure")}
    assert failures == {42: (StatusCode.DEADLINE_EXCEEDED.value[0], "DEADLINE")}, "the failures"
    assert "hit=0 fwd=100" in answer.cache_status, "the cache-status"
    assert 2.8 < took < 3, f"it took {took:.2f} s"
    rest = channels[:42] + channels[43:]
    watch = Stopwatch()
    expect_ok(plaque.batch(rest, timeout=3))
    assert watch.seconds() < 1, f"what is known took {watch.seconds():.2f} s"
    note(f"{took:.2f} s of 3")


@pytest.mark.plaque("--max-waiters", 1)
def test_repeats_in_a_batch_wait_as_one_caller(plaque, origin):
    answer = plaque.batch([KURZGESAGT] * 100)
    expect_ok(answer)
    assert {result.found.video.video_id for result in answer.response.results} == {NEWEST}, "the videos"
    assert len(answer.response.results) == 100, "the results"
    assert origin.lookups() == 1, "the lookups"


@pytest.mark.plaque(synthesize=True)
def test_a_cold_batch_looks_all_its_channels_up_at_once(plaque, origin, note):
    origin.control(latency_ms=1000)
    watch = Stopwatch()
    expect_ok(plaque.batch([made_up_channel(i) for i in range(30)]))
    took = watch.seconds()
    assert origin.stats()["max_concurrent"] == 30, "the lookups at one moment"
    note(f"{took:.1f} s for 30 lookups of 1 s")


def expect_out_of_bounds(answer, reason):
    expect_error(answer, StatusCode.INVALID_ARGUMENT, reason)
    fields = [violation.field for violation in answer.bad_request.field_violations]
    assert fields == ["channel_ids"], "the bad fields"


@pytest.mark.plaque(synthesize=True)
def test_a_batch_or_watch_of_no_channel_or_of_101_is_refused(plaque, origin):
    too_many = [made_up_channel(i) for i in range(101)]
    for channels, reason in ([], "NO_CHANNELS"), (too_many, "TOO_MANY_CHANNELS"):
        expect_out_of_bounds(plaque.batch(channels), reason)
        expect_out_of_bounds(Answer(plaque.start_watch(channels)), reason)
    refused = Answer(plaque.start_watch([KURZGESAGT, "@kurzgesagt"]))
    expect_error(refused, StatusCode.INVALID_ARGUMENT, "INVALID_CHANNEL_ID")
    assert origin.lookups() == 0, "the lookups"


# Watches

EVERY_SECOND = "--watch-every", "1s"
# So that only what is looked up for somebody else can bring news.
FED_BY_OTHERS = "--watch-every", "10m"


@pytest.mark.plaque(*FED_BY_OTHERS)
def test_a_watch_begins_with_each_channels_newest_upload(plaque, origin):
    with plaque.watch([KURZGESAGT, SCISHOW, KURZGESAGT]) as watch:
        watch.wait_for(2)
        assert all(event.initial for event in watch.events), "an event is not marked initial"
        expected = {(channel, plaque.ask(channel).response.video.video_id) for channel in (KURZGESAGT, SCISHOW)}
        seen = {(event.video.channel_id, event.video.video_id) for event in watch.events}
        assert seen == expected, "the uploads"
    with plaque.watch([KURZGESAGT], kind=SHORT) as watch:
        watch.wait_for(1)
        assert watch.events[0].video.kind == SHORT, "the kind"
    assert origin.lookups() == 2, "the lookups"


@pytest.mark.plaque(*EVERY_SECOND)
def test_a_new_upload_arrives_once_and_not_again_with_another_title(plaque, origin):
    with plaque.watch([KURZGESAGT]) as watch:
        watch.wait_for(1)
        origin.publish(KURZGESAGT, upload_id(1), "First title")
        watch.wait_for(2)
        assert (watch.events[1].video.video_id, watch.events[1].initial) == (upload_id(1), False), "the new upload"
        origin.publish(KURZGESAGT, upload_id(1), "Second title")
        wait_until(lambda: plaque.ask(KURZGESAGT).response.video.title == "Second title", "the edit is known")
        # Whatever the edit would have brought comes before this.
        origin.publish(KURZGESAGT, upload_id(2))
        watch.wait_for(3)
        assert watch.uploads() == [NEWEST, upload_id(1), upload_id(2)], "the uploads"


@pytest.mark.plaque(*FED_BY_OTHERS, synthesize=True)
def test_a_watch_with_published_after_catches_up_from_the_oldest(plaque, origin):
    channel = made_up_channel(1)
    with plaque.watch([channel], published_after=Timestamp()) as watch:
        watch.wait_for(15)
        every = [event.video for event in watch.events]
    times = [video.publish_time.ToNanoseconds() for video in every]
    assert times == sorted(times), "the times"
    with plaque.watch([channel], published_after=every[10].publish_time) as watch:
        watch.wait_for(4)
        assert watch.uploads() == [video.video_id for video in every[11:]], "the uploads since then"
        assert all(event.initial for event in watch.events), "an event is not marked initial"
        origin.publish(channel, upload_id(1))
        expect_ok(plaque.ask(channel, max_age=0))
        watch.wait_for(5)
        assert watch.uploads()[-1] == upload_id(1), "the new upload"
        assert not watch.events[-1].initial, "the new upload is marked initial"
    with plaque.watch([channel], published_after=watch.events[-1].video.publish_time) as watch:
        origin.publish(channel, upload_id(2))
        # A second later: the publication times have whole seconds.
        wait_until(lambda: plaque.ask(channel, max_age=0).response.video.video_id == upload_id(2), "it is known")
        time.sleep(1)
        origin.publish(channel, upload_id(3))
        expect_ok(plaque.ask(channel, max_age=0))
        wait_until(lambda: upload_id(3) in watch.uploads(), "the newest upload arrives")
        assert upload_id(1) not in watch.uploads(), "what was published before is sent again"


@pytest.mark.plaque(*FED_BY_OTHERS, synthesize=True)
def test_an_upload_is_told_once_and_only_the_newest_15_are_kept(plaque, origin):
    channel = made_up_channel(1)
    for i in range(70):
        origin.publish(channel, upload_id(i))
    with plaque.watch([channel]) as watch:
        watch.wait_for(1)
        # A second later than the oldest of the 15: the publication times have whole seconds, and what is new is newer than that.
        time.sleep(1.1)
        # More than any feed has, each time with one more on top.
        for i in 70, 71:
            origin.publish(channel, upload_id(i))
            expect_ok(plaque.ask(channel, max_age=0))
        wait_until(lambda: upload_id(71) in watch.uploads(), "the newest upload arrives")
        assert watch.uploads() == [upload_id(i) for i in (69, 70, 71)], "the uploads"
    with plaque.watch([channel], published_after=Timestamp()) as watch:
        wait_until(lambda: upload_id(71) in watch.uploads(), "the catch-up ends")
        assert len(watch.uploads()) == 15, "the uploads kept"


@pytest.mark.plaque(*EVERY_SECOND)
def test_trouble_is_told_once_as_what_it_is_and_the_watch_goes_on(plaque, origin):
    with plaque.watch([KURZGESAGT]) as watch:
        watch.wait_for(1)
        origin.control(mode="status:404", channels=[KURZGESAGT])
        watch.wait_for(2)
        assert watch.problems()[0].channel_id == KURZGESAGT, "the channel in trouble"
        failure = watch.problems()[0].failure
        # CHANNEL_NOT_FOUND is for channels never seen.
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE.value[0], "UPSTREAM_ERROR"), "the failure"
        wait = failure.retry_after.ToMilliseconds() / 1000
        assert 3.5 < wait <= 6, f"it says to ask again after {wait} s"
        before = origin.lookups()
        wait_until(lambda: origin.lookups() > before, "the trouble goes on")
        origin.publish(KURZGESAGT, upload_id(1))
        origin.control(mode="ok", channels=[KURZGESAGT])
        # The second failure's pause is up to 12 s.
        wait_until(lambda: upload_id(1) in watch.uploads(), "the upload arrives after the trouble", seconds=15)
        assert watch.uploads() == [NEWEST, upload_id(1)], "the uploads"
        assert len(watch.problems()) == 1, "the number of problems"


@pytest.mark.plaque(*EVERY_SECOND, "--negative-for", "1s")
def test_a_watch_of_a_channel_not_found_goes_on_until_it_is(plaque, origin):
    origin.control(mode="status:404", channels=[KURZGESAGT])
    with plaque.watch([KURZGESAGT]) as watch:
        watch.wait_for(1)
        assert watch.problems()[0].failure.reason == "CHANNEL_NOT_FOUND", "the failure"
        origin.control(mode="ok", channels=[KURZGESAGT])
        watch.wait_for(3)
        assert watch.history() == ["CHANNEL_NOT_FOUND", "recovered", NEWEST], "what it was sent"
        assert watch.events[2].initial, "the upload is not marked initial"


@pytest.mark.plaque(*EVERY_SECOND)
def test_fifty_watchers_cost_one_poll_and_none_when_the_last_has_left(plaque, origin, note):
    with ExitStack() as watching:
        for _ in range(50):
            watching.enter_context(plaque.watch([KURZGESAGT])).wait_for(1)
        before, watch = origin.lookups(), Stopwatch()
        wait_until(lambda: origin.lookups() >= before + 4, "four polls")
        took = watch.seconds()
        # Three pauses lie between four polls, each of a second and at most a tenth less.
        assert took > 2.7, f"four polls within {took:.1f} s"
    # What is under way may end.
    time.sleep(0.5)
    after = origin.lookups()
    time.sleep(2.5)
    assert origin.lookups() - after == 0, "the lookups after the last watcher has left"
    note(f"4 polls in {took:.1f} s")


@pytest.mark.plaque(*FED_BY_OTHERS)
def test_a_unary_lookup_feeds_the_watchers(plaque, origin):
    with plaque.watch([KURZGESAGT]) as one, plaque.watch([SCISHOW, KURZGESAGT]) as other:
        one.wait_for(1)
        other.wait_for(2)
        origin.publish(KURZGESAGT, upload_id(1))
        expect_ok(plaque.ask(KURZGESAGT, max_age=0))
        one.wait_for(2)
        other.wait_for(3)
        assert (one.uploads()[-1], other.uploads()[-1]) == (upload_id(1), upload_id(1)), "the uploads"
        assert origin.lookups(KURZGESAGT) == 2, "the lookups"


@pytest.mark.plaque(*FED_BY_OTHERS)
def test_a_slow_reader_slows_nobody_and_gets_what_it_missed_in_order(plaque, origin, note):
    origin.control(latency_ms=0)
    # No more is sent ahead of the reader than this.
    window = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16 << 10)
    with plaque.connect(*window) as connection, plaque.watch([KURZGESAGT]) as fast:
        fast.wait_for(1)
        slow = plaque.start_watch([KURZGESAGT], over=connection)
        assert next(slow).video.video_id == NEWEST, "the first upload"
        # 45 events of 8 kB.
        published = [upload_id(i) for i in range(45)]
        for i, upload in enumerate(published):
            origin.publish(KURZGESAGT, upload, f"{i} " + "x" * 8000)
            expect_ok(plaque.ask(KURZGESAGT, max_age=0))
            fast.wait_for(i + 2)
        missed = []
        while not missed or missed[-1] != published[-1]:
            event = next(slow)
            # It says that some are gone, too.
            missed += [event.video.video_id] if event.WhichOneof("event") == "video" else []
        slow.cancel()
    assert fast.uploads() == [NEWEST, *published], "the uploads of the fast reader"
    assert missed == sorted(set(missed)), "the order"
    assert set(published[-15:]) <= set(missed), f"it lacks some that are still in the feed: {missed}"
    # Only the newest 15 are kept.
    assert len(missed) < len(published), "the reader missed nothing: it was not slow, or more than 15 are kept"
    note(f"the slow reader got {len(missed)} of {len(published)}")


@pytest.mark.plaque(*EVERY_SECOND)
def test_sigterm_ends_watches_at_once(plaque, note):
    with plaque.watch([KURZGESAGT, SCISHOW]) as watch:
        watch.wait_for(2)
        stopping = Stopwatch()
        plaque.program.terminate()
        wait_until(watch.call.done, "the watch ends", seconds=2)
        expect_error(Answer(watch.call), StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert plaque.program.exit_code(within=3) == 0, "the exit code"
        took = stopping.seconds()
    note(f"{took:.2f} s")
