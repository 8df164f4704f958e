"""plaque with more than one source: a spell of 404s with a key, with a mirror, with both down; what a key costs, and keys that do not work;
channels by name."""

import base64
import itertools
import json
import time
import urllib.error
import urllib.request

import grpc
import pytest

from store_support import with_store
from support import (
    KURZGESAGT, SCISHOW, Answer, expect_a_hint_when_to_retry, expect_error, expect_ok, made_up_channel, messages, running_origin, services,
    wait_until)

KEY = "test-key"
FEEDS_FAIL = {"mode": "status:404"}


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return path


@pytest.fixture
def sources(bench, origin, key_file):
    """Starts a plaque with a key, whose API and pages are the origin's."""
    root = origin.url.removesuffix("/feeds/videos.xml")

    def start(*flags):
        return bench.plaque(
            origin.url, "--youtube-api", f"{root}/youtube/v3", "--youtube-api-key-file", key_file, "--youtube-pages", root,
            "--http-listen", "127.0.0.1:0", *flags)

    return start


def units(origin):
    return origin.stats()["api"]["units"]


def source(answer):
    return answer.response.freshness.source


def test_in_a_spell_the_api_answers_for_a_channel_never_seen(sources, origin):
    with sources() as plaque:
        origin.control(**FEEDS_FAIL)
        answer = plaque.ask(KURZGESAGT)
        expect_ok(answer)
        assert source(answer) == 3, answer.response
        assert "detail=data-api" in answer.cache_status, answer.cache_status
        spent = units(origin)
        assert 1 <= spent <= 3, spent
        # It is cached like any answer.
        assert "hit" in plaque.ask(KURZGESAGT).cache_status
        assert units(origin) == spent == plaque.metric("plaque_youtube_api_units_total")
        # The feed comes back, and counts again.
        origin.control(mode="ok")
        wait_until(lambda: source(plaque.ask(KURZGESAGT, max_age=0)) == 1, "the feed answers again")


def test_200_made_up_channels_in_a_spell_cost_10_units_at_most(sources, origin):
    with sources() as plaque:
        origin.control(**FEEDS_FAIL)
        asked = [plaque.start(made_up_channel(number)) for number in range(200)]
        for call in asked:
            expect_error(Answer(call), grpc.StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
        assert units(origin) <= 10, units(origin)


def test_a_watch_gets_each_upload_once_across_the_switch(sources, origin):
    with sources("--watch-every", "300ms") as plaque:
        with plaque.watch([KURZGESAGT]) as watch:
            watch.wait_for(1)
            origin.control(**FEEDS_FAIL)
            origin.publish(KURZGESAGT, "newinspell1", "A new upload in a spell")
            watch.wait_for_upload("newinspell1")
            origin.control(mode="ok")
            origin.publish(KURZGESAGT, "newafterit1", "A new upload after it")
            watch.wait_for_upload("newafterit1")
            assert watch.uploads()[1:] == ["newinspell1", "newafterit1"], watch.history()
            assert not watch.problems(), watch.history()


def test_an_answer_does_not_go_back_after_a_spell_while_the_feed_lags(bench, origin, key_file, tmp_path):
    api = origin.url.removesuffix("/feeds/videos.xml") + "/youtube/v3"
    with running_origin() as feeds:
        flags = "--youtube-api", api, "--youtube-api-key-file", key_file, "--store", f"file:{tmp_path / 'store'}"

        def newest(plaque):
            answer = plaque.ask(KURZGESAGT, max_age=0)
            expect_ok(answer)
            return answer.response.video.video_id

        with bench.plaque(feeds.url, *flags) as plaque:
            assert newest(plaque) != "newinspell1"
            feeds.control(**FEEDS_FAIL)
            origin.publish(KURZGESAGT, "newinspell1", "A new upload in a spell")
            assert newest(plaque) == "newinspell1"
            plaque.program.terminate()
            assert plaque.program.exit_code(within=10) == 0
        # It lacks the upload.
        feeds.control(mode="ok")
        with bench.plaque(feeds.url, *flags) as plaque, plaque.watch([KURZGESAGT]) as watch:
            seen, before = set(), feeds.lookups(KURZGESAGT)

            def ask():
                asked = feeds.lookups(KURZGESAGT)
                seen.add(newest(plaque))
                return asked >= before + 3

            wait_until(ask, "three lookups and an answer after them", 40)
            assert seen == {"newinspell1"}
            assert watch.history() == ["newinspell1"], watch.history()


@pytest.mark.parametrize("mode", ["quotaExceeded", "keyInvalid", "accessNotConfigured", "status:503", "hang"])
def test_a_key_that_does_not_work_changes_nothing_but_that(sources, origin, mode):
    with sources("--upstream-timeout", "1s") as plaque:
        expect_ok(plaque.ask(SCISHOW))
        origin.control(**FEEDS_FAIL, api_mode=mode)
        expect_ok(plaque.ask(SCISHOW, max_age=0))
        answer = plaque.ask(KURZGESAGT)
        assert answer.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE), answer
        before, began = units(origin), time.monotonic()
        for number in range(20):
            plaque.ask(made_up_channel(number))
        if mode in ("quotaExceeded", "keyInvalid", "accessNotConfigured"):
            assert units(origin) <= before, "it is asked again although it refuses"
            assert time.monotonic() - began < 10, "nobody waits for a request that is not sent"
        log = plaque.program.err.read_text()
        if mode == "quotaExceeded":
            assert plaque.metric("plaque_youtube_api_units_left") == 0
            assert "retry_at=" in log, log
        assert KEY not in log
        assert log.count("YouTube Data API") <= 2, log
        # The feed works as before.
        origin.control(mode="ok")
        expect_ok(plaque.ask(SCISHOW, max_age=0))


