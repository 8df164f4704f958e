"""The status page in a real browser: does it show what was done, and nothing it should not?

The page's clock is the check's: it looks at the server when it is told to. Leaves pictures of the page in target/screenshots.
"""

import json
import re
import shlex
import urllib.request
from contextlib import ExitStack

import grpc
import pytest

from browser_support import Visit
from support import (
    KURZGESAGT, REPOSITORY, SCISHOW, UNKNOWN, Answer, expect_error, expect_ok, free_port, made_up_channel, make_certificate, run,
    running_origin, wait_until,
)

PERIOD_MS = 2000
DESKTOP, PHONE = (1280, 900), (320, 640)
PICTURES = REPOSITORY / "target" / "screenshots"
StatusCode = grpc.StatusCode

THUMBNAILS = "https://i.ytimg.com/**"
# Another color for each upload.
THUMBNAIL = """<svg xmlns="http://www.w3.org/2000/svg" width="320" height="180"><rect width="320" height="180" fill="hsl({} 50% 45%)"/>
<path d="M130 60v60l60-30z" fill="#fff"/></svg>"""

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

    def look_for(self, condition, what):
        """Has it look until the condition holds: a scan of the cache is shared by the looks of a time that depends on how long it took."""
        def is_seen():
            self.look()
            return condition()

        self.wait_for(is_seen, what)

    def wait_until_drawn(self):
        self.wait_for(lambda: self.page.locator("body").get_attribute("aria-busy") == "false", "the look's end")

    def rows(self, selector):
        return [self.text(f"{selector} > :nth-child({i + 1})") for i in range(self.page.locator(f"{selector} > *").count())]

    def lookups(self):
        """What it tells of the answers since the start, by cache status."""
        cells = self.page.locator("#lookups tr").all()
        return {cell.locator("b").inner_text(): cell.locator("td").last.inner_text() for cell in cells}

    def ask(self, name):
        """Asks for a channel by the keyboard, and returns what it tells."""
        self.page.get_by_label("What did a channel upload last?").fill(name)
        self.page.keyboard.press("Enter")
        self.wait_for(lambda: self.text("#answer") not in ("", "Asking …"), f"the answer for {name}")
        # The browser itself tells of answers that are errors.
        self.complaints = [said for said in self.complaints if "the server responded with a status of" not in said]
        return self.text("#answer")

    def show_pictures(self):
        """Ticks the box, and returns the headers of requests for pictures by their URL."""
        asked = {}

        def answer(route):
            url = route.request.url
            asked[url] = route.request.all_headers()
            route.fulfill(body=THUMBNAIL.format(sum(url.encode()) * 37 % 360), content_type="image/svg+xml")

        self.page.route(THUMBNAILS, answer)
        self.page.get_by_label("Pictures").check()
        return asked

    def pictures(self):
        """How many pictures are to be seen."""
        return self.page.evaluate("[...document.images].filter(picture => picture.naturalWidth && !picture.hidden).length")

    def expect_sane(self, *origins):
        seen = self.page.locator("body").inner_text()
        assert [word for word in NONSENSE if word in seen] == [], "nonsense in the page"
        unnamed = self.page.locator("svg[role=img]:not([aria-label])").count()
        assert unnamed == 0, "charts without a description"
        self.expect_at_peace(self.plaque.admin, *origins)

    def runs_rightwards(self, selector, words):
        """Whether words in the first text there that has them are laid out from left to right."""
        return self.page.evaluate("""([selector, words]) => {
            const text = [...document.querySelectorAll(selector)].map(({ firstChild }) => firstChild).find(node => node?.data.includes(words));
            const [first, last] = [0, words.length - 1].map(place => {
                const range = document.createRange(), at = text.data.indexOf(words) + place;
                range.setStart(text, at);
                range.setEnd(text, at + 1);
                return range.getBoundingClientRect();
            });
            return first.top === last.top && first.left < last.left;
        }""", [selector, words])

    def expect_no_overflow(self):
        wide = self.page.evaluate("""() => [...document.querySelectorAll('body *')].filter(node =>
            node.getBoundingClientRect().right > innerWidth + 0.5).map(node => node.outerHTML.slice(0, 80))""")
        assert wide == [], "what is wider than the screen"
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= self.page.viewport_size["width"], f"the page is {width} pixels wide"

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


