"""Mirrors in buckets: `sync` to and from a real S3 server, refused, cut off and killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import obstore
import pytest

from tcgamirror.mirror.directory import LOCK
from tcgamirror.model.errors import Locked
from tcgamirror.net.object_store import ObjectStore, Tag
from tcgamirror.transfer.sync import lease
from tests.support.buckets import S3Server
from tests.support.carrying import exported, imported, is_clean, known
from tests.support.catalogues import make_older
from tests.support.command import ended, inside, killed, program, started, surroundings
from tests.support.mirrors import column, images, says, until
from tests.support.proxies import HttpProxy, Relay, Socks5
from tests.support.publishing import (
    change,
    dump,
    free_ports,
    made_up,
    paths,
    replace_image,
    rest,
    synced,
    verified,
)
from tests.support.raw_server import Listener, RawServer, whole

SLIDES = 6
MANY = 12_000 if os.environ.get("TCGAMIRROR_SOAK") else 1_500


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A prefix that no other test uses."""
    return tmp_path.name


def _files(root: Path) -> dict[str, bytes]:
    return {path: (root / path).read_bytes() for path in paths(root)}


def _images(s3: S3Server, name: str) -> dict[str, bytes]:
    objects = s3.objects("bucket", name)
    return {path: data for path, data in objects.items() if path.startswith("images/")}


# There and back --------------------------------------------------------------------


@pytest.mark.usefixtures("relay")
def test_a_mirror_goes_to_a_bucket_and_back(
    s3: S3Server, source: Path, name: str, tmp_path: Path
) -> None:
    there = f"s3://public/{name}/m"
    answer = synced(source, there)
    assert (answer["fetched"], answer["failed"], answer["changed"]) == (SLIDES, [], True)
    objects = s3.objects("public", f"{name}/m")
    assert set(objects) == {*paths(source), "catalogue.db", "tcgamirror.toml"}
    assert synced(there, tmp_path / "copy")["fetched"] == SLIDES
    plain = f"{s3.url}/public/{name}/m/"
    assert synced(plain, tmp_path / "plain")["fetched"] == SLIDES
    assert synced(plain, tmp_path / "plain")["changed"] is False
    assert synced(there, f"s3://bucket/{name}/other")["fetched"] == SLIDES
    synced(f"s3://bucket/{name}/other", tmp_path / "third")
    for copy in ("copy", "plain", "third"):
        assert images(tmp_path / copy) == images(source)
        assert dump(tmp_path / copy) == dump(source)
        verified(tmp_path / copy)
    says(inside("sync", there, f"{there}/"), 2, "is SRC itself")
    other = tmp_path / "8"
    assert inside("--mirror", other, "init", "--mpp", "8").code == 0
    says(inside("sync", other, there), 2, "8 µm/px", "4 µm/px")


@pytest.mark.usefixtures("relay")
def test_an_archive_goes_to_a_bucket_and_back(
    s3: S3Server, source: Path, name: str, tmp_path: Path
) -> None:
    place = f"s3://bucket/{name}"
    there = f"{place}/tcga.tar"
    exported(source, there)
    assert set(s3.objects("bucket", name)) == {"tcga.tar"}
    assert imported(tmp_path / "copy", there)["images"] == SLIDES
    assert known(tmp_path / "copy") == known(source) and is_clean(tmp_path / "copy")
    for file, data in (("other.tar", b"no archive" * 100), ("empty.tar", b"")):
        obstore.put(s3.store("bucket", name), file, data)
    for address, words in (
        (f"{place}/none.tar", "does not exist"),
        (f"{place}/other.tar", "not a tar"),
        (f"{place}/empty.tar", "empty.tar: is empty"),
        (place, "use tcgamirror sync"),
    ):
        says(inside("--mirror", tmp_path / "x", "import", address), 2, words)
    says(inside("--mirror", source, "export", there), 2, "exists already")
    since = ("--since", there)
    says(inside("--mirror", source, "export", tmp_path / "y", *since), 2, "is in a bucket")
    assert not (tmp_path / "x").exists()


