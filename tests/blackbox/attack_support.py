"""What attacks are made of: a well-behaved client that calls meanwhile, an attacker's connections, and what all of it may cost."""

import itertools
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

import h2
from h2 import END_HEADERS, END_STREAM, Kind, Setting
from support import KURZGESAGT, SCISHOW, Background, Stopwatch, batch_request, expect_ok, made_up_channel, request, wait_until

StatusCode = grpc.StatusCode

GET = b"/plaque.v1.LatestVideo/GetLatestVideo"
BATCH = b"/plaque.v1.LatestVideo/BatchGetLatestVideos"
WATCH = b"/plaque.v1.LatestVideo/WatchLatestVideo"
OK, DEADLINE_EXCEEDED = 0, 4

# Answered from the cache, once the bystander has asked for it. The other one is never cached: its lookups hang where told to.
CACHED = h2.grpc_message(request(KURZGESAGT).SerializeToString())
HANGING = h2.grpc_message(request(SCISHOW).SerializeToString())

# What an attack may add to the peak of memory, in MiB. The dearest takes about 30, for 600 batches that nobody reads; what
# grows without bound is beyond this within a second.
GROWTH = 64

# With an --idle-timeout of 1 s: a connection is idle after up to twice as long, and is then given up to 4 s to leave.
PARTING = 10

# A request without its message; what fills the server's buffers; a client that takes no answer.
CALL = h2.request_fields(GET)
PING = h2.frame(Kind.PING, payload=b"flooding")
STALLED = h2.PREFACE + h2.settings({Setting.INITIAL_WINDOW_SIZE: 0})


class Bystander(Background):
    """A well-behaved client: it calls again and again over a connection of its own while others attack."""

    def __init__(self, plaque, max_age=None):
        super().__init__(self.call_again_and_again)
        self.plaque, self.max_age = plaque, max_age
        self.channel = plaque.connect()
        self.took, self.failed = [], []
        self.connected = 0

    def call_again_and_again(self):
        # The pause keeps it from being the load itself.
        while not self.leaving.wait(0.005):
            watch = Stopwatch()
            answer = self.plaque.ask(KURZGESAGT, max_age=self.max_age, timeout=2, over=self.channel)
            self.took.append(watch.seconds())
            if answer.code is not StatusCode.OK:
                self.failed.append(str(answer))

    def wait_for_more(self, count):
        goal = len(self.took) + count
        wait_until(lambda: len(self.took) >= goal, f"{count} more calls of the bystander")

    def expect_no_failure(self):
        assert not self.failed, f"{len(self.failed)} of the bystander's {len(self.took)} calls failed: {self.failed[:1]}"

    def note_state(self, state):
        self.connected += state is grpc.ChannelConnectivity.READY

    def __enter__(self):
        self.channel.subscribe(self.note_state)
        # The lookup; what follows is answered from the cache.
        expect_ok(self.plaque.ask(KURZGESAGT, over=self.channel))
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.channel.close()

    def __str__(self):
        return f"bystander: {len(self.took)} calls, the longest {max(self.took) * 1000:.0f} ms"


class Scene:
    """What an attack has before it, and does, and what it has cost."""

    def __init__(self, plaque, origin, bystander, connections):
        self.plaque, self.origin, self.bystander, self.connections = plaque, origin, bystander, connections
        self.before, self.growth = plaque.memory_kib(), None

    def connect(self, *arguments, **options):
        """A connection of the attacker's."""
        return self.connections.enter_context(h2.Connection(self.plaque.address, *arguments, **options))

    def expect_still_served(self, connection):
        """What the attacker's connection must be, if the server did not close it: a connection like any other."""
        assert connection.status(connection.call(GET, CACHED)) == OK, "a call on the attacker's connection"

    def waves(self, attack, seconds=1):
        """Attacks again and again, each time with a connection of its own. How often, and how the connections ended."""
        watch, ends = Stopwatch(), Counter()
        while watch.seconds() < seconds:
            with h2.Connection(self.plaque.address) as attacker:
                attack(attacker)
                ends[attacker.end()] += 1
        return ", ".join(f"{count} × {end}" for end, count in ends.items())

    def note(self, said):
        return f"{said}; {self.bystander}; peak memory +{self.growth} MiB"


@contextmanager
def under_attack(bench, *flags, synthesize=False):
    """What the block does must cost the bystander no call, and the server no more memory than `GROWTH`. A newcomer must be
    served after it. When all have left, nothing may be left of them."""
    # One serving thread: the bystander and the attackers share it.
    with bench.plaque_and_origin("--workers", "1", *flags, synthesize=synthesize) as (plaque, origin):
        with Bystander(plaque) as bystander, ExitStack() as attackers:
            scene = Scene(plaque, origin, bystander, attackers)
            yield scene
            bystander.wait_for_more(10)
            scene.growth = (plaque.memory_kib("VmHWM") - scene.before) // 1024
            with plaque.connect() as newcomer:
                expect_ok(plaque.ask(KURZGESAGT, over=newcomer))
            bystander.expect_no_failure()
            assert scene.growth <= GROWTH, f"the peak of memory is {scene.growth} MiB higher than before"
        wait_until(lambda: connections(plaque) == 0, "all connections are closed")
        for gauge in "plaque_connections", "plaque_calls":
            wait_until(lambda: plaque.metric(gauge) == 0, f"{gauge} is 0")


def count_until_closed(connection, pieces, at_once=100):
    """Sends the pieces until the server closes the connection or stops reading for a second: how many went out."""
    pieces, sent = iter(pieces), 0
    while batch := list(itertools.islice(pieces, at_once)):
        if not connection.send(b"".join(batch), seconds=1):
            break
        sent += len(batch)
    return sent


def begin(stream, message=None):
    """A call for a channel whose lookup hangs: the reset meets it in progress."""
    head = h2.frame(Kind.HEADERS, stream, CALL, END_HEADERS)
    return head if message is None else head + h2.frame(Kind.DATA, stream, message, END_STREAM)


def connections(plaque):
    """How many connections the server has open: its sockets that have a peer, in the system's table."""
    port = int(plaque.address.split(":")[1])
    table = Path(f"/proc/{plaque.program.process.pid}/net/tcp").read_text().splitlines()[1:]
    # Of a line: the local address, and the state, of which 1 is ESTABLISHED and 8 CLOSE_WAIT.
    rows = [line.split() for line in table]
    return sum(row[1].endswith(f":{port:04X}") and row[3] in ("01", "08") for row in rows)


def hundred_channels(kind=batch_request):
    return h2.grpc_message(kind([made_up_channel(number) for number in range(100)]).SerializeToString())
