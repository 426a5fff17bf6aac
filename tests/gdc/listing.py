"""The files that the stand-in lists, and its answers about them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

_TCGA_NAME = re.compile(r"^(TCGA-\w\w-\w{4})-(\d\d)\w-\d\d-([A-Z]{2})\w*\.", re.ASCII)
_SAMPLE_TYPES = MappingProxyType(
    {"01": "Primary Tumor", "06": "Metastatic", "11": "Solid Tissue Normal"}
)


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of the listing; whatever is None is absent from the answers.

    path: the file served as its data; None if it is listed but its data cannot be had.
    size: bytes. tiles: whether the tile server knows it. dzi: ready Deep Zoom tiles to serve.
    tissue, demographic, diagnoses: labels by the GDC's names. in_sample: the slide hangs off its
    sample, as a few do, instead of off a portion.
    """

    path: Path | None
    file_name: str
    file_id: str
    md5: str
    size: int
    project_id: str | None = "TCGA-BRCA"
    primary_site: str | None = "Breast"
    disease_type: str | None = "Ductal and Lobular Neoplasms"
    sample_type: str | None = "Primary Tumor"
    case_barcode: str | None = None
    slide_barcode: str | None = None
    experimental_strategy: str | None = "Diagnostic Slide"
    state: str = "released"
    version: str = "1"
    data_release: str = "12.0 - 45.0"
    updated_datetime: str = "2025-11-20T10:15:30.123456-06:00"
    access: str = "open"
    program: str | None = "TCGA"
    data_type: str = "Slide Image"
    data_format: str = "SVS"
    tiles: bool = True
    dzi: Path | None = None
    tissue: Mapping[str, Any] = field(default_factory=dict, hash=False)
    demographic: Mapping[str, Any] = field(default_factory=dict, hash=False)
    diagnoses: Sequence[Mapping[str, Any]] = field(default=(), hash=False)
    in_sample: bool = False

    @property
    def case_id(self) -> str | None:
        return None if self.case_barcode is None else made_up_id(self.case_barcode)

    @property
    def sample_barcode(self) -> str | None:
        return None if self.slide_barcode is None else self.slide_barcode[:16]


def made_up_id(name: str) -> str:
    """An id of the GDC's form, the same for the same name.

    >>> made_up_id("a") == made_up_id("a") != made_up_id("b")
    True
    """
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def made_up_name(name: str, kind: str = "DX1") -> str:
    """A file name of TCGA's form, the same for the same name and kind.

    >>> made_up_name("a")
    'TCGA-55-C58A-01Z-00-DX1.55C58AD7-73FB-480A-A356-8C2723F01630.svs'
    """
    made = made_up_id(f"{name} {kind}").upper()
    sample = "01Z-00" if kind.startswith("DX") else "01A-01"
    return f"TCGA-{made[:2]}-{made[2:6]}-{sample}-{kind}.{made}.svs"


def listed(path: Path, **changes: Any) -> Listed:
    """A file as the GDC would list it, everything about it derived from its name and bytes.

    A name that is not of TCGA's form is replaced by a made-up one. `changes` are fields of
    `Listed`; a changed file_name changes what follows from the name.
    """
    is_tcga = _TCGA_NAME.match(path.name) is not None
    name = changes.get("file_name", path.name if is_tcga else made_up_name(path.name))
    match = _TCGA_NAME.match(name)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    plain = Listed(path, name, made_up_id(name), md5, path.stat().st_size)
    if match is not None:
        plain = replace(
            plain,
            case_barcode=match[1],
            slide_barcode=name.partition(".")[0],
            sample_type=_SAMPLE_TYPES.get(match[2], "Primary Tumor"),
            experimental_strategy="Diagnostic Slide" if match[3] == "DX" else "Tissue Slide",
        )
    return replace(plain, **changes)


def listed_without_data(count: int, **changes: Any) -> list[Listed]:
    """`count` files that are listed but cannot be fetched; for long listings."""
    files = []
    for number in range(count):
        name = made_up_name(str(number))
        md5 = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        barcode = name.partition(".")[0]
        derived = {"case_barcode": barcode[:12], "slide_barcode": barcode, **changes}
        files.append(Listed(None, name, made_up_id(name), md5, 10**9 + number, **derived))
    return files


_SLIDES = "cases.samples.portions.slides"


def _labels(of: str, name: str, file: Listed) -> Any:
    """Return the label of that name, or those of all diagnoses; None if it is absent."""
    labels = getattr(file, of)
    if isinstance(labels, Mapping):
        return labels.get(name)
    return [each.get(name) for each in labels] or None


_DIAGNOSES, _DEMOGRAPHIC = "cases.diagnoses.", "cases.demographic."
_LISTS = frozenset({"cases", "samples", "portions", "slides", "diagnoses"})
_OF_FILE = (
    *("file_id", "file_name", "state", "access", "data_type", "data_format", "version"),
    *("experimental_strategy", "updated_datetime", "data_release"),
)
_TISSUE = (
    "section_location",
    *("percent_tumor_cells", "percent_tumor_nuclei", "percent_normal_cells"),
    *("percent_stromal_cells", "percent_necrosis", "percent_lymphocyte_infiltration"),
    *("percent_monocyte_infiltration", "percent_neutrophil_infiltration"),
)
_PERSON = (
    *("gender", "sex_at_birth", "race", "ethnicity", "vital_status", "days_to_death"),
    *("age_at_index", "days_to_birth"),
)
_OF_DIAGNOSIS = (
    *("primary_diagnosis", "morphology", "tissue_or_organ_of_origin", "ajcc_pathologic_stage"),
    *("tumor_grade", "age_at_diagnosis", "days_to_last_follow_up", "classification_of_tumor"),
    *("diagnosis_is_primary_disease", "diagnosis_id"),
)

