"""The Helm chart, the kustomization and the Compose file of deploy/: against the schemas of what reads them, and with a running plaque.

Needs helm, promtool, and Go, whose modules bring the schemas of the Prometheus operator and of Compose. (No cluster, no Docker.)
"""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from deploy_support import DEPLOY, KUBERNETES, check_resource, custom_schemas, documents, output
from support import KURZGESAGT, expect_ok, run

CHART = DEPLOY / "helm/plaque"
FOLDER = DEPLOY / "kubernetes"
PROMETHEUS_OPERATOR, COMPOSE = "github.com/prometheus-operator/prometheus-operator@v0.85.0", "github.com/compose-spec/compose-go/v2@v2.16.2"

# Each value that the chart does something with.
ALL_VALUES = """
replicaCount: 3
image: { repository: registry.example/plaque, digest: "sha256:%s" }
imagePullSecrets: [ { name: registry } ]
fullnameOverride: feeds
bindAddress: "[::]"
store: { url: "redis-cluster://a,b", port: 6380 }
youtubeApiKey: { existingSecret: youtube, existingSecretKey: api-key }
tls: { existingSecret: tls, clientCertificates: true }
http: { enabled: true }
flags: { fallback-upstream: ["https://a.example/{id}", "https://b.example/{id}"], grpc-web: true, workers: false, fresh-for: 5m, max-calls: 1000000 }
env: [ { name: HTTPS_PROXY, value: "http://proxy.example:3128" } ]
service: { headless: false, annotations: { name: value } }
serviceAccount: { name: caller, annotations: { name: value } }
networkPolicy: { callers: [ { podSelector: {} } ], extraEgress: [ { ports: [ { port: 4317 } ] } ] }
serviceMonitor: { enabled: true, labels: { release: prometheus } }
podAnnotations: { name: value }
podLabels: { name: value }
priorityClassName: high
nodeSelector: { name: value }
tolerations: [ { operator: Exists } ]
affinity: { podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [ { topologyKey: zone, labelSelector: {} } ] } }
topologySpreadConstraints: [ { topologyKey: zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule } ]
""" % ("0" * 64)


