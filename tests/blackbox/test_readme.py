"""The commands of README.md, run as they stand there, and what they print beside what it says that they do.

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

from support import ENVIRONMENT, REPOSITORY

# What .ci/run runs by itself, with the build that it has: these would build again.
RUN_BY_CI = {"cargo run --release -- demo": "cargo run --profile dist -- demo", "cargo test": "cargo test"}

# Programs that CI does not have: containers.
NOT_RUN = re.compile(r"docker run ")

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


class Command:
    """A command, the section that it stands in, and the lines that follow it."""

    def __init__(self, section, text):
        self.section, self.lines = section, []
        self.text = re.sub(r"\s+# .*", "", text)


def commands():
    section, found, within = None, [], False
    for line in (REPOSITORY / "README.md").read_text().splitlines():
        if line.startswith("#") and not within:
            section = line.strip("# ")
        elif line.startswith("```"):
            within = line == "```console"
        elif within and line.startswith("$ "):
            found.append(Command(section, line.removeprefix("$ ")))
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
        assert matches(command.lines, printed), f"`{text}` printed {printed}, README.md says {command.lines}"


def test_every_command_does_what_it_says(bench, tmp_path, note):
    ci = (REPOSITORY / ".ci" / "run").read_text()
    count = 0
    with bench.plaque_and_origin("--http-listen", "127.0.0.1:0") as (plaque, origin):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "plaque").symlink_to(bench.program)
        (tmp_path / "bin" / "grpcurl").symlink_to(bench.grpcurl_program)
        for command in commands():
            if command.text in RUN_BY_CI:
                assert f"step {RUN_BY_CI[command.text]}\n" in ci, ".ci/run"
                continue
            if NOT_RUN.match(command.text):
                continue
            outage = command.section == "What it does about YouTube"
            origin.control(mode="status:404" if outage else "ok")
            check(bench, command, plaque, origin, tmp_path)
            count += 1
    assert count > 10, f"only {count} commands were found"
    note(f"{count} commands")


def test_stopping_is_logged_as_it_says(plaque):
    readme = (REPOSITORY / "README.md").read_text()
    said = re.search(r"```text\n(.*?SIGTERM.*?)```", readme, re.S).group(1).splitlines()
    plaque.program.terminate()
    assert plaque.program.exit_code(within=10) == 0, "the exit code"
    logged = [same(line) for line in plaque.program.err.read_text().splitlines()]
    assert logged == [same(line) for line in said], "the log"