@pytest.fixture
def status_page(browser):
    """Opens the page of a plaque."""
    with ExitStack() as pages:
        def open_page(plaque, size=DESKTOP, scheme="light"):
            width, height = size
            page = pages.enter_context(browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme))
            return StatusPage(page, plaque)
        yield open_page


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


def test_the_first_look_shows_what_was_done(plaque, status_page):
    known_traffic(plaque)
    page = status_page(plaque)
    assert page.looks() == 1, "the looks"
    answers = {"hit": "3", "stale": "0", "collapsed": "0", "miss": "2", "negative": "0"}
    assert page.lookups() == answers, "the answers"
    assert (page.text("#calls"), page.text("#calls-note")) == ("5", "5 calls in all, 0 in progress"), "the calls"
    errors = page.text("#errors"), page.text("#errors-note")
    assert errors == ("1", "1 error in all, 20 % of the calls"), "the errors"
    assert page.rows("#codes") == ["NOT FOUND – · 1"], "the codes"
    saved = page.text("#saved"), page.text("#saved-note")
    assert saved == ("60 %", "5 questions cost 2 requests upstream"), "what was saved"
    assert sorted(page.rows("#outcomes")) == ["found – · 1", "not found – · 1"], "the outcomes"
    # The origin takes 100 ms.
    assert re.search(r"p50 [1-9]\d\d ms", page.text("#upstream-latency")), page.text("#upstream-latency")
    busiest = page.rows("#busiest")
    assert any(re.search("^Kurzgesagt – .*asked 4 times", row) for row in busiest), f"the busiest: {busiest}"
    assert "Cache" in page.rows("#room")[0], "the room"
    assert "of 256 MiB 2 channels" in page.rows("#room")[0], "the room"
    assert "All is well" in page.text("#states"), "the state"
    assert page.text("#age") == "live", "the age"
    page.expect_sane()


def test_two_looks_make_a_rate(plaque, status_page):
    known_traffic(plaque)
    page = status_page(plaque)
    for answer in ask_and_count(plaque, *[KURZGESAGT] * 20):
        expect_ok(answer)
    page.look()
    # 20 within the 2 s of the page's clock.
    page.wait_for(lambda: page.text("#calls") == "10/s", "the calls a second")
    assert "10/s 23" in page.rows("#lookups")[0], "the hits"
    assert "hit 10/s" in page.page.locator("#chart").get_attribute("aria-label"), "the chart's description"
    assert page.page.locator("#chart path").count() == 5, "the layers of the chart"
    assert "10/s" in page.page.title(), "the title"
    # What was asked is over, and its rate with it.
    for _ in range(6):
        page.look()
    page.wait_for(lambda: page.text("#calls") == "0/s", "no call a second")
    page.expect_sane()


def test_a_lookup_in_progress_shows_who_waits(plaque, origin, status_page):
    origin.control(mode="hang", channels=[SCISHOW])
    calls = [plaque.start(SCISHOW) for _ in range(3)]
    wait_until(lambda: plaque.metric("plaque_waiters") == 3, "three callers wait")
    page = status_page(plaque)
    flight, = page.rows("#flights")
    assert re.match(rf"{SCISHOW} \S+ m?s 3 callers wait$", flight), f"the lookup in progress is {flight!r}"
    assert "3 in progress" in page.text("#calls-note"), "the calls"
    for call in calls[1:]:
        call.cancel()
    wait_until(lambda: plaque.metric("plaque_waiters") == 1, "one caller waits")
    page.look()
    page.wait_for(lambda: page.rows("#flights")[0].endswith("1 caller waits"), "one caller is told of")
    page.expect_sane()
    calls[0].cancel()


