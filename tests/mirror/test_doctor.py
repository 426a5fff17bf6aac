"""`doctor` looks at everything, changes nothing, and tells what to do."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.mirror.probes import probes
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.slide import Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.proxies import without_credentials
from tests.gdc import Fault, Listed, StandIn
from tests.gdc.faults import Kind
from tests.support.command import ended, run, started, succeeded
from tests.support.fetching import slide_of
from tests.support.mirrors import addresses, contents, filled, until
from tests.support.proxies import Socks5
from tests.support.raw_server import QUICK, RawServer, whole

SERVERS = ["status", "listing", "bucket", "/data", "tiles"]


def found(told: Mapping[str, Any], topic: str) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in told["findings"] if row["topic"] == topic}


def test_outside_a_mirror_it_checks_the_servers(tmp_path: Path, small_gdc: StandIn) -> None:
    told = succeeded("doctor", "--json", *addresses(small_gdc), cwd=tmp_path).json()
    assert set(found(told, "machine")) == {"system", "kernel", "processors", "open files"}
    assert "glibc" in found(told, "program")["C library"]["found"]
    libraries = found(told, "program")["libraries"]["found"]
    assert "OpenSlide 4" in libraries and "does not load" not in libraries
    servers = found(told, "servers")
    assert list(servers) == SERVERS and not found(told, "mirror")
    assert all(row["seconds"] >= 0 and row["advice"] is None for row in servers.values())
    assert "honours Range" in servers["bucket"]["found"]
    assert servers["tiles"]["found"].startswith("PNG of 512 pixels and an overlap of 1")
    assert told["exit_code"] == 0 and not list(tmp_path.iterdir())


def test_in_a_mirror_it_changes_nothing(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc)
    before = contents(root)
    told = succeeded("--mirror", root, "doctor", "--json").json()
    mirror = found(told, "mirror")
    assert list(mirror) == ["directory", "images", "file system", "room", "catalogue"]
    assert "18 listed, 4 done, 0 failed; whole; journal" in mirror["catalogue"]["found"]
    assert contents(root) == before


def test_without_a_listing_a_slide_of_the_catalogue_is_tried(
    tmp_path: Path, small_gdc: StandIn
) -> None:
    root = filled(tmp_path / "m", small_gdc)
    small_gdc.switch("api", "refused")
    servers = found(run("--mirror", root, "doctor", "--json").json(), "servers")
    assert "honours Range" in servers["bucket"]["found"]


def test_without_names_of_servers_it_tells_of_dns(tmp_path: Path) -> None:
    ended = run("doctor", "--json", "--api", "https://none.invalid", cwd=tmp_path)
    servers = found(ended.json(), "servers")
    assert ended.code == 4
    assert all("no DNS" in servers[what]["advice"] for what in ("status", "listing"))


def test_a_report_for_people(tmp_path: Path, small_gdc: StandIn) -> None:
    out = succeeded("doctor", *addresses(small_gdc), cwd=tmp_path).out
    assert out.splitlines()[0].startswith("tcgamirror ")
    for topic in ("machine", "program", "network", "servers"):
        assert f"\n\n{topic}\n  " in out
    assert out.endswith("\n\nall is well\n")
    small_gdc.switch("api", "refused")
    ended = run("doctor", *addresses(small_gdc), cwd=tmp_path)
    assert (ended.code, ended.err) == (4, "")
    assert "cannot be reached" in ended.out and "to look at: status, listing" in ended.out
    for what in ("bucket", "/data", "tiles"):
        assert f"  {what:12} not tried: no slide is known" in ended.out


@pytest.mark.parametrize(
    ("fault", "code", "what", "words"),
    [
        (Fault("/tile", "404"), 3, "tiles", "404"),
        (Fault(r"\.svs", "404"), 3, "bucket", "404"),
        (Fault("/data/", "403"), 3, "/data", "403"),
        (Fault("/data/", "range-ignored"), 3, "/data", "ignores Range"),
        (Fault("/status", "html"), 4, "status", "HTML"),
    ],
)
def test_a_fault_of_a_server_comes_with_advice(
    tmp_path: Path, small_gdc: StandIn, fault: Fault, code: int, what: str, words: str
) -> None:
    small_gdc.faults.add(fault)
    ended = run("doctor", "--json", *addresses(small_gdc), cwd=tmp_path)
    servers = found(ended.json(), "servers")
    assert ended.code == code
    assert [name for name, row in servers.items() if row["advice"]] == [what]
    assert words in servers[what]["found"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line(
    tmp_path: Path, small_gdc: StandIn, number: signal.Signals
) -> None:
    small_gdc.faults.add(Fault("/status", "stall", hold=60.0))
    with started("doctor", *addresses(small_gdc), cwd=tmp_path) as doctor:
        until(lambda: small_gdc.requests("/status"))
        doctor.send_signal(number)
        result = ended(doctor, 30)
    assert (result.code, result.err) == (130, "tcgamirror: interrupted\n")


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_catalogue_is_reported(tmp_path: Path, small_gdc: StandIn, cut: bool) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=1)
    with (root / "catalogue.db").open("r+b") as file:
        file.seek(100 if cut else file.seek(0, 2) // 2)
        file.truncate() if cut else file.write(b"spoilt by a bad disk" * 450)
    ended = run("--mirror", root, "doctor", "--json")
    catalogue = found(ended.json(), "mirror")["catalogue"]
    assert ended.code == 3 and "rebuild" in catalogue["advice"], catalogue


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("proxy.example:3128", "proxy.example:3128"),
        ("socks5://u:p@h:1", "socks5://h:1"),
        ("http://[::1", "(no address)"),
        ("me:secret@h", "h"),
    ],
)
def test_credentials_are_cut_off_whatever_the_address(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_what_the_user_named_has_to_be_there(tmp_path: Path, small_gdc: StandIn) -> None:
    env = {"SSL_CERT_FILE": str(tmp_path / "none.pem")}
    ended = run("doctor", "--json", *addresses(small_gdc), env=env, cwd=tmp_path)
    assert "correct it" in found(ended.json(), "network")["certificates"]["advice"]
    assert ended.code == 3
    assert run("--mirror", tmp_path, "doctor").code == 2


# The report --------------------------------------------------------------------------


def report_of(folder: Path, gdc: StandIn) -> str:
    path = folder / "report.txt"
    run("doctor", "--report", path, *addresses(gdc), cwd=folder)
    return path.read_text(encoding="utf-8")


def section(report: str, title: str) -> str:
    return next(part for part in report.split("\n\n") if part.startswith(title))


def test_the_report_holds_the_servers_answers(tmp_path: Path, small_gdc: StandIn) -> None:
    report = report_of(tmp_path, small_gdc)
    assert "\nservers\n  status " in report
    counts = section(report, "counts of the listing").split("\n")[1:]
    assert [line.split(maxsplit=1) for line in counts] == [
        ["18", "listed"],
        ["15", "Diagnostic Slide, open"],
        ["0", "Diagnostic Slide, controlled"],
        ["3", "Tissue Slide, open"],
        ["0", "Tissue Slide, controlled"],
        ["18", "Slide Image, of any strategy and access"],
    ]
    for origin in ("bucket", "/data"):
        first = section(report, f"{origin}, first bytes")
        assert "206 Partial Content\n" in first and "Content-Range: bytes 0-" in first
        assert "body begins: 49 49 2a 00" in first
        beyond = section(report, f"{origin}, beyond the end")
        assert "\n  416 " in beyond and "Content-Range: bytes */" in beyond
    assert '"TileSize": "512"' in section(report, "tiles, metadata")
    inside = section(report, "tiles, inside the grid")
    assert "200 OK" in inside and "body begins: 89 50 4e 47" in inside
    outside = section(report, "tiles, outside the grid")
    assert "404 Not Found" in outside and "Invalid address" in outside


def probed(gdc: StandIn, file: Listed, bucket: str) -> str:
    """Return the servers' answers about a slide, asked for without long waits."""
    settings = Settings(Target(None, 1), api=gdc.api, tiles=gdc.tiles, bucket=bucket)
    with HttpClient(timeouts=QUICK) as client:
        return "\n".join(probes(settings, client, slide_of(file)))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("range-ignored", "200 OK"),
        ("203", "203 Non-Authoritative Information"),
        ("429", "429 Too Many Requests"),
        ("reset", "cannot be reached"),
        ("as-html", "206 Partial Content"),
    ],
)
def test_the_report_judges_no_answer(small_gdc: StandIn, kind: Kind, line: str) -> None:
    small_gdc.faults.add(Fault(r"/data/|\.svs|level=", kind, retry_after=None))
    report = probed(small_gdc, small_gdc.files[0], small_gdc.bucket)
    for origin in ("bucket", "/data"):
        assert line in section(report, f"{origin}, first bytes")


