"""What deploy/ hands to Kubernetes, Istio, Linkerd, systemd, Prometheus and Grafana: against the schemas and tools of these, and
against a running plaque. (test_mesh.py, test_service_config.py and test_image.py try the rest of deploy/.)

Needs promtool, systemd-analyze, Valkey, and Go, whose modules bring the schemas of Istio and of the Gateway API.
"""

import json
import re
import shlex
import urllib.request
from pathlib import Path

import yaml

from deploy_support import DEPLOY, KUBERNETES, check_resource, custom_schemas, documents, output
from support import KURZGESAGT, expect_ok, free_port, made_up_channel, run, running, wait_until

ISTIO, GATEWAY_API = "istio.io/api@v1.31.1", "sigs.k8s.io/gateway-api@v1.4.1"


# Kubernetes and its meshes


def manifests(name):
    return {document["kind"]: document for document in documents(DEPLOY / "kubernetes" / f"{name}.yaml")}


MANIFESTS, VALKEY = manifests("plaque"), manifests("valkey")
POD = MANIFESTS["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
# By name and by number, as manifests name them.
PORTS = {key: port["containerPort"] for port in CONTAINER["ports"] for key in (port["name"], port["containerPort"])}


def test_images_of_others_are_named_by_digest():
    """A tag may name something else tomorrow. plaque's own image is the operator's to name."""
    files = {path: path.read_text() for path in (DEPLOY / "Dockerfile", *DEPLOY.rglob("*.yaml"))}
    images = [
        (path.name, image)
        for path, text in files.items()
        for image in re.findall(r"^FROM (\S+)|^\s*(?:- )?image: (\S+)", text, re.M)
    ]
    images = [(name, first or second) for name, (first, second) in images if not second.startswith(("plaque:", "{{"))]
    assert len(images) == 6, "how many there are"
    by_tag = [image for image in images if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image[1])]
    assert by_tag == [], "those with a tag alone"


def test_the_manifests_match_the_schemas_of_kubernetes(note):
    for document in [*MANIFESTS.values(), *VALKEY.values()]:
        check_resource(document)
    assert set(MANIFESTS) == {"Deployment", "Service", "PodDisruptionBudget"}, "the kinds"
    assert set(VALKEY) == {"Deployment", "Service", "NetworkPolicy"}, "the kinds of the store"
    note(f"of {' and '.join(KUBERNETES)}")


def test_the_manifests_fit_together():
    labels = POD["metadata"]["labels"]
    for selector in [
            MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"], MANIFESTS["Service"]["spec"]["selector"],
            MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]]:
        assert selector.items() <= labels.items(), f"{selector} does not choose pods with {labels}"
    named = [port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]]
    named += [int(POD["metadata"]["annotations"]["prometheus.io/port"])]
    named += [CONTAINER["readinessProbe"]["grpc"]["port"], CONTAINER["livenessProbe"]["httpGet"]["port"]]
    assert set(named) - set(PORTS) == set(), "the ports that nothing listens on"
    flags = dict(word.split("=") for word in CONTAINER["args"][1:])
    drain = sum(int(flags[flag].removesuffix("s")) for flag in ("--drain-delay", "--drain-timeout"))
    grace = POD["spec"]["terminationGracePeriodSeconds"]
    assert grace > drain, f"a pod has {grace} s to end, and plaque wants {drain} s"
    service, policy = VALKEY["Service"], VALKEY["NetworkPolicy"]["spec"]
    url = f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert flags["--store"] == url, "where plaque looks for its store"
    store = VALKEY["Deployment"]["spec"]["template"]
    for selector in [VALKEY["Deployment"]["spec"]["selector"]["matchLabels"], service["spec"]["selector"],
                     policy["podSelector"]["matchLabels"]]:
        assert selector == store["metadata"]["labels"], "what chooses the store's pod"
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == labels, "who may reach it"
    ports = [port["name"] for port in store["spec"]["containers"][0]["ports"]]
    named = [service["spec"]["ports"][0]["targetPort"], policy["ingress"][0]["ports"][0]["port"]]
    assert set(named) - set(ports) == set(), "the store's ports that nothing listens on"


