"""The catalogue's schema: its tables, and the views `mirror` and `labels` for people.

MIGRATIONS[n] makes schema n, which is a file's `user_version`, of the one before. The schema
of an imported catalogue is compared with what they make, so no released script is edited.
Older `sqlite3` shells read the catalogue too, so no table is STRICT.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tcgamirror.model.labels import CASE, TISSUE

APPLICATION_ID = 0x54434741
"""`TCGA` in ASCII, which marks a SQLite file as a catalogue."""


def _columns(table: str, names: str) -> str:
    return ",\n    ".join(f"{table}.{name}" for name in names.split())


_OF_SLIDES = "project_id primary_site disease_type sample_type"
_OF_IMAGES = (
    "status source level level_downsample base_mpp mpp_source mpp_x mpp_y width height path bytes "
    "sha256 bytes_fetched seconds fetched_at attempts error"
)

_VIEW = f"""
CREATE VIEW mirror AS
SELECT
    {_columns("slides", f"file_id file_name {_OF_SLIDES}")},
    {_columns("slides", "case_barcode slide_barcode kind upstream")},
    {_columns("images", _OF_IMAGES)},
    sample.rank AS sample_rank,
    slides.listed_in AS data_release{{}}
FROM sample
JOIN slides USING (file_name)
JOIN images USING (file_name);
"""
"""The view `mirror`; its newer columns are to be added."""

_PATCHED_VIEW = _VIEW.format(",\n    images.patched_tiles")

_IMAGES = """(
    file_name TEXT PRIMARY KEY REFERENCES sample,
    status TEXT NOT NULL DEFAULT 'pending'{},
    attempts INTEGER NOT NULL DEFAULT 0,
    bytes_fetched INTEGER,
    seconds REAL,
    error TEXT,
    source TEXT,
    level INTEGER,
    level_downsample REAL,
    base_mpp REAL,
    mpp_source TEXT,
    mpp_x REAL,
    mpp_y REAL,
    width INTEGER,
    height INTEGER,
    path TEXT,
    bytes INTEGER,
    sha256 TEXT,
    fetched_at TEXT{}
)"""
"""Columns of `images`; the check of its status and newer columns are to be added."""

_EXCLUDABLE_IMAGES = _IMAGES.format(
    "\n        CHECK (status IN ('pending', 'done', 'failed', 'excluded'))",
    """,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_at TEXT,
    patched_tiles INTEGER""",
)

_IMAGE_INDEXES = """
-- What is counted, and what is due, is read from these alone: never from the tables' rows.
CREATE INDEX images_by_status ON images (status, retry_at, mpp_x);
CREATE INDEX images_by_name ON images (file_name, status, bytes);
CREATE INDEX images_by_source ON images (source) WHERE source IS NOT NULL;
"""

_FIRST = f"""
-- One row for each slide that was ever listed. Its lasting identity is its file name.
CREATE TABLE slides (
    file_name TEXT PRIMARY KEY,
    file_id TEXT NOT NULL,
    md5 TEXT,
    size INTEGER,
    kind TEXT CHECK (kind IN ('diagnostic', 'tissue')),
    project_id TEXT,
    primary_site TEXT,
    disease_type TEXT,
    sample_type TEXT,
    case_barcode TEXT,
    slide_barcode TEXT,
    state TEXT,
    version TEXT,
    data_release TEXT,
    updated TEXT,
    position INTEGER NOT NULL,
    upstream TEXT NOT NULL DEFAULT 'current'
        CHECK (upstream IN ('current', 'changed', 'superseded', 'withdrawn')),
    listed_in TEXT NOT NULL
);
CREATE INDEX slides_by_file_id ON slides (file_id);

CREATE TABLE former_ids (
    file_id TEXT NOT NULL,
    file_name TEXT NOT NULL REFERENCES slides,
    PRIMARY KEY (file_id, file_name)
);
CREATE INDEX former_ids_by_name ON former_ids (file_name);

-- One row for each listing merged; the counts are of what it changed.
CREATE TABLE releases (
    merge INTEGER PRIMARY KEY,
    release TEXT NOT NULL,
    merged_at TEXT NOT NULL,
    listed INTEGER NOT NULL,
    added INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    reidentified INTEGER NOT NULL,
    withdrawn INTEGER NOT NULL,
    returned INTEGER NOT NULL,
    duplicates INTEGER NOT NULL
);

CREATE TABLE changes (
    change INTEGER PRIMARY KEY,
    release TEXT NOT NULL,
    file_name TEXT NOT NULL REFERENCES slides,
    what TEXT NOT NULL CHECK (what IN ('added', 'changed', 're-identified', 'superseded',
        'withdrawn', 'returned', 'duplicate')),
    detail TEXT
);
CREATE INDEX changes_by_name ON changes (file_name);

CREATE TABLE sample (
    file_name TEXT PRIMARY KEY REFERENCES slides,
    rank INTEGER NOT NULL UNIQUE,
    sampled_at TEXT NOT NULL,
    release TEXT
);

-- The image of each sampled slide. The picture's columns stay while a slide
-- that changed upstream is pending or failed again: the old image still lies there.
CREATE TABLE images {_IMAGES.format(" CHECK (status IN ('pending', 'done', 'failed'))", "")};

CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    started TEXT NOT NULL,
    ended TEXT,
    exit_code INTEGER,
    done INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    data_release TEXT
);

-- One row for each try of one source at one slide.
CREATE TABLE attempts (
    attempt INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    file_name TEXT NOT NULL REFERENCES slides,
    source TEXT NOT NULL,
    started TEXT NOT NULL,
    seconds REAL NOT NULL,
    bytes INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    fault TEXT,
    message TEXT
);
CREATE INDEX attempts_by_name ON attempts (file_name);

CREATE TABLE facts (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- failures: runs in a row in which the slide failed. retry_at: when a failed one is due again,
-- ISO 8601 in UTC; NULL: only when it is asked for.
ALTER TABLE images ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN retry_at TEXT;

ALTER TABLE releases ADD COLUMN superseded INTEGER NOT NULL DEFAULT 0;

-- A release may be merged more than once, as a manifest is that was edited.
ALTER TABLE changes ADD COLUMN merge INTEGER REFERENCES releases
    DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX changes_by_merge ON changes (merge);

CREATE INDEX slides_by_project ON slides (project_id, file_name);
CREATE INDEX slides_by_upstream ON slides (upstream);
CREATE INDEX attempts_by_source ON attempts (source, bytes, seconds);

-- A person may give a barcode in small letters.
CREATE INDEX slides_by_slide ON slides (slide_barcode COLLATE NOCASE);
CREATE INDEX slides_by_case ON slides (case_barcode COLLATE NOCASE);
{_IMAGE_INDEXES}{_VIEW.format("")}"""

_HEADERS_UNREAD = """
-- Where `tiles` could not read a slide's header, its resolution was recorded as unknown. Such
-- images cannot be told from those whose header tells none: all of them are fetched again, once.
UPDATE images SET status = 'pending', error = NULL, failures = 0, retry_at = NULL
    WHERE status = 'done' AND source = 'tiles' AND mpp_x IS NULL;
"""

_PATCHED_TILES = f"""
-- How many tiles of the level were rendered from finer ones; NULL where nobody counted them.
ALTER TABLE images ADD COLUMN patched_tiles INTEGER;

DROP VIEW mirror;{_PATCHED_VIEW}"""

_EXCLUSIONS = f"""
-- Slides that a person left out, by their lasting name. own: excluded here, not by a mirror
-- whose rows were taken over.
CREATE TABLE exclusions (
    file_name TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    excluded_by TEXT NOT NULL,
    excluded_at TEXT NOT NULL,
    own INTEGER NOT NULL DEFAULT 1 CHECK (own IN (0, 1))
);

-- SQLite cannot change the CHECK of a column, so the table is made anew.
DROP VIEW mirror;
CREATE TABLE images_with_excluded {_EXCLUDABLE_IMAGES};
INSERT INTO images_with_excluded SELECT * FROM images ORDER BY rowid;
DROP TABLE images;
ALTER TABLE images_with_excluded RENAME TO images;
{_IMAGE_INDEXES}{_PATCHED_VIEW}"""

_LABELS = f"""
-- What the GDC knows of the tissue of each slide, and of each case; NULL where it knows nothing.
CREATE TABLE tissue (
    file_name TEXT PRIMARY KEY REFERENCES slides,
    section_location TEXT,
    percent_tumor_cells REAL,
    percent_tumor_nuclei REAL,
    percent_normal_cells REAL,
    percent_stromal_cells REAL,
    percent_necrosis REAL,
    percent_lymphocyte_infiltration REAL,
    percent_monocyte_infiltration REAL,
    percent_neutrophil_infiltration REAL
);
CREATE TABLE cases (
    case_barcode TEXT PRIMARY KEY,
    diagnoses INTEGER,
    primary_diagnosis TEXT,
    morphology TEXT,
    tissue_or_organ_of_origin TEXT,
    ajcc_pathologic_stage TEXT,
    tumor_grade TEXT,
    age_at_diagnosis INTEGER,
    days_to_last_follow_up INTEGER,
    age_at_index INTEGER,
    gender TEXT,
    race TEXT,
    ethnicity TEXT,
    vital_status TEXT,
    days_to_death INTEGER
);
CREATE VIEW labels AS
SELECT
    {_columns("slides", f"file_name file_id case_barcode slide_barcode {_OF_SLIDES}")},
    {_columns("tissue", " ".join(TISSUE))},
    {_columns("cases", " ".join(CASE))}
FROM sample
JOIN slides USING (file_name)
LEFT JOIN tissue USING (file_name)
LEFT JOIN cases USING (case_barcode);
"""

_PIXELS = """
-- Digest of the pixels, row by row; NULL where older versions made the image, and where pixels
-- depend on the program that decodes them.
ALTER TABLE images ADD COLUMN pixels_sha256 TEXT;

DROP VIEW mirror;
""" + _VIEW.format(",\n    images.patched_tiles,\n    images.pixels_sha256")

MIGRATIONS: Mapping[int, str] = MappingProxyType(
    {
        3: _FIRST,
        4: _HEADERS_UNREAD,
        5: _PATCHED_TILES,
        6: _EXCLUSIONS,
        7: _LABELS,
        8: _PIXELS,
    }
)

OLDEST, NEWEST = min(MIGRATIONS), max(MIGRATIONS)
