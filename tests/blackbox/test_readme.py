"""The commands of README.md and docs/, run as they stand there, and what they print beside what is said there that they do; and links.

They are run by bash on a terminal. Addresses are those of a plaque that the suite starts, with the origin upstream. A line
`...` stands for any lines; times, ages and ports may differ.
"""

import os
import pty
import re
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from itertools import chain
from urllib.parse import urlsplit

from support import ENVIRONMENT, REPOSITORY

# What .ci/run runs by itself, with the build that it has: these would build again.
RUN_BY_CI = {"cargo run --release -- demo": "cargo run --profile dist -- demo", "cargo test": "cargo test"}

# What CI cannot run here: containers; and what would build plaque, or install it.
NOT_RUN = re.compile(r"docker |cargo install |sudo ")

# How long a command may take until it has printed what it should.
PATIENCE = 20

VARIES = [
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\d+ (second|minute|hour|day|week|month|year)s? ago", "AGO"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r'"\d+\.\d+s"', "PAUSE"),
    (r"connections=\d+ calls=\d+", "LOAD"),
    (r"\x1b\[[0-9;]*[A-Za-z]", ""),
]


# test_deploy.py and test_clients.py have the commands of other pages.
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


class Command:
    """A command, the page and the section that it stands in, and the lines that follow it."""

    def __init__(self, page, section, text):
        self.page, self.section, self.lines = page, section, []
        self.text = re.sub(r"\s+# .*", "", text)


def commands(page):
    section, found, within = None, [], False
    for line in page.read_text().splitlines():
        if line.startswith("#") and not within:
            section = line.strip("# ")
        elif line.startswith("```"):
            within = line == "```console"
        elif within and line.startswith("$ "):
            found.append(Command(page.name, section, line.removeprefix("$ ")))
        elif within:
            found[-1].lines.append(line)
    return found


def same(text):
    for pattern, name in VARIES:
        text = re.sub(pattern, name, text)
    return text.strip()


def matches(expected, printed):
    """Whether the lines printed are those expected."""
    parts = [r"(?:.*\n)*?" if line.strip() == "..." else re.escape(same(line)) + r"\n" for line in expected]
    return re.fullmatch("".join(parts), "".join(same(line) + "\n" for line in printed)) is not None


