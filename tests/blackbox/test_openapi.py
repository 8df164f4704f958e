"""/openapi.json: valid by a public validator, and true of what the JSON API answers."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request

import openapi_spec_validator
import pytest
from jsonschema import Draft202012Validator

from support import KURZGESAGT, SCISHOW, UNKNOWN

# Values of each parameter of a query: those that are taken, and those that are refused.
VALUES = {
    "kind": (["VIDEO_KIND_SHORT", "VIDEO_KIND_UNSPECIFIED", "video", "Short", "UNSPECIFIED", "0", "2"],
             ["", "film", "3", "-1", "video_kind_video", "VIDEO_KIND_video", "vıdeo", " video"]),
    "max_age": (["0s", "1.5s", "007s", "0.1234567891s", "-0.0s", "315576000001s"], ["", "1", "-1s", "-0.5s", "1m", ".5s", "1.s", "1e3s"]),
    "page_size": (["0", "1", "50", "51", "2147483647"], ["", "-1", "2147483648", "1.5", "few"]),
    "page_token": ([""], []),
}

# Channels in a path, likewise.
CHANNELS = (
    [KURZGESAGT, f" {KURZGESAGT}", f"UU{KURZGESAGT[2:]}", "@kurzgesagt", "@Kurzgesagt", "kurzgesagt", "https://www.youtube.com/@kurzgesagt",
     "youtube.com/@kurzgesagt/videos", f"channel/{KURZGESAGT}", "c/Kurzgesagt"],
    ["UC", "UC-", f"{KURZGESAGT} ", f"{KURZGESAGT}A", f"{KURZGESAGT[:-1]}B", "UCLA"])


def get(url, method="GET", headers=()):
    """The status, the headers and the body, if there is one, of a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=dict(headers)), timeout=10) as response:
            return response.status, response.headers, json.loads(response.read() or "null")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read() or "null")


@pytest.fixture
def api(bench):
    """The description, the address of a plaque's JSON API, and its origin."""
    with bench.origin() as origin:
        pages = urllib.parse.urljoin(origin.url, "/").rstrip("/")
        flags = "--http-listen", "127.0.0.1:0", "--youtube-pages", pages, "--max-deadline", "1s"
        with bench.plaque(origin.url, *flags) as plaque:
            _, headers, document = get(f"{plaque.http}/openapi.json")
            assert headers["content-type"] == "application/json"
            yield document, plaque.http, origin


def test_it_is_valid(api):
    document, *_ = api
    openapi_spec_validator.validate(document)


def check(document, path, status, headers, body):
    """Whether a response is as described: its status, its headers and its body, with no more fields than there are."""
    response = document["paths"][path]["get"]["responses"][str(status)]
    while "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    if "content" in response:
        schemas = {name: {**schema, "additionalProperties": False} for name, schema in document["components"]["schemas"].items()}
        root = {**response["content"]["application/json"]["schema"], "components": {"schemas": schemas}}
        Draft202012Validator(root, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(body)
    else:
        assert body is None
    described = {name.lower() for name in response.get("headers", ())}
    others = {"content-type", "content-length", "date", "connection", "x-content-type-options"}
    assert {name.lower() for name in headers} <= described | others, "headers"


def allows(parameter, text):
    """Whether a parameter may have this value, which a client wrote as a text or as a number."""
    values = [text] + ([int(text)] if re.fullmatch("-?[0-9]+", text) else [])
    return any(Draft202012Validator(parameter["schema"]).is_valid(value) for value in values)


def url_of(address, path, channel=KURZGESAGT, **query):
    return address + path.replace("{channel_id}", urllib.parse.quote(channel, safe="@")) + "?" + urllib.parse.urlencode(query)


def test_it_is_true_of_every_path(api):
    document, address, _ = api
    paths = set(document["paths"])
    assert paths == {"/v1/channels/{channel_id}/latest-video", "/v1/channels/{channel_id}/uploads"}
    for path in paths:
        parameters = document["paths"][path]["get"]["parameters"]
        [channel] = [parameter for parameter in parameters if parameter["in"] == "path"]
        for names, is_named in zip(CHANNELS, (True, False)):
            for name in names:
                assert get(url_of(address, path, name))[0] == (200 if is_named else 400), name
                assert allows(channel, name) == is_named, name
        queries = {parameter["name"]: parameter for parameter in parameters if parameter["in"] == "query"}
        for name, query in queries.items():
            for values, is_taken in zip(VALUES[name], (True, False)):
                for value in values:
                    status, headers, body = get(url_of(address, path, **{name: value}))
                    assert status == (200 if is_taken else 400), f"{name}={value}"
                    assert allows(query, value) == is_taken, f"{name}={value}"
                    check(document, path, status, headers, body)
            other_name = re.sub("_(.)", lambda letter: letter[1].upper(), name)
            assert get(url_of(address, path, **{other_name: VALUES[name][0][0]}))[0] == 200, other_name
            assert other_name == name or f"`{other_name}`" in query["description"]
        # What it does not describe is refused.
        for name in (VALUES.keys() - queries.keys()) | {"other"}:
            status, headers, body = get(url_of(address, path, **{name: 1}))
            assert status == 400, name
            check(document, path, status, headers, body)


def test_it_is_true_of_every_status(api):
    """But for that of bugs."""
    document, address, origin = api
    for path in document["paths"]:
        known, fails, hangs = url_of(address, path), url_of(address, path, "UC" + "f" * 21 + "A"), url_of(address, path, SCISHOW, max_age="0s")
        origin.control(mode="hang", channels=[SCISHOW])
        origin.control(mode="status:429", channels=["UC" + "f" * 21 + "A"])
        asked = [
            (200, known, {}), (304, known, {"headers": {"if-none-match": "*"}}), (304, known, {"headers": {"if-none-match": "*"}, "method": "HEAD"}),
            (400, url_of(address, path, "UC"), {}), (404, url_of(address, path, UNKNOWN), {}), (405, known, {"method": "POST"}),
            (431, known, {"headers": {f"x-{number}": "1" for number in range(101)}}), (504, hangs, {}), (503, fails, {})]
        for expected, url, request in asked:
            status, headers, body = get(url, **request)
            assert status == expected, (url, body)
            check(document, path, status, headers, body)
        seen = {str(status) for status, *_ in asked}
        assert document["paths"][path]["get"]["responses"].keys() - seen == {"429", "500"}