def test_an_open_breaker_is_told_in_words_and_by_shape(plaque, origin, status_page):
    page = status_page(plaque)
    def shape():
        return page.page.locator("#states path").first.get_attribute("d")

    well = shape()
    origin.control(mode="status:429")
    answer, = ask_and_count(plaque, KURZGESAGT)
    expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_RATE_LIMITED")
    page.look()
    page.wait_for(lambda: "the breaker is open" in page.text("#states"), "the open breaker")
    assert shape() != well, "its shape is that of a server that is well"
    assert "rate limited" in page.text("#outcomes"), "the outcomes"
    assert "▲" in page.page.title(), "the title"
    page.picture("breaker-open")
    page.expect_sane()


@pytest.mark.plaque("--upstream-rate", "0.01", synthesize=True)
def test_the_budget_is_shown_by_class(plaque, status_page):
    # A token to begin with, and the next in 100 s.
    page = status_page(plaque)
    assert page.text("#budget") == "– sent of 0.01/s", "the budget of the first look"
    known, *others = ask_and_count(plaque, *[made_up_channel(1)]) + [
        answer for n in range(2, 5) for answer in ask_and_count(plaque, made_up_channel(n))]
    expect_ok(known)
    for answer in others:
        expect_error(answer, StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    page.look()
    # In the 2 s of the page's clock.
    page.wait_for(lambda: page.text("#budget") == "0.5/s sent of 0.01/s", "what was sent")
    assert page.rows("#classes") == [
        "knownsomebody waits 0 % 0/s 0/s 0", "never foundsomebody waits 5000 % 0.5/s 1.5/s 0",
        "refreshbehind a stale answer 0 % 0/s 0/s 0", "pollof a watched channel 0 % 0/s 0/s 0"], "the classes"
    page.picture("overloaded")
    widths = page.page.evaluate("[...document.querySelectorAll('#budget-shares i')].map(part => part.style.width)")
    assert widths == ["0%", "5000%", "0%", "0%"], "the bar"
    state = page.text("#states")
    assert "Overloaded: lookups get no turn 3 lookups in the last minute" in state, "the state"
    page.expect_no_overflow()
    page.expect_sane()


def test_a_store_in_trouble_is_told(bench, status_page):
    nobody = f"redis://127.0.0.1:{free_port()}"
    with bench.plaque_and_origin("--store", nobody) as (plaque, _):
        page = status_page(plaque)
        assert "The store is in trouble" in page.text("#states"), "the state"


# Each is looked up several times meanwhile.
@pytest.mark.plaque("--fresh-for", "200ms")
def test_the_busiest_channels_are_those_of_the_last_seconds_whoever_looks(plaque, status_page):
    first, second = status_page(plaque), status_page(plaque)
    for _ in range(3):
        ask_and_count(plaque, *[KURZGESAGT] * 20)
        for page in first, second:
            page.look()
    rates = []
    for page in first, second:
        page.page.reload()
        page.wait_until_drawn()
        page.look_for(lambda page=page: "asked 60 times" in page.text("#busiest"), "all that was asked")
        row, = page.rows("#busiest")
        rates.append(float(re.search(r"([\d.]+)/s", row).group(1)))
        page.expect_sane()
    # In the 20 s of the server's own clock at most.
    assert min(rates) >= 60 / 20, rates


def test_the_charts_survive_a_reload(plaque, status_page):
    known_traffic(plaque)

    def history():
        with urllib.request.urlopen(f"{plaque.admin}/history", timeout=10) as answer:
            return json.load(answer)

    # What took less than a second is not drawn.
    wait_until(lambda: history()[0][0][0] > 1, "a second has passed")
    page = status_page(plaque)
    for _ in range(2):
        label = page.page.locator("#calls-spark").get_attribute("aria-label")
        assert re.fullmatch(r"Calls a second: \S+/s, at most \S+/s in the last \d+\smin", label), label
        assert page.page.locator("#chart path").count() == 5, "the layers of the chart"
        page.page.reload()
        page.wait_until_drawn()
    # As it is after an hour.
    spans = [[[3600 - 10 * n, 3590 - 10 * n], n % 60, n % 7, [n, n // 3, n // 9, 5, 2]] for n in range(360)]
    page.page.route("**/history", lambda route: route.fulfill(body=json.dumps(spans), content_type="application/json"))
    page.page.reload()
    page.wait_until_drawn()
    assert page.text("#chart-from") == "1 h ago", "the chart's beginning"
    assert "5.9/s" in page.page.locator("#calls-spark").get_attribute("aria-label")
    page.picture("hour")
    page.expect_sane()


@pytest.mark.plaque("--negative-for", "10m", synthesize=True)
def test_failing_channels_are_told(plaque, origin, status_page):
    page = status_page(plaque)
    origin.control(mode="status:503")
    for answer in ask_and_count(plaque, *[made_up_channel(n) for n in range(3)]):
        expect_error(answer, StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
    page.look_for(lambda: "3 channels fail" in page.text("#states"), "the channels that fail")
    assert re.search(r"3 × UPSTREAM_ERROR \(.*503.*\)", page.text("#states")), page.text("#states")
    page.expect_sane()


def test_a_server_that_nobody_asked_says_what_to_try(bench, plaque, status_page):
    page = status_page(plaque)
    plaque_get, grpcurl = page.page.locator("#commands").inner_text().splitlines()
    page.picture("empty")
    answer = json.loads(run(*shlex.split(grpcurl)).stdout)
    assert answer["video"]["channelId"] == KURZGESAGT
    _, *words = shlex.split(plaque_get.replace("@kurzgesagt", KURZGESAGT))
    told = run(bench.program, *words).stdout
    assert "El Niño" in told, told
    page.look()
    page.wait_for(lambda: not page.page.locator("#try").is_visible(), "the commands are gone")
    page.expect_sane()


@pytest.mark.plaque("--fresh-for", "5m", "--upstream-user-agent", "me/1.0")
def test_the_server_tells_its_settings_and_since_when_it_runs(plaque, status_page):
    page = status_page(plaque)
    assert "--fresh-for 5m" in page.rows("#settings"), page.rows("#settings")
    assert "--upstream-user-agent me/1.0" in page.rows("#settings"), page.rows("#settings")
    assert re.fullmatch(r"\d+\.\d+\.\d+, up \S+ m?s", page.text("#version")), page.text("#version")
    page.expect_sane()


@pytest.mark.plaque(synthesize=True)
def test_a_phone_shows_errors_before_lists(plaque, status_page):
    # Of more channels than the page has room for.
    for batch in range(2):
        expect_ok(plaque.batch([made_up_channel(100 * batch + n) for n in range(100)]))
    ask_and_count(plaque, *[made_up_channel(1)] * 3, "nonsense")
    for name, size, scheme in ("many", DESKTOP, "light"), ("many-phone", PHONE, "dark"):
        page = status_page(plaque, size, scheme)
        page.look()
        assert (len(page.rows("#busiest")), len(page.rows("#newest"))) == (20, 12), "the lists"
        assert "200 channels" in page.rows("#room")[0], "the room"
        page.picture(name)
        page.expect_no_overflow()
        page.expect_sane()
    top = {name: page.page.locator(name).bounding_box()["y"] for name in ("#states", "#ask", "#errors", "#newest", "#busiest")}
    assert list(top) == sorted(top, key=top.get), top


def test_an_idle_server_has_a_page_too(plaque, status_page):
    page = status_page(plaque)
    for _ in range(2):
        assert set(page.lookups().values()) == {"0"}, "the answers"
        assert page.rows("#flights") + page.rows("#busiest") + page.rows("#codes") == [], "the bars"
        page.expect_sane()
        page.look()
    page.picture("idle")


def test_the_newest_uploads_are_shown_and_their_pictures_if_wanted(plaque, status_page):
    for channel in SCISHOW, KURZGESAGT:
        expect_ok(plaque.ask(channel))
    page = status_page(plaque)
    newest = page.rows("#newest")
    assert len(newest) == 12, "the newest uploads"
    assert re.fullmatch(r"What is El Niño\? Kurzgesagt – In a Nutshell Short, \S+ \w+ ago", newest[0]), newest[0]
    link = page.page.locator("#newest a").first
    assert link.get_attribute("href") == "https://www.youtube.com/shorts/N2FOxjtv5ns", "the link"
    assert page.page.locator("img").count() == 0, "the pictures that nobody wants"
    page.expect_sane()

    asked = page.show_pictures()
    page.wait_for(lambda: page.pictures() >= 6, "the pictures")
    headers = asked["https://i.ytimg.com/vi/N2FOxjtv5ns/mqdefault.jpg"]
    assert "referer" not in headers, headers
    page.look()
    assert page.page.locator("#newest img").count() == 12, "the pictures after a look"
    # A reader who wants them wants them again. Where they cannot be loaded, there are none.
    page.page.unroute(THUMBNAILS)
    page.page.route(THUMBNAILS, lambda route: route.abort())
    page.page.reload()
    page.wait_until_drawn()
    page.wait_for(lambda: page.page.locator("img[hidden]").count() >= 6, "the pictures that cannot be loaded")
    assert page.pictures() == 0
    page.complaints = [said for said in page.complaints if "ERR_FAILED" not in said]
    page.page.get_by_label("Pictures").uncheck()
    assert page.page.locator("img").count() == 0
    page.expect_sane("https://i.ytimg.com/")


def test_a_channel_is_asked_for_by_any_form_of_its_name(bench, origin, status_page):
    root = origin.url.removesuffix("/feeds/videos.xml")
    # With a port for the JSON API, too.
    with bench.plaque(origin.url, "--youtube-pages", root, "--http-listen", "127.0.0.1:0") as plaque:
        page = status_page(plaque)
        assert page.page.locator("#answer").get_attribute("aria-live") == "polite"
        newest = "What is El Niño? Kurzgesagt – In a Nutshell Short,"
        for name, looked_up in [
                ("@kurzgesagt", "just now"), (KURZGESAGT, r"\d s ago"), ("https://www.youtube.com/@kurzgesagt/videos", r"\d+ s ago"),
                ("  youtu.be/N2FOxjtv5ns ", r"\d+ s ago")]:
            answer = page.ask(name)
            assert re.fullmatch(rf"{re.escape(newest)} \S+ \w+ ago. Looked up {looked_up}. Source: Feed", answer), answer
        assert origin.lookups(KURZGESAGT) == 1, "the lookups"
        assert page.page.locator(".alert").count() == 0
        for name, advice in [
                ("@nobody_has_this", "was not found; check its spelling"), ("UCnonsense", "a channel ID has 24"),
                (UNKNOWN, "404|not found|no such"), ("..", "."), ("https://vimeo.com/1", "not an address of youtube.com")]:
            answer = page.ask(name)
            assert re.search(advice, answer) and "Kurzgesagt" not in answer, answer
            assert page.page.locator("#told.alert").count() == 1
        origin.control(mode="status:429")
        assert re.search(r"too many lookups from this address \(again in \d+ s\)", page.ask(SCISHOW)), page.text("#answer")
        page.picture("ask-error")
        page.expect_sane()


def test_who_needs_a_certificate_is_told_so(bench, tmp_path, status_page):
    certificate, key = make_certificate(tmp_path)
    flags = "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", certificate
    with bench.plaque_and_origin(*flags) as (plaque, origin):
        page = status_page(plaque)
        assert "--tls-client-ca" in page.ask(KURZGESAGT)
        assert origin.lookups() == 0, "the lookups"


def test_failing_sources_are_told_and_what_is_left_of_budgets(bench, origin, tmp_path, status_page):
    key_file = tmp_path / "key"
    key_file.write_text("test-key")
    root = origin.url.removesuffix("/feeds/videos.xml")
    key = "--youtube-api", f"{root}/youtube/v3", "--youtube-api-key-file", key_file, "--youtube-api-quota", "9000"
    with running_origin() as mirror, bench.plaque(
            origin.url, "--fallback-upstream", mirror.url, *key, "--upstream-rate", "50") as plaque:
        page = status_page(plaque)
        feed, copy, api = page.rows("#sources")
        assert re.fullmatch(r"Feed: 127\.0\.0\.1\S* – of 50/s works", feed), feed
        assert re.fullmatch(r"Mirror: 127\.0\.0\.1\S* works", copy), copy
        assert re.fullmatch(r"YouTube Data API: 127\.0\.0\.1\S* 9,000 of 9,000 units left works; new ones at [78]:00:00.AM", api), api
        for failing in mirror, origin:
            failing.control(mode="status:503")
        answer, = ask_and_count(plaque, KURZGESAGT)
        expect_ok(answer)
        page.look()
        page.wait_for(lambda: "HTTP 503" in page.rows("#sources")[1], "the mirror that fails")
        feed, copy, api = page.rows("#sources")
        assert "▲ has failed for" in copy and "▲ has failed for" in feed, (feed, copy)
        assert re.search(r" 8,99[78] of 9,000 units left works", api), api
        assert "A fallback fails: Mirror" in page.text("#states"), page.text("#states")
        assert "The feed fails: 127.0.0.1" in page.text("#states"), page.text("#states")
        assert "▲" in page.page.title(), "the title"
        page.picture("source-fails")
        # Nobody has asked the mirror since.
        with urllib.request.urlopen(f"{plaque.admin}/busy", timeout=10) as told:
            busy = json.load(told)
        busy["sources"][1] |= {"failingSeconds": 7200, "failedSecondsAgo": 180}
        page.page.route("**/busy", lambda route: route.fulfill(body=json.dumps(busy), content_type="application/json"))
        page.look()
        page.wait_for(lambda: re.search("▲ last failed 3 min ago: .*HTTP 503", page.rows("#sources")[1]), "that it was a while ago")
        assert "A fallback fails" not in page.text("#states"), page.text("#states")
        page.expect_no_overflow()
        page.expect_sane()


def test_titles_are_text(plaque, status_page):
    evil = "<img src=x onerror=alert(1)>"
    titles = [evil, "\u202emoc.elpmaxe", "مرحبا بالعالم <b>", "👩‍👩‍👧" * 1000, "W" * 1000, "Z" + "\u0301" * 1000, ""]
    newest = [{
        "videoId": "N2FOxjtv5ns", "channelId": KURZGESAGT, "title": title, "channelTitle": title, "kind": "Short", "ageSeconds": 5,
        "url": "https://www.youtube.com/shorts/N2FOxjtv5ns"} for title in titles]
    source = {
        "source": "mirror", "host": evil, "failingSeconds": 7, "failedSecondsAgo": 7, "error": evil, "unitsLeft": None, "unitsADay": None}
    turned = "\u202edenrut"
    channel = {"channelId": KURZGESAGT, "title": evil, "asked": 1, "askedPerSecond": 0.1, "ageSeconds": 1, "failing": evil}
    failing = {"reason": "UPSTREAM_ERROR", "channels": 2, "error": turned}
    about = {"uptimeSeconds": 5, "grpcPort": 1, "tls": False, "settings": [["--log", evil]]}
    told = json.dumps({
        "flights": [{"channelId": KURZGESAGT, "ageSeconds": 1, "waiters": 1}], "busiest": [channel], "newest": newest, "sources": [source],
        "failing": [failing], "about": about})
    answer = json.dumps({"video": newest[0], "freshness": {"source": "SOURCE_FEED"}})
    page = status_page(plaque, PHONE)
    page.page.route("**/ask?*", lambda route: route.fulfill(body=answer, content_type="application/json"))
    assert page.ask("evil").startswith(f"{evil} {evil} Short"), page.text("#answer")
    page.page.route("**/busy", lambda route: route.fulfill(body=told, content_type="application/json"))
    page.look()
    page.wait_for(lambda: evil in page.text("#flights"), "the title")
    assert f"asked 1 time: {evil}" in page.text("#busiest"), "the busiest"
    assert page.rows("#newest")[0].startswith(f"{evil} {evil} Short, 5 s ago"), page.rows("#newest")[0]
    assert f"has failed for 7 s: {evil}" in page.text("#sources"), page.text("#sources")
    assert page.page.locator("img").count() == 0, "the pictures in the page"
    assert page.runs_rightwards("#states small", "Those with"), "what comes after a text that turns"
    page.picture("hostile")
    page.expect_no_overflow()
    page.expect_sane()


def test_a_strict_policy_guards_the_page(plaque, status_page):
    page = status_page(plaque)
    policy = page.answer.header_value("content-security-policy")
    for part in "default-src 'none'", "connect-src 'self'", "img-src data: https://i.ytimg.com;":
        assert part in (policy or ""), "the policy"
    page.expect_sane()


def test_nobody_is_asked_for_a_page_that_is_not_seen(plaque, status_page):
    page = status_page(plaque)
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
    assert page.looks() - before == 0, "the looks of a hidden page"
    assert page.text("#age") == "paused, numbers of 1 min ago", "the age"
    hide(False)
    page.wait_for(lambda: page.text("#age") == "live", "it looks again")
    page.look()
    assert page.looks() - before == 2, "the looks of a page that is seen again"
    page.expect_sane()


def test_a_server_that_stops_is_told_of_and_one_that_is_back(bench, origin, status_page):
    with bench.plaque(origin.url) as plaque:
        known_traffic(plaque)
        page = status_page(plaque)
        page.look()
        plaque.program.terminate()
        plaque.program.exit_code(within=10)
    page.page.clock.run_for(PERIOD_MS)
    page.wait_for(lambda: "The server is out of reach since" in page.text("#states"), "the stopped server")
    page.page.clock.run_for(10 * PERIOD_MS)
    assert re.fullmatch(r"numbers of \d\d s ago", page.text("#age")), f"the age is {page.text('#age')!r}"
    assert "▲" in page.page.title(), "the title"
    # What was known is still to be seen.
    assert page.lookups()["hit"] == "3", "the hits"
    page.picture("out-of-reach")

    with bench.plaque(origin.url, "--admin-listen", plaque.admin.removeprefix("http://")) as again:
        answer, = ask_and_count(again, KURZGESAGT)
        expect_ok(answer)
        page.look()
        page.wait_for(lambda: "All is well" in page.text("#states"), "the server that is back")
        assert (page.lookups()["hit"], page.lookups()["miss"]) == ("0", "1"), "the answers"
        # The browser itself tells of requests that failed.
        page.complaints = [said for said in page.complaints if "ERR_CONNECTION_REFUSED" not in said]
        page.expect_sane()


@pytest.mark.parametrize("name, size, scheme", [
    ("desktop-light", DESKTOP, "light"), ("desktop-dark", DESKTOP, "dark"), ("phone", PHONE, "light")])
@pytest.mark.plaque("--fresh-for", "200ms", synthesize=True)
def test_it_looks_right(plaque, origin, name, size, scheme, status_page):
    """Traffic of every sort for a minute of the page's clock, then a picture."""
    page = status_page(plaque, size, scheme)
    with plaque.watch([made_up_channel(0)]):
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
        page.ask(made_up_channel(3))
        page.show_pictures()
        page.wait_for(lambda: page.pictures() >= 6, "the pictures")
        page.picture(name)
        page.expect_no_overflow()
        page.expect_sane("https://i.ytimg.com/")
        for call in hanging:
            call.cancel()
