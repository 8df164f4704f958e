"""What watches tell over time: deletions, older snapshots, gaps, kinds, trouble, resuming elsewhere, limits, slow readers.

With redis-server of the path. Every check has an upstream and servers of its own; several run at once. The upstream shows another
snapshot when the check says so, and a check goes on when the upstream was asked again. No check looks only at the poll after a
change: after three more a last upload comes, and when that has arrived, all that came before has.
"""

import itertools
import tempfile
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from origin.feeds import days, feed, ids, upload, video_id
from snapshots import SnapshotServer, response
from stories import FULL, LAST, LAST_SHORT, LATE, PATIENCE, TWIN, expect_tokens, resume_elsewhere, stream
from store_support import Replica, wait_until_up, with_store
from support import (
    SHORT, VIDEO, Answer, expect_a_hint_when_to_retry, expect_error, expect_ok, free_port, made_up_channel, running, wait_until,
    watch_request,
)

StatusCode = grpc.StatusCode
POLLED = "--watch-every", "1s", "--stale-while-revalidate", "0s"
FLAGS = *POLLED, "--fresh-for", "200ms"
CHANNEL = made_up_channel(1)


class Scene:
    """A plaque, and an upstream with the snapshots of one channel."""

    def __init__(self, plaque, upstream):
        self.plaque, self.upstream, self.uploads = plaque, upstream, ()

    def show(self, uploads, polls=3):
        """Shows a snapshot, for so many polls."""
        self.uploads = list(uploads)
        self.upstream.show(CHANNEL, self.uploads)
        if polls:
            self.upstream.wait_for_polls(CHANNEL, polls=polls)

    def watch(self, **options):
        return self.plaque.watch([CHANNEL], timeout=120, **options)

    def finish(self, *expected):
        """Expects that these watches were sent this, in this order, and nothing else: pairs of a watch and a history."""
        self.upstream.show(CHANNEL, [LAST_SHORT, LAST, *self.uploads][:15])
        for watch, history, *last in expected:
            last = last or [LAST.id, LAST_SHORT.id]
            watch.wait_for_upload(last[-1])
            assert watch.history() == [*history, *last], "what a watch was sent"
            expect_tokens(watch)


@contextmanager
def scene(bench, uploads=FULL, *flags):
    with SnapshotServer() as upstream:
        upstream.show(CHANNEL, uploads)
        with bench.plaque(upstream.url(), *FLAGS, *flags) as plaque:
            one = Scene(plaque, upstream)
            one.uploads = list(uploads)
            yield one


@pytest.fixture
def at(bench):
    with scene(bench) as at:
        yield at


@pytest.fixture
def watch(at):
    """One that has been sent the newest upload."""
    with at.watch() as watch:
        watch.wait_for(1, PATIENCE)
        yield watch


# Problems first: they take longest, for plaque's pauses after failures.


def test_a_problem_is_sent_once_and_again_if_the_reason_changes_and_then_recovered(watch, at):
    at.upstream.answer(CHANNEL, response(500))
    watch.wait_for(2, PATIENCE)
    with at.watch(resume_tokens=watch.tokens()) as resumed:
        at.upstream.answer(CHANNEL, response(200, b"<html>no feed</html>"))
        watch.wait_for(3, PATIENCE)
        at.show(FULL, polls=0)
        watch.wait_for(4, PATIENCE)
        at.upstream.wait_for_polls(CHANNEL)
        at.finish(
            (watch, [video_id(30), "UPSTREAM_ERROR", "UPSTREAM_MALFORMED", "recovered"]),
            (resumed, ["UPSTREAM_MALFORMED", "recovered"]))


def test_the_same_problem_is_not_sent_again_of_a_channel_that_was_never_found_either(bench):
    with scene(bench, FULL, "--negative-for", "1s") as at:
        at.upstream.answer(CHANNEL, response(404))
        with at.watch() as watch:
            # After 1 s and 2 s.
            at.upstream.wait_for_polls(CHANNEL, polls=2)
            assert watch.history() == ["CHANNEL_NOT_FOUND"], "what the watch was sent"
            with at.watch(resume_tokens=watch.tokens()) as resumed:
                at.show(FULL, polls=0)
                for one in watch, resumed:
                    one.wait_for_upload(video_id(30))
                at.upstream.wait_for_polls(CHANNEL)
                at.finish((watch, ["CHANNEL_NOT_FOUND", "recovered", video_id(30)]), (resumed, ["recovered", video_id(30)]))


# Uploads, deletions, snapshots


