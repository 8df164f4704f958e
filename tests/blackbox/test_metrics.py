"""/metrics by Prometheus' own tools: promtool, and a Prometheus that scrapes plaque in both formats.

Needs promtool and prometheus.
"""

import http.server
import json
import re
import threading
import urllib.parse
import urllib.request
from contextlib import contextmanager

import yaml

from support import KURZGESAGT, UNKNOWN, expect_ok, free_port, run, running, wait_until

# What a Prometheus asks for that knows nothing else.
PLAIN = "text/plain;version=0.0.4"


def busy_plaque(plaque):
    """A hit, a miss, a channel that does not exist, a watch, and a connection that has ended."""
    with plaque.connect() as other:
        expect_ok(plaque.ask(KURZGESAGT, over=other))
    expect_ok(plaque.ask(KURZGESAGT))
    plaque.ask(UNKNOWN)
    with plaque.watch([KURZGESAGT]) as watch:
        watch.wait_for(1)


def test_promtool_has_nothing_to_say_against_the_metrics(plaque):
    busy_plaque(plaque)
    with urllib.request.urlopen(f"{plaque.admin}/metrics", timeout=10) as answer:
        assert answer.headers["content-type"] == f"{PLAIN}; charset=utf-8".replace(";version", "; version")
        text = answer.read().decode()
    done = run("promtool", "check", "metrics", stdin=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@contextmanager
def relay(plaque, answered):
    """Passes scrapes on: of /open as they come, of /plain as if they accepted that alone. Notes the format of each answer."""

    class Relay(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            accept = PLAIN if self.path == "/plain" else self.headers["accept"]
            request = urllib.request.Request(f"{plaque.admin}/metrics", headers={"accept": accept})
            with urllib.request.urlopen(request, timeout=10) as answer:
                body, kind = answer.read(), answer.headers["content-type"]
            answered[self.path] = kind
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_prometheus_scrapes_both_formats(plaque, tmp_path):
    busy_plaque(plaque)
    answered, port = {}, free_port()
    with relay(plaque, answered) as relay_port:
        jobs = [{
            "job_name": path, "metrics_path": f"/{path}", "scrape_interval": "1s", "scrape_timeout": "1s",
            "static_configs": [{"targets": [f"127.0.0.1:{relay_port}"]}],
        } for path in ("open", "plain")]
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": jobs}))
        prometheus = "prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}"
        with running([*prometheus, "--log.level=error"]):
            def ask(path):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
                        return json.load(answer)["data"]
                except OSError:
                    return {}

            def targets():
                return {target["labels"]["job"]: (target["health"], target["lastError"]) for target in ask("targets").get("activeTargets", ())}

            def value(expression):
                query = urllib.parse.urlencode({"query": expression})
                return [float(sample["value"][1]) for sample in ask(f"query?{query}").get("result", ())]

            well = {"open": ("up", ""), "plain": ("up", "")}
            try:
                wait_until(lambda: targets() == well, "both are scraped", seconds=30)
            except AssertionError:
                assert targets() == well, "the targets"
            for job in well:
                assert value(f'plaque_lookups_total{{job="{job}", cache_status="miss"}}') == [2.0], job
                assert value(f'plaque_build_info{{job="{job}"}}') == [1.0], job
                assert value(f'process_resident_memory_bytes{{job="{job}"}}')[0] > 1e6, job
                assert value(f'count(rpc_server_call_duration_seconds_bucket{{job="{job}", le="+Inf"}})')[0] >= 3, job
    assert re.match("application/openmetrics-text; version=1.0.0", answered["/open"]), answered
    assert answered["/plain"].startswith("text/plain; version=0.0.4"), answered