def test_a_wrong_address_of_the_api_is_a_failure_with_one_warning(bench, origin, key_file):
    root = origin.url.removesuffix("/feeds/videos.xml")
    with bench.plaque(origin.url, "--youtube-api", f"{root}/youtube/v4", "--youtube-api-key-file", key_file) as plaque:
        origin.control(**FEEDS_FAIL)
        for number in range(5):
            plaque.ask(made_up_channel(number))
        host = root.removeprefix("http://")
        assert plaque.metric(f'plaque_fallback_failing{{source="data-api",position="1",host="{host}"}}') == 1
        log = plaque.program.err.read_text()
        assert log.count("--youtube-api") == log.count("WARN there is no YouTube Data API") == 1, log


def test_an_answer_that_is_no_list_does_not_mean_that_a_channel_does_not_exist(sources, origin):
    with sources("--canary", SCISHOW) as plaque:
        origin.control(**FEEDS_FAIL, api_mode="empty")
        expect_error(plaque.ask(KURZGESAGT), grpc.StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE")
        origin.control(api_mode="ok")
        wait_until(lambda: plaque.ask(KURZGESAGT, max_age=0).code is grpc.StatusCode.OK, "the API answers")


def test_a_key_that_is_replaced_is_used(sources, origin, key_file):
    key_file.write_text("not-the-key")
    with sources() as plaque:
        origin.control(**FEEDS_FAIL)
        assert plaque.ask(KURZGESAGT).code is not grpc.StatusCode.OK
        key_file.write_text(KEY)
        # Not after the backoff of the feed.
        expect_ok(plaque.ask(KURZGESAGT))


def test_a_key_of_another_project_has_units_when_those_of_the_last_are_used_up(sources, origin, key_file):
    with sources() as plaque:
        origin.control(**FEEDS_FAIL, api_mode="quotaExceeded")
        assert plaque.ask(KURZGESAGT).code is not grpc.StatusCode.OK
        assert plaque.metric("plaque_youtube_api_units_left") == 0
        origin.control(api_mode="ok")
        assert plaque.ask(made_up_channel(1)).code is not grpc.StatusCode.OK, "the key is the same"
        origin.control(api_key="another-key")
        key_file.write_text("another-key")
        assert plaque.metric("plaque_youtube_api_units_left") == 10_000
        expect_ok(plaque.ask(KURZGESAGT))
        assert plaque.metric("plaque_youtube_api_units_left") > 9900


def test_a_caller_of_five_seconds_is_answered_although_the_feed_and_a_mirror_hang(sources, origin):
    with running_origin() as mirror, sources("--fallback-upstream", mirror.url) as plaque:
        origin.control(mode="hang")
        mirror.control(mode="hang")
        answer = plaque.ask(KURZGESAGT, timeout=5)
        expect_ok(answer)
        assert source(answer) == 3, answer


@pytest.mark.plaque(synthesize=True)
def test_a_feed_that_hangs_is_skipped_until_it_answers(sources, origin):
    with sources("--upstream-timeout", "1s") as plaque:
        origin.control(mode="hang")
        asked = [plaque.start(made_up_channel(number)) for number in range(3)]
        assert [source(Answer(call)) for call in asked] == [3, 3, 3]
        assert plaque.metric("plaque_upstream_hanging") == 1
        sent = origin.lookups()
        # As many as would take longer than the pause before the first probe, if each waited for the feed.
        answers = [plaque.ask(made_up_channel(number)) for number in range(3, 13)]
        assert [source(answer) for answer in answers] == [3] * 10
        assert origin.lookups() - sent <= 1, "the feed is asked although it hangs"
        origin.control(mode="ok")
        wait_until(lambda: source(plaque.ask(KURZGESAGT, max_age=0)) == 1, "the feed answers again", 20)
        assert plaque.metric("plaque_upstream_hanging") == 0
        assert plaque.program.err.read_text().count("a source does not answer") == 1


@pytest.mark.plaque(synthesize=True)
def test_beside_an_api_that_hangs_the_last_success_is_served_in_time(sources, origin):
    known = [made_up_channel(number) for number in range(4)]
    is_open = f'plaque_fallback_breaker_open{{source="data-api",position="1",host="127.0.0.1:{origin.port}"}}'
    with sources("--upstream-timeout", "20s", "--min-refetch", "100ms") as plaque:
        for channel in known:
            expect_ok(plaque.ask(channel))
        origin.control(**FEEDS_FAIL, api_mode="hang")
        assert plaque.metric(is_open) == 0
        asked = [plaque.start(channel, max_age=0, timeout=5) for channel in known]
        for answer in map(Answer, asked):
            expect_ok(answer)
            assert source(answer) == 1, answer.response
        # The lookups have gone on, up to their own limit.
        wait_until(lambda: plaque.metric(is_open) == 1, "the API is skipped", 30)
        # One of them may be a probe, which takes its time.
        asked = [plaque.start(made_up_channel(number), timeout=5) for number in range(10, 20)]
        codes = [Answer(call).code for call in asked]
        assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) <= 1, codes
        origin.control(api_mode="ok")
        answered = lambda: plaque.ask(made_up_channel(30)).code is grpc.StatusCode.OK  # noqa: E731
        wait_until(answered, "the API is asked again", 60)
        assert plaque.metric(is_open) == 0


