"""`excluded.tsv`, which names every excluded slide, so that `rebuild` can restore exclusions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.exclusions import Exclusion
from tcgamirror.model import fields
from tcgamirror.model.errors import BadSettings
from tcgamirror.system.files import atomic_write, disk_errors, open_regular

EXCLUDED = "excluded.tsv"
"""Name of the file beside the catalogue."""

_HEAD = "# Slides excluded from this mirror, for rebuild. Change them by exclude and include.\n"
_MOST_BYTES = 100_000_000


def write_exclusions(root: Path, catalogue: Catalogue) -> None:
    """Have `excluded.tsv` name the slides that are excluded; there is none without any."""
    path = root / EXCLUDED
    lines = [
        "\t".join((each.file_name, each.excluded_at, each.excluded_by, each.reason)) + "\n"
        for each in catalogue.exclusions.all()
    ]
    text = (_HEAD + "".join(lines)).encode(errors="replace")
    with suppress(OSError), open_regular(path) as file:
        if lines and file.read() == text:
            return
    with disk_errors(path):
        if not lines:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as out:
            out.write(text)


def read_exclusions(root: Path) -> list[Exclusion]:
    """Return the exclusions of `excluded.tsv`. Raises BadSettings for an invalid line."""
    path = root / EXCLUDED
    try:
        with open_regular(path) as file:
            lines = file.read(_MOST_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadSettings(
            f"{path}: it cannot be read ({error.strerror}). Change its permissions"
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if line.startswith("#"):
            continue
        if len(cells) != 4 or fields.file_name(cells[0]) is None or not all(cells):
            raise BadSettings(f"{path}, line {number}: not an excluded slide. Remove the line")
        file_name, excluded_at, excluded_by, reason = cells
        found.append(Exclusion(file_name, reason, excluded_by, excluded_at))
    return found
