"""gRPC-Web as pages in a browser speak it: examples/clients/web, built and served as its README says, in Chromium.

Needs what the README names, chromium and openssl.
"""

import re
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
from playwright.sync_api import TimeoutError as TooLate

from example_clients import (
    BROKEN_WATCH, built, expect_a_new_upload, expect_to_end_at_its_deadline, expect_to_explain_errors, expect_to_resume_by_tokens,
    expect_to_survive_a_restart,
)
from scripted_server import scripted_web_server
from support import KURZGESAGT, UNKNOWN, make_certificate, running, wait_until

# Nobody vouches for the certificate of a test. Besides 127.0.0.1, see browser_support.OFFLINE, there is loopback's name.
CHROMIUM_FLAGS = "--ignore-certificate-errors", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


# The page


@pytest.fixture(scope="module")
def page_origin():
    """The origin of the page, which is served as its README says. The last word there is a port: here it is any."""
    client = built("web")
    with running(["env", "-C", client.folder, "PYTHONUNBUFFERED=1", *client.command, "0"]) as server:
        yield re.search(r"\((http://127\.0\.0\.1:\d+)/\)", server.first_line()).group(1)


@pytest.fixture
def flags(flags, page_origin):
    """Of a plaque that answers the page."""
    return "--grpc-web", "--grpc-web-origins", page_origin, *flags


@pytest.fixture
def complaints():
    """What the browser complains about."""
    return []


@pytest.fixture
def start(browser, page_origin, complaints):
    """Opens the page, for the channels."""

    @contextmanager
    def open_page(server, *channels, scheme="http", of=page_origin, **options):
        with browser.new_page() as tab:
            url = f"{scheme}://{server.address}"
            page = Page(tab, url, complaints)
            tab.goto(f"{of}/?{urlencode({'server': url, 'channel': channels, **options}, doseq=True)}")
            yield page
    return open_page


class Page:
    """The page in a tab."""

    def __init__(self, tab, server, complaints):
        self.tab, self.complaints, self.answers = tab, complaints, []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("response", lambda answer: answer.url.startswith(server) and self.answers.append(answer))

    def lines(self):
        return self.tab.text_content("pre").splitlines()

    def ended(self):
        return self.tab.get_attribute("pre", "aria-busy") == "false"

    def wait_for_lines(self, count):
        """Waits for this many lines, or its end. Returns all its lines."""
        self.wait_until("(pre, count) => pre.ariaBusy === 'false' || pre.textContent.split('\\n').length > count", count)
        return self.lines()

    def end(self, within=20):
        """Waits until it is done. Returns all its lines."""
        self.wait_until("pre => pre.ariaBusy === 'false'", within=within)
        return self.lines()

    def wait_until(self, condition, argument=None, within=20):
        try:
            self.tab.wait_for_function(
                f"argument => ({condition})(document.querySelector('pre'), argument)", arg=argument, timeout=within * 1000)
        except TooLate:
            raise AssertionError(f"the page is not there within {within} s: {self.lines()} {self.complaints}") from None

    def versions(self):
        """Of HTTP, in which plaque answered."""
        return {answer.http_version() for answer in self.answers}


# What pages are told


@pytest.mark.parametrize("scheme, http_version", [("http", "HTTP/1.1"), ("https", "HTTP/2.0")])
def test_a_page_prints_the_answers_and_a_new_upload(bench, origin, flags, start, complaints, tmp_path, scheme, http_version):
    certificate, key = make_certificate(tmp_path)
    tls = ("--tls-cert", certificate, "--tls-key", key) if scheme == "https" else ()
    with bench.plaque(origin.url, *flags, "--watch-every", "1s", *tls) as plaque:
        with start(plaque, KURZGESAGT, UNKNOWN, scheme=scheme, events=3) as page:
            expect_a_new_upload(page, origin)
            assert page.versions() == {http_version}, "the versions of HTTP"
    assert complaints == [], "what the browser complains about"


def test_a_page_tells_why_a_call_failed_and_when_to_retry(plaque, origin, start, complaints):
    expect_to_explain_errors(start, plaque, origin)
    assert complaints == [], "what the browser complains about"


def test_a_watch_of_a_page_ends_at_its_deadline_though_the_server_is_frozen(plaque, start):
    expect_to_end_at_its_deadline(start, plaque)


def test_a_watch_of_a_page_survives_a_restart(bench, flags, start):
    expect_to_survive_a_restart(bench, start, *flags)


def test_a_watch_of_a_page_resumes_with_the_last_token_of_each_channel(start, note):
    with scripted_web_server(BROKEN_WATCH) as server:
        note(expect_to_resume_by_tokens(start, server))


def test_a_closed_page_watches_nothing(plaque, start):
    with start(plaque, KURZGESAGT) as page:
        page.wait_for_lines(4)
        assert plaque.metric("plaque_watches") == 1, "the watches"
        page.tab.close()
        wait_until(lambda: plaque.metric("plaque_watches") == 0, "the watch ends")


def test_a_page_of_another_origin_is_told_nothing_and_nothing_is_looked_up(plaque, origin, page_origin, start, complaints):
    # The same page under another name: to a browser, another origin.
    elsewhere = page_origin.replace("127.0.0.1", "localhost")
    with start(plaque, KURZGESAGT, of=elsewhere) as page:
        assert page.end() == ["error: UNKNOWN -: Failed to fetch"], "the lines"
        blocked, *others = complaints
        assert "has been blocked by CORS policy" in blocked, "the browser's first complaint"
        assert others == ["Failed to load resource: net::ERR_FAILED"], "its other complaints"
    assert origin.lookups() == 0, "the lookups"
