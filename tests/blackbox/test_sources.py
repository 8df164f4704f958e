"""plaque with more than one source: a spell of 404s with a key, with a mirror, with both down; what a key costs, and keys that do not work;
channels by name."""

import base64
import json
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
        before = units(origin)
        for number in range(20):
            plaque.ask(made_up_channel(number))
        if mode in ("quotaExceeded", "keyInvalid", "accessNotConfigured"):
            assert units(origin) <= before, "it is asked again although it refuses"
        log = plaque.program.err.read_text()
        assert KEY not in log
        assert log.count("YouTube Data API") <= 2, log
        # The feed works as before.
        origin.control(mode="ok")
        expect_ok(plaque.ask(SCISHOW, max_age=0))


def test_a_key_that_is_replaced_is_used(sources, origin, key_file):
    key_file.write_text("not-the-key")
    with sources() as plaque:
        origin.control(**FEEDS_FAIL)
        assert plaque.ask(KURZGESAGT).code is not grpc.StatusCode.OK
        key_file.write_text(KEY)
        wait_until(lambda: plaque.ask(SCISHOW, max_age=0).code is grpc.StatusCode.OK, "the new key is used")


def test_a_caller_of_five_seconds_is_answered_although_the_feed_and_a_mirror_hang(sources, origin):
    with running_origin() as mirror, sources("--fallback-upstream", mirror.url) as plaque:
        origin.control(mode="hang")
        mirror.control(mode="hang")
        answer = plaque.ask(KURZGESAGT, timeout=5)
        expect_ok(answer)
        assert source(answer) == 3, answer


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