def test_no_secret_gets_into_the_report(tmp_path: Path, small_gdc: StandIn) -> None:
    home = tmp_path / "home" / "jane.doe"
    home.mkdir(parents=True)
    api = small_gdc.api.replace("http://", "http://me:s3cret@")
    mirror, path = home / "m", home / "report.txt"
    options = ("--api", api, "--bucket", small_gdc.bucket)
    succeeded("--mirror", mirror, "init", "--mpp", "4", *options)
    with Socks5("me", "s3cret") as proxy:
        env = {"all_proxy": proxy.url("me:s3cret@"), "no_proxy": "", "HOME": str(home)}
        ended = run("--mirror", mirror, "doctor", "--report", path, env=env)
        assert proxy.requests
        assert f"127.0.0.1:{proxy.port}" in ended.out
    report = path.read_text(encoding="utf-8")
    assert "directory    ~/m" in report and "206 Partial Content" in report
    assert [word for word in ("s3cret", "me:", "jane.doe") if word in report] == []
    assert "s3cret" not in ended.out + ended.err


def test_headers_that_may_hold_secrets_are_named_without_them(small_gdc: StandIn) -> None:
    lines = ("Set-Cookie: session=s3cret", "X-Auth-Token: s3cret", "X-Client-IP: 10.1.2.3")
    told = whole(b"no", "401 Unauthorized", "Location: http://me:s3cret@h/x?token=s3cret", *lines)
    with RawServer(told) as bucket:
        report = probed(small_gdc, small_gdc.files[0], bucket.url(""))
    assert "s3cret" not in report and "10.1.2.3" not in report
    assert "Set-Cookie: (left out)" in section(report, "bucket, first bytes")
    assert "Location: h/x\n" in section(report, "bucket, first bytes")


@pytest.mark.parametrize("place", ["there.txt", "missing/report.txt"])
def test_a_report_is_written_to_a_new_file_only(tmp_path: Path, place: str) -> None:
    (tmp_path / "there.txt").write_text("mine")
    ended = run("doctor", "--report", place, cwd=tmp_path)
    assert ended.code == 2 and "--report" in ended.sentence
    assert (tmp_path / "there.txt").read_text() == "mine"


# Beside it ---------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_know_the_commands_and_options(shell: str) -> None:
    text = succeeded("completion", shell).out
    assert all(word in text for word in ("doctor", "update", "retry-failed", "primary_site"))


def test_licences_name_what_is_used() -> None:
    out = succeeded("licenses").out
    assert "numpy" in out and "GNU LESSER GENERAL PUBLIC LICENSE" in out
