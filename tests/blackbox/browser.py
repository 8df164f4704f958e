"""The status page in a real browser: does it show what was done, and nothing it should not?

    python tests/blackbox/browser.py --plaque target/release/plaque

The page's clock is the check's: it looks at the server when it is told to. Leaves pictures of the page in target/screenshots.
"""

import json
import re
import urllib.request
from contextlib import contextmanager

import grpc

from browser_support import Visit, chromium
from support import (
    KURZGESAGT, REPOSITORY, SCISHOW, UNKNOWN, Answer, Bench, Suite, expect, expect_equal, expect_error, expect_in, expect_ok,
    free_port, made_up_channel, wait_until,
)

PERIOD_MS = 2000
DESKTOP, PHONE = (1280, 900), (360, 780)
PICTURES = REPOSITORY / "target" / "screenshots"
StatusCode = grpc.StatusCode
suite = Suite()

# The parts of the page that are never to be seen, whatever the numbers are.
NONSENSE = "NaN", "undefined", "Infinity", "[object"


class StatusPage(Visit):
    """The page of a plaque, with a clock that stands still between two looks at the server."""

    def __init__(self, page, plaque):
        super().__init__(page)
        self.plaque = plaque
        page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? false })")
        page.clock.install(time=0)
        page.clock.pause_at(1000)
        self.answer = page.goto(plaque.admin)
        self.wait_until_drawn()

    def looks(self):
        return sum(url.endswith("/busy") for url in self.asked)

    def look(self):
        """Has the page look at the server once more."""
        self.page.clock.run_for(PERIOD_MS)
        self.wait_until_drawn()

    def wait_until_drawn(self):
        self.wait_for(lambda: self.page.locator("body").get_attribute("aria-busy") == "false", "the look's end")

    def rows(self, selector):
        return [self.text(f"{selector} > :nth-child({i + 1})") for i in range(self.page.locator(f"{selector} > *").count())]

    def lookups(self):
        """What it tells of the answers since the start, by cache status."""
        cells = self.page.locator("#lookups tr").all()
        return {cell.locator("b").inner_text(): cell.locator("td").last.inner_text() for cell in cells}

    def expect_sane(self):
        seen = self.page.locator("body").inner_text()
        expect_equal("nonsense in the page", [word for word in NONSENSE if word in seen], [])
        unnamed = self.page.locator("svg[role=img]:not([aria-label])").count()
        expect_equal("charts without a description", unnamed, 0)
        self.expect_at_peace(self.plaque.admin)

    def expect_no_overflow(self):
        wide = self.page.evaluate("""() => [...document.querySelectorAll('body *')].filter(node =>
            node.getBoundingClientRect().right > innerWidth + 0.5).map(node => node.outerHTML.slice(0, 80))""")
        expect_equal("what is wider than the screen", wide, [])
        width = self.page.evaluate("document.documentElement.scrollWidth")
        expect(width <= self.page.viewport_size["width"], f"the page is {width} pixels wide")

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


@contextmanager
def status_page(plaque, size=DESKTOP, scheme="light"):
    with chromium() as browser:
        width, height = size
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        yield StatusPage(page, plaque)


def counted(plaque, name):
    """The sum of a metric's samples."""
    with urllib.request.urlopen(f"{plaque.admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}\b", line))


def ask_and_count(plaque, *channels):
    """Asks for all of them at once, and waits until the calls are counted: they may be a moment after their answer."""
    name = "rpc_server_call_duration_seconds_count"
    before = counted(plaque, name)
    answers = [Answer(call) for call in [plaque.start(channel) for channel in channels]]
    wait_until(lambda: counted(plaque, name) >= before + len(answers), "the calls are counted")
    return answers