@contextmanager
def on_a_terminal(command, environment, folder):
    """Runs a command by bash on a terminal, with its output as it comes."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=folder,
        start_new_session=True)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        os.close(ours)


def outcome(command, lines, environment, folder):
    """The exit code, None if it goes on, and what it has printed by its end, or when that is what is expected."""
    printed, end = b"", time.monotonic() + PATIENCE
    with on_a_terminal(command, environment, folder) as (process, terminal):
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    printed += os.read(terminal, 1 << 16)
                except OSError:  # the terminal's way to say that nobody writes to it any more
                    return process.wait(PATIENCE), printed.decode().splitlines()
            whole = printed.decode(errors="replace").splitlines()
            goes_on = re.search(r"\bplaque (serve|watch)\b", command)
            if goes_on and whole and matches(lines or ["..."], whole):
                return None, whole
    raise AssertionError(f"`{command}` did not end within {PATIENCE} s; it printed {printed.decode()!r}")


def check(bench, command, plaque, origin, folder):
    # In one go: plaque's own port may begin with one of these.
    places = {"127.0.0.1:3779": plaque.address, "http://127.0.0.1:3780": plaque.admin, "http://127.0.0.1:3781": plaque.http,
              "127.0.0.1:3781": "127.0.0.1:0", "cargo run --release -- ": "plaque "}
    text = re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], command.text)
    environment = {
        **ENVIRONMENT,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TERM": "xterm",
        "PLAQUE_SERVER": f"http://{plaque.address}",
        "PLAQUE_UPSTREAM": origin.url,
    }
    if "plaque serve" in text:
        environment |= {"PLAQUE_LISTEN": "127.0.0.1:0", "PLAQUE_ADMIN_LISTEN": "127.0.0.1:0"}
    code, printed = outcome(text, command.lines, environment, folder)
    is_error = command.lines[:1] == ["ERROR:"]
    assert code is None or (code != 0) == is_error, f"`{text}` ended with {code}: {printed}"
    if command.lines:
        assert matches(command.lines, printed), f"`{text}` printed {printed}, {command.page} says {command.lines}"


def test_every_command_does_what_it_says(bench, tmp_path, note):
    ci = (REPOSITORY / ".ci" / "run").read_text()
    count = 0
    with bench.origin() as origin, bench.plaque(
            origin.url, "--http-listen", "127.0.0.1:0", "--youtube-pages", origin.url.removesuffix("/feeds/videos.xml")) as plaque:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "plaque").symlink_to(bench.program)
        (tmp_path / "bin" / "grpcurl").symlink_to(bench.grpcurl_program)
        for command in chain.from_iterable(map(commands, PAGES)):
            if command.text in RUN_BY_CI:
                assert f"step {RUN_BY_CI[command.text]}\n" in ci, ".ci/run"
                continue
            if NOT_RUN.match(command.text):
                continue
            outage = command.section == "In an outage"
            origin.control(mode="status:404" if outage else "ok")
            check(bench, command, plaque, origin, tmp_path)
            count += 1
    assert count > 10, f"only {count} commands were found"
    note(f"{count} commands")


def test_stopping_is_logged_as_it_says(plaque):
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    said = re.search(r"```text\n(.*?SIGTERM.*?)```", page, re.S).group(1).splitlines()
    plaque.program.terminate()
    assert plaque.program.exit_code(within=10) == 0, "the exit code"
    logged = [same(line) for line in plaque.program.err.read_text().splitlines()]
    assert logged == [same(line) for line in said], "the log"


def test_python_gets_an_answer_as_it_says(plaque, capsys):
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S).group(1)
    exec(code.replace("127.0.0.1:3779", plaque.address))  # `support` has generated the modules that it imports
    assert capsys.readouterr().out == "What is El Niño? https://www.youtube.com/shorts/N2FOxjtv5ns\n"


def test_errors_are_those_of_the_proto():
    proto = (REPOSITORY / "proto" / "plaque" / "v1" / "latest_video.proto").read_text()
    stated = dict(re.findall(r"^//     ([A-Z_]+) +([A-Z_]+)  ", proto, re.M))
    rows = re.findall(r"^\| (`[A-Z_]+`.*?) \| `([A-Z_]+)` \|", (REPOSITORY / "docs" / "errors.md").read_text(), re.M)
    assert {reason: code for reasons, code in rows for reason in re.findall(r"[A-Z_]+", reasons)} == stated
    assert len(stated) > 20


def anchors(page):
    """What GitHub and mdBook let one link to: headings, in lower case, without punctuation, with hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    headings = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in re.findall(r"^#+ (.*)", text, re.M))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or anchor and anchor not in anchors(target):
            yield f"{page.relative_to(REPOSITORY)}: {link}"


def test_links_lead_somewhere():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert "docs/api.md" in listed
    assert list(chain.from_iterable(broken_links(REPOSITORY / name) for name in listed)) == []


def test_the_book_is_whole(tmp_path):
    summary = (REPOSITORY / "docs" / "SUMMARY.md").read_text()
    pages = [str(page.relative_to(REPOSITORY / "docs")) for page in (REPOSITORY / "docs").rglob("*.md")]
    assert sorted(pages) == sorted([*re.findall(r"\]\((.*?)\)", summary), "SUMMARY.md"])
    subprocess.run(["mdbook", "build", REPOSITORY / "docs", "--dest-dir", tmp_path], check=True)
    book = {page: page.read_text() for page in tmp_path.rglob("*.html") if page.name not in {"404.html", "print.html", "toc.html"}}
    assert len(book) == len(pages)  # without SUMMARY, with index.html
    for page, text in book.items():
        for url in re.findall(r'(?:href|src)="([^"]+)"', text):
            place = urlsplit(url)
            target = (page.parent / place.path).resolve() if place.path else page
            if place.scheme in {"", "file"}:
                assert target.exists(), f"{page.name}: {url}"
            if place.fragment and target in book:
                assert f'id="{place.fragment}"' in book[target], f"{page.name}: {url}"


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().split()) <= 900, "words; further ones go to docs/"
