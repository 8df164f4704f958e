"""What tests with a browser share: Debian's Chromium, driven by Playwright, and pages that may not misbehave."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

from support import ENVIRONMENT, Stopwatch

# Names must not be looked up, whatever a page or the browser itself asks for: all there is to ask is on loopback.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextmanager
def chromium(*arguments):
    program = shutil.which("chromium")
    assert program, "no chromium in PATH: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[OFFLINE, *arguments], env=ENVIRONMENT)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that is open, what it asked for, and what the browser complained of."""

    def __init__(self, page):
        self.page, self.asked, self.complaints = page, [], []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))

    def text(self, selector):
        """What is to be read there, with a space for each line break or gap, and without marks that are not to be seen."""
        seen = self.page.locator(selector).inner_text()
        return " ".join(seen.translate(dict.fromkeys(map(ord, "\u200b\u2068\u2069"))).split())

    def wait_for(self, condition, what, seconds=10):
        """As support.wait_until, but lets the browser's events in meanwhile."""
        watch = Stopwatch()
        while not condition():
            assert watch.seconds() < seconds, f"{what}: not within {seconds} s"
            self.page.wait_for_timeout(10)

    def expect_at_peace(self, *origins):
        """It asked nobody but these, and the browser had nothing to complain of."""
        strangers = [url for url in self.asked if not url.startswith((*origins, "data:"))]
        assert strangers == [], "what was asked of others"
        assert self.complaints == [], "what the browser complained of"
