"""gRPC-Web as pages in a browser speak it: examples/clients/web, built and served as its README says, in Chromium.

    python tests/blackbox/grpc_web.py --plaque target/release/plaque

Needs what the README names, chromium and openssl.
"""

import re
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import TimeoutError as TooLate

from browser_support import chromium
from clients import (
    BROKEN_WATCH, NEW, WATCH_GOES_ON, Client, expect_begun, expect_refused, expect_to_resume_by_tokens,
    expect_to_survive_a_restart, it_is_built_as_its_readme_says,
)
from scripted_server import scripted_web_server
from support import (
    KURZGESAGT, SCISHOW, UNKNOWN, Bench, Failure, Suite, expect, expect_equal, expect_in, make_certificate, running,
    wait_until,
)

# As browser_support.OFFLINE, and loopback's name.
LOOPBACK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"

suite = Suite()


# The page


@contextmanager
def site():
    """The origin of the page, which is served as its README says. The last word there is a port: here it is any."""
    client = Client("web")
    with running(["env", "-C", client.folder, "PYTHONUNBUFFERED=1", *client.command, "0"]) as server:
        yield re.search(r"\((http://127\.0\.0\.1:\d+)/\)", server.first_line()).group(1)


@contextmanager
def opened(page_origin, server, *channels, **options):
    """The page in a browser of its own, for the channels; `server` is plaque's URL."""
    # Nobody vouches for the certificate of a check.
    with chromium("--ignore-certificate-errors", LOOPBACK) as browser:
        page = Page(browser.new_page(), server)
        asked = urlencode({"server": server, "channel": channels, **options}, doseq=True)
        page.tab.goto(f"{page_origin}/?{asked}")
        yield page


class Page:
    """The page in a tab, and what the browser had to say of it."""

    def __init__(self, tab, server):
        self.tab, self.complaints, self.answers = tab, [], []
        tab.on("console", lambda said: self.complaints.append(said.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
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
            raise Failure(f"the page is not there within {within} s: {self.lines()} {self.complaints}") from None

    def versions(self):
        """Of HTTP, in which plaque answered."""
        return {answer.http_version() for answer in self.answers}


@contextmanager
def plaque_for_pages_of(page_origin, bench, *flags):
    with bench.plaque_and_origin("--grpc-web", "--grpc-web-origins", page_origin, *flags) as (plaque, origin):
        yield plaque, origin


# What pages are told


suite.add("web: it is built as its readme says", it_is_built_as_its_readme_says, "web")


def a_page_prints_the_answers_and_a_new_upload(bench, http_version, scheme, *tls):
    with site() as page_origin, plaque_for_pages_of(page_origin, bench, "--watch-every", "1s", *tls) as (plaque, origin):
        with opened(page_origin, f"{scheme}://{plaque.address}", KURZGESAGT, UNKNOWN, events=3) as page:
            expect_begun(page.wait_for_lines(6))
            origin.publish(KURZGESAGT, NEW)
            expect_equal("what it prints then", page.end()[6:], WATCH_GOES_ON)
            expect_equal("the versions of HTTP", page.versions(), {http_version})
            expect_equal("what the browser complains about", page.complaints, [])


@suite.check
def a_page_prints_the_answers_and_a_new_upload_over_http_1_1(bench):
    a_page_prints_the_answers_and_a_new_upload(bench, "HTTP/1.1", "http")


@suite.check
def a_page_prints_the_answers_and_a_new_upload_over_http_2_with_tls(bench):
    with tempfile.TemporaryDirectory(prefix="plaque-tls-") as folder:
        certificate, key = make_certificate(Path(folder))
        a_page_prints_the_answers_and_a_new_upload(bench, "HTTP/2.0", "https", "--tls-cert", certificate, "--tls-key", key)


@suite.check
def a_page_tells_why_a_call_failed_and_when_to_retry(bench):
    with site() as page_origin, plaque_for_pages_of(page_origin, bench) as (plaque, origin):
        with opened(page_origin, f"http://{plaque.address}", UNKNOWN) as page:
            told = plaque.ask(UNKNOWN)
            expect_equal("the lines", page.end(), [f"error: NOT_FOUND CHANNEL_NOT_FOUND: {told.message}"])
            expect_equal("what the browser complains about", page.complaints, [])
        origin.control(mode="status:429", retry_after=90)
        with opened(page_origin, f"http://{plaque.address}", KURZGESAGT) as page:
            expect_refused(page.end(), plaque)
            expect_equal("what the browser complains about", page.complaints, [])


@suite.check
def a_watch_of_a_page_ends_at_its_deadline_though_the_server_is_frozen(bench):
    with site() as page_origin, plaque_for_pages_of(page_origin, bench) as (plaque, _):
        with opened(page_origin, f"http://{plaque.address}", KURZGESAGT, seconds=3) as page:
            begun = page.wait_for_lines(4)
            expect_equal("the fourth line", begun[3:], [f"watch: {KURZGESAGT} N2FOxjtv5ns initial"])
            expect(not page.ended(), "it ended at once")
            plaque.program.process.send_signal(signal.SIGSTOP)
            expect_equal("the lines", page.end(), begun)


@suite.check
def a_watch_of_a_page_survives_a_restart(bench):
    with site() as page_origin:
        expect_to_survive_a_restart(
            bench, lambda plaque: opened(page_origin, f"http://{plaque.address}", KURZGESAGT, SCISHOW, events=4),
            "--grpc-web", "--grpc-web-origins", page_origin)


@suite.check
def a_watch_of_a_page_resumes_with_the_last_token_of_each_channel(_bench):
    with site() as page_origin, scripted_web_server(BROKEN_WATCH) as server:
        with opened(page_origin, f"http://{server.address}", KURZGESAGT, SCISHOW) as page:
            return expect_to_resume_by_tokens(page.end(within=40), server)


@suite.check
def a_closed_page_watches_nothing(bench):
    with site() as page_origin, plaque_for_pages_of(page_origin, bench) as (plaque, _):
        with opened(page_origin, f"http://{plaque.address}", KURZGESAGT) as page:
            page.wait_for_lines(4)
            expect_equal("the watches", plaque.metric("plaque_watches"), 1)
            page.tab.close()
            wait_until(lambda: plaque.metric("plaque_watches") == 0, "the watch ends")


@suite.check
def a_page_of_another_origin_is_told_nothing_and_nothing_is_looked_up(bench):
    with site() as page_origin, plaque_for_pages_of(page_origin, bench) as (plaque, origin):
        # The same page under another name: to a browser, another origin.
        elsewhere = page_origin.replace("127.0.0.1", "localhost")
        with opened(elsewhere, f"http://{plaque.address}", KURZGESAGT) as page:
            expect_equal("the lines", page.end(), ["error: UNKNOWN -: Failed to fetch"])
            blocked, *others = page.complaints
            expect_in("the browser's first complaint", "has been blocked by CORS policy", blocked)
            expect_equal("its other complaints", others, ["Failed to load resource: net::ERR_FAILED"])
        expect_equal("the lookups", origin.lookups(), 0)


if __name__ == "__main__":
    suite.run(Bench(__doc__.splitlines()[0]))