def test_case_01_a_deletion_tells_no_old_upload(watch, at):
    at.show(days(29, 15))
    at.show([*days(29, 20), *days(18, 14)])
    at.finish((watch, ids(30)))


def test_case_01_five_that_are_made_private_tell_nothing(watch, at):
    with at.watch(published_after=Timestamp()) as since:
        since.wait_for(15, PATIENCE)
        at.show(days(25, 11))
        at.finish((watch, ids(30)), (since, ids(30, 16)))


def test_case_02_a_watch_that_begins_in_an_old_snapshot_is_sent_the_upload_when_it_shows_again(at):
    with at.watch() as before:
        before.wait_for(1, PATIENCE)
        at.show(days(29, 15), polls=1)
        with at.watch() as watch:
            watch.wait_for(1, PATIENCE)
            at.upstream.wait_for_polls(CHANNEL, polls=1)
            at.show(FULL)
            at.show(days(29, 15))
            at.show(FULL, polls=1)
            at.finish((before, ids(30)), (watch, ids(30, 29)))


def test_case_02_so_is_one_at_a_server_that_knew_only_the_old_snapshot(bench):
    with scene(bench, days(29, 15)) as at, at.watch() as watch:
        watch.wait_for(1, PATIENCE)
        at.show(FULL)
        at.show(days(29, 15), polls=1)
        at.show(FULL, polls=1)
        at.finish((watch, ids(30, 29)))


def test_case_03_a_feed_that_was_not_full_tells_no_old_upload(bench):
    with scene(bench, days(30, 17)) as at, at.watch() as watch:
        watch.wait_for(1, PATIENCE)
        at.show(FULL)
        at.finish((watch, ids(30)))


def test_case_12_of_more_than_15_at_once_15_are_sent_after_missed(watch, at):
    at.show(days(55, 41))
    at.finish((watch, [*ids(30), "missed", *ids(55, 41)]))


def test_uploads_that_share_one_with_what_was_known_miss_nothing(watch, at):
    at.show(days(44, 30))
    at.finish((watch, ids(44, 30)))


def test_case_13_a_stream_whose_date_moves_is_sent_once(watch, at):
    announced = [*days(30, 30), stream(29.25), *days(29, 17)]
    at.show(announced)
    with at.watch() as later, at.watch(published_after=Timestamp()) as since:
        later.wait_for(1, PATIENCE)
        since.wait_for(15, PATIENCE)
        with at.watch(resume_tokens=watch.tokens()) as resumed, at.watch(resume_tokens=since.tokens()) as since_resumed:
            at.show([stream(30.5), *days(30, 17)])
            at.finish(
                (watch, [*ids(30), "streamliveA"]), (resumed, []),
                # It was in the feed when the watch began.
                (later, ids(30)),
                # The oldest first.
                (since, [*ids(29, 17), "streamliveA", *ids(30)]), (since_resumed, []))


def test_what_is_dated_earlier_or_of_the_same_second_is_sent_too(watch, at):
    at.show(days(31, 17), polls=1)
    at.show([upload(31), TWIN, *days(30, 29), LATE, *days(28, 19)])
    at.finish((watch, [*ids(31, 30), LATE.id, TWIN.id]))


# Kinds


def test_case_06_an_upload_that_turns_out_to_be_a_short_is_sent_to_watches_of_shorts(bench):
    old = [one._replace(short=one.id == video_id(27)) for one in days(29, 15)]
    with scene(bench, old) as at, at.watch(kind=SHORT) as shorts, at.watch(kind=VIDEO) as videos, at.watch() as watch:
        for one in shorts, videos, watch:
            one.wait_for(1, PATIENCE)
        at.show([upload(30), *old[:14]])
        with at.watch(kind=SHORT, resume_tokens=shorts.tokens()) as resumed:
            at.show([upload(30, short=True), *old[:14]])
            at.finish(
                (shorts, [video_id(27), video_id(30)], LAST_SHORT.id), (resumed, [video_id(30)], LAST_SHORT.id),
                (videos, ids(30, 29), LAST.id), (watch, ids(30, 29)))
            kinds = {event.video.kind for event in [*shorts.events, *resumed.events]}
            assert kinds == {SHORT}, "the kinds"


def test_a_watch_of_shorts_begins_without_one(at):
    with at.watch(kind=SHORT) as shorts:
        at.upstream.wait_for_polls(CHANNEL, polls=1)
        at.show([upload(31), *days(30, 17)])
        at.show([upload(32, short=True), upload(31), *days(30, 18)])
        at.finish((shorts, ids(32), LAST_SHORT.id))