def test_an_archive_larger_than_a_part_survives_cuts(
    relay: Relay, source: Path, name: str, tmp_path: Path
) -> None:
    (source / "gallery").mkdir()
    (source / "gallery" / "large.png").write_bytes(random.Random(1).randbytes(30 << 20))
    there = f"s3://bucket/{name}/tcga.tar"
    relay.cuts = [50, 0, 300]
    exported(source, there)
    relay.cuts = [9 << 20, 100, 1 << 20]
    assert imported(tmp_path / "copy", there)["images"] == SLIDES
    assert known(tmp_path / "copy") == known(source)
    assert relay.cuts == []


def test_without_news_a_sync_of_many_images_takes_few_requests(
    relay: Relay, tmp_path: Path, name: str
) -> None:
    source, there = made_up(tmp_path / "source", MANY), f"s3://bucket/{name}"
    rest(source)
    assert synced(source, there)["fetched"] == MANY
    synced(there, tmp_path / "copy")
    for words, most in (((source, there), 1), ((there, tmp_path / "copy"), 1)):
        before = len(relay.lines)
        answer = synced(*words)
        assert (answer["kept"], answer["changed"]) == (MANY, False)
        assert len(relay.lines) - before == most
    # A night's run without a new image changes the catalogue alone.
    change(source, "INSERT INTO runs (command, started) VALUES ('update', '2026-11-29T01:02:03Z')")
    before = len(relay.lines)
    assert synced(source, there)["kept"] == MANY
    assert [line.split()[0] for line in relay.lines[before:]] == ["HEAD", "GET", "PUT"]


@pytest.mark.usefixtures("relay")
def test_what_differs_moves_and_what_the_source_lacks_is_removed_last(
    s3: S3Server, source: Path, name: str, tmp_path: Path
) -> None:
    there = f"s3://bucket/{name}"
    synced(source, there)
    replaced, gone = paths(source)[0], paths(source)[2]
    replace_image(source, replaced)
    file_name = str(column(source, "select file_name from mirror where sample_rank = 3")[0])
    for table in ("attempts", "images", "sample", "tissue"):
        change(source, f"DELETE FROM {table} WHERE file_name = ?", file_name)
    answer = synced(source, there, "--dry-run", "--delete")
    assert (answer["fetched"], answer["removed"]) == (1, 1)
    answer = synced(source, there)
    assert (answer["fetched"], answer["others"], answer["kept"]) == (1, 1, SLIDES - 2)
    assert gone in _images(s3, name)
    assert synced(source, there, "--delete")["removed"] == 1
    assert _images(s3, name) == _files(source)
    synced(there, tmp_path / "copy")
    assert dump(tmp_path / "copy") == dump(source)


def test_an_object_that_was_lost_is_put_again_with_the_next_news(
    relay: Relay, s3: S3Server, source: Path, name: str
) -> None:
    there = f"s3://bucket/{name}"
    synced(source, there)
    obstore.delete(s3.store("bucket", name), paths(source)[1])
    replace_image(source, paths(source)[0])
    before = len(relay.lines)
    assert synced(source, there)["fetched"] == 2
    puts = [line.split()[1] for line in relay.lines[before:] if line.startswith("PUT")]
    # No row names the image that is replaced meanwhile.
    assert [path.rpartition("/")[2] for path in puts if "images" not in path][-2:] == [
        "catalogue.db",
        "catalogue.db",
    ]
    assert _images(s3, name) == _files(source)


@pytest.mark.usefixtures("relay")
def test_a_mirror_of_an_older_version_is_brought_up_to_date(
    s3: S3Server, source: Path, name: str, tmp_path: Path
) -> None:
    older = shutil.copytree(source, tmp_path / "older")
    make_older(older, 5)
    for path in ("catalogue.db", "tcgamirror.toml", *paths(older)):
        obstore.put(s3.store("bucket", name), path, older / path)
    assert synced(source, f"s3://bucket/{name}")["kept"] == SLIDES
    assert synced(source, older)["kept"] == SLIDES
    synced(f"s3://bucket/{name}", tmp_path / "copy")
    assert dump(tmp_path / "copy") == dump(older) == dump(source)


