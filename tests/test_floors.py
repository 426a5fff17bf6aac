"""The house: every module stands on a floor and imports only from lower ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tcgamirror"

FLOORS = [
    {"", "errors", "patience", "values", "schema", "amounts", "cores", "openat"},
    {
        "filesystem",
        "geometry",
        "proxies",
        "spans",
        "brake",
        "abreast",
        "schedule",
        "publishing_options",
        "carrying_options",
    },
    {"model", "files", "connections", "tiff"},
    {"journals"},
    {"database"},
    {"resolution", "sampling", "manifest", "partial", "answers", "dimensions", "compared"}
    | {"lookups", "history", "retrying", "machine"},
    {"merging"},
    {"picking", "waiting", "upkeep", "pauses", "workspace", "gdc", "exchange"},
    {"fetching"},
    {"settings", "catalogue", "download", "svs", "origins", "runlog"},
    {"home", "transport", "alone", "decode", "drawn", "facts", "rounds"},
    {"deepzoom", "encode", "raster", "sources", "cells", "patches"},
    {"store", "readback", "sources.reading", "sources.several"},
    {
        "foreign",
        "strays",
        "inplace",
        "tally",
        "ladder",
        "forecast",
        "refreshing",
        "pool",
    }
    | {"sources.whole", "sources.tiles", "sources.range"},
    {"takeover", "publishers", "snapshots", "ways"},
    {"differences", "lockfile"},
    {"drawing", "lockcheck"},
    {"mirror", "verify"},
    {"sync", "rebuild"},
    {"transfer", "transfer.layout"},
    {"transfer.members", "transfer.copying", "transfer.snapshot", "transfer.workplace"}
    | {"transfer.describing"},
    {"transfer.tars", "transfer.writers"},
    {"transfer.archives", "transfer.arriving", "transfer.places"},
    {"transfer.scan"},
    {"transfer.export", "transfer.importing"},
    {"console", "options", "probes"},
    {"site", "bars", "completion", "doctor", "gallery", "gallery.thumbnails", "gallery.entries"},
    {"serve", "gallery.figures", "gallery.packs"},
    {"gallery.charts"},
    {"gallery.pages"},
    {"gallery.building"},
    {"commands"},
    {"commands.showing"},
    {"commands.making", "commands.filling", "commands.looking", "commands.scheduling"}
    | {"commands.helping"}
    | {"commands.keeping", "commands.publishing", "commands.carrying"},
    {"cli"},
    {"__main__"},
]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "tcgamirror":
                yield rest if rest in MODULES else rest.rpartition(".")[0]


def floor(module: str) -> int:
    return next(number for number, modules in enumerate(FLOORS) if module in modules)


def test_every_module_has_one_floor() -> None:
    assert sorted(module for modules in FLOORS for module in modules) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_floors(module: str) -> None:
    too_high = {name for name in imported(MODULES[module]) if floor(name) >= floor(module)}
    assert not too_high, f"{module} (floor {floor(module)}) imports {too_high}"