def test_plaque_takes_the_flags_of_the_deployment_and_answers_its_probes(bench, origin):
    flags = [re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", word) for word in CONTAINER["args"]]
    assert flags.pop(0) == "serve", "the command"
    words = [word for flag in flags for word in flag.split("=")]
    with bench.plaque(origin.url, *words) as plaque:
        # As kubelet asks: `grpc.health.v1.Health/Check` of the service without a name. SERVING is field 1 with the value 1.
        check = plaque.channel.unary_unary("/grpc.health.v1.Health/Check")
        asked = CONTAINER["readinessProbe"]["grpc"].get("service", "")
        assert asked == "", "the service that is asked for"
        assert check(b"", timeout=10) == b"\x08\x01", "the answer to the readiness probe"
        with urllib.request.urlopen(plaque.admin + CONTAINER["livenessProbe"]["httpGet"]["path"], timeout=10) as alive:
            assert alive.status == 200, "the answer to the liveness probe"
        expect_ok(plaque.ask(KURZGESAGT))


def test_two_replicas_share_the_valkey_of_the_deployment(bench, origin):
    container = VALKEY["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    program, *flags = container["args"]
    port = free_port()
    with running([program, *flags, "--port", port]) as valkey:
        wait_until(lambda: "Ready to accept connections" in valkey.out.read_text(), "Valkey starts")
        client, *words = container["readinessProbe"]["exec"]["command"]
        assert output(client, "-p", port, *words) == "PONG\n", "the answer to the readiness probe"
        store = "--store", f"redis://127.0.0.1:{port}"
        with bench.plaque(origin.url, *store) as one, bench.plaque(origin.url, *store) as other:
            for plaque in one, other:
                wait_until(lambda plaque=plaque: plaque.metric("plaque_store_up") == 1, "the store is in use")
                expect_ok(plaque.ask(KURZGESAGT))
        assert origin.lookups() == 1, "the lookups of both"


def test_the_meshes_resources_match_their_schemas(note):
    schemas = custom_schemas(ISTIO, "kubernetes/*.yaml") | custom_schemas(GATEWAY_API, "config/crd/standard/*.yaml")
    checked = [document for name in ("istio", "linkerd") for document in documents(DEPLOY / f"{name}.yaml")]
    for document in checked:
        check_resource(document, schemas)
    note(", ".join(document["kind"] for document in checked))


# systemd


def test_systemd_takes_the_unit(bench, tmp_path, note):
    installed = "/usr/local/bin/plaque"
    unit = (DEPLOY / "plaque.service").read_text()
    assert f"ExecStart={installed} serve --store file:%S/plaque/store\n" in unit, "the unit starts something else"
    path = tmp_path / "plaque.service"
    path.write_text(unit.replace(installed, shlex.quote(str(bench.program))))
    done = run("systemd-analyze", "verify", "--man=no", path)
    assert (done.returncode, done.stderr) == (0, ""), "what systemd says of the unit"
    # In tenths; that of a unit that says nothing is 96.
    told = output("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", path)
    note(re.search(r"Overall exposure level .*: (\S+)", told).group(1))


# Prometheus and Grafana


ALERTS = DEPLOY / "alerts.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [rule for group in documents(ALERTS)[0]["groups"] for rule in group["rules"]]
# Rows have none.
PANELS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def without_variables(expression):
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")


def test_prometheus_takes_the_alerts_and_they_fire_when_they_should(note):
    output("promtool", "check", "rules", ALERTS)
    tests = DEPLOY / "alerts_test.yaml"
    output("promtool", "test", "rules", tests)
    fired = set(re.findall(r'labels: \'\{alertname="(\w+)"', tests.read_text()))
    assert {rule["alert"] for rule in RULES} - fired == set(), "the alerts that no test sees firing"
    note(f"{len(RULES)} alerts")


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path, note):
    rules = [{"record": f"panel:{n}", "expr": without_variables(expression)} for n, (_, expression) in enumerate(PANELS)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    output("promtool", "check", "rules", path)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids), "the panels' ids, without repetition,"
    note(f"{len(rules)} expressions in {len(ids)} panels")


def told(text):
    """The metrics of a text in Prometheus' format, each with the names of its labels."""
    names = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+", text, re.M):
        names.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return names


def asked(expression):
    """The metrics of an expression, each with the names of the labels that its selectors go by."""
    names = {}
    # A word before braces or brackets is one, whatever it is called.
    for name, labels in re.findall(r"\b((?:plaque_|rpc_server_)\w+|\w+(?=\s*[{\[]))(?:\s*\{([^}]*)\})?", expression):
        names.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", labels))
    return names


def missing(expression, names):
    """What an expression asks for and nobody tells."""
    # What Prometheus itself adds.
    names = names | {"up": set()}
    for name, labels in asked(expression).items():
        if name not in names:
            yield name
        else:
            yield from (f"{name}{{{label}}}" for label in labels - names[name] - {"job", "instance"})


def test_plaque_tells_what_alerts_and_dashboard_ask_for(bench, tmp_path, note):
    expressions = [expression for _, expression in PANELS] + [rule["expr"] for rule in RULES]
    expressions += [variable["query"] for variable in DASHBOARD["templating"]["list"]]

    def untold():
        with urllib.request.urlopen(f"{plaque.admin}/metrics", timeout=10) as answer:
            names = told(answer.read().decode())
        return sorted({lack for expression in expressions for lack in missing(without_variables(expression), names)})

    # One of each thing that is counted by kind, as plaque is silent of what has not happened: calls, lookups, evictions (of 500
    # channels some 30 fit), a connection that ended, a lookup at another source.
    key = tmp_path / "key"
    key.write_text("test-key\n")
    with bench.origin(synthesize=True) as origin, bench.origin(synthesize=True) as mirror:
        api = origin.url.replace("/feeds/videos.xml", "/youtube/v3")
        with bench.plaque(
                origin.url, "--cache-bytes", "64KiB", "--log", "error", "--upstream-rate", "10000", "--store", f"file:{tmp_path}/store",
                "--fallback-upstream", mirror.url, "--youtube-api", api, "--youtube-api-key-file", key) as plaque:
            origin.control(latency_ms=0)
            with plaque.connect() as other:
                expect_ok(plaque.ask(KURZGESAGT, over=other))
            for batch in range(5):
                expect_ok(plaque.batch([made_up_channel(100 * batch + n) for n in range(100)]))
            origin.control(mode="status:404")
            expect_ok(plaque.ask(made_up_channel(500)))
            try:
                wait_until(lambda: not untold(), "all of it is told")
            except AssertionError:
                assert untold() == [], "what plaque does not tell"
    metrics = {name for expression in expressions for name in asked(expression)}
    assert len(metrics) > 20, f"alerts and dashboard ask for {metrics} alone"
    note(f"{len(metrics)} metrics in {len(expressions)} expressions")
