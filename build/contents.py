"""The executable's contents beside its code: libraries, licence texts, and a list of all parts.

tcgamirror.spec reads this module. So the list (`tcgamirror.sbom.json`) names what
PyInstaller collected, not what was requested.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MACHINE = platform.machine()
BUILD = Path(".build").absolute() / MACHINE
LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
LOADER = Path(LOADERS[MACHINE]).resolve()
LOADER_NAME = "ld-tcgamirror.so.2"
"""The loader's name in launcher/main.c."""

LIBC = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"),
    *("libutil.so.1", "libresolv.so.2"),
)
SITE = Path(str(importlib.metadata.distribution("numpy").locate_file(""))).resolve()
LICENCE = re.compile(r"licen[cs]e|copying|notice|copyright|public-domain|authors|readme\.ijg", re.I)
COMMON = Path("/usr/share/common-licenses")

Entry = tuple[str, str, str]
"""A row of PyInstaller's lists: name inside, file, kind."""


@dataclass(frozen=True, slots=True)
class Part:
    """A package or library, with its licence texts. bundled: libraries that it includes."""

    name: str
    version: str | None
    purl: str | None
    licence: str | None = None
    texts: tuple[Path, ...] = ()
    bundled: list[Part] = field(default_factory=list)


def libc() -> list[tuple[str, str]]:
    """Return the dynamic loader and the C library, which PyInstaller leaves to the host."""
    loader = BUILD / LOADER_NAME
    shutil.copyfile(LOADER, loader)
    return [(str(loader), "."), *((str(LOADER.parent / name), ".") for name in LIBC)]


def openslide() -> tuple[str, str]:
    """Return OpenSlide's library, which its package loads by path, unseen by hooks."""
    return str(SITE / "openslide_bin" / "libopenslide.so.1"), "openslide_bin"


def is_unused(name: str) -> bool:
    """Return whether only pip, setuptools or a type checker uses a data file."""
    for_pip = ".dist-info/" in name and not name.endswith("/METADATA")
    return for_pip or ".egg-info/" in name or name.endswith(("/py.typed", ".pyi"))


def write_sbom(analysis: Any) -> list[Entry]:
    """Write the list of parts, and return the licence texts to include."""
    files = [*analysis.binaries, *analysis.datas, *analysis.pure]
    parts = sorted(_parts(files), key=lambda part: part.name.lower())
    (BUILD / "tcgamirror.sbom.json").write_text(format_sbom(parts), encoding="utf-8")
    return list(_licences(parts, BUILD / "licences"))


def _parts(files: Iterable[Entry]) -> Iterator[Part]:
    modules = {name.split("/")[0].split(".")[0] for name, _, _ in files}
    packages = importlib.metadata.packages_distributions()
    names = {name for module in modules for name in packages.get(module, [])}
    for name in sorted(names - {"tcgamirror"}):
        yield _package(importlib.metadata.distribution(name))
    yield _package(importlib.metadata.distribution("pyinstaller"))
    system = {
        Path(path).resolve()
        for name, path, kind in files
        if kind in ("BINARY", "EXTENSION") and not Path(path).resolve().is_relative_to(SITE)
    }
    yield from _system_packages({LOADER, *system} - {BUILD / LOADER_NAME})


def _package(found: importlib.metadata.Distribution) -> Part:
    metadata = found.metadata.json
    texts = [
        Path(str(found.locate_file(file)))
        for file in found.files or ()
        if ".dist-info/" in str(file) and LICENCE.search(str(file).partition("dist-info/")[2])
    ]
    named = str(metadata.get("license_expression") or metadata.get("license") or "")
    kinds = [each for each in metadata.get("classifier", ()) if each.startswith("License ::")]
    licence = named.partition("\n")[0] or ", ".join(each.rpartition(":: ")[2] for each in kinds)
    name = found.metadata["Name"].lower()
    purl = f"pkg:pypi/{name}@{found.version}"
    bundled = _bundled(name)
    return Part(name, found.version, purl, licence or None, tuple(sorted(texts)), bundled)


