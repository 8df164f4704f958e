"""Histories of watches that end and are resumed: what each is sent, wherever it goes on."""

from contextlib import ExitStack
from dataclasses import dataclass, field

from origin.feeds import days, ids, upload, video_id
from support import ANY, SHORT, made_up_channel

# Newer than all others: what a check ends with.
LAST, LAST_SHORT = upload(98), upload(99, short=True)
# On a machine that runs several checks at once.
PATIENCE = 40
FULL = days(30, 16)
# Of the same second as another, and one that is dated earlier than it shows.
TWIN, LATE = upload(31)._replace(id="sameSecondA"), upload(28.5)._replace(id="datedBefore")


def stream(date):
    return upload(date)._replace(id="streamliveA")


def expect_tokens(watch):
    lengths = {len(event.resume_token) for event in watch.events}
    assert min(lengths) > 0 and max(lengths) <= 128, f"the lengths of resume tokens are {lengths}"


@dataclass
class Story:
    """A watch that ends and is resumed: the snapshots before, meanwhile and after, and what it is sent before and after.

    What is shown meanwhile the server sees at which it resumes, but for one that nobody watches then.
    """

    name: str
    before: list
    told: list
    meanwhile: list
    then: list
    resumed: list
    kind: int = ANY
    unseen: bool = False
    # Set by the test.
    channel: str = None
    watch: object = None
    shown: list = field(default_factory=list)


OLD = days(29, 15)
WITH_A_SHORT = [one._replace(short=one.id == video_id(27)) for one in OLD]
STORIES = [
    Story("uploads", [FULL], ids(30), [days(31, 17), days(33, 19)], [days(34, 20)], ids(34, 31)),
    Story("uploads nobody saw", [FULL], ids(30), [days(33, 19)], [days(34, 20)], ids(34, 31), unseen=True),
    Story("a deletion", [FULL], ids(30), [OLD], [], []),
    Story("a deletion nobody saw", [FULL], ids(30), [OLD], [], [], unseen=True),
    Story("a deletion afterwards", [FULL], ids(30), [], [OLD], []),
    Story("five made private", [FULL], ids(30), [], [days(25, 11)], []),
    Story("five made private nobody saw", [FULL], ids(30), [days(25, 11)], [], [], unseen=True),
    Story("told before an old snapshot", [FULL], ids(30), [OLD], [FULL], []),
    Story("told in an old snapshot", [OLD], ids(29), [FULL, OLD], [FULL], ids(30)),
    Story("resumed in an old snapshot", [OLD], ids(29), [FULL], [OLD, FULL], ids(30)),
    Story("a feed not full", [days(30, 17)], ids(30), [FULL], [], []),
    Story("more than 15", [FULL], ids(30), [days(55, 41)], [], ["missed", *ids(55, 41)]),
    Story("more than 15 nobody saw", [FULL], ids(30), [days(55, 41)], [], ["missed", *ids(55, 41)], unseen=True),
    Story("an empty snapshot", [FULL], ids(30), [[]], [FULL], []),
    Story("an empty snapshot nobody saw", [FULL], ids(30), [[]], [days(31, 17)], ids(31), unseen=True),
    Story("a stream begins", [FULL, [*days(30, 30), stream(29.25), *days(29, 17)]], [*ids(30), "streamliveA"],
          [], [[stream(30.5), *days(30, 17)]], []),
    Story("a stream began", [FULL, [*days(30, 30), stream(29.25), *days(29, 17)]], [*ids(30), "streamliveA"],
          [[*days(31, 31), stream(30.5), *days(30, 18)]], [], ids(31), unseen=True),
    Story("dated earlier, and of one second", [FULL, days(31, 17)], ids(31, 30),
          [[upload(31), TWIN, *days(30, 29), LATE, *days(28, 19)]], [], [LATE.id, TWIN.id], unseen=True),
    Story("a Short", [WITH_A_SHORT], ids(27), [[upload(30), *WITH_A_SHORT[:14]]],
          [[upload(30, short=True), *WITH_A_SHORT[:14]]], ids(30), kind=SHORT),
    Story("a Short nobody saw", [WITH_A_SHORT], ids(27), [[upload(30, short=True), *WITH_A_SHORT[:14]]], [], ids(30),
          kind=SHORT, unseen=True),
]


def resume_elsewhere(upstream, first, move):
    """Watches each story at the plaque `first` and resumes it at the plaque that `move` returns."""
    stories = [Story(**{**vars(story), "channel": made_up_channel(i), "shown": []}) for i, story in enumerate(STORIES)]
    channels = {story.channel: story for story in stories}

    def show(snapshots, polled):
        """Shows these of each story, one after the other, each until it was polled."""
        for step in range(max(len(snapshots(story)) for story in stories)):
            changed = [story for story in stories if step < len(snapshots(story))]
            for story in changed:
                story.shown = snapshots(story)[step]
                upstream.show(story.channel, story.shown)
            upstream.wait_for_polls(*(story.channel for story in changed if polled(story)), polls=1)

    def watch(plaque, story, resume_tokens=()):
        return plaque.watch([story.channel], kind=story.kind, resume_tokens=resume_tokens, timeout=120)

    show(lambda story: story.before[:1], lambda _: False)
    with ExitStack() as watching:
        for story in stories:
            story.watch = watching.enter_context(watch(first, story))
        for story in stories:
            story.watch.wait_for(1, PATIENCE)
        show(lambda story: story.before[1:], lambda _: True)
        for story in stories:
            story.watch.wait_for(len(story.told), PATIENCE)
            assert story.watch.history() == story.told, f"{story.name}: what it was sent"
    plaque = move()
    with ExitStack() as watching:
        # So that the server polls.
        seen = [channel for channel, story in channels.items() if not story.unseen]
        other = watching.enter_context(plaque.watch(seen, timeout=120))
        show(lambda story: story.meanwhile, lambda story: not story.unseen)
        for story in stories:
            story.watch = watching.enter_context(watch(plaque, story, story.watch.tokens()))
        upstream.wait_for_polls(*channels, polls=1)
        show(lambda story: story.then, lambda _: True)
        upstream.wait_for_polls(*channels)
        for story in stories:
            upstream.show(story.channel, [LAST_SHORT, LAST, *story.shown][:15])
        wrong = []
        for story in stories:
            story.watch.wait_for_upload(LAST_SHORT.id)
            expect_tokens(story.watch)
            last = [LAST_SHORT.id] if story.kind == SHORT else [LAST.id, LAST_SHORT.id]
            history = story.watch.history()
            if history != [*story.resumed, *last]:
                wrong.append(f"{story.name}: {history}, expected {[*story.resumed, *last]}")
            if any(event.initial for event in story.watch.events):
                wrong.append(f"{story.name}: an upload is marked initial")
        assert not wrong, "; ".join(wrong)
        expect_tokens(other)
    return f"{len(stories)} histories"
