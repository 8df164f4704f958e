"""What deploy/ hands to Kubernetes, Istio, Linkerd, systemd, Prometheus and Grafana: against the schemas and tools of these, and
against a running plaque. (mesh.py, service_config.py and image.py try the rest of deploy/.)

    pip install -r tests/blackbox/requirements.txt; apt-get install prometheus systemd valkey (for promtool and systemd-analyze)
    python tests/blackbox/deploy.py --plaque target/release/plaque

Needs Go, whose modules bring the schemas of Istio and of the Gateway API.
"""

import json
import re
import shlex
import tempfile
import urllib.request
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from support import (
    KURZGESAGT, REPOSITORY, Bench, Failure, Suite, expect, expect_equal, expect_ok, free_port, made_up_channel, run, running,
    wait_until,
)

suite = Suite()

DEPLOY = REPOSITORY / "deploy"
# The oldest that kubernetes/plaque.yaml is for, and the newest there is a schema of.
KUBERNETES = "1.27", kubernetes_validate.latest_version()
ISTIO, GATEWAY_API = "istio.io/api@v1.31.1", "sigs.k8s.io/gateway-api@v1.4.1"


def output(*command):
    done = run(*command, within=120)
    expect_equal(f"the exit code of {command[0]}, which said {done.stdout + done.stderr!r},", done.returncode, 0)
    return done.stdout


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


# Kubernetes and its meshes


def manifests(name):
    return {document["kind"]: document for document in documents(DEPLOY / "kubernetes" / f"{name}.yaml")}


MANIFESTS, VALKEY = manifests("plaque"), manifests("valkey")
POD = MANIFESTS["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
# By name and by number, as manifests name them.
PORTS = {key: port["containerPort"] for port in CONTAINER["ports"] for key in (port["name"], port["containerPort"])}


@suite.check
def images_of_others_are_named_by_digest(_bench):
    """A tag may name something else tomorrow. plaque's own image is the operator's to name."""
    files = {path: path.read_text() for path in (DEPLOY / "Dockerfile", *DEPLOY.rglob("*.yaml"))}
    images = [
        (path.name, image)
        for path, text in files.items()
        for image in re.findall(r"^FROM (\S+)|^\s*(?:- )?image: (\S+)", text, re.M)
    ]
    images = [(name, first or second) for name, (first, second) in images if not second.startswith("plaque:")]
    expect_equal("how many there are", len(images), 3)
    by_tag = [image for image in images if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image[1])]
    expect_equal("those with a tag alone", by_tag, [])


@suite.check
def the_manifests_match_the_schemas_of_kubernetes(_bench):
    for version in KUBERNETES:
        for document in [*MANIFESTS.values(), *VALKEY.values()]:
            kubernetes_validate.validate(document, version, strict=True)
    expect_equal("the kinds", set(MANIFESTS), {"Deployment", "Service", "PodDisruptionBudget"})
    expect_equal("the kinds of the store", set(VALKEY), {"Deployment", "Service", "NetworkPolicy"})
    return f"of {' and '.join(KUBERNETES)}"


