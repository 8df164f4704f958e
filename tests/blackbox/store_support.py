"""What tests of stores run: Redis and what can befall it, replicas of plaque that can be frozen and started again."""

import os
import re
import socketserver
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support import Answer, Program, Stopwatch, expect_ok, free_port, run, wait_until

# As plaque has it: how long a lease lasts whose holder has died.
LEASE = 2
# Far longer than any call here takes, so that a call that waits for the store shows.
STORE_TIMEOUT = 0.5
# Below the 1000 calls that a connection may have at once.
ON_A_CONNECTION = 170


# Redis


class Redis:
    """A redis-server on a port of its own, which keeps nothing, and can be stopped and started again."""

    def __init__(self, folder, *options):
        self.folder, self.options = folder, options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.program = None
        self.start()

    def start(self):
        self.program = Program([
            os.environ.get("PLAQUE_TEST_REDIS", "redis-server"), "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder,
            "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", *self.options], self.folder)

        def is_ready():
            assert self.program.process.poll() is None, f"redis-server ended: {self.program.out.read_text()}"
            return "Ready to accept connections" in self.program.out.read_text()

        wait_until(is_ready, "redis-server starts")

    def kill(self):
        self.program.kill()

    def signal(self, number):
        self.program.process.send_signal(number)

    def cli(self, *words, last=b"", password=None):
        """What redis-cli prints, as bytes, without the newline at its end. `last` is one more word, if any."""
        options = [*(["--no-auth-warning", "-a", password] if password else []), *(["-x"] if last else [])]
        said = run("redis-cli", "-p", self.port, "-e", *options, *words, stdin=last)
        assert said.returncode == 0, f"redis-cli {words} fails: {said.stdout!r} {said.stderr!r}"
        return said.stdout.removesuffix(b"\n")


@contextmanager
def running_redis(*options):
    with tempfile.TemporaryDirectory(prefix="plaque-redis-") as folder:
        redis = Redis(Path(folder), *options)
        try:
            yield redis
        finally:
            redis.kill()


class Cluster:
    """Three primaries, and perhaps a replica of each."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.url = "redis-cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def owner(self, key):
        """The primary of a key's slot."""
        slot = int(self.nodes[-1].cli("cluster", "keyslot", key))
        for line in self.nodes[-1].cli("cluster", "nodes").decode().splitlines():
            _, address, flags, *rest = line.split()
            ranges = [[int(end) for end in part.split("-")] for part in rest[5:] if "[" not in part]
            if "master" in flags and any(ends[0] <= slot <= ends[-1] for ends in ranges):
                port = int(re.search(r":(\d+)", address).group(1))
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has the slot {slot}")

    def is_whole(self):
        return b"fail" not in self.nodes[-1].cli("cluster", "nodes")


@contextmanager
def running_cluster(replicas=0):
    with ExitStack() as servers:
        # Unless told, a node takes the port that is greater by 10,000, which there may not be.
        nodes = [servers.enter_context(running_redis(
            "--cluster-enabled", "yes", "--cluster-port", free_port(), "--cluster-node-timeout", 1000,
            "--cluster-require-full-coverage", "no")) for _ in range(3 * (1 + replicas))]
        made = run(
            "redis-cli", "--cluster-yes", "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in nodes),
            "--cluster-replicas", replicas, within=60)
        assert made.returncode == 0, f"there is no cluster: {made.stdout}"
        for node in nodes:
            wait_until(lambda n=node: b"cluster_state:ok" in n.cli("cluster", "info"), "a node knows the cluster")
        for node in nodes[3:]:
            wait_until(lambda n=node: b"master_link_status:up" in n.cli("info", "replication"), "a replica has its primary")
        yield Cluster(nodes)