def test_a_watch_of_videos_is_sent_no_short(at):
    with at.watch(kind=VIDEO) as videos:
        videos.wait_for(1, PATIENCE)
        at.show([upload(31, short=True), *days(30, 17)])
        at.show([upload(32), upload(31, short=True), *days(30, 18)])
        at.finish((videos, [video_id(30), video_id(32)], LAST.id))


def expect_newest_video(bench, expected, playlists):
    """That this is the newest video of a channel whose own feed shows Shorts only, and that has these playlists."""
    with scene(bench, [one._replace(short=True) for one in FULL]) as at:
        for name, uploads in playlists.items():
            at.upstream.show(CHANNEL, uploads, key=name + CHANNEL[2:])
        answer = at.plaque.ask(CHANNEL, kind=VIDEO)
        expect_ok(answer)
        assert (answer.response.video.video_id, answer.response.video.kind) == (expected, VIDEO), "the upload"


def test_case_05_a_stream_that_is_newer_than_the_newest_video_is_the_newest_video(bench):
    expect_newest_video(bench, "streamliveA", {"UULF": [upload(1)], "UULV": [stream(10)]})
    expect_newest_video(bench, video_id(11), {"UULF": [upload(11)], "UULV": [stream(10)]})


def test_case_05_a_playlist_that_there_is_not_is_no_error(bench):
    expect_newest_video(bench, "streamliveA", {"UULV": [stream(10)]})
    expect_newest_video(bench, video_id(1), {"UULF": [upload(1)]})


# Empty feeds


def test_case_08_one_empty_snapshot_takes_nothing_away(watch, at):
    # Empty once, and full before and after.
    answers = iter([response(200, feed(CHANNEL, []))])
    at.upstream.answer(CHANNEL, lambda _: next(answers, response(200, feed(CHANNEL, FULL))))
    before, seen = at.upstream.count(CHANNEL), set()

    def ask():
        answer = at.plaque.ask(CHANNEL)
        seen.add(answer.response.video.video_id if answer.code is StatusCode.OK else answer.reason)
        return at.upstream.count(CHANNEL) > before + 3

    wait_until(ask, "three lookups", PATIENCE)
    assert seen == {video_id(30)}, "the answers"
    at.finish((watch, ids(30)))


def test_case_08_a_feed_that_stays_empty_is_believed_and_a_watch_goes_on(watch, at):
    at.show([])
    wait_until(lambda: at.plaque.ask(CHANNEL).reason == "NO_UPLOADS", "it is believed", PATIENCE)
    at.show(FULL)
    at.finish((watch, ids(30)))


# Resuming elsewhere


def place(bench, upstream, *settings):
    return Replica(bench, upstream.url(), *FLAGS, *settings)


def killed(replica):
    replica.kill()
    return replica.start().plaque


def test_a_watch_resumes_at_the_same_server(bench, note):
    with SnapshotServer() as upstream, place(bench, upstream) as one:
        note(resume_elsewhere(upstream, one.plaque, lambda: one.plaque))


def test_a_watch_resumes_after_kill_and_restart_without_a_store(bench, note):
    with SnapshotServer() as upstream, place(bench, upstream) as one:
        note(resume_elsewhere(upstream, one.plaque, lambda: killed(one)))


def test_a_watch_resumes_after_kill_and_restart_with_a_file(bench, note):
    with SnapshotServer() as upstream, tempfile.TemporaryDirectory(prefix="plaque-store-") as folder, \
            place(bench, upstream, "--store", f"file:{folder}/store") as one:
        note(resume_elsewhere(upstream, one.plaque, lambda: killed(one)))


@contextmanager
def two_with_redis(bench, redis, upstream, flags=FLAGS):
    with ExitStack() as places:
        replicas = [places.enter_context(Replica(bench, upstream.url(), *flags, *with_store(redis.url))) for _ in range(2)]
        wait_until_up(replicas, PATIENCE)
        yield replicas


def test_a_watch_resumes_at_another_replica(bench, redis, note):
    with SnapshotServer() as upstream, two_with_redis(bench, redis, upstream) as (one, other):
        note(resume_elsewhere(upstream, one.plaque, lambda: other.plaque))


def test_a_watch_resumes_at_another_replica_after_its_own_was_killed_and_then_restarted(bench, redis, note):
    with SnapshotServer() as upstream, two_with_redis(bench, redis, upstream) as (one, _):
        note(resume_elsewhere(upstream, one.plaque, lambda: killed(one)))