@suite.check
def the_manifests_fit_together(_bench):
    labels = POD["metadata"]["labels"]
    for selector in [
            MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"], MANIFESTS["Service"]["spec"]["selector"],
            MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]]:
        expect(selector.items() <= labels.items(), f"{selector} does not choose pods with {labels}")
    named = [port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]]
    named += [int(POD["metadata"]["annotations"]["prometheus.io/port"])]
    named += [CONTAINER["readinessProbe"]["grpc"]["port"], CONTAINER["livenessProbe"]["httpGet"]["port"]]
    expect_equal("the ports that nothing listens on", set(named) - set(PORTS), set())
    flags = dict(word.split("=") for word in CONTAINER["args"][1:])
    drain = sum(int(flags[flag].removesuffix("s")) for flag in ("--drain-delay", "--drain-timeout"))
    grace = POD["spec"]["terminationGracePeriodSeconds"]
    expect(grace > drain, f"a pod has {grace} s to end, and plaque wants {drain} s")
    service, policy = VALKEY["Service"], VALKEY["NetworkPolicy"]["spec"]
    url = f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    expect_equal("where plaque looks for its store", flags["--store"], url)
    store = VALKEY["Deployment"]["spec"]["template"]
    for selector in [VALKEY["Deployment"]["spec"]["selector"]["matchLabels"], service["spec"]["selector"],
                     policy["podSelector"]["matchLabels"]]:
        expect_equal("what chooses the store's pod", selector, store["metadata"]["labels"])
    expect_equal("who may reach it", policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"], labels)
    ports = [port["name"] for port in store["spec"]["containers"][0]["ports"]]
    named = [service["spec"]["ports"][0]["targetPort"], policy["ingress"][0]["ports"][0]["port"]]
    expect_equal("the store's ports that nothing listens on", set(named) - set(ports), set())


@suite.check
def plaque_takes_the_flags_of_the_deployment_and_answers_its_probes(bench):
    flags = [re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", word) for word in CONTAINER["args"]]
    expect_equal("the command", flags.pop(0), "serve")
    words = [word for flag in flags for word in flag.split("=")]
    with bench.origin() as origin, bench.plaque(origin.url, *words) as plaque:
        # As kubelet asks: `grpc.health.v1.Health/Check` of the service without a name. SERVING is field 1 with the value 1.
        check = plaque.channel.unary_unary("/grpc.health.v1.Health/Check")
        asked = CONTAINER["readinessProbe"]["grpc"].get("service", "")
        expect_equal("the service that is asked for", asked, "")
        expect_equal("the answer to the readiness probe", check(b"", timeout=10), b"\x08\x01")
        with urllib.request.urlopen(plaque.admin + CONTAINER["livenessProbe"]["httpGet"]["path"], timeout=10) as alive:
            expect_equal("the answer to the liveness probe", alive.status, 200)
        expect_ok(plaque.ask(KURZGESAGT))


@suite.check
def two_replicas_share_the_valkey_of_the_deployment(bench):
    container = VALKEY["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    program, *flags = container["args"]
    port = free_port()
    with bench.origin() as origin, running([program, *flags, "--port", port]) as valkey:
        wait_until(lambda: "Ready to accept connections" in valkey.out.read_text(), "Valkey starts")
        client, *words = container["readinessProbe"]["exec"]["command"]
        expect_equal("the answer to the readiness probe", output(client, "-p", port, *words), "PONG\n")
        store = "--store", f"redis://127.0.0.1:{port}"
        with bench.plaque(origin.url, *store) as one, bench.plaque(origin.url, *store) as other:
            for plaque in one, other:
                wait_until(lambda plaque=plaque: plaque.metric("plaque_store_up") == 1, "the store is in use")
                expect_ok(plaque.ask(KURZGESAGT))
        expect_equal("the lookups of both", origin.lookups(), 1)


def custom_schemas(module, under):
    """The schemas of the custom resources that a Go module brings, by version and kind."""
    folder = Path(json.loads(output("go", "mod", "download", "-json", module))["Dir"])
    schemas = {}
    for resource in [document for path in sorted(folder.glob(under)) for document in documents(path)]:
        if resource["kind"] == "CustomResourceDefinition":
            for version in resource["spec"]["versions"]:
                name = f"{resource['spec']['group']}/{version['name']}", resource["spec"]["names"]["kind"]
                schemas[name] = strict(version["schema"]["openAPIV3Schema"])
    return schemas


def strict(schema):
    """The schema, without room for fields that it does not name: a cluster would drop them."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strictly = {name: strict(part) for name, part in schema.items()}
    # Apart from what Kubernetes knows of every resource.
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strictly["additionalProperties"] = False
        strictly["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata") if "spec" in schema["properties"]}
    return strictly


@suite.check
def the_meshes_resources_match_their_schemas(_bench):
    schemas = custom_schemas(ISTIO, "kubernetes/*.yaml") | custom_schemas(GATEWAY_API, "config/crd/standard/*.yaml")
    checked = [document for name in ("istio", "linkerd") for document in documents(DEPLOY / f"{name}.yaml")]
    for document in checked:
        name = document["apiVersion"], document["kind"]
        expect(name in schemas, f"there is no {name}")
        try:
            jsonschema.validate(document, schemas[name])
        except jsonschema.ValidationError as error:
            raise Failure(f"{document['kind']} {error.json_path}: {error.message}") from None
    return ", ".join(document["kind"] for document in checked)


# systemd


@suite.check
def systemd_takes_the_unit(bench):
    installed = "/usr/local/bin/plaque"
    unit = (DEPLOY / "plaque.service").read_text()
    expect(f"ExecStart={installed} serve --store file:%S/plaque/store\n" in unit, "the unit starts something else")
    with tempfile.TemporaryDirectory(prefix="plaque-unit-") as folder:
        path = Path(folder) / "plaque.service"
        path.write_text(unit.replace(installed, shlex.quote(str(bench.program))))
        done = run("systemd-analyze", "verify", "--man=no", path)
        expect_equal("what systemd says of the unit", (done.returncode, done.stderr), (0, ""))
        # In tenths; that of a unit that says nothing is 96.
        told = output("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", path)
    return re.search(r"Overall exposure level .*: (\S+)", told).group(1)


# Prometheus and Grafana


ALERTS = DEPLOY / "alerts.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [rule for group in documents(ALERTS)[0]["groups"] for rule in group["rules"]]
PANELS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def without_variables(expression):
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")


@suite.check
def prometheus_takes_the_alerts_and_they_fire_when_they_should(_bench):
    output("promtool", "check", "rules", ALERTS)
    tests = DEPLOY / "alerts_test.yaml"
    output("promtool", "test", "rules", tests)
    fired = set(re.findall(r'labels: \'\{alertname="(\w+)"', tests.read_text()))
    expect_equal("the alerts that no test sees firing", {rule["alert"] for rule in RULES} - fired, set())
    return f"{len(RULES)} alerts"


@suite.check
def prometheus_takes_the_expressions_of_the_dashboard(_bench):
    rules = [{"record": f"panel:{n}", "expr": without_variables(expression)} for n, (_, expression) in enumerate(PANELS)]
    with tempfile.TemporaryDirectory(prefix="plaque-panels-") as folder:
        path = Path(folder) / "rules.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        output("promtool", "check", "rules", path)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    expect_equal("the panels' ids, without repetition,", len(set(ids)), len(ids))
    return f"{len(rules)} expressions in {len(ids)} panels"


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


@suite.check
def plaque_tells_what_alerts_and_dashboard_ask_for(bench):
    expressions = [expression for _, expression in PANELS] + [rule["expr"] for rule in RULES]
    expressions += [variable["query"] for variable in DASHBOARD["templating"]["list"]]

    def untold():
        with urllib.request.urlopen(f"{plaque.admin}/metrics", timeout=10) as answer:
            names = told(answer.read().decode())
        return sorted({lack for expression in expressions for lack in missing(without_variables(expression), names)})

    # One of each thing that is counted by kind, as plaque is silent of what has not happened: calls, lookups, evictions (of 500
    # channels some 30 fit), a connection that ended.
    flags = "--cache-bytes", "64KiB", "--log", "error", "--upstream-rate", "10000"
    with tempfile.TemporaryDirectory(prefix="plaque-store-") as folder, \
            bench.plaque_and_origin(*flags, "--store", f"file:{folder}/store", synthesize=True) as (plaque, origin):
        origin.control(latency_ms=0)
        with plaque.connect() as other:
            expect_ok(plaque.ask(KURZGESAGT, over=other))
        for batch in range(5):
            expect_ok(plaque.batch([made_up_channel(100 * batch + n) for n in range(100)]))
        try:
            wait_until(lambda: not untold(), "all of it is told")
        except Failure:
            expect_equal("what plaque does not tell", untold(), [])
    metrics = {name for expression in expressions for name in asked(expression)}
    expect(len(metrics) > 20, f"alerts and dashboard ask for {metrics} alone")
    return f"{len(metrics)} metrics in {len(expressions)} expressions"


if __name__ == "__main__":
    suite.run(Bench(__doc__.splitlines()[0]))