FIELDS: Mapping[str, Callable[[Listed], Any]] = MappingProxyType(
    {
        **{f"{_SLIDES}.{name}": partial(_labels, "tissue", name) for name in _TISSUE},
        **{f"{_DEMOGRAPHIC}{name}": partial(_labels, "demographic", name) for name in _PERSON},
        **{f"{_DIAGNOSES}{name}": partial(_labels, "diagnoses", name) for name in _OF_DIAGNOSIS},
        **{name: attrgetter(name) for name in _OF_FILE},
        "type": lambda _: "slide_image",
        "data_category": lambda _: "Biospecimen",
        "md5sum": attrgetter("md5"),
        "file_size": attrgetter("size"),
        "cases.case_id": attrgetter("case_id"),
        "cases.submitter_id": attrgetter("case_barcode"),
        "cases.primary_site": attrgetter("primary_site"),
        "cases.disease_type": attrgetter("disease_type"),
        "cases.project.project_id": attrgetter("project_id"),
        "cases.project.program.name": attrgetter("program"),
        "cases.samples.sample_type": attrgetter("sample_type"),
        "cases.samples.submitter_id": attrgetter("sample_barcode"),
        f"{_SLIDES}.submitter_id": attrgetter("slide_barcode"),
    }
)
DEFAULT_FIELDS = tuple(name for name in FIELDS if name != "md5sum" and "." not in name)

Predicate = Callable[[Listed], bool]


class UnknownFilterError(ValueError):
    """A filter that this server cannot read."""


def predicate(filters: Any) -> Predicate:
    """The test that a GDC filter stands for; no filter lets everything through."""
    if not filters:
        return lambda _: True
    try:
        op, content = filters["op"], filters["content"]
        if op in ("and", "or"):
            parts = [predicate(part) for part in content]
            every = all if op == "and" else any
            return lambda file: every(part(file) for part in parts)
        value_of = FIELDS[content["field"].removeprefix("files.")]
        value = content["value"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UnknownFilterError(f"Unable to parse filters: {error!r}") from error
    wanted = frozenset(value if isinstance(value, list) else [value])
    if op in ("in", "="):
        return lambda file: value_of(file) in wanted
    if op in ("exclude", "!="):
        return lambda file: value_of(file) not in wanted
    raise UnknownFilterError(f"Unable to parse filters: invalid op {op!r}")


def in_order(files: Iterable[Listed], sort: str) -> list[Listed]:
    """The files by `field:asc` or `field:desc`, several of them separated by commas.

    Fields that are absent come last.
    """
    ordered = list(files)
    for term in reversed([term for term in sort.split(",") if term]):
        name, _, direction = term.partition(":")
        value_of = FIELDS.get(name.strip().removeprefix("files."))
        if value_of is None:
            raise UnknownFilterError(f"Unable to sort by {name!r}")
        with_value = [file for file in ordered if value_of(file) is not None]
        without = [file for file in ordered if value_of(file) is None]
        with_value.sort(key=value_of, reverse=direction == "desc")
        ordered = with_value + without
    return ordered


def document(file: Listed, fields: Sequence[str]) -> dict[str, Any]:
    """The file as the listing shows it: only the fields asked for, and the id."""
    shown: dict[str, Any] = {"id": file.file_id}
    for name in fields:
        value = FIELDS[name](file)
        if value is None:
            continue
        *parents, last = name.split(".")
        if file.in_sample and name.startswith(_SLIDES):
            parents.remove("portions")
        if name.startswith(_DIAGNOSES):
            _add_diagnoses(shown, last, value)
            continue
        place = shown
        for parent in parents:
            inner = place.setdefault(parent, [{}] if parent in _LISTS else {})
            place = inner[0] if parent in _LISTS else inner
        place[last] = value
    return shown


def _add_diagnoses(shown: dict[str, Any], name: str, values: Sequence[Any]) -> None:
    """Add the field of each diagnosis that has it; the others are there without it."""
    case = shown.setdefault("cases", [{}])[0]
    parts = case.setdefault("diagnoses", [{} for _ in values])
    for part, value in zip(parts, values, strict=True):
        if value is not None:
            part[name] = value


class Listing:
    """All files of one data release. Each filter and order is worked out once."""

    def __init__(self, files: Sequence[Listed]) -> None:
        self.files = tuple(files)
        self.by_id = {file.file_id: file for file in self.files}
        self._lock = threading.Lock()
        self._worked_out: dict[tuple[str, str], list[Listed]] = {}

    @cached_property
    def by_name(self) -> Mapping[str, Listed]:
        return {file.file_name: file for file in self.files}

    def matching(self, filters: Any, sort: str) -> list[Listed]:
        """The files that pass the filters, in order."""
        key = (repr(filters), sort)
        with self._lock:
            if key not in self._worked_out:
                test = predicate(filters)
                self._worked_out[key] = in_order(filter(test, self.files), sort)
            return self._worked_out[key]


def manifest(files: Iterable[Listed]) -> str:
    """The files as a manifest, tab-separated."""
    rows = ["id\tfilename\tmd5\tsize\tstate\n"]
    rows += [
        f"{file.file_id}\t{file.file_name}\t{file.md5}\t{file.size}\t{file.state}\n"
        for file in files
    ]
    return "".join(rows)