@pytest.mark.usefixtures("relay")
def test_images_that_wait_to_replace_others_have_to_fit_on_this_machine(
    source: Path, name: str, tmp_path: Path
) -> None:
    there = f"s3://bucket/{name}"
    synced(source, there)
    for path in paths(source):
        (source / path).write_bytes((source / path).read_bytes() + bytes(400_000))
        replace_image(source, path)
    tiny = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$TMPDIR" && exec "$@"')
    (tmp_path / "tmp").mkdir()
    surrounded = surroundings({"TMPDIR": str(tmp_path / "tmp")})
    if subprocess.run([*tiny, "", "true"], env=surrounded, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount anything")
    words = [*tiny, "", *program(), "sync", str(source), there]
    result = subprocess.run(words, env=surrounded, capture_output=True, text=True)
    assert result.returncode == 6, result
    assert f"{tmp_path}/tmp/tcgamirror-" in result.stderr and "the images need 2,4" in result.stderr


# Refused ---------------------------------------------------------------------------


def test_what_is_wrong_is_said_with_its_remedy(
    s3: S3Server, source: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    there = f"s3://bucket/{name}"
    cases = (
        (s3.environment(secret="not-the-secret"), there, 2, "access refused (403"),
        (s3.environment(), f"s3://no-such-bucket/{name}", 2, "no bucket 'no-such-bucket'"),
        (s3.environment(free_ports(1)[0]), there, 4, "cannot be reached (connection refused)"),
        ({**s3.environment(), "AWS_ALLOW_HTTP": "no"}, there, 2, "AWS_ALLOW_HTTP=true"),
        (s3.environment(), "s3://user:hidden@bucket/x", 2, "is not the address of a bucket"),
        (s3.environment(), "s3://bucket/a/../b", 2, "is not the address of a bucket"),
        ({**s3.environment(), "SSL_CERT_FILE": "/none"}, there, 2, "Correct SSL_CERT_FILE"),
    )
    for environment, address, code, words in cases:
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            for order in ((source, address), (address, tmp_path / "copy")):
                result = inside("sync", *order)
                says(result, code, words)
                assert not any(
                    secret in result.err
                    for secret in (*s3.environment().values(), "not-the-secret", "hidden", "<")
                    if secret not in ("true", s3.environment()["AWS_ENDPOINT_URL"])
                )
    assert not (tmp_path / "copy").exists() and s3.objects("bucket", name) == {}


def test_certificates_come_from_the_named_file(
    tmp_path: Path, s3: S3Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(whole(b"", "404 Not Found"), certificate=certificate) as server:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url(""))
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        says(inside("sync", "s3://bucket/x", tmp_path / "m"), 4, "certificate is not trusted")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        says(inside("sync", "s3://bucket/x", tmp_path / "m"), 2, "holds no mirror")


def test_an_http_proxy_leads_there_and_a_socks_proxy_is_refused(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://store.example:{s3.port}")
    with HttpProxy() as proxy, Socks5() as socks:
        monkeypatch.setenv("all_proxy", proxy.url())
        says(inside("sync", "s3://bucket/nothing", tmp_path / "m"), 2, "holds no mirror")
        assert ("store.example", s3.port) in proxy.requests
        monkeypatch.setenv("all_proxy", socks.url())
        says(inside("sync", "s3://bucket/nothing", tmp_path / "m"), 4, "SOCKS proxy")


# Cut off, killed, two at once --------------------------------------------------------


def test_a_connection_that_is_cut_is_made_again(
    relay: Relay, s3: S3Server, source: Path, name: str, tmp_path: Path
) -> None:
    large = paths(source)[0]
    (source / large).write_bytes((source / large).read_bytes() + bytes(20 << 20))
    replace_image(source, large)
    relay.cuts = [0, 100, 0, 400]
    synced(source, f"s3://bucket/{name}")
    assert _images(s3, name) == _files(source)
    relay.cuts = [3 << 20, 100, 5 << 20]
    synced(f"s3://bucket/{name}", tmp_path / "copy")
    assert images(tmp_path / "copy") == images(source)
    assert relay.cuts == []


def test_a_store_that_stays_away_ends_it_and_the_next_sync_resumes(
    relay: Relay, s3: S3Server, source: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"s3://bucket/{name}"
    with started("sync", source, there, "--rate", "2k") as process:
        until(lambda: len(_images(s3, name)) >= 2)
        relay.cuts = [0] * 1000
        relay.drop()
        result = ended(process)
    assert result.code == 4 and "cannot be reached" in result.sentence
    relay.cuts = []
    monkeypatch.setattr(lease, "DEAD_SECONDS", 1.0)
    answer = synced(source, there)
    assert answer["adopted"] in range(2, SLIDES + 1) and answer["failed"] == []


class _Silent(Listener):
    """A store that never answers."""

    def converse(self, client: socket.socket) -> None:
        while client.recv(65536):
            pass


@pytest.mark.parametrize(
    "words", [("sync", "{m}", "s3://bucket/x"), ("--mirror", "{m}", "export", "s3://bucket/x.tar")]
)
def test_ctrl_c_ends_a_wait_for_the_store(
    words: tuple[str, ...], s3: S3Server, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _Silent() as silent:
        for name, value in s3.environment(silent.port).items():
            monkeypatch.setenv(name, value)
        with started(*(word.format(m=mirror) for word in words)) as process:
            until(lambda: silent.connections)
            process.send_signal(signal.SIGINT)
            result = ended(process, 20)
    assert result.code == 130 and len(result.err.splitlines()) == 1, result


@pytest.mark.usefixtures("relay")
def test_a_second_writer_ends_with_5_while_the_first_is_at_work(
    s3: S3Server, source: Path, name: str
) -> None:
    there = f"s3://bucket/{name}"
    with started("sync", source, there, "--rate", "2k") as first:
        until(lambda: LOCK in s3.objects("bucket", name))
        says(inside("sync", source, there), 5, "another sync writes there")
        first.send_signal(signal.SIGINT)
        assert ended(first).code == 130
    assert LOCK not in s3.objects("bucket", name)
    assert synced(source, there)["failed"] == []


@pytest.mark.usefixtures("relay")
def test_a_suspended_writer_is_taken_over_and_ends_with_5(
    s3: S3Server, source: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DEAD_SECONDS", 1.0)
    there = f"s3://bucket/{name}"
    with started("sync", source, there, "--rate", "10k") as process:
        until(lambda: len(_images(s3, name)) >= 1)
        process.send_signal(signal.SIGSTOP)
        assert synced(source, there)["failed"] == []
        process.send_signal(signal.SIGCONT)
        result = ended(process)
    assert result.code == 5, result
    assert _images(s3, name) == _files(source)
    assert synced(source, there)["changed"] is False


@pytest.mark.usefixtures("relay")
def test_a_lock_ends_quietly_when_its_key_is_refused_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "DEAD_SECONDS", 1.0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    held = lease.Lease(ObjectStore("s3://bucket/x"), Tag("some", None))
    with pytest.raises(Locked):
        until(held.check, pause=0.1)
    held.release()


@pytest.mark.usefixtures("relay")
def test_a_catalogue_that_another_wrote_meanwhile_stays(
    s3: S3Server, source: Path, name: str
) -> None:
    there = f"s3://bucket/{name}"
    with started("sync", source, there, "--rate", "20k") as process:
        until(lambda: len(_images(s3, name)) >= 1)
        obstore.put(s3.store("bucket", name), "catalogue.db", b"of another program")
        result = ended(process)
    assert result.code == 5 and "catalogue.db meanwhile" in result.sentence
    assert s3.objects("bucket", name)["catalogue.db"] == b"of another program"


@pytest.mark.usefixtures("relay")
def test_killed_at_any_moment_the_mirror_is_readable_and_the_next_sync_ends_right(
    s3: S3Server, source: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DEAD_SECONDS", 1.0)
    there, chance = f"s3://bucket/{name}", random.Random(5)
    synced(source, there)
    for number in range(4):
        for path in paths(source)[number:]:
            replace_image(source, path)
        killed("sync", source, there, "--rate", "60k", after=chance.uniform(0.6, 2.5))
        copy = tmp_path / f"copy-{number}"
        synced(there, copy)
        verified(copy)
    synced(source, there)
    assert _images(s3, name) == _files(source)
    synced(there, tmp_path / "copy")
    assert dump(tmp_path / "copy") == dump(source)