@contextmanager
def refusing_server(error):
    """The port of something that speaks as Redis does, and answers every command with this error."""

    class Refusal(socketserver.StreamRequestHandler):
        def handle(self):
            while head := self.rfile.readline():
                for _ in range(int(head[1:])):
                    self.rfile.read(int(self.rfile.readline()[1:]) + 2)
                self.wfile.write(f"-{error}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_):
            # The client has left.
            pass

    with Server(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


# Replicas


class Replica:
    """The place of one plaque, whichever process is in it."""

    def __init__(self, bench, *settings, under=()):
        self.bench, self.under = bench, under
        # Not a line for each lookup.
        self.settings = *settings, "--log", "warn,plaque::store=info"
        self.process = ExitStack()
        self.plaque, self.connections = None, []

    def start(self):
        self.plaque = self.process.enter_context(self.bench.plaque(*self.settings, under=self.under))
        self.connections = [self.plaque.channel]
        return self

    def stop(self):
        self.plaque.program.terminate()
        assert self.plaque.program.exit_code(within=20) == 0, "the exit code"
        self.close()

    def kill(self):
        self.plaque.program.kill()
        self.close()

    def close(self):
        for connection in self.connections[1:]:
            connection.close()
        self.process.close()

    def signal(self, number):
        self.plaque.program.process.send_signal(number)

    def connection(self, number):
        """The connection for the call of that number, of many at once."""
        while len(self.connections) <= number // ON_A_CONNECTION:
            self.connections.append(self.plaque.connect())
        return self.connections[number // ON_A_CONNECTION]

    def log(self):
        return self.plaque.program.err.read_text()

    def logged(self, text):
        """How many lines of the log have this."""
        return sum(text in line for line in self.log().splitlines())

    def is_up(self):
        return self.plaque.metric("plaque_store_up") == 1

    def store_bytes(self):
        return self.plaque.metric("plaque_store_file_bytes")

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()


def wait_until_up(replicas, seconds=15):
    """Waits until the store is in use by all, and returns how many seconds that took."""
    watch = Stopwatch()
    wait_until(lambda: all(replica.is_up() for replica in replicas), "the store is in use", seconds)
    return watch.seconds()


def wait_until_down(replicas, lasting=0, seconds=10):
    """Waits until the store has been in use by none, for so many seconds on end."""
    since = None

    def is_down():
        nonlocal since
        if any(replica.is_up() for replica in replicas):
            since = None
            return False
        since = since or Stopwatch()
        return since.seconds() >= lasting

    wait_until(is_down, "all notice the trouble", seconds)


@contextmanager
def running_replicas(bench, store, origin, *flags, count=3):
    """Replicas that have this store in use, and an origin that they share."""
    with ExitStack() as places:
        replicas = [places.enter_context(Replica(bench, origin.url, *with_store(store), *flags)) for _ in range(count)]
        wait_until_up(replicas)
        yield replicas


def with_store(store):
    return "--store", store, "--store-timeout", f"{STORE_TIMEOUT}s"


def begin(replicas, channels, each):
    """Begins so many calls for each channel, spread over the replicas: each channel's over all of them."""
    calls = []
    for number in range(each):
        for place, channel in enumerate(channels):
            replica = replicas[(number + place) % len(replicas)]
            calls.append(replica.plaque.start(channel, over=replica.connection(len(calls) // len(replicas))))
    return calls


def calls_in_progress(replicas):
    return sum(replica.plaque.metric("plaque_calls") for replica in replicas)


def lookups_of(replicas, origin, channels, each=30):
    """How often the origin is asked for these channels, while all replicas are, at once, so many times for each."""
    def count():
        asked = origin.stats()["by_channel"]
        return sum(asked.get(channel, 0) for channel in channels)

    before = count()
    for answer in [Answer(call) for call in begin(replicas, channels, each)]:
        expect_ok(answer)
    return count() - before


def expect_one_lookup_for_each(replicas, origin, channels):
    """That the replicas look channels up, of which none of them knows, once among them."""
    # Long enough for all of them to be asked meanwhile.
    origin.control(latency_ms=300)
    assert lookups_of(replicas, origin, channels) == len(channels), "the lookups"
    origin.control(latency_ms=0)


def key(channel):
    """Of the entry of a channel's uploads of all kinds."""
    return f"plaque:1:{{{channel}/all}}"


def ttl(answer):
    """For how many seconds more the answer is fresh, by the cache-status of a hit."""
    expect_ok(answer)
    found = re.fullmatch(r"plaque; hit; ttl=(-?\d+)", answer.cache_status or "")
    assert found, f"the cache-status is {answer.cache_status!r}"
    return int(found.group(1))


# Files


def files_beside(path):
    return sorted(name for name in os.listdir(path.parent) if name != path.name)
