"""The stand-in GDC answers as the GDC is known to."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests.gdc import Listed, StandIn, listed, listed_without_data, made_up_name
from tests.support.slides import SlideSpec, make_slide

SHARED = Path(__file__).parents[3] / "shared" / "data"
WIDTH, HEIGHT = 1501, 1003


def one(field: str, *values: str) -> dict[str, Any]:
    return {"op": "in", "content": {"field": field, "value": list(values)}}


SLIDES = {
    "op": "and",
    "content": [
        one("cases.project.program.name", "TCGA"),
        one("data_type", "Slide Image"),
        one("experimental_strategy", "Diagnostic Slide", "Tissue Slide"),
        one("access", "open"),
    ],
}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "made.svs"
    return make_slide(path, SlideSpec(width=WIDTH, height=HEIGHT, downsamples=(1, 4)))


@pytest.fixture
def file(slide: Path) -> Listed:
    return listed(slide)


@pytest.fixture
def gdc(file: Listed) -> Iterator[StandIn]:
    with StandIn([file]) as gdc:
        yield gdc


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def hits(answer: requests.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.json()["data"]["hits"]
    return found


def address(gdc: StandIn, file: Listed) -> str:
    return f"{gdc.bucket}/{file.file_id}/{file.file_name}"


def test_the_status_names_the_release(gdc: StandIn, http: requests.Session) -> None:
    status = http.get(f"{gdc.api}/status").json()
    assert status["data_release"] == "Data Release 45.0 - December 04, 2025"
    version = {"major": 45, "minor": 0, "release_date": "2025-12-04"}
    assert status["data_release_version"] == version


def test_an_older_server_has_no_release_version(file: Listed, http: requests.Session) -> None:
    with StandIn([file], status_version=False) as gdc:
        assert "data_release_version" not in http.get(f"{gdc.api}/status").json()


@pytest.mark.parametrize("prefix", ["", "/v0", "/auth/api/v0"])
def test_the_api_is_under_each_prefix(gdc: StandIn, http: requests.Session, prefix: str) -> None:
    assert http.get(f"{gdc.api}{prefix}/status").json()["status"] == "OK"


def test_requests_share_a_connection(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    for path in ("status", "files", f"data/{file.file_id}", "nothing", f"tile/{file.file_id}"):
        assert http.get(f"{gdc.api}/{path}").content
    assert len({record.connection for record in gdc.served}) == 1
    assert gdc.connections_open_peak == {"api": 1, "bucket": 0}


def test_only_the_fields_asked_for_come(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    fields = "md5sum,cases.submitter_id,cases.samples.portions.slides.submitter_id,nonsense"
    answer = http.get(f"{gdc.api}/files", params={"fields": fields})
    slides = [{"submitter_id": file.slide_barcode}]
    case = {"submitter_id": file.case_barcode, "samples": [{"portions": [{"slides": slides}]}]}
    assert hits(answer) == [{"id": file.file_id, "md5sum": file.md5, "cases": [case]}]
    assert answer.json()["warnings"] == {"fields": "unrecognized values: [nonsense]"}


def test_without_fields_neither_md5_nor_cases_come(gdc: StandIn, http: requests.Session) -> None:
    (hit,) = hits(http.get(f"{gdc.api}/files"))
    assert not {"md5sum", "cases"} & hit.keys()
    assert hit["file_size"] == gdc.files[0].size


def test_what_is_not_known_of_a_file_is_absent(http: requests.Session) -> None:
    changes = {"primary_site": None, "sample_type": None, "slide_barcode": None}
    fields = "cases.project.project_id,cases.primary_site,cases.samples.sample_type"
    with StandIn(listed_without_data(1, **changes)) as gdc:
        (hit,) = hits(http.get(f"{gdc.api}/files", params={"fields": fields}))
    assert hit["cases"] == [{"project": {"project_id": "TCGA-BRCA"}}]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_filters_keep_what_they_name(http: requests.Session, method: str) -> None:
    open_ones, closed = listed_without_data(3), listed_without_data(5)[3:]
    other = listed_without_data(6, program="CPTAC", experimental_strategy="Tissue Slide")[5:]
    closed = [Listed(None, f.file_name, f.file_id, f.md5, f.size, access="x") for f in closed]
    with StandIn([*open_ones, *closed, *other]) as gdc:
        if method == "GET":
            params = {"filters": json.dumps(SLIDES)}
            answer = http.get(f"{gdc.api}/files", params=params)
        else:
            answer = http.post(f"{gdc.api}/files", json={"filters": SLIDES})
        by_equality = {"op": "=", "content": {"field": "cases.project.program.name"}}
        by_equality["content"]["value"] = "CPTAC"  # type: ignore[index]
        equal = http.post(f"{gdc.api}/files", json={"filters": by_equality})
        wrong = http.post(f"{gdc.api}/files", json={"filters": one("no_such_field", "x")})
    assert {hit["id"] for hit in hits(answer)} == {file.file_id for file in open_ones}
    assert [hit["id"] for hit in hits(equal)] == [file.file_id for file in other]
    assert wrong.status_code == 400


def test_pages_follow_each_other_in_order(http: requests.Session) -> None:
    files = listed_without_data(25)
    with StandIn(files) as gdc:
        default = http.get(f"{gdc.api}/files").json()["data"]["pagination"]
        params = {"size": "10", "sort": "file_id:asc"}
        pages = [
            http.get(f"{gdc.api}/files", params={**params, "from": str(start)})
            for start in (0, 10, 20)
        ]
        falling = http.post(f"{gdc.api}/files", json={"size": 25, "sort": "file_size:desc"})
    assert (default["size"], default["count"], default["total"]) == (10, 10, 25)
    ids = [hit["id"] for page in pages for hit in hits(page)]
    assert ids == sorted(file.file_id for file in files)
    assert [hit["file_size"] for hit in hits(falling)] == sorted(f.size for f in files)[::-1]
    assert pages[2].json()["data"]["pagination"] == {
        **{"count": 5, "total": 25, "size": 10, "from": 20},
        **{"sort": "file_id:asc", "page": 3, "pages": 3},
    }


def test_a_manifest_has_all_rows_whatever_the_size(http: requests.Session) -> None:
    files = listed_without_data(12)
    with StandIn(files) as gdc:
        params = {"return_type": "manifest", "size": "2"}
        lines = http.get(f"{gdc.api}/files", params=params).text.splitlines()
    assert lines[0] == "id\tfilename\tmd5\tsize\tstate"
    first = files[0]
    row = [first.file_id, first.file_name, first.md5, str(first.size), "released"]
    assert lines[1].split("\t") == row
    assert len(lines) == 13


def test_an_address_that_is_too_long_is_not_found(gdc: StandIn, http: requests.Session) -> None:
    ids = [f"00000000-0000-4000-a000-{number:012}" for number in range(110)]
    filters = one("file_id", *ids)
    get = http.get(f"{gdc.api}/files", params={"filters": json.dumps(filters)})
    post = http.post(f"{gdc.api}/files", json={"filters": filters})
    assert (get.status_code, post.status_code) == (404, 200)


def test_versions_and_history_lead_to_the_newest_file(
    gdc: StandIn, http: requests.Session, slide: Path, file: Listed
) -> None:
    new_id = "11111111-1111-4111-a111-111111111111"
    gdc.publish([listed(slide, file_id=new_id, version="2")], "Data Release 46.0 - March 05, 2026")
    ids = {"ids": [file.file_id, "not-there"]}
    (version,) = http.post(f"{gdc.api}/files/versions", json=ids).json()
    assert (version["id"], version["latest_id"]) == (file.file_id, new_id)
    assert (version["release"], version["latest_release"]) == ("45.0", ["46.0"])
    history = http.get(f"{gdc.api}/history/{file.file_id}").json()
    assert [entry["file_change"] for entry in history] == ["superseded", "released"]
    assert history[1]["uuid"] == new_id
    assert http.get(f"{gdc.api}/data/{file.file_id}").status_code == 403
    assert http.get(f"{gdc.api}/data/{new_id}").status_code == 200
    assert "46.0" in http.get(f"{gdc.api}/status").json()["data_release"]


def test_data_comes_whole(gdc: StandIn, http: requests.Session, slide: Path, file: Listed) -> None:
    answer = http.get(f"{gdc.api}/data/{file.file_id}")
    assert answer.content == slide.read_bytes()
    assert answer.headers["Content-MD5"] == file.md5
    assert answer.headers["Content-Disposition"] == f"attachment; filename={file.file_name}"
    head = http.head(f"{gdc.api}/data/{file.file_id}")
    assert (head.content, head.headers["Content-Length"]) == (b"", str(file.size))


@pytest.mark.parametrize("host", ["api", "bucket"])
@pytest.mark.parametrize(("asked", "start", "end"), [("0-15", 0, 16), ("100-", 100, None)])
def test_a_range_comes_as_it_was_asked_for(
    gdc: StandIn, http: requests.Session, file: Listed, host: str, asked: str, start: int, end: int
) -> None:
    url = f"{gdc.api}/data/{file.file_id}" if host == "api" else address(gdc, file)
    answer = http.get(url, headers={"Range": f"bytes={asked}"})
    assert file.path is not None
    expected = file.path.read_bytes()[start:end]
    assert (answer.status_code, answer.content) == (206, expected)
    last = start + len(expected) - 1
    assert answer.headers["Content-Range"] == f"bytes {start}-{last}/{file.size}"


def test_the_last_bytes_can_be_asked_for(gdc: StandIn, http: requests.Session) -> None:
    file = gdc.files[0]
    answer = http.get(address(gdc, file), headers={"Range": "bytes=-7"})
    assert file.path is not None
    assert answer.content == file.path.read_bytes()[-7:]


@pytest.mark.parametrize("host", ["api", "bucket"])
def test_a_range_beyond_the_end_is_refused(
    gdc: StandIn, http: requests.Session, file: Listed, host: str
) -> None:
    url = f"{gdc.api}/data/{file.file_id}" if host == "api" else address(gdc, file)
    answer = http.get(url, headers={"Range": f"bytes={file.size}-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{file.size}"


def test_a_server_without_ranges_sends_the_whole(file: Listed, http: requests.Session) -> None:
    with StandIn([file], data_ranges=False, bucket_ranges=False) as gdc:
        for url in (f"{gdc.api}/data/{file.file_id}", address(gdc, file)):
            answer = http.get(url, headers={"Range": "bytes=0-15"})
            assert (answer.status_code, len(answer.content)) == (200, file.size)


def test_data_is_refused_as_the_gdc_refuses_it(slide: Path, http: requests.Session) -> None:
    closed = listed(slide, access="controlled")
    (no_data,) = listed_without_data(1)
    unknown = "22222222-2222-4222-a222-222222222222"
    with StandIn([closed, no_data]) as gdc:
        for file_id, status in (
            (closed.file_id, 403),
            (unknown, 403),
            (no_data.file_id, 404),
            ("junk", 404),
        ):
            answer = http.get(f"{gdc.api}/data/{file_id}")
            assert answer.status_code == status
            assert answer.json()["message"]
        assert http.get(address(gdc, closed)).status_code == 403


def test_the_bucket_has_etags(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    head = http.head(address(gdc, file))
    assert head.headers["Accept-Ranges"] == "bytes"
    assert head.headers["Content-Length"] == str(file.size)
    etag = head.headers["ETag"]
    assert etag == f'"{file.md5}"'
    assert http.get(address(gdc, file), headers={"If-Match": etag}).status_code == 200
    refused = http.get(address(gdc, file), headers={"If-Match": '"other"'})
    assert (refused.status_code, "PreconditionFailed" in refused.text) == (412, True)


def test_the_bucket_knows_no_other_key(gdc: StandIn, http: requests.Session, file: Listed) -> None:
    answer = http.get(f"{gdc.bucket}/{file.file_id}/other.svs")
    assert (answer.status_code, "<Code>NoSuchKey</Code>" in answer.text) == (404, True)


def test_hosts_can_be_taken_away_and_brought_back(
    gdc: StandIn, http: requests.Session, file: Listed
) -> None:
    url = address(gdc, file)
    gdc.switch("bucket", "refused")
    with pytest.raises(requests.ConnectionError, match="refused"):
        http.get(url)
    gdc.switch("bucket", "503")
    assert http.get(url).status_code == 503
    gdc.switch("bucket", "up")
    assert http.get(url).status_code == 200
    gdc.switch("api", "503")
    assert http.get(f"{gdc.api}/status").status_code == 503


@pytest.mark.parametrize(("tile_size", "overlap"), [(512, 1), (254, 1), (510, 0)])
@pytest.mark.parametrize("tile_format", ["png", "jpeg"])
def test_tiles_have_the_sizes_of_deep_zoom(
    file: Listed, http: requests.Session, tile_size: int, overlap: int, tile_format: Any
) -> None:
    gdc = StandIn([file], tile_size=tile_size, overlap=overlap, tile_format=tile_format)
    with gdc:
        metadata = http.get(f"{gdc.tiles}/metadata/{file.file_id}").json()
        assert metadata == {
            **{"Format": tile_format, "Height": str(HEIGHT), "Width": str(WIDTH)},
            **{"Overlap": str(overlap), "TileSize": str(tile_size), "uuid": file.file_id},
        }
        columns, rows = math.ceil(WIDTH / tile_size), math.ceil(HEIGHT / tile_size)
        for x, y in [(0, 0), (1, 0), (columns - 1, rows - 1)]:
            params = {"level": "11", "x": str(x), "y": str(y)}
            answer = http.get(f"{gdc.tiles}/{file.file_id}", params=params)
            assert answer.headers["Content-Type"] == f"image/{tile_format}"
            left = max(0, x * tile_size - overlap)
            top = max(0, y * tile_size - overlap)
            right = min(WIDTH, (x + 1) * tile_size + overlap)
            bottom = min(HEIGHT, (y + 1) * tile_size + overlap)
            tile = Image.open(io.BytesIO(answer.content))
            assert (tile.size, tile.mode) == ((right - left, bottom - top), "RGB")


def test_the_coarsest_tile_is_one_pixel(gdc: StandIn, http: requests.Session) -> None:
    params = {"level": "0", "x": "0", "y": "0"}
    answer = http.get(f"{gdc.tiles}/{gdc.files[0].file_id}", params=params)
    assert Image.open(io.BytesIO(answer.content)).size == (1, 1)


@pytest.mark.parametrize("query", ["level=11&x=9&y=0", "level=12&x=0&y=0", "level=1&x=a&y=0", ""])
def test_a_wrong_tile_address_is_not_found(
    gdc: StandIn, http: requests.Session, query: str
) -> None:
    answer = http.get(f"{gdc.tiles}/{gdc.files[0].file_id}?{query}")
    assert (answer.status_code, "message" in answer.json()) == (404, True)


def test_a_slide_may_have_no_tiles(slide: Path, http: requests.Session) -> None:
    file = listed(slide, tiles=False)
    with StandIn([file]) as gdc:
        for path in (f"metadata/{file.file_id}", f"{file.file_id}?level=0&x=0&y=0"):
            answer = http.get(f"{gdc.tiles}/{path}")
            assert (answer.status_code, "Format" in answer.json()) == (404, False)


def test_ready_tiles_are_served_as_they_are(http: requests.Session) -> None:
    dzi = SHARED / "dzi" / "testpattern.dzi"
    if not dzi.exists():
        pytest.skip("needs ../shared/data/dzi, which is absent")
    (plain,) = listed_without_data(1, dzi=dzi)
    with StandIn([plain]) as gdc:
        metadata = http.get(f"{gdc.tiles}/metadata/{plain.file_id}").json()
        tile = http.get(f"{gdc.tiles}/{plain.file_id}?level=10&x=3&y=2")
        missing = http.get(f"{gdc.tiles}/{plain.file_id}?level=10&x=4&y=0")
    assert (metadata["Format"], metadata["TileSize"], metadata["Width"]) == ("jpg", "254", "1000")
    assert tile.content == (dzi.parent / "testpattern_files" / "10" / "3_2.jpg").read_bytes()
    assert missing.status_code == 404


def test_what_is_listed_follows_from_the_slide(slide: Path) -> None:
    assert listed(slide) == listed(slide)
    assert listed(slide).experimental_strategy == "Diagnostic Slide"
    frozen = listed(slide, file_name=made_up_name("x", "TSA"))
    assert frozen.experimental_strategy == "Tissue Slide"
    assert frozen.case_barcode == frozen.file_name[:12]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_folder_is_served_until_terminated(
    slide: Path, http: requests.Session, end: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tests.gdc", "--slides", str(slide.parent)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told.keys() == {"api", "tiles", "bucket"}
        assert len(hits(http.get(f"{told['api']}/files"))) == 1
        process.send_signal(end)
        assert process.wait(timeout=10) == 0
