"""/openapi.json: valid by a public validator, and true of what the JSON API answers."""

import json
import re
import urllib.error
import urllib.request

import openapi_spec_validator
import pytest
from jsonschema import Draft202012Validator

from support import KURZGESAGT, UNKNOWN

# For each parameter of a query, a value that it takes.
VALUES = {"kind": "VIDEO_KIND_SHORT", "max_age": "1.5s", "page_size": 2, "page_token": ""}


def get(url):
    """The status, the headers and the body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.headers, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


@pytest.fixture
def api(bench):
    """The description and the address of a plaque's JSON API."""
    with bench.plaque_and_origin("--http-listen", "127.0.0.1:0") as (plaque, _):
        _, headers, document = get(f"{plaque.http}/openapi.json")
        assert headers["content-type"] == "application/json"
        yield document, plaque.http


def test_it_is_valid(api):
    document, _ = api
    openapi_spec_validator.validate(document)


def check(document, path, status, headers, body):
    """Whether a response is as described: its status, its headers and its body, with no more fields than there are."""
    response = document["paths"][path]["get"]["responses"][str(status)]
    while "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    schemas = {name: {**schema, "additionalProperties": False} for name, schema in document["components"]["schemas"].items()}
    root = {**response["content"]["application/json"]["schema"], "components": {"schemas": schemas}}
    Draft202012Validator(root, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(body)
    described = {name.lower() for name in response["headers"]}
    others = {"content-type", "content-length", "date", "connection", "x-content-type-options"}
    undescribed = {name.lower() for name in headers} - described - others
    # Of errors, too, where they come from the cache.
    assert undescribed <= {"cache-status", "cache-control"}, "headers"


def test_it_is_true_of_every_path(api):
    document, address = api
    paths = set(document["paths"])
    assert paths == {"/v1/channels/{channel_id}/latest-video", "/v1/channels/{channel_id}/uploads"}
    for path in paths:
        operation = document["paths"][path]["get"]
        for channel, expected in [(KURZGESAGT, 200), (UNKNOWN, 404), ("UC-", 400)]:
            url = address + path.replace("{channel_id}", channel)
            status, headers, body = get(url)
            assert status == expected, body
            check(document, path, status, headers, body)
        pattern = next(one for one in operation["parameters"] if one["in"] == "path")["schema"]["pattern"]
        for name, is_named in [(KURZGESAGT, True), ("@a.b", True), ("@çok", True), ("@.", False), ("@a/b", False), ("UC-", False)]:
            assert bool(re.search(pattern, name)) == is_named, name
        queries = [parameter for parameter in operation["parameters"] if parameter["in"] == "query"]
        for query in queries:
            url = f"{address}{path.replace('{channel_id}', KURZGESAGT)}?{query['name']}={VALUES[query['name']]}"
            assert get(url)[0] == 200, url
        # What it does not describe is refused.
        missing = VALUES.keys() - {query["name"] for query in queries}
        for name in missing | {"other"}:
            status, headers, body = get(f"{address}{path.replace('{channel_id}', KURZGESAGT)}?{name}=1")
            assert status == 400, name
            check(document, path, status, headers, body)
