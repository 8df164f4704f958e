"""Makes the pictures of README.md from real runs: the status page as Chromium shows it, and a terminal session as an SVG.

    just pictures        # with the program of a release, target/dist/plaque; another: docs/pictures/make.py --plaque FILE

What is asked is the origin of the black-box tests, which imitates YouTube; its uploads of today are made up.
"""

import argparse
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "blackbox"))

from browser_support import chromium  # noqa: E402 (after the above)
from support import ANY, EMPTY_DESCRIPTIONS, ENVIRONMENT, KURZGESAGT, SCISHOW, UNKNOWN, VIDEO, Bench  # noqa: E402

# Of each channel, the newest first: hours since, title, whether it is a Short.
UPLOADS = {
    KURZGESAGT: [(2, "How deep is the ocean?", True), (31, "Where rivers end", False), (80, "A day on Titan", True),
                 (170, "What clouds weigh", False)],
    SCISHOW: [(0.3, "Why Ice Is Slippery", False), (24, "The Oldest Song", False), (49, "Bees Can Count", True),
              (74, "A Metal That Remembers", False)],
    EMPTY_DESCRIPTIONS: [(5, "First flight of an electric trainer", False), (28, "A glider in the wave", False),
                         (53, "Start, twelve seconds", True), (99, "Hangar tour", False)],
}
# Seconds of calls before the status page is shown, and how many calls a second.
LOAD, RATE = 62, 40


def show_uploads(origin):
    now = datetime.now(timezone.utc)
    for channel, uploads in UPLOADS.items():
        shown = [{"id": f"{'ABCDEFGH'[number]}q3wTf{ord(title[1]):03}A{number}", "title": title, "short": short,
                  "published": (now - timedelta(hours=hours)).isoformat(), "views": round(4000 * hours) + 17}
                 for number, (hours, title, short) in enumerate(uploads)]
        origin.control(snapshots={"channel": channel, "uploads": [shown]})


# The status page


@contextmanager
def callers(plaque):
    """Makes calls: most are answered from the cache, some need a lookup, and a few ask for a channel that there is not."""
    leaving = threading.Event()

    calls = []  # a call that nobody holds is cancelled

    def call():
        for number in range(LOAD * RATE * 10):
            if leaving.wait(1 / RATE):
                return
            channel = UNKNOWN if number % 97 == 7 else list(UPLOADS)[number % 7 % 3]
            kind, max_age = VIDEO if number % 5 == 0 else ANY, 0 if number % 9 == 0 else None
            calls.append(plaque.start(channel, kind, max_age, timeout=5))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()


def status_page(bench):
    with bench.origin(latency_ms=80) as origin, bench.plaque(
            origin.url, "--youtube-pages", origin.url.removesuffix("/feeds/videos.xml"), "--upstream-rate", "20", "--canary", "none",
            "--min-refetch", "1s") as plaque, chromium() as browser:
        show_uploads(origin)
        page = browser.new_page(viewport={"width": 1280, "height": 1010}, color_scheme="light")
        page.goto(plaque.admin)
        with callers(plaque):
            page.wait_for_timeout(LOAD * 1000)
            page.screenshot(path=HERE / "status.png")


# The terminal

COLUMNS, COLUMN, LINE, MARGIN = 92, 8.4, 19, 16
COLORS = {
    "30": "#484f58", "31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "34": "#79c0ff", "35": "#d2a8ff", "36": "#76e3ea", "2": "#8b949e",
}
STYLE = """text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e6edf3; white-space: pre }
@keyframes hidden { from, to { opacity: 0 } }
@media (prefers-reduced-motion) { text { animation: none !important } }"""