@pytest.mark.plaque(synthesize=True)
def test_whatever_hangs_the_last_success_is_served_in_time(sources, origin):
    with running_origin(synthesize=True) as mirror, sources(
            "--fallback-upstream", mirror.url, "--min-refetch", "100ms") as plaque:
        known = [made_up_channel(number) for number in range(20)]
        for channel in known:
            expect_ok(plaque.ask(channel))
        for of in (origin, mirror):
            of.control(mode="hang", api_mode="hang")

        def ask(channel, timeout):
            began = time.monotonic()
            answer = plaque.ask(channel, max_age=0, timeout=timeout)
            expect_ok(answer)
            assert source(answer) == 1, answer.response
            assert time.monotonic() - began < 5.5
            return mirror.lookups()

        for channel, timeout in zip(known, (1, 3, 5, 20)):
            ask(channel, timeout)
        # Nobody waits for the end of a probe, which takes up to 15 s.
        asked, channels = mirror.lookups(), itertools.cycle(known)
        wait_until(lambda: ask(next(channels), 20) > asked, "a probe of the mirror", 60)


def test_a_mirror_answers_and_its_place_for_the_channel_is_filled_in(bench, origin):
    with running_origin() as mirror, bench.plaque(
            origin.url, "--fallback-upstream", f"{mirror.url}?from=mirror&unused={{channel_id}}", "--fallback-upstream",
            mirror.url) as plaque:
        expect_ok(plaque.ask(SCISHOW))
        origin.control(mode="status:503")
        answer = plaque.ask(KURZGESAGT)
        expect_ok(answer)
        assert source(answer) == 2 and "detail=mirror" in answer.cache_status, answer.cache_status
        mirror.control(mode="status:503")
        expect_error(plaque.ask(made_up_channel(1)), grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
        expect_ok(plaque.ask(KURZGESAGT, max_age=0))


NAMES = ["@kurzgesagt", "kurzgesagt", "@KURZGESAGT", "youtube.com/@kurzgesagt", "https://www.youtube.com/@kurzgesagt/videos",
         f"https://www.youtube.com/channel/{KURZGESAGT}", f"UU{KURZGESAGT[2:]}", "https://m.youtube.com/user/kurzgesagt", KURZGESAGT]


@pytest.mark.parametrize("with_key", [True, False])
def test_every_form_of_a_name_is_resolved_and_kept(bench, origin, sources, with_key):
    root = origin.url.removesuffix("/feeds/videos.xml")
    plaque = sources() if with_key else bench.plaque(origin.url, "--youtube-pages", root, "--http-listen", "127.0.0.1:0")
    with plaque as plaque:
        origin.control(handle={"name": "@kurzgesagt", "channel": KURZGESAGT})
        stub = services.LatestVideoStub(plaque.channel)
        for _ in range(2):
            for name in NAMES:
                resolved = stub.ResolveChannel(messages.ResolveChannelRequest(query=name), timeout=10)
                assert resolved.channel_id == KURZGESAGT, name
            stats = origin.stats()
            asked = stats["pages"] + stats["api"]["units"] + stats["total"]
        assert asked <= 6, "each name once"
        url = f"{plaque.http}/v1/channels/@kurzgesagt/latest-video"
        assert json.load(urllib.request.urlopen(url, timeout=10))["video"]["channelId"] == KURZGESAGT
        for name, code, reason in [
                ("@nobody_has_this", grpc.StatusCode.NOT_FOUND, "HANDLE_NOT_FOUND"),
                ("https://vimeo.com/1", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_QUERY")]:
            call = stub.ResolveChannel.future(messages.ResolveChannelRequest(query=name), timeout=10)
            expect_error(Answer(call), code, reason)
        done = bench.run_plaque("get", "--server", f"http://{plaque.address}", "@kurzgesagt", "@nobody_has_this", KURZGESAGT)
        assert done.returncode == 3 and done.stdout.count(KURZGESAGT) == 2, done
        assert "@nobody_has_this" in done.stderr and "HANDLE_NOT_FOUND" in done.stderr, done


def test_uploads_are_listed_a_page_at_a_time(sources, origin):
    with sources() as plaque:
        seen, token = [], ""
        for _ in range(20):
            url = f"{plaque.http}/v1/channels/{KURZGESAGT}/uploads?page_size=4&page_token={token}"
            page = json.load(urllib.request.urlopen(url, timeout=10))
            assert len(page.get("videos", [])) <= 4, page
            seen += page.get("videos", [])
            token = page.get("nextPageToken", "")
            if not token:
                break
        ids = [video["videoId"] for video in seen]
        assert len(ids) == len(set(ids)) >= 15, ids
        times = [video["publishTime"] for video in seen]
        assert times == sorted(times, reverse=True)
        assert ids[0] == plaque.ask(KURZGESAGT).response.video.video_id
        forged = f"{KURZGESAGT}/all 0    page=made-up"
        forged = base64.urlsafe_b64encode(forged.encode()).decode().rstrip("=")
        for bad in "page_size=-1", "page_token=x", f"page_token={forged}", "kind=film":
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"{plaque.http}/v1/channels/{KURZGESAGT}/uploads?{bad}", timeout=10)
            assert error.value.code == 400, bad


def ask_name(plaque, name, caller="modest"):
    request = messages.ResolveChannelRequest(query=name)
    return services.LatestVideoStub(plaque.channel).ResolveChannel.future(request, timeout=20, metadata=[("x-caller", caller)])


def test_made_up_handles_and_pages_leave_units_for_others(sources, origin):
    # Of 400 units, 40 at once are for names and older pages, and of these a caller may take half.
    with sources("--youtube-api-quota", "400", "--caller-header", "x-caller") as plaque:
        origin.control(page_mode="status:404")
        for call in [ask_name(plaque, f"@made_up_{number}", "abuser") for number in range(100)]:
            expect_error(Answer(call), grpc.StatusCode.NOT_FOUND, "HANDLE_NOT_FOUND")
        assert units(origin) == 20, "the rest was asked of pages"
        assert Answer(ask_name(plaque, "@scishow")).response.channel_id == SCISHOW
        assert units(origin) == 21, "a modest caller has units"
        stub = services.LatestVideoStub(plaque.channel)

        def uploads(caller, token):
            request = messages.ListUploadsRequest(channel_id=KURZGESAGT, page_size=15, page_token=token)
            return Answer(stub.ListUploads.future(request, timeout=20, metadata=[("x-caller", caller)]))

        first = uploads("abuser", "")
        expect_ok(first)
        older = uploads("abuser", first.response.next_page_token)
        expect_error(older, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        expect_a_hint_when_to_retry(older)
        for _ in range(3):
            expect_ok(uploads("modest", first.response.next_page_token))
        assert units(origin) == 22, "the same page is loaded once"
        # Lookups have the rest.
        origin.control(**FEEDS_FAIL)
        answer = plaque.ask(SCISHOW)
        expect_ok(answer)
        assert source(answer) == 3, answer.response


def test_made_up_handles_without_a_key_are_few_requests_and_others_are_resolved(bench, origin):
    root = origin.url.removesuffix("/feeds/videos.xml")
    # Names get a quarter of the rate: two a second.
    with bench.plaque(origin.url, "--youtube-pages", root, "--upstream-rate", "8", "--caller-header", "x-caller") as plaque:
        abuse = [ask_name(plaque, f"@made_up_{number}", "abuser") for number in range(300)]
        modest = Answer(ask_name(plaque, "@kurzgesagt"))
        assert modest.response.channel_id == KURZGESAGT, modest
        outcomes = [Answer(call) for call in abuse]
        refused = [answer for answer in outcomes if answer.reason == "OVERLOADED"]
        assert len(refused) > 200, "they wait at most for --max-queue-wait"
        for answer in refused:
            expect_a_hint_when_to_retry(answer)
        assert origin.stats()["pages"] <= 20, "a burst of two, and two a second for five seconds"


def test_no_page_is_loaded_while_they_refuse_this_address(bench, origin):
    root = origin.url.removesuffix("/feeds/videos.xml")
    with bench.plaque(origin.url, "--youtube-pages", root) as plaque:
        origin.control(page_mode="status:429")
        for number in range(5):
            answer = Answer(ask_name(plaque, f"@name{number}"))
            expect_error(answer, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_RATE_LIMITED")
        assert origin.stats()["pages"] == 1
        expect_a_hint_when_to_retry(answer)
        expect_ok(plaque.ask(KURZGESAGT))


def test_units_and_names_outlive_a_restart(sources, origin, tmp_path):
    with_file = "--store", f"file:{tmp_path / 'store'}", "--youtube-api-quota", "1000"
    with sources(*with_file) as plaque:
        assert Answer(ask_name(plaque, "@kurzgesagt")).response.channel_id == KURZGESAGT
        origin.control(**FEEDS_FAIL)
        expect_ok(plaque.ask(SCISHOW))
        spent = units(origin)
        assert plaque.metric("plaque_youtube_api_units_left") == 1000 - spent
        # An orderly end, which writes the file.
        plaque.program.terminate()
        assert plaque.program.exit_code(within=10) == 0
    with sources(*with_file) as plaque:
        assert Answer(ask_name(plaque, "@kurzgesagt")).response.channel_id == KURZGESAGT
        assert units(origin) == spent, "the name is kept"
        expect_ok(plaque.ask(KURZGESAGT))
        assert plaque.metric("plaque_youtube_api_units_left") == 1000 - units(origin) < 1000 - spent


def test_each_key_has_units_of_its_own_across_restarts(sources, origin, key_file, tmp_path):
    store, spent = tmp_path / "store", {KEY: 0, "another-key": 0}
    origin.control(**FEEDS_FAIL)
    for number, key in enumerate([KEY, "another-key", KEY]):
        key_file.write_text(key)
        origin.control(api_key=key)
        before = units(origin)
        with sources("--store", f"file:{store}", "--youtube-api-quota", "1000") as plaque:
            expect_error(plaque.ask(made_up_channel(number)), grpc.StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
            spent[key] += units(origin) - before
            assert plaque.metric("plaque_youtube_api_units_left") == 1000 - spent[key]
            plaque.program.terminate()
            assert plaque.program.exit_code(within=10) == 0
    assert spent == {KEY: 2, "another-key": 1}
    for key in spent:
        assert key.encode() not in store.read_bytes()


def test_replicas_share_names_and_units(sources, origin, redis):
    store = *with_store(redis.url), "--youtube-api-quota", "1000"
    with sources(*store) as one, sources(*store) as other:
        wait_until(lambda: one.metric("plaque_store_up") == other.metric("plaque_store_up") == 1, "the store is in use")
        for plaque in one, other:
            assert Answer(ask_name(plaque, "@kurzgesagt")).response.channel_id == KURZGESAGT
        assert units(origin) == 1, "the other replica finds it in the store"
        origin.control(**FEEDS_FAIL)
        expect_ok(one.ask(SCISHOW))
        expect_ok(other.ask(KURZGESAGT))
        assert other.metric("plaque_youtube_api_units_left") == 1000 - units(origin)


def test_a_key_is_not_sent_over_http_to_another_machine(bench, key_file):
    done = bench.run_plaque("serve", "--youtube-api", "http://10.0.0.1/youtube/v3", "--youtube-api-key-file", key_file)
    assert done.returncode == 2 and "use https" in done.stderr, done
