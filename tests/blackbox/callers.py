"""Programs that make many calls with the gRPC libraries of examples/clients, and print how each ended: see aged/.

Each is started with an address, how many calls, how many a second, and a service config if it is to have one.
"""

import re
import shutil
from collections import Counter

from example_clients import built
from support import REPOSITORY, run

SOURCES = REPOSITORY / "tests" / "blackbox" / "aged"


def go(client):
    folder = client.folder / "aged"
    folder.mkdir(exist_ok=True)
    shutil.copy2(SOURCES / "main.go", folder)
    build(client, "go", "build", "-o", "aged/aged", "./aged")
    return [folder / "aged"]


def java(client):
    path = f"{client.folder}/target/classes:{client.folder}/target/lib/*"
    build(client, "javac", "-cp", path, "-d", "target/classes", SOURCES / "Aged.java")
    return ["java", "-cp", path, "Aged"]


def node(client):
    shutil.copy2(SOURCES / "aged.mjs", client.folder)
    return ["node", client.folder / "aged.mjs"]


def python(client):
    shutil.copy2(SOURCES / "aged.py", client.folder)
    return [client.folder / ".venv/bin/python", client.folder / "aged.py"]


LANGUAGES = [go, java, node, python]


def caller(language):
    """The command of one of LANGUAGES, built with the client of the same name."""
    return language(built(language.__name__))


def build(client, *command):
    done = run("env", "-C", client.folder, *command, within=200)
    assert done.returncode == 0, f"`{command[0]}` ended with {done.returncode}: {done.stderr[-2000:]}"


def outcomes(lines):
    """How many calls ended how. Addresses and durations are none of it."""
    counts = Counter(re.sub(r"[\d.]{3,}\S*", "…", line.strip()) for line in lines)
    return ", ".join(f"{count} × {how}" for how, count in counts.most_common(6))
