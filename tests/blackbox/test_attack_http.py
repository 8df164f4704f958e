"""Attacks on the ports that speak HTTP/1.1: the admin port and that of the JSON API."""

import errno
import http.client
import socket
import urllib.parse
from collections import Counter

import pytest

from attack_support import GROWTH
from support import KURZGESAGT, SCISHOW, Background, Stopwatch, expect_ok, make_certificate, run, wait_until


def asked(path):
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


def json_path(channel_id):
    return f"/v1/channels/{channel_id}/latest-video"


# What each peer sends, of a path that is answered at once and one that is not.
HTTP_PEERS = {
    "say nothing": lambda quick, slow: b"",
    "send half a request": lambda quick, slow: asked(quick)[:-2] + b"x-half: ",
    "read no answer": lambda quick, slow: asked(quick) * 400,
    "wait for a lookup": lambda quick, slow: asked(slow),
}


class HttpPeers(Background):
    """A hundred peers of one kind. Who is sent away comes again at once."""

    def __init__(self, address, message, reads):
        super().__init__(self.stay)
        self.address, self.message, self.reads = address, message, reads
        self.peers = [None] * 100
        self.connected, self.heard = 0, Counter()

    def stay(self):
        while not self.leaving.wait(0.005):
            for place, peer in enumerate(self.peers):
                if peer is None or self.is_gone(peer):
                    self.peers[place] = self.come()

    def come(self):
        peer = socket.socket()
        peer.setblocking(False)
        peer.connect_ex(self.address)
        self.connected += 1
        return [peer, self.message]

    def is_gone(self, peer):
        connection, left = peer
        try:
            if left:
                # Who reads no answer asks for more.
                peer[1] = left[connection.send(left):] or (b"" if self.reads else self.message)
            if self.reads:
                answer = connection.recv(1 << 16)
                if not answer:
                    connection.close()
                    return True
                self.heard[answer[9:12].decode()] += 1
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # not yet
                connection.close()
                return True
        return False

    def __enter__(self):
        super().__enter__()
        wait_until(lambda: None not in self.peers, "a hundred have come")
        return self

    def __exit__(self, *_):
        super().__exit__()
        for connection, _ in self.peers:
            connection.close()


def status_within(port, path, seconds, headers=None):
    connection = http.client.HTTPConnection(port.hostname, port.port, timeout=seconds)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__} {error}"
    finally:
        connection.close()


@pytest.mark.parametrize("own_port", [False, True], ids=["admin port", "JSON port"])
@pytest.mark.parametrize("peers", HTTP_PEERS)
def test_http_ports_answer_beside_a_hundred_who(bench, peers, own_port, note):
    """Every probe, and whatever else is answered at once, within a second."""
    seconds = 4
    flags = ("--http-listen", "127.0.0.1:0", "--http-max-connections", "64") if own_port else ()
    with bench.plaque_and_origin(*flags) as (plaque, origin):
        expect_ok(plaque.ask(KURZGESAGT))
        origin.control(mode="hang", channels=[SCISHOW])
        admin = urllib.parse.urlsplit(plaque.admin)
        attacked = urllib.parse.urlsplit(plaque.http) if own_port else admin
        probes = [(admin, path) for path in ("/livez", "/readyz", "/metrics")]
        if own_port:
            probes += [(attacked, path) for path in ("/livez", "/readyz")]
            if peers != "wait for a lookup":  # which takes the places of requests that may have to wait
                probes.append((attacked, json_path(KURZGESAGT)))
        before = plaque.memory_kib()
        message = HTTP_PEERS[peers](json_path(KURZGESAGT) if own_port else "/metrics", json_path(SCISHOW))
        with HttpPeers((attacked.hostname, attacked.port), message, reads=peers != "read no answer") as attackers:
            watch, took = Stopwatch(), []
            while watch.seconds() < seconds:
                for port, path in probes:
                    one = Stopwatch()
                    assert status_within(port, path, 1) == 200, f"{path}'s status"
                    took.append(one.seconds())
                    assert took[-1] < 1, f"{path} took {took[-1]:.2f} s"
        growth = (plaque.memory_kib("VmHWM") - before) // 1024
        assert growth <= GROWTH, f"the peak of memory is {growth} MiB higher than before"
    heard = f", {dict(attackers.heard)}" if attackers.heard else ""
    note(f"{len(took)} probes, the longest {max(took) * 1000:.0f} ms; {attackers.connected} connections of the attackers{heard}; "
         f"peak memory +{growth} MiB")


def test_a_name_that_points_to_the_admin_port_reads_nothing_there(plaque, origin):
    port = urllib.parse.urlsplit(plaque.admin)
    rebound = {"host": f"evil.example:{port.port}"}
    for path in "/", "/metrics", "/busy", json_path(KURZGESAGT):
        assert status_within(port, path, 5, rebound) == 421, f"the status of {path} by another name"
    assert origin.lookups(KURZGESAGT) == 0, "the lookups"
    # As the kubelet, Prometheus and browsers ask.
    for host in f"127.0.0.1:{port.port}", "10.244.0.7:3780", "[::1]:3780", "localhost":
        assert status_within(port, "/metrics", 5, {"host": host}) == 200, f"the status by {host}"


def test_nothing_is_looked_up_for_who_has_no_certificate(bench, tmp_path):
    certificate, key = make_certificate(tmp_path)
    flags = "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", certificate
    with bench.plaque_and_origin(*flags) as (plaque, origin):
        port = urllib.parse.urlsplit(plaque.admin)
        assert status_within(port, json_path(KURZGESAGT), 5) == 404, "the status of JSON"
        assert status_within(port, "/livez", 5) == 200, "the status of a probe"
        assert origin.lookups() == 0, "the lookups"
    with bench.plaque_and_origin(*flags, "--http-listen", "127.0.0.1:0") as (plaque, origin):
        assert plaque.http.startswith("https://"), f"{plaque.http} is not TLS"
        url = f"{plaque.http}{json_path(KURZGESAGT)}"
        done = run("curl", "--silent", "--show-error", "--insecure", "--max-time", 5, url)
        assert done.returncode != 0 and not done.stdout, f"curl without a certificate got {done.stdout!r}"
        assert origin.lookups() == 0, "the lookups"
        done = run("curl", "--silent", "--show-error", "--insecure", "--max-time", 5, "--cert", certificate, "--key", key, url)
        assert KURZGESAGT in done.stdout, "the answer to a client with a certificate"
