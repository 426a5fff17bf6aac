"""Objects of a real S3 server: put on condition, read in parts, listed, removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcgamirror.model.errors import ChangedFile, NotFound, UsageError
from tcgamirror.net.object_store import PIECE, ObjectStore
from tests.support.proxies import Relay


@pytest.fixture
def store(relay: Relay, tmp_path: Path) -> ObjectStore:
    """A prefix of its own, reached by the relay."""
    del relay  # It sets the environment.
    return ObjectStore(f"s3://bucket/{tmp_path.name}")


def test_an_object_is_put_only_in_the_place_of_the_expected_version(store: ObjectStore) -> None:
    first = store.put_if("x", b"1", {"key": "value"}, None)
    assert first is not None
    other = ObjectStore(store.name)
    assert other.put_if("x", b"2", {}, None) is None
    second = other.put_if("x", b"2", {}, first)
    assert second is not None and store.put_if("x", b"3", {}, first) is None
    found, data = store.read("x", tag=second)
    assert (data, found.tag, found.size) == (b"2", second, 1)
    assert store.read_new("x", second.etag) is None
    with pytest.raises(ChangedFile, match="was replaced meanwhile"):
        store.read("x", tag=first)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_put_whose_answer_is_lost_counts_once(
    store: ObjectStore, relay: Relay, is_new: bool
) -> None:
    expected = None if is_new else store.put_if("x", b"old", {}, None)
    relay.drop()
    relay.cuts = [0]
    tag = store.put_if("x", b"new", {}, expected)
    assert tag is not None and store.read("x", tag=tag)[1] == b"new"
    assert relay.cuts == []


def test_large_objects_are_put_and_read_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * (PIECE // 256) + b"end"
    (tmp_path / "file").write_bytes(data)
    store.put("large", tmp_path / "file", {"sha256": "ab"})
    found = store.find("large")
    assert found is not None
    assert (found.size, found.metadata["sha256"]) == (len(data), "ab")
    assert store.read("large")[1] + store.read("large", PIECE)[1] == data
    written = store.writer("written", len(data))
    written.write(data)
    assert store.find("written") is None
    written.close()
    assert store.sizes("") == {"large": len(data), "written": len(data)}


def test_more_objects_than_a_page_are_listed_and_removed(store: ObjectStore) -> None:
    names = [f"images/{number}" for number in range(1001)]
    for name in names:
        store.put(name, b"", {})
    assert sorted(store.sizes("images")) == sorted(names)
    store.delete([*names, "images/none"])
    assert store.sizes("images") == {}
    with pytest.raises(NotFound):
        store.read("images/1")


@pytest.mark.parametrize("address", ["s3://", "s3://b?x=1", "s3://bucket/a?b", "s3://a:b@bucket"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a bucket"):
        ObjectStore(address)