def known_traffic(plaque):
    """A lookup, three answers from the cache, and a channel that does not exist."""
    for channel in KURZGESAGT, KURZGESAGT, KURZGESAGT, KURZGESAGT, UNKNOWN:
        last, = ask_and_count(plaque, channel)
    expect_error(last, StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")


@suite.check
def the_first_look_shows_what_was_done(bench):
    with bench.plaque_and_origin() as (plaque, _):
        known_traffic(plaque)
        with status_page(plaque) as page:
            expect_equal("the looks", page.looks(), 1)
            answers = {"hit": "3", "stale": "0", "collapsed": "0", "miss": "2", "negative": "0"}
            expect_equal("the answers", page.lookups(), answers)
            expect_equal("the calls", (page.text("#calls"), page.text("#calls-note")), ("5", "5 calls in all, 0 in progress"))
            errors = page.text("#errors"), page.text("#errors-note")
            expect_equal("the errors", errors, ("1", "1 error in all, 20 % of the calls"))
            expect_equal("the codes", page.rows("#codes"), ["NOT FOUND – · 1"])
            saved = page.text("#saved"), page.text("#saved-note")
            expect_equal("what was saved", saved, ("60 %", "5 questions cost 2 requests upstream"))
            expect_equal("the outcomes", sorted(page.rows("#outcomes")), ["found – · 1", "not found – · 1"])
            # The origin takes 100 ms.
            expect(re.search(r"p50 [1-9]\d\d ms", page.text("#upstream-latency")), page.text("#upstream-latency"))
            busiest = page.rows("#busiest")
            expect(any(re.search("^Kurzgesagt – .*asked 4 times", row) for row in busiest), f"the busiest: {busiest}")
            expect_in("the room", "Cache", page.rows("#room")[0])
            expect_in("the room", "of 256 MiB 2 channels", page.rows("#room")[0])
            expect_in("the state", "All is well", page.text("#states"))
            expect_equal("the age", page.text("#age"), "live")
            page.expect_sane()


@suite.check
def two_looks_make_a_rate(bench):
    with bench.plaque_and_origin() as (plaque, _):
        known_traffic(plaque)
        with status_page(plaque) as page:
            for answer in ask_and_count(plaque, *[KURZGESAGT] * 20):
                expect_ok(answer)
            page.look()
            # 20 within the 2 s of the page's clock.
            page.wait_for(lambda: page.text("#calls") == "10/s", "the calls a second")
            expect_in("the hits", "10/s 23", page.rows("#lookups")[0])
            expect_in("the chart's description", "hit 10/s", page.page.locator("#chart").get_attribute("aria-label"))
            expect_equal("the layers of the chart", page.page.locator("#chart path").count(), 5)
            expect_in("the title", "10/s", page.page.title())
            # What was asked is over, and its rate with it.
            for _ in range(6):
                page.look()
            page.wait_for(lambda: page.text("#calls") == "0/s", "no call a second")
            page.expect_sane()


@suite.check
def a_lookup_in_progress_shows_who_waits(bench):
    with bench.plaque_and_origin() as (plaque, origin):
        origin.control(mode="hang", channels=[SCISHOW])
        calls = [plaque.start(SCISHOW) for _ in range(3)]
        wait_until(lambda: plaque.metric("plaque_waiters") == 3, "three callers wait")
        with status_page(plaque) as page:
            flight, = page.rows("#flights")
            expect(re.match(rf"{SCISHOW} \S+ m?s 3 callers wait$", flight), f"the lookup in progress is {flight!r}")
            expect_in("the calls", "3 in progress", page.text("#calls-note"))
            for call in calls[1:]:
                call.cancel()
            wait_until(lambda: plaque.metric("plaque_waiters") == 1, "one caller waits")
            page.look()
            page.wait_for(lambda: page.rows("#flights")[0].endswith("1 caller waits"), "one caller is told of")
            page.expect_sane()
        calls[0].cancel()


@suite.check
def an_open_breaker_is_told_in_words_and_by_shape(bench):
    with bench.plaque_and_origin() as (plaque, origin), status_page(plaque) as page:
        def shape():
            return page.page.locator("#states path").first.get_attribute("d")

        well = shape()
        origin.control(mode="status:429")
        answer, = ask_and_count(plaque, KURZGESAGT)
        expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_RATE_LIMITED")
        page.look()
        page.wait_for(lambda: "the breaker is open" in page.text("#states"), "the open breaker")
        expect(shape() != well, "its shape is that of a server that is well")
        expect_in("the outcomes", "rate limited", page.text("#outcomes"))
        expect_in("the title", "▲", page.page.title())
        page.picture("breaker-open")
        page.expect_sane()


@suite.check
def the_budget_is_shown_by_class(bench):
    # A token to begin with, and the next in 100 s.
    with bench.plaque_and_origin("--upstream-rate", "0.01", synthesize=True) as (plaque, _), status_page(plaque) as page:
        expect_equal("the budget of the first look", page.text("#budget"), "– sent of 0.01/s")
        known, *others = ask_and_count(plaque, *[made_up_channel(1)]) + [
            answer for n in range(2, 5) for answer in ask_and_count(plaque, made_up_channel(n))]
        expect_ok(known)
        for answer in others:
            expect_error(answer, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        page.look()
        # In the 2 s of the page's clock.
        page.wait_for(lambda: page.text("#budget") == "0.5/s sent of 0.01/s", "what was sent")
        expect_equal("the classes", page.rows("#classes"), [
            "knownsomebody waits 0 % 0/s 0/s 0", "never foundsomebody waits 5000 % 0.5/s 1.5/s 0",
            "refreshbehind a stale answer 0 % 0/s 0/s 0", "pollof a watched channel 0 % 0/s 0/s 0"])
        page.picture("overloaded")
        widths = page.page.evaluate("[...document.querySelectorAll('#budget-shares i')].map(part => part.style.width)")
        expect_equal("the bar", widths, ["0%", "5000%", "0%", "0%"])
        state = page.text("#states")
        expect_in("the state", "Overloaded: lookups get no turn 3 lookups in the last minute", state)
        page.expect_no_overflow()
        page.expect_sane()


@suite.check
def a_store_in_trouble_is_told(bench):
    nobody = f"redis://127.0.0.1:{free_port()}"
    with bench.plaque_and_origin("--store", nobody) as (plaque, _), status_page(plaque) as page:
        expect_in("the state", "The store is in trouble", page.text("#states"))


@suite.check
def an_idle_server_has_a_page_too(bench):
    with bench.plaque_and_origin() as (plaque, _), status_page(plaque) as page:
        for _ in range(2):
            expect_equal("the answers", set(page.lookups().values()), {"0"})
            expect_equal("the bars", page.rows("#flights") + page.rows("#busiest") + page.rows("#codes"), [])
            page.expect_sane()
            page.look()
        page.picture("idle")


@suite.check
def titles_are_text(bench):
    evil = "<img src=x onerror=alert(1)>"
    channel = {"channelId": KURZGESAGT, "title": evil, "asked": 1, "askedPerSecond": 0.1, "ageSeconds": 1, "failing": evil}
    told = json.dumps({"flights": [{"channelId": KURZGESAGT, "ageSeconds": 1, "waiters": 1}], "busiest": [channel]})
    with bench.plaque_and_origin() as (plaque, _), status_page(plaque) as page:
        page.page.route("**/busy", lambda route: route.fulfill(body=told, content_type="application/json"))
        page.look()
        page.wait_for(lambda: evil in page.text("#flights"), "the title")
        expect_in("the busiest", f"asked 1 time: {evil}", page.text("#busiest"))
        expect_equal("the pictures in the page", page.page.locator("img").count(), 0)
        page.expect_sane()


@suite.check
def a_strict_policy_guards_the_page(bench):
    with bench.plaque_and_origin() as (plaque, _), status_page(plaque) as page:
        policy = page.answer.header_value("content-security-policy")
        for part in "default-src 'none'", "connect-src 'self'":
            expect_in("the policy", part, policy or "")
        page.expect_sane()


@suite.check
def nobody_is_asked_for_a_page_that_is_not_seen(bench):
    with bench.plaque_and_origin() as (plaque, _), status_page(plaque) as page:
        def hide(hidden):
            page.page.evaluate(f"window.isHidden = {json.dumps(hidden)}; document.dispatchEvent(new Event('visibilitychange'))")

        # It is hidden in the middle of a look, which ends, and is the last.
        held = []
        page.page.route("**/busy", lambda route: held.append(route))
        page.page.clock.run_for(PERIOD_MS)
        page.wait_for(lambda: held, "a look")
        before = page.looks()
        hide(True)
        held[0].continue_()
        page.wait_until_drawn()
        page.page.unroute("**/busy")
        page.page.clock.run_for(60_000)
        expect_equal("the looks of a hidden page", page.looks() - before, 0)
        expect_equal("the age", page.text("#age"), "paused, numbers of 1 min ago")
        hide(False)
        page.wait_for(lambda: page.text("#age") == "live", "it looks again")
        page.look()
        expect_equal("the looks of a page that is seen again", page.looks() - before, 2)
        page.expect_sane()


@suite.check
def a_server_that_stops_is_told_of_and_one_that_is_back(bench):
    with bench.origin() as origin, chromium() as browser:
        with bench.plaque(origin.url) as plaque:
            known_traffic(plaque)
            page = StatusPage(browser.new_page(), plaque)
            page.look()
            plaque.program.terminate()
            plaque.program.exit_code(within=10)
        page.page.clock.run_for(PERIOD_MS)
        page.wait_for(lambda: "The server is out of reach since" in page.text("#states"), "the stopped server")
        page.page.clock.run_for(10 * PERIOD_MS)
        expect(re.fullmatch(r"numbers of \d\d s ago", page.text("#age")), f"the age is {page.text('#age')!r}")
        expect_in("the title", "▲", page.page.title())
        # What was known is still to be seen.
        expect_equal("the hits", page.lookups()["hit"], "3")
        page.picture("out-of-reach")

        with bench.plaque(origin.url, "--admin-listen", plaque.admin.removeprefix("http://")) as again:
            answer, = ask_and_count(again, KURZGESAGT)
            expect_ok(answer)
            page.look()
            page.wait_for(lambda: "All is well" in page.text("#states"), "the server that is back")
            expect_equal("the answers", (page.lookups()["hit"], page.lookups()["miss"]), ("0", "1"))
            # The browser itself tells of requests that failed.
            page.complaints = [said for said in page.complaints if "ERR_CONNECTION_REFUSED" not in said]
            page.expect_sane()


def looks_right(bench, name, size, scheme):
    """Traffic of every sort for a minute of the page's clock, then a picture."""
    with bench.plaque_and_origin("--fresh-for", "200ms", synthesize=True) as (plaque, origin):
        with status_page(plaque, size, scheme) as page, plaque.watch([made_up_channel(0)]):
            for i in range(30):
                # As many callers for channel n as the number says; the later ones share its lookup or find its answer.
                channels = [made_up_channel(n) for n in range(12) for _ in range(40 // (n + 1))]
                if i % 5 == 0:
                    channels += ["nonsense", made_up_channel(100 + i)]
                ask_and_count(plaque, *channels)
                page.look()
            origin.control(mode="hang", channels=[made_up_channel(n) for n in (200, 201)])
            hanging = [plaque.start(made_up_channel(n)) for n in (200, 200, 200, 200, 201)]
            wait_until(lambda: plaque.metric("plaque_waiters") >= 5, "callers wait")
            page.look()
            page.wait_for(lambda: len(page.rows("#flights")) >= 2, "the lookups in progress")
            page.picture(name)
            page.expect_no_overflow()
            page.expect_sane()
            for call in hanging:
                call.cancel()


for name, size, scheme in ("desktop-light", DESKTOP, "light"), ("desktop-dark", DESKTOP, "dark"), ("phone", PHONE, "light"):
    suite.add(f"it looks right: {name}", looks_right, name, size, scheme)


if __name__ == "__main__":
    suite.run(Bench(__doc__.splitlines()[0]))
