"""What tests of deploy/ have in common: the schemas of Kubernetes and of those who add resources to it."""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from support import REPOSITORY, run

DEPLOY = REPOSITORY / "deploy"
# The oldest that the manifests are for, and the newest there is a schema of.
KUBERNETES = "1.27", kubernetes_validate.latest_version()


def output(*command):
    done = run(*command, within=120)
    assert done.returncode == 0, f"the exit code of {command[0]}, which said {done.stdout + done.stderr!r},"
    return done.stdout


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


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


def check_resource(document, schemas=()):
    """Fails unless the resource matches its schema: one of `schemas`, by version and kind, or else those of Kubernetes."""
    name = document["apiVersion"], document["kind"]
    if name not in schemas:
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
        return
    try:
        jsonschema.validate(document, schemas[name])
    except jsonschema.ValidationError as error:
        raise AssertionError(f"{document['kind']} {error.json_path}: {error.message}") from None