def test_a_deletion_tells_nothing_where_only_the_stores_answer_is_known(bench, redis):
    with SnapshotServer() as upstream, two_with_redis(bench, redis, upstream, (*POLLED, "--fresh-for", "5s")) as (one, other):
        upstream.show(CHANNEL, FULL)
        expect_ok(one.plaque.ask(CHANNEL))
        upstream.show(CHANNEL, days(29, 15))
        with other.plaque.watch([CHANNEL], timeout=120) as watch:
            at = Scene(other.plaque, upstream)
            watch.wait_for(1, PATIENCE)
            assert watch.history() == ids(30), "the initial upload"
            at.show(days(29, 15))
            at.show([*days(29, 20), *days(18, 14)])
            at.finish((watch, ids(30)))


def test_two_watches_at_two_replicas_are_sent_each_upload_once(bench, redis):
    with SnapshotServer() as upstream, two_with_redis(bench, redis, upstream) as (one, other):
        upstream.show(CHANNEL, FULL)
        with one.plaque.watch([CHANNEL], timeout=120) as here, other.plaque.watch([CHANNEL], timeout=120) as there:
            at = Scene(one.plaque, upstream)
            for watch in here, there:
                watch.wait_for(1, PATIENCE)
            at.show(days(31, 17))
            at.show(days(30, 16))
            at.show(days(32, 18))
            at.show([*days(32, 25), *days(23, 17)])
            at.finish((here, ids(32, 30)), (there, ids(32, 30)))


# Tokens