def helm(verb, *words):
    return run("helm", *verb.split(), *words, within=60)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The resources of the chart with certain values, by kind and name."""
    folder = tmp_path_factory.mktemp("values")

    def render(values="", kubernetes=KUBERNETES[0]):
        path = folder / "values.yaml"
        path.write_text(values)
        text = output("helm", "template", "one", CHART, "--values", path, "--kube-version", kubernetes)
        return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(text)}

    return render


@pytest.fixture(scope="module")
def schemas():
    return custom_schemas(PROMETHEUS_OPERATOR, "example/prometheus-operator-crd/*servicemonitors.yaml")


def container(deployment):
    return deployment["spec"]["template"]["spec"]["containers"][0]


def test_helm_has_nothing_against_the_chart():
    for version in KUBERNETES:
        output("helm", "lint", "--strict", CHART, "--kube-version", version)


@pytest.mark.parametrize("values", ["", ALL_VALUES], ids=["defaults", "all"])
def test_the_chart_makes_resources_that_match_their_schemas(rendered, schemas, values, note):
    for version in KUBERNETES:
        resources = rendered(values, version)
        for resource in resources.values():
            check_resource(resource, schemas)
    note(", ".join(kind for kind, _ in resources))


def test_the_parts_of_the_chart_fit_together(rendered):
    for values in "", ALL_VALUES:
        resources = rendered(values)
        [deployment] = [found for (kind, _), found in resources.items() if kind == "Deployment"]
        template = deployment["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        chosen = [deployment["spec"]["selector"]["matchLabels"]]
        ports = {port["name"] for port in container(deployment)["ports"]}
        for (kind, name), found in resources.items():
            spec = found.get("spec", {})
            if kind == "Service":
                chosen.append(spec["selector"])
                assert {port["targetPort"] for port in spec["ports"]} <= ports, f"the ports of the Service {name}"
            elif kind == "PodDisruptionBudget":
                chosen.append(spec["selector"]["matchLabels"])
            elif kind == "NetworkPolicy":
                chosen.append(spec["podSelector"]["matchLabels"])
                let_in = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
                assert let_in == ports, "the ports that the policy lets callers and Prometheus to"
            elif kind == "ServiceMonitor":
                wanted = spec["selector"]["matchLabels"].items()
                services = [of for (kind, _), of in resources.items() if kind == "Service" and wanted <= of["metadata"]["labels"].items()]
                assert len(services) == 1, "the Services that Prometheus takes"
                assert spec["endpoints"][0]["port"] in {port["name"] for port in services[0]["spec"]["ports"]}, "the port that it asks"
                assert services[0]["metadata"]["labels"][spec["jobLabel"]] == "plaque", "the job that the alerts expect"
        for selector in chosen:
            assert selector.items() <= labels, f"{selector} does not choose pods with {labels}"
        account = template["spec"]["serviceAccountName"]
        assert ("ServiceAccount", account) in resources, f"there is no ServiceAccount {account}"
        flags = dict(word.split("=", 1) for word in container(deployment)["args"] if "=" in word)
        drain = sum(int(flags[flag].removesuffix("s")) for flag in ("--drain-delay", "--drain-timeout"))
        assert template["spec"]["terminationGracePeriodSeconds"] > drain, "the seconds that a pod has to end"


def test_plaque_takes_the_flags_of_the_chart(bench, origin, rendered):
    for values in "", ALL_VALUES:
        [deployment] = [found for (kind, _), found in rendered(values).items() if kind == "Deployment"]
        words = [re.sub(r"=(0\.0\.0\.0|\[::\]):\d+", "=127.0.0.1:0", word) for word in container(deployment)["args"]]
        assert words.pop(0) == "serve", "the command"
        if values:
            # What it takes of them is seen in what it refuses first: a file that only a pod has.
            refused = bench.run_plaque("serve", *words)
            assert "/etc/plaque/" in refused.stderr, f"plaque said {refused.stderr!r}"
            assert "--fresh-for=5m" in words and "--grpc-web" in words and "--max-calls=1000000" in words, words
            assert words.count("--fallback-upstream=https://b.example/{id}") == 1, words
            assert not any(word.startswith("--workers") for word in words), words
            continue
        rate = float(dict(word.split("=", 1) for word in words)["--upstream-rate"])
        assert rate * deployment["spec"]["replicas"] == 20, "the lookups a second of all replicas, as `plaque serve` has by default"
        split = [part for word in words for part in word.split("=", 1)]
        with bench.plaque(origin.url, *split) as plaque:
            expect_ok(plaque.ask(KURZGESAGT))


def test_values_that_nobody_reads_are_refused():
    for setting, said in [("replicas=3", "replicas"), ("flags.listen=0.0.0.0:1", "/flags/listen"), ("flags.freshfor=5m", "freshfor"), ("store.url=http://a", "/store/url"), ("tls.clientCertificates=true", "/tls/existingSecret")]:
        done = helm("template one", CHART, "--kube-version", KUBERNETES[0], "--set", setting)
        assert done.returncode != 0 and said in done.stderr, f"of {setting} helm said {done.stderr!r}"
    named = set(json.loads((CHART / "values.schema.json").read_text())["properties"]) - {"global"}
    assert named == set(yaml.safe_load((CHART / "values.yaml").read_text())), "the values, in the schema and with their defaults"


def test_the_kustomization_has_each_manifest_and_they_match_their_schemas(schemas):
    for folder in FOLDER, FOLDER / "monitoring":
        [kustomization] = documents(folder / "kustomization.yaml")
        others = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert set(kustomization["resources"]) == others, f"the manifests in {folder}"
        for document in [found for name in others for found in documents(folder / name)]:
            check_resource(document, schemas)


def test_the_compose_file_matches_the_schema_of_compose(tmp_path):
    module = Path(json.loads(output("go", "mod", "download", "-json", COMPOSE))["Dir"])
    [compose] = documents(DEPLOY / "compose.yaml")
    jsonschema.validate(compose, json.loads((module / "schema/compose-spec.json").read_text()))
    for service in compose["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), f"there is no {source}"
        assert {config["source"] for config in service.get("configs", ())} <= set(compose["configs"]), "its configs"
    # As Prometheus finds its rules in its container.
    content = compose["configs"]["prometheus"]["content"]
    path = tmp_path / "prometheus.yml"
    path.write_text(content.replace("/etc/prometheus/alerts.yaml", str(DEPLOY / "alerts.yaml")))
    output("promtool", "check", "config", path)


def test_plaque_takes_the_flags_of_the_compose_file_and_shows_prometheus_its_metrics(bench, origin):
    [compose] = documents(DEPLOY / "compose.yaml")
    [job] = yaml.safe_load(compose["configs"]["prometheus"]["content"])["scrape_configs"]
    host = job["static_configs"][0]["targets"][0]
    words = [re.sub(r"=0\.0\.0\.0:\d+", "=127.0.0.1:0", word) for word in compose["services"]["plaque"]["command"]]
    assert words.pop(0) == "serve", "the command"
    # There is no Valkey here: plaque goes on without it.
    split = [part for word in words for part in word.split("=", 1)]
    with bench.plaque(origin.url, *split) as plaque:
        expect_ok(plaque.ask(KURZGESAGT))
        for named, status in (host, "200"), ("another:3780", "421"):
            asked = output("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--header", f"Host: {named}",
                           f"{plaque.admin}/metrics")
            assert asked == status, f"what who asks {named} gets"
