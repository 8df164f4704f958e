"""What deploy/package makes of a program: installed, tried and removed again in a root of its own; and one version everywhere.

Needs root, apt with its lists, dpkg, readelf and systemd-analyze. (deploy/release tries the programs of a release in an empty root.)
"""

import gzip
import re
import tarfile

import pytest

from deploy_support import DEPLOY, documents, output
from support import KURZGESAGT, REPOSITORY, expect_ok, run

VERSION = re.search(r'^version = "(.+)"', (REPOSITORY / "Cargo.toml").read_text(), re.M).group(1)


def test_the_version_is_the_same_everywhere(bench):
    told = {"plaque --version": bench.run_plaque("--version").stdout.removeprefix("plaque ").strip()}
    [chart] = documents(DEPLOY / "helm/plaque/Chart.yaml")
    told |= {"the chart": chart["version"], "the chart's appVersion": chart["appVersion"]}
    named = r"\bplaque:(\d+\.\d+\.[\w.-]+)|image\.version=(\S+)"
    for path in DEPLOY / "Dockerfile", DEPLOY / "compose.yaml", DEPLOY / "kubernetes/plaque.yaml":
        found = re.findall(named, path.read_text())
        assert found, f"{path.name} names no version"
        told |= {f"{path.name}, {place}": first or second for place, (first, second) in enumerate(found)}
    for lock in REPOSITORY / "Cargo.lock", REPOSITORY / "fuzz/Cargo.lock":
        told[str(lock)] = re.search(r'name = "plaque"\nversion = "(.+)"', lock.read_text()).group(1)
    told["CHANGELOG.md"] = re.search(r"^## \[(\d\S+)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.M).group(1)
    assert {place: version for place, version in told.items() if version != VERSION} == {}, f"what has another version than {VERSION}"


@pytest.fixture(scope="module")
def packed(bench, tmp_path_factory):
    """The folder that deploy/package has filled."""
    folder = tmp_path_factory.mktemp("packed")
    output(DEPLOY / "package", bench.program, folder)
    return folder


def test_the_archive_has_the_program_and_what_goes_with_it(packed, tmp_path, note):
    [path] = packed.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    assert f"{folder.name}.tar.gz" == path.name, "the folder in the archive"
    assert output(folder / "plaque", "--version") == f"plaque {VERSION}\n"
    assert {f"plaque{of}.1" for of in ("", "-serve", "-get")} <= {page.name for page in (folder / "man").iterdir()}, "the manual pages"
    for name in "plaque.bash", "_plaque", "plaque.fish":
        assert "watch" in (folder / "completions" / name).read_text(), name
    note(f"{path.name}, {path.stat().st_size >> 10:,} KiB")


def test_the_debian_package_installs_works_and_goes_away(packed, bench, origin, tmp_path, note):
    [package] = packed.glob("*.deb")
    # What it depends on is there.
    output("apt-get", "install", "--quiet", "--simulate", package)
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()

    def dpkg(*words):
        # The packages that it depends on are not in this root, nor is a shell for its scripts.
        output("dpkg", f"--root={root}", "--force-depends", "--force-script-chrootless", f"--log={tmp_path}/log", *words)

    dpkg("--install", package)
    installed = root / "usr/bin/plaque"
    unit = (root / "usr/lib/systemd/system/plaque.service").read_text()
    assert "ExecStart=/usr/bin/plaque serve" in unit, "what the unit starts"
    checked = tmp_path / "plaque.service"
    checked.write_text(unit.replace("/usr/bin/plaque", str(installed)))
    done = run("systemd-analyze", "verify", "--man=no", checked)
    assert (done.returncode, done.stderr) == (0, ""), "what systemd says of the unit"
    settings = re.search(r"^EnvironmentFile=-(\S+)$", unit, re.M).group(1)
    assert (root / settings[1:]).is_file(), f"the settings that the unit reads, {settings}"
    page = gzip.decompress((root / "usr/share/man/man1/plaque-serve.1.gz").read_bytes()).decode()
    assert "PLAQUE_LISTEN" in page, "the manual page of serve"
    installed_bench = type(bench)(installed, bench.grpcurl_program, bench.captures, bench.numbers)
    with installed_bench.plaque(origin.url) as plaque:
        expect_ok(plaque.ask(KURZGESAGT))
    store = root / "var/lib/plaque"
    store.mkdir()
    dpkg("--remove", "plaque")
    assert (root / settings[1:]).is_file() and store.is_dir() and not installed.exists(), "what is left of it once removed"
    dpkg("--purge", "plaque")
    left = [path for path in root.rglob("*") if path.is_file() and "var/lib/dpkg" not in str(path)]
    assert left == [] and not store.exists(), "what is left of it once purged"
    note(f"{package.name}, {package.stat().st_size >> 10:,} KiB")
