"""The stand-in GDC is as strict as the GDC is known to be, where a laxer one would hide a fault."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from tests.gdc import Listed, StandIn, listed, listed_without_data
from tests.support.command import ROOT
from tests.support.slides import SlideSpec, make_slide

WIDTH, HEIGHT = 1501, 1003


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    path = tmp_path_factory.mktemp("slides") / "made.svs"
    return listed(make_slide(path, SlideSpec(width=WIDTH, height=HEIGHT, downsamples=(1, 4))))


@pytest.fixture
def gdc(file: Listed) -> Iterator[StandIn]:
    with StandIn([file]) as gdc:
        yield gdc


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def one(field: str, *values: str) -> dict[str, Any]:
    return {"op": "in", "content": {"field": field, "value": list(values)}}


def hits(answer: requests.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.json()["data"]["hits"]
    return found


def test_only_the_requested_fields_come(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    fields = "md5sum,cases.submitter_id,cases.samples.portions.slides.submitter_id,nonsense"
    answer = http.get(f"{gdc.api}/v0/files", params={"fields": fields})
    slides = [{"submitter_id": file.slide_barcode}]
    case = {"submitter_id": file.case_barcode, "samples": [{"portions": [{"slides": slides}]}]}
    assert hits(answer) == [{"id": file.file_id, "md5sum": file.md5, "cases": [case]}]
    assert answer.json()["warnings"] == {"fields": "unrecognized values: [nonsense]"}
    (hit,) = hits(http.get(f"{gdc.api}/files"))
    assert not {"md5sum", "cases"} & hit.keys()


def test_filters_keep_what_they_name(http: requests.Session) -> None:
    files = listed_without_data(3)
    other, closed = (
        listed_without_data(6, **{key: "x"})[place]
        for place, key in ((4, "program"), (5, "access"))
    )
    content = [one("cases.project.program.name", "TCGA"), one("access", "open")]
    asked = {"op": "and", "content": content}
    with StandIn([*files, other, closed]) as gdc:
        for answer in (
            http.get(f"{gdc.api}/files", params={"filters": json.dumps(asked)}),
            http.post(f"{gdc.api}/files", json={"filters": asked}),
        ):
            assert {hit["id"] for hit in hits(answer)} == {file.file_id for file in files}
        wrong = http.post(f"{gdc.api}/files", json={"filters": one("no_such_field", "x")})
    assert wrong.status_code == 400


def test_pages_follow_each_other_in_order(http: requests.Session) -> None:
    files = listed_without_data(25)
    with StandIn(files) as gdc:
        pages = [
            http.get(f"{gdc.api}/files", params={"sort": "file_id:asc", "from": str(start)})
            for start in (0, 10, 20)
        ]
    ids = [hit["id"] for page in pages for hit in hits(page)]
    assert ids == sorted(file.file_id for file in files)
    assert pages[2].json()["data"]["pagination"] == {
        **{"count": 5, "total": 25, "size": 10, "from": 20},
        **{"sort": "file_id:asc", "page": 3, "pages": 3},
    }


def test_an_address_that_is_too_long_is_not_found(gdc: StandIn, http: requests.Session) -> None:
    filters = one("file_id", *(f"00000000-0000-4000-a000-{number:012}" for number in range(110)))
    get = http.get(f"{gdc.api}/files", params={"filters": json.dumps(filters)})
    post = http.post(f"{gdc.api}/files", json={"filters": filters})
    assert (get.status_code, post.status_code) == (404, 200)


def test_an_older_file_has_a_successor(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    assert file.path is not None
    new = listed(file.path, file_id="11111111-1111-4111-a111-111111111111")
    gdc.publish([new], "Data Release 46.0 - March 05, 2026")
    ids = {"ids": [file.file_id, "not-there"]}
    (version,) = http.post(f"{gdc.api}/files/versions", json=ids).json()
    assert (version["id"], version["latest_id"]) == (file.file_id, new.file_id)
    for file_id, status in ((file.file_id, 403), (new.file_id, 200), ("junk", 404)):
        assert http.get(f"{gdc.api}/data/{file_id}").status_code == status
    assert "46.0" in http.get(f"{gdc.api}/status").json()["data_release"]


@pytest.mark.parametrize("host", ["api", "bucket"])
@pytest.mark.parametrize(
    ("asked", "start", "end"), [("0-15", 0, 16), ("100-", 100, None), ("-7", -7, None)]
)
def test_a_range_comes_where_ranges_are_served(
    gdc: StandIn, http: requests.Session, file: Listed, host: str, asked: str, start: int, end: int
) -> None:
    path = f"/data/{file.file_id}" if host == "api" else f"/{file.file_id}/{file.file_name}"
    url = f"{gdc.api if host == 'api' else gdc.bucket}{path}"
    assert file.path is not None
    expected = file.path.read_bytes()[start:end]
    answer = http.get(url, headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.content) == (206, expected)
    first = start % file.size
    last = first + len(expected) - 1
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{file.size}"
    beyond = http.get(url, headers={"Range": f"bytes={file.size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{file.size}")
    gdc.routes.data_ranges = gdc.routes.bucket_ranges = False
    assert http.get(url, headers={"Range": f"bytes={asked}"}).status_code == 200


def test_the_bucket_has_etags(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    url = f"{gdc.bucket}/{file.file_id}/{file.file_name}"
    etag = http.head(url).headers["ETag"]
    for condition, status in ((etag, 200), ('"other"', 412)):
        assert http.get(url, headers={"If-Match": condition}).status_code == status
    assert "<Code>NoSuchKey</Code>" in http.get(f"{gdc.bucket}/{file.file_id}/other.svs").text


@pytest.mark.parametrize(("tile_size", "overlap"), [(512, 1), (254, 1), (510, 0)])
@pytest.mark.parametrize("tile_format", ["png", "jpeg"])
def test_tiles_have_the_sizes_of_deep_zoom(
    file: Listed, http: requests.Session, tile_size: int, overlap: int, tile_format: Any
) -> None:
    with StandIn([file], tile_size=tile_size, overlap=overlap, tile_format=tile_format) as gdc:
        assert http.get(f"{gdc.tiles}/metadata/{file.file_id}").json() == {
            **{"Format": tile_format, "Height": str(HEIGHT), "Width": str(WIDTH)},
            **{"Overlap": str(overlap), "TileSize": str(tile_size), "uuid": file.file_id},
        }
        for x, y in [(0, 0), (1, 0), (-(-WIDTH // tile_size) - 1, -(-HEIGHT // tile_size) - 1)]:
            answer = http.get(f"{gdc.tiles}/{file.file_id}?level=11&x={x}&y={y}")
            left, top = (max(0, place * tile_size - overlap) for place in (x, y))
            right = min(WIDTH, (x + 1) * tile_size + overlap)
            bottom = min(HEIGHT, (y + 1) * tile_size + overlap)
            tile = Image.open(io.BytesIO(answer.content))
            assert (tile.size, tile.mode) == ((right - left, bottom - top), "RGB")
        for query in ("level=11&x=9&y=0", "level=12&x=0&y=0", "level=1&x=a&y=0", ""):
            assert http.get(f"{gdc.tiles}/{file.file_id}?{query}").status_code == 404


def test_a_folder_is_served_until_terminated(file: Listed, http: requests.Session) -> None:
    assert file.path is not None
    command = [sys.executable, "-m", "tests.gdc", "--slides", str(file.path.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        assert len(hits(http.get(f"{addresses['api']}/files"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