def printed(command, environment, until=None):
    """What a command prints on a terminal, line by line, with the time of each. It is interrupted once `until` says so of the text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    began, text, lines, stopped = time.monotonic(), b"", [], False
    while True:
        if select.select([ours], [], [], 0.05)[0]:
            try:
                text += os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
        whole = text.decode(errors="ignore").expandtabs(8).splitlines()
        lines += [(time.monotonic() - began, line) for line in whole[len(lines):]]
        if until and not stopped and until(whole):
            stopped = True
            os.killpg(process.pid, signal.SIGINT)
        assert time.monotonic() < began + 60, f"{command} did not end: {text}"
    process.wait()
    os.close(ours)
    return lines


def spans(line):
    """The pieces of a line with (column, style, text), by the colors that its escapes set."""
    column, codes = 0, set()
    for escape_codes, text in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b]+)", line):
        if text:
            color = next((COLORS[code] for code in sorted(codes) if code in COLORS), None)
            style = (f' fill="{color}"' if color else "") + (' font-weight="bold"' if "1" in codes else "")
            yield column, style, text
            column += len(text)
        else:
            new = set(escape_codes.split(";")) - {""}
            codes = set() if not new or "0" in new else codes | new


def svg(lines, title):
    height = len(lines) * LINE + 2 * MARGIN
    width = round(COLUMNS * COLUMN + 2 * MARGIN)
    rows = []
    for number, (moment, line) in enumerate(lines):
        parts = "".join(
            f'<tspan x="{MARGIN + column * COLUMN:.1f}"{style}>{escape(text, quote=False)}</tspan>' for column, style, text in spans(line))
        rows.append(f'<text y="{MARGIN + (number + 0.75) * LINE:.1f}" style="animation: hidden {moment:.1f}s">{parts}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
            f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n' + "\n".join(rows) + "\n</svg>\n")


def terminal(bench):
    with tempfile.TemporaryDirectory(prefix="plaque-pictures-") as folder, bench.origin(latency_ms=120) as origin, bench.plaque(
            origin.url, "--youtube-pages", origin.url.removesuffix("/feeds/videos.xml"), "--watch-every", "1s",
            "--fresh-for", "2s", "--stale-while-revalidate", "0s") as plaque:
        Path(folder, "plaque").symlink_to(bench.program)
        Path(folder, "grpcurl").symlink_to(bench.grpcurl_program)
        environment = {**ENVIRONMENT, "PATH": f"{folder}:{os.environ['PATH']}", "TERM": "xterm-256color", "COLORTERM": "truecolor",
                       "PLAQUE_SERVER": f"http://{plaque.address}", "LANG": "C.UTF-8"}
        published = []

        def upload_then_stop(lines):
            if len(lines) >= 3 and not published:
                published.append(time.monotonic())
                origin.control(publish={
                    "channel": KURZGESAGT, "video_id": "b0Zc7Rj2mYA", "title": "How deep is the ocean?", "short": True, "views": 4})
            return len(lines) >= 6 and time.monotonic() > published[0] + 2

        ask = ("grpcurl -plaintext -d '{\"channel_id\":\"" + SCISHOW + "\"}' \\\n"
               "    ADDRESS plaque.v1.LatestVideo/GetLatestVideo | jq -c .freshness")
        session, clock = [], 0.5
        for command, until in [
            ("plaque get @kurzgesagt", None),
            ("plaque get @kurzgesagt @SciShow | cut -f 3,5", None),
            (ask, None),
            ("plaque get @SciShow    # when YouTube answers 404", None),
            ("plaque watch @kurzgesagt", upload_then_stop),
        ]:
            if "404" in command:
                time.sleep(3)  # until what it knows is no longer fresh
            origin.control(mode="status:404" if "404" in command else "ok")
            shown = command.replace("ADDRESS", "127.0.0.1:3779").split("\n")
            session += [(clock, f"\x1b[32m$\x1b[0m \x1b[1m{shown[0]}"), *((clock, f"\x1b[1m{line}") for line in shown[1:])]
            clock += 1
            lines = printed(command.replace("ADDRESS", plaque.address), environment, until)
            session += [(clock + moment, line) for moment, line in lines]
            clock = session[-1][0] + 1.5
        version = bench.run_plaque("--version").stdout.strip()
        (HERE / "terminal.svg").write_text(svg(session, f"A session with {version}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plaque", type=Path, default=HERE.parents[1] / "target" / "dist" / "plaque")
    program = parser.parse_args().plaque.resolve()
    assert program.exists(), f"no {program}: `cargo build --profile dist`"
    bench = Bench(program, shutil.which("grpcurl"), None, {})
    terminal(bench)
    status_page(bench)


if __name__ == "__main__":
    main()
