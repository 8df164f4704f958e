"""The image of deploy/Dockerfile, as far as it can be had without Docker: the release binary, started as the image starts it, in
a read-only root that holds what the image's base holds for it.

Needs root (chroot, a mount of its own), readelf and openssl.
"""

import http.server
import json
import re
import shutil
import ssl
import sys
import tempfile
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc

from support import KURZGESAGT, REPOSITORY, Plaque, expect_error, expect_ok, make_certificate, run, running, wait_until

DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text()
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
NONROOT = 65532

# gcr.io/distroless/cc-debian12 is made of libc6, libssl3, libgcc-s1, libgomp1 and libstdc++6.
BASE_LIBRARIES = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libanl.so.1", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0",
    "libresolv.so.2", "librt.so.1", "libutil.so.1",
    "libcrypto.so.3", "libssl.so.3", "libgcc_s.so.1", "libgomp.so.1", "libstdc++.so.6",
}
# Debian 12's.
BASE_GLIBC = (2, 36)


def output(*command):
    done = run(*command)
    assert done.returncode == 0, f"the exit code of {command[0]}, which said {done.stderr!r},"
    return done.stdout


def instruction(name):
    """The words of the Dockerfile's last instruction of this name."""
    return json.loads(re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, re.M)[-1])


def version(text):
    return tuple(map(int, text.split(".")))


def test_the_base_has_the_libraries_of_the_binary(bench, note):
    needed = set(re.findall(r"Shared library: \[(.*)\]", output("readelf", "--dynamic", "--wide", bench.program)))
    assert needed, "the binary needs no library: readelf told nothing, or the base may be a smaller one"
    assert needed - BASE_LIBRARIES == set(), "the libraries that the base lacks"
    wanted = max(map(version, re.findall(r"\bGLIBC_([\d.]+)", output("readelf", "--version-info", "--wide", bench.program))))
    assert wanted <= BASE_GLIBC, f"the binary wants glibc {wanted}, and the base has {BASE_GLIBC}"
    note(f"{', '.join(sorted(needed))}; glibc {'.'.join(map(str, wanted))} at least")


def test_it_is_built_with_a_rust_and_a_glibc_that_are_new_and_old_enough():
    rust, debian = re.search(r"^FROM rust:([\d.]+)-(\w+)@sha256:[0-9a-f]{64} AS build$", DOCKERFILE, re.M).groups()
    wanted = re.search(r'^rust-version = "([\d.]+)"', (REPOSITORY / "Cargo.toml").read_text(), re.M).group(1)
    assert version(rust) >= version(wanted), f"the image is built with Rust {rust}, and Cargo.toml wants {wanted}"
    base = re.findall(r"^FROM (\S+)@sha256:[0-9a-f]{64}$", DOCKERFILE, re.M)
    assert base == ["gcr.io/distroless/cc-debian12:nonroot"], "its base"
    assert debian == "bookworm", "the Debian that it is built on"


def test_the_build_context_has_what_cargo_wants(tmp_path):
    ignore = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignore[0] == "*", "the first pattern"
    for name in ignore[1:]:
        source = REPOSITORY / name.removeprefix("!")
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / source.name)
    # Reads the manifests, looks for every target they name, and compares with the lock file.
    manifest = tmp_path / "Cargo.toml"
    output("cargo", "metadata", "--manifest-path", manifest, "--locked", "--format-version", "1", "--no-deps")


# Running it


