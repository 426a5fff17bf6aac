"""The settings, from a file to values and back."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.mirror import settings as setting
from tcgamirror.mirror.settings import (
    MOST_WORKERS,
    Settings,
    format_settings,
    read_settings,
    worker_bounds,
)
from tcgamirror.model.errors import BadSettings
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import SOURCES, ImageFormat, Kind, Resample, Target
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.cores import usable_cores

PLAIN = Settings(target=Target(15.0, None))

POSITIVE = st.floats(min_value=math.ulp(0), allow_infinity=False)
SECONDS = st.floats(min_value=1e-9, max_value=setting.MOST_SECONDS)
COUNT = st.integers(1, 2**31)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
NAME = TEXT.filter(str.isprintable)
PATH = st.sampled_from(["", "/v0"])
HOST = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,9}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True)
ADDRESS = st.builds(
    "{}://{}{}".format, st.sampled_from(["http", "https"]), HOST, st.sampled_from(["", "/v0"])
)
TARGET = st.one_of(
    st.builds(Target, POSITIVE, st.none(), st.sampled_from(Resample)),
    st.builds(Target, st.none(), COUNT, st.sampled_from(Resample)),
)  # fmt: skip
SETTINGS = st.builds(
    Settings,
    target=TARGET,
    slides=st.none() | COUNT,
    plan=st.builds(
        Plan,
        st.integers(),
        st.sampled_from(Order),
        st.sampled_from(By),
        st.frozensets(st.sampled_from(Kind), min_size=1),
        *[st.frozensets(NAME, max_size=3)] * 4,
        st.booleans(),
    ),
    manifest=st.none() | TEXT,
    form=st.sampled_from(ImageFormat),
    via=st.lists(st.sampled_from(SOURCES), min_size=1, unique=True).map(tuple),
    workers=st.none() | st.integers(1, MOST_WORKERS),
    rate=st.none() | st.floats(min_value=setting.LEAST_RATE, allow_infinity=False),
    api=ADDRESS,
    tiles=ADDRESS,
    bucket=st.none() | ADDRESS,
    api_connections=st.integers(1, 256),
    bucket_connections=st.integers(1, 256),
    timeouts=st.builds(
        Timeouts,
        connect=SECONDS,
        first_byte=SECONDS,
        stall=SECONDS,
        tries=st.integers(1, 100),
        backoff=SECONDS,
        pause=SECONDS,
    ),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "tcgamirror.toml"


def read(path: Path, text: str) -> Settings:
    path.write_text(text, encoding="utf-8", newline="")
    return read_settings(path)


@given(settings=SETTINGS)
def test_what_is_written_is_read_again(path: Path, settings: Settings) -> None:
    assert read(path, format_settings(settings)) == settings


def test_the_file_has_defaults_and_explains_its_keys(path: Path) -> None:
    assert read(path, "[target]\nmpp = 15\n") == PLAIN
    text = format_settings(PLAIN)
    for words in ("µm per pixel", "lowering it deletes nothing", "png, jpeg, tiff", "in seconds"):
        assert words in text


def test_bytes_may_have_a_unit(path: Path) -> None:
    fetch = read(path, '[target]\nmpp = 15\n[fetch]\nrate = "5M"\nwork_limit = "20 GB"\n')
    assert (fetch.rate, fetch.work_limit) == (5_000_000.0, 20_000_000_000)


INVALID = {
    "target.mpp": ["0", '"15"', "true", "inf"],
    "target.max_size": ["1.5"],
    "target.resample": ["1"],
    "target.format": ['"gif"'],
    "sample.slides": ["-1", "2147483649", '"some"'],
    "sample.seed": ['"0"'],
    "sample.order": ["true"],
    "sample.by": ["[1]"],
    "sample.kind": ['"frozen"', "{}"],
    "sample.projects": ["[1]", '[""]', '["a\\nb"]'],
    "sample.manifest": ["true", '"a\\u0000b"'],
    "fetch.via": ['"range"', '["range", "range"]', "[[]]"],
    "fetch.workers": ["0", "65"],
    "fetch.rate": ["999", '"5X"'],
    "gdc.api": ["1", '"http://x/?a=1"', '"http://x y"'],
    "gdc.tiles": ['"ftp://x"', '"http://x:99999"', '"http://x:y"'],
    "gdc.bucket": ['""'],
    "gdc.api_connections": ["0"],
    "gdc.bucket_connections": ["257"],
    "network.connect": ["0"],
    "network.first_byte": ["86401"],
    "network.stall": ["9" * 400],
    "network.tries": ["101"],
    "network.backoff": ["nan"],
    "network.patience": ["1"],
}


@pytest.mark.parametrize(("key", "value"), [(key, x) for key in INVALID for x in INVALID[key]])
def test_invalid_values_are_named_by_their_key(path: Path, key: str, value: str) -> None:
    table, name = key.split(".")
    start = "" if table == "target" else "[target]\nmpp = 15\n"
    with pytest.raises(BadSettings) as refusal:
        read(path, f"{start}[{table}]\n{name} = {value}\n")
    words = str(refusal.value)
    assert f"{path}: {key} is " in words
    assert "\n" not in words and len(words) < 400
    assert value != '"some"' or 'or "all"' in words


def test_any_change_of_the_target_changes_what_is_fixed() -> None:
    changed = [
        replace(PLAIN, target=Target(math.nextafter(15.0, 16), None)),
        replace(PLAIN, target=Target(15.0, None, Resample.NATIVE)),
        replace(PLAIN, target=Target(None, 15)),
        replace(PLAIN, form=ImageFormat.JPEG),
    ]
    assert len({PLAIN.fixed, *(settings.fixed for settings in changed)}) == 5
    assert PLAIN.fixed == "15 µm/px, exact, png"
    assert replace(PLAIN, slides=7, workers=1, api="http://x").fixed == PLAIN.fixed


def test_a_final_slash_of_an_address_does_not_count() -> None:
    assert setting.address("https://x.org/v0//", "api") == "https://x.org/v0"


def test_hostile_files_are_one_sentence_at_once(path: Path) -> None:
    path.write_text(f"[target]\nmpp = 15 # {'x' * setting.MOST_BYTES}\n")
    with pytest.raises(BadSettings, match="more than 1,048,576 bytes"):
        read_settings(path)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)
        with pytest.raises(BadSettings, match="not a regular file"):
            read_settings(path)


@pytest.mark.parametrize(
    ("chosen", "first", "most"),
    [
        ({}, min(64, 8 * usable_cores()), min(64, 16 * usable_cores())),
        ({"bucket": None}, min(4, 8 * usable_cores()), 4),
        ({"via": ("tiles", "range")}, min(4, 8 * usable_cores()), 4),
        ({"bucket_connections": 1}, 1, 1),
        ({"workers": 37}, 37, 37),
    ],
)
def test_workers_follow_cores_and_connections(
    chosen: dict[str, Any], first: int, most: int
) -> None:
    assert worker_bounds(Settings(Target(15.0, None), **chosen)) == (first, most)