def test_a_token_that_cannot_be_read_or_is_anothers_is_refused(watch, at, note):
    other = made_up_channel(2)
    at.upstream.show(other, FULL)
    with at.plaque.watch([other]) as another:
        another.wait_for(1, PATIENCE)
        (own,), (foreign,) = watch.tokens(), another.tokens()
    flipped = bytearray(own)
    flipped[len(own) // 2] ^= 1
    bad = {
        "garbage": b"garbage", "nothing": b"", "a cut one": own[:-1], "a longer one": own + b"\0",
        "a flipped bit": bytes(flipped), "128 zeros": bytes(128), "another channel's": foreign}
    for what, token in bad.items():
        for tokens in [token], [own, token]:
            answer = Answer(at.plaque.start_watch([CHANNEL], resume_tokens=tokens, timeout=PATIENCE))
            assert answer.reason, f"a watch with {what} is not refused: {answer}"
            expect_error(answer, StatusCode.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN")
            fields = [violation.field for violation in answer.bad_request.field_violations]
            assert fields == ["resume_tokens"], "the bad fields"
    at.upstream.wait_for_polls(CHANNEL, polls=1)
    at.finish((watch, ids(30)))
    note(f"{len(bad)} bad tokens")


def test_a_request_with_100_channels_and_100_of_the_longest_tokens_fits(bench, note):
    channels = [made_up_channel(i) for i in range(100)]
    with SnapshotServer() as upstream, bench.plaque(upstream.url(), *FLAGS) as plaque:
        def show(uploads):
            for channel in channels:
                upstream.show(channel, uploads)

        show(FULL)
        with plaque.watch(channels, timeout=120) as watch:
            wait_until(lambda: len(watch.events) == 100, "each channel's first upload", PATIENCE)
            for newest in 35, 40, 45:
                show(days(newest, newest - 14))
                wait_until(lambda n=newest: watch.uploads().count(video_id(n)) == 100, "each channel's uploads", PATIENCE)
            expect_tokens(watch)
            tokens = watch.tokens()
        longest = {len(token) for token in tokens}
        assert longest == {128}, "the lengths of the tokens"
        size = watch_request(channels, resume_tokens=tokens).ByteSize()
        show(days(46, 32))
        with plaque.watch(channels, resume_tokens=tokens, timeout=120) as resumed:
            wait_until(lambda: len(resumed.events) >= 100, "each channel's new upload", PATIENCE)
            upstream.wait_for_polls(*channels)
            assert resumed.history() == ids(46) * 100, "what it was sent"
    note(f"a request of {size} bytes")


def test_a_repeated_channel_counts_once(bench):
    with scene(bench, FULL, "--max-watched", 1) as at, at.plaque.watch([CHANNEL] * 100, timeout=120) as watch:
        watch.wait_for(1, PATIENCE)
        at.show(days(31, 17))
        at.finish((watch, ids(31, 30)))


# Limits


def test_watches_over_max_watched_are_refused_and_no_others(bench):
    """At half of it, at it, at twice and at ten times as much, while an earlier watch goes on."""
    ten, most = 10, 201

    def own_channels(number):
        return [made_up_channel(1000 + ten * number + i) for i in range(ten)]

    with scene(bench, FULL, "--max-watched", most) as at, at.watch() as bystander, ExitStack() as watching, \
            at.plaque.connect() as connection:
        at.upstream.fallback = lambda channel: response(200, feed(channel, FULL))
        bystander.wait_for(1, PATIENCE)
        newest, accepted, numbers = 30, [], itertools.count()

        def is_refused():
            """Whether a watch of ten more channels is."""
            watch = watching.enter_context(at.plaque.watch(own_channels(next(numbers)), timeout=120, over=connection))
            wait_until(lambda: watch.events or watch.call.done(), "a watch begins or is refused", PATIENCE)
            if watch.events:
                accepted.append(watch)
                return False
            answer = Answer(watch.call)
            expect_error(answer, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            expect_a_hint_when_to_retry(answer)
            return True

        for watches, expected in (10, 0), (10, 0), (20, 20), (160, 160):
            refused = sum(is_refused() for _ in range(watches))
            assert refused == expected, f"of {watches} watches after {len(accepted)} those refused"
            newest += 1
            at.show(days(newest, newest - 14), polls=0)
            bystander.wait_for_upload(video_id(newest))
        too_large = Answer(at.plaque.start_watch(own_channels(999)[:1], timeout=PATIENCE))
        expect_error(too_large, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")

        for watch in accepted[:5]:
            watch.call.cancel()
        wait_until(lambda: not is_refused() and len(accepted) >= 25, "there is room for five again", PATIENCE)
        assert sum(is_refused() for _ in range(10)) == 10, "those refused after that"
        at.upstream.wait_for_polls(CHANNEL)
        at.finish((bystander, ids(newest, 30)))


def test_a_reader_that_stops_gets_what_is_still_shown_when_it_reads_on(bench, note):
    # No more is sent ahead of the reader than this.
    window = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16 << 10)

    def heavy(newest, oldest):
        return [one._replace(title="x" * 8000) for one in days(newest, oldest)]

    with scene(bench, heavy(30, 16)) as at, at.plaque.connect(*window) as connection, at.watch() as fast:
        fast.wait_for(1, PATIENCE)
        slow = at.plaque.start_watch([CHANNEL], over=connection, timeout=120)
        assert next(slow).video.video_id == video_id(30), "the first upload"
        # Ten at a time, of which four are deleted again: what moves up for them is old, or was sent.
        for newest in 40, 50, 60, 70:
            at.show(heavy(newest, newest - 14), polls=0)
            fast.wait_for_upload(video_id(newest))
            at.show([*heavy(newest, newest - 1), *heavy(newest - 6, newest - 18)], polls=1)
        shown = {one.id for one in at.uploads}
        read = []
        while not read or read[-1] != video_id(70):
            read.append(next(slow).video.video_id)
        at.upstream.wait_for_polls(CHANNEL)
        at.finish((fast, ids(70, 30)))
        read += [next(slow).video.video_id for _ in range(2)]
        slow.cancel()
    assert len(set(read)) == len(read), "the number of different uploads"
    assert read[-3:] == [video_id(70), LAST.id, LAST_SHORT.id], "the last ones"
    missing = shown - {video_id(number) for number in range(31)} - set(read)
    assert not missing, f"it lacks what was still shown: {missing}"
    assert len(read) < 42, "it missed nothing: it was not slow"
    note(f"the slow reader got {len(read)} of 42")


# The program


def test_the_program_prints_each_upload_once_across_kill_and_restart(bench):
    with SnapshotServer() as upstream:
        address = f"127.0.0.1:{free_port()}"
        at = Scene(None, upstream)
        at.show(FULL, polls=0)
        with Replica(bench, upstream.url(), *FLAGS, "--listen", address) as server, \
                running([bench.program, "watch", "--server", f"http://{address}", CHANNEL]) as program:
            def printed():
                return [line.split("\t")[0] for line in program.out.read_text().splitlines()]

            def wait_printed(number):
                wait_until(lambda: video_id(number) in printed(), f"{number} is printed after {printed()}", PATIENCE)

            wait_printed(30)
            for newest in 33, 36:
                at.show(days(newest - 1, newest - 15), polls=0)
                wait_printed(newest - 1)
                server.kill()
                # Uploaded meanwhile.
                at.show(days(newest, newest - 14), polls=0)
                server.start()
                wait_printed(newest)
                # A deletion.
                at.show(days(newest, newest - 5) + days(newest - 7, newest - 15))
            at.show(days(37, 23), polls=0)
            wait_printed(37)
            assert printed() == ids(37, 30), "what was printed"
            said = program.err.read_text()
            assert said.count("\n") >= 2, f"it did not say that the server was lost: {said!r}"