def make_root(folder, program):
    """Fills an empty folder as the image is filled. Of what a container's runtime adds there is `etc/hosts`, and no `/proc`."""
    root = Path(folder)
    shutil.copy(program, root / "plaque")
    # `libm.so.6 => /lib/…/libm.so.6 (0x…)`, and the loader: `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    for library in re.findall(r"(/\S+) \(0x", output("ldd", program)):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    (root / AUTHORITIES).parent.mkdir(parents=True)
    shutil.copy(f"/{AUTHORITIES}", root / AUTHORITIES)
    (root / "etc/passwd").write_text(f"nonroot:x:{NONROOT}:{NONROOT}:nonroot:/home/nonroot:/sbin/nologin\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for at in (root, *root.rglob("*")):
        at.chmod(0o755)


@contextmanager
def image(bench, upstream, authority=None):
    """A plaque that was started as the image starts it, but on ports of its own. It trusts `authority` besides."""
    started = [re.sub(r"=0\.0\.0\.0:\d+", "=127.0.0.1:0", word) for word in instruction("CMD")]
    with tempfile.TemporaryDirectory(prefix="plaque-image-") as root:
        make_root(root, bench.program)
        if authority:
            with (Path(root) / AUTHORITIES).open("a") as bundle:
                bundle.write(authority.read_text())
        # Each step replaces the one before, so that signals reach plaque. The mount ends with it.
        enter = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec chroot --userspec=65532:65532 "$0" "$@"'
        command = ["unshare", "--mount", "sh", "-c", enter, root, *instruction("ENTRYPOINT"), *started, "--upstream", upstream]
        with running(command) as program:
            plaque = Plaque(program)
            with plaque.channel:
                yield plaque
            assert "panicked" not in program.err.read_text(), "plaque panicked"


def test_it_serves_from_a_root_that_is_read_only_and_drains(bench, origin, note):
    with image(bench, origin.url.replace("127.0.0.1", "localhost")) as plaque:
        process = Path(f"/proc/{plaque.program.process.pid}")
        users = re.search(r"^Uid:\s+(.*)$", (process / "status").read_text(), re.M).group(1).split()
        assert set(users) == {str(NONROOT)}, "the users it runs as"
        assert sorted(at.name for at in (process / "root").iterdir()) == ["etc", "lib", "lib64", "plaque"], "its root"
        try:
            (process / "root" / "new").touch()
            raise AssertionError("its root is not read-only, so this shows nothing")
        except OSError:
            pass
        answer = plaque.ask(KURZGESAGT)
        expect_ok(answer)
        with urllib.request.urlopen(f"{plaque.admin}/livez", timeout=10) as alive:
            assert alive.status == 200, "/livez"
        words = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.M).group(1))
        health = run(bench.program, *words[1:], "--server", plaque.address)
        assert (health.returncode, health.stdout) == (0, "SERVING\n"), health
        slow = plaque.start_watch([KURZGESAGT])
        next(iter(slow))
        plaque.program.terminate()
        assert plaque.program.exit_code(within=15) == 0, "the exit code"
        assert slow.code() == grpc.StatusCode.UNAVAILABLE, "how its watch ended"
    note(f"answered {answer.response.video.title!r}, of an upstream found by name")


@contextmanager
def with_tls(origin, folder):
    """An address that gives the origin's answers over TLS, its certificate, which nobody vouches for, and what went wrong there."""
    certificate, key = make_certificate(folder)

    class Relay(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with urllib.request.urlopen(f"http://127.0.0.1:{origin.port}{self.path}", timeout=10) as answer:
                body = answer.read()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    errors, context = [], ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        # The handshake is for the connection's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: errors.append(str(sys.exc_info()[1]))
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"https://localhost:{server.server_port}/feeds/videos.xml", certificate, errors
        finally:
            server.shutdown()
            serving.join()


def test_it_trusts_the_authorities_of_the_image_and_no_others(bench, tmp_path, origin):
    with with_tls(origin, tmp_path) as (upstream, authority, errors):
        with image(bench, upstream) as plaque:
            expect_error(plaque.ask(KURZGESAGT), grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR")
            wait_until(lambda: any("UNKNOWN_CA" in error for error in errors), "plaque says why it hung up")
        with image(bench, upstream, authority) as plaque:
            expect_ok(plaque.ask(KURZGESAGT))