def _bundled(package: str) -> list[Part]:
    """Return the libraries that a wheel bundles, with versions where it states them."""
    if package == "openslide-bin":
        library = (SITE / "openslide_bin" / "libopenslide.so.1").read_bytes()
        built = dict(re.findall(rb"subprojects/([A-Za-z0-9_]+)-([0-9.]+)/", library))
        return [Part(name.decode(), built[name].decode(), None) for name in sorted(built)]
    if package == "numpy":
        from numpy.__config__ import CONFIG

        return [Part("OpenBLAS", CONFIG["Build Dependencies"]["blas"]["version"], None)]
    if package == "imagecodecs":
        import imagecodecs

        # Of the codecs, JPEG 2000 alone is in the executable; it links Little CMS.
        linked = (imagecodecs.jpeg2k_version().split(), imagecodecs.cms_version().split())
        return [Part(name, version, None) for name, version in linked]
    if package == "pillow":
        listed = _wheel_sbom(package)
        linked = next(row for row in listed["dependencies"] if row["ref"].endswith("/PIL._imaging"))
        rows = [row for row in listed["components"] if row["bom-ref"] in linked["dependsOn"]]
        return [Part(row["name"], row.get("version"), None) for row in rows]
    if package == "obstore":
        return [
            Part(row["name"], row["version"], row["purl"].partition("?")[0], _expression(row))
            for row in _wheel_sbom(package)["components"]
        ]
    return []


def _wheel_sbom(package: str) -> Any:
    """Return the list of parts in a package's wheel."""
    found = importlib.metadata.distribution(package)
    own = next(
        file for file in found.files or () if re.search(rf"sboms/{package}.*\.json$", str(file))
    )
    return json.loads(Path(str(found.locate_file(own))).read_text(encoding="utf-8"))


def _expression(row: Any) -> str | None:
    return next((each.get("expression") for each in row.get("licenses", ())), None)


def _system_packages(files: Iterable[Path]) -> Iterator[Part]:
    """Yield the Debian packages that own the files; Python alone on other systems."""
    if not shutil.which("dpkg-query"):
        yield Part("python", sys.version.split()[0], None, "PSF-2.0")
        return
    owners: set[str] = set()
    for file in sorted(files):
        # Packages from before the merge of /usr list their files without it.
        for place in {str(file), str(file).removeprefix("/usr")}:
            found = _output("dpkg-query", "--search", place)
            owners |= {line.partition(":")[0] for line in found.splitlines()}
    architecture = _output("dpkg", "--print-architecture").strip()
    for owner in sorted(owners):
        version = _output("dpkg-query", "--show", "--showformat", "${Version}", owner)
        text = Path("/usr/share/doc") / owner / "copyright"
        purl = f"pkg:deb/debian/{owner}@{version}?arch={architecture}"
        yield Part(owner, version, purl, None, (text,) if text.exists() else ())


def _output(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout if ran.returncode == 0 else ""


def _licences(parts: Sequence[Part], folder: Path) -> Iterator[Entry]:
    """Yield a text for each part, and the system's common licences that they refer to."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    common: set[Path] = set()
    for part in parts:
        pieces = []
        if not part.texts and part.bundled:
            pieces.append(_named_licences(part))
            common.add(COMMON / "Apache-2.0")
        for path in part.texts:
            text = path.read_text(encoding="utf-8", errors="replace")
            common |= {COMMON / name for name in re.findall(r"common-licenses/([\w.-]*\w)", text)}
            pieces.append(text.strip() + "\n")
        if pieces:
            (folder / f"{part.name}.txt").write_text("\n\n".join(pieces), encoding="utf-8")
    for path in common:
        if path.exists():
            shutil.copyfile(path, folder / f"{path.name}.txt")
    for path in sorted(folder.iterdir()):
        yield f"licences/{path.name}", str(path), "DATA"


def _named_licences(part: Part) -> str:
    """Return the licences that a wheel names, for one without their texts."""
    title = f"{part.name} {part.version}: {part.licence}"
    what = "Its package has no licence texts. It names these for what it includes:"
    listed = [f"{each.name} {each.version}: {each.licence}" for each in part.bundled]
    return "\n".join([title, "", what, "", *listed, ""])


def format_sbom(parts: Sequence[Part]) -> str:
    """Return the parts as CycloneDX; equal parts give equal text."""
    from tcgamirror import __version__

    program = {"type": "application", "name": "tcgamirror", "version": __version__}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program},
        "components": [_component(part) for part in parts],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _component(part: Part) -> dict[str, object]:
    component: dict[str, object] = {"type": "library", "name": part.name}
    if part.version:
        component["version"] = part.version
    if part.purl:
        component["purl"] = component["bom-ref"] = part.purl
    if part.licence:
        component["licenses"] = [{"license": {"name": part.licence}}]
    if part.bundled:
        component["components"] = [_component(inner) for inner in part.bundled]
    return component
