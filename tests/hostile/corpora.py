"""Images from other projects' test suites, among them those that once broke somebody's decoder. None is committed.

An archive is fetched once into a cache outside the repository, by a pinned SHA-256, and read in place: nothing of it is
ever unpacked to a disk. Those of Debian are listed with the same digests in its signed Sources indices.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx

_DEBIAN = "https://deb.debian.org/debian/pool/main"
_PYPI = "https://files.pythonhosted.org/packages"
_SECONDS = 60.0
#: What lies among a suite's images and is none: sources, scripts, expected output.
_NO_IMAGES = frozenset(
    {".c", ".cc", ".cpp", ".go", ".h", ".js", ".pl", ".py", ".sed", ".sh", ".t", ".tap", ".tcl"}
    | {".ac", ".am", ".cmake", ".cmd", ".conf", ".in", ".yaml", ".yml"}
    | {".1", ".adoc", ".css", ".csv", ".diff", ".html", ".md", ".out", ".rst", ".txt", ".xml"}
    | {".ggr", ".gpl", ".icc", ".lut"}
)


class CorpusError(Exception):
    """A corpus cannot be had; the message says which and why."""


@dataclass(frozen=True)
class Corpus:
    """One archive, by what it must contain, and where in it the images lie."""

    name: str
    url: str
    sha256: str
    byte_count: int
    folders: tuple[str, ...]  # below the archive's one top folder

    @property
    def file_name(self) -> str:
        """What the archive is called in the cache."""
        return f"{self.sha256[:12]}-{PurePosixPath(self.url).name}"


@dataclass(frozen=True)
class HostileFile:
    """A file to send, and where it is from."""

    source: str
    name: str
    data: bytes


CORPORA = (
    Corpus(
        "pillow 13.0.0",
        f"{_PYPI}/ce/a4/9cc30690a394a8305e8be4c9036aa16d0dfddadd09079860b582f562496d/pillow-13.0.0.tar.gz",
        "cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510",
        47_058_631,
        ("Tests/images/",),
    ),
    Corpus(
        "libpng 1.6.39",
        f"{_DEBIAN}/libp/libpng1.6/libpng1.6_1.6.39.orig.tar.gz",
        "a00e9d2f2f664186e4202db9299397f851aea71b36a35e74910b8820e380d441",
        1_519_415,
        ("contrib/testpngs/", "contrib/pngsuite/"),
    ),
    Corpus(
        "exiv2 0.27.6",
        f"{_DEBIAN}/e/exiv2/exiv2_0.27.6.orig.tar.gz",
        "f16ee5ff08b6994c66106109417857f13e711fca100ac43c6a403d4f02b59602",
        32_412_980,
        ("test/data/",),
    ),
    Corpus(
        "libheif 1.15.1",
        f"{_DEBIAN}/libh/libheif/libheif_1.15.1.orig.tar.gz",
        "28d5a376fe7954d2d03453f983aaa0b7486f475c27c7806bda31df9102325556",
        1_749_018,
        ("fuzzing/corpus/", "examples/"),
    ),
    Corpus(
        "giflib 5.2.1",
        f"{_DEBIAN}/g/giflib/giflib_5.2.1.orig.tar.gz",
        "31da5562f44c5f15d63340a09a4fd62b48c45620cd302f77a6d9acf0077879bd",
        444_187,
        ("pic/", "tests/", "doc/"),
    ),
    Corpus(
        "tiff 4.5.0",
        f"{_DEBIAN}/t/tiff/tiff_4.5.0.orig.tar.bz2",
        "638f43d7dea33948d5dee7f39572fc0194d9cc3c74195de9dd26a4388a1f880a",
        2_050_377,
        ("test/",),
    ),
    Corpus(
        "graphicsmagick 1.3.40",
        f"{_DEBIAN}/g/graphicsmagick/graphicsmagick_1.4%2breally1.3.40.orig.tar.xz",
        "97dc1a9d4e89c77b25a3b24505e7ff1653b88f9bfe31f189ce10804b8efa7746",
        5_507_792,
        ("PerlMagick/t/", "tests/", "www/images/"),
    ),
)


def cache_folder() -> Path:
    """Where archives are kept: in XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distildire" / "hostile"


def missing(folder: Path) -> list[Corpus]:
    """Return the corpora that the cache does not hold whole."""
    return [corpus for corpus in CORPORA if not (folder / corpus.file_name).exists()]


def fetch(corpus: Corpus, folder: Path, mirrors: Mapping[str, str] | None = None) -> Path:
    """Return the archive's path in the cache, downloaded where it is not there; what broke off is gone on with.

    `mirrors` says what to put in the place of a URL's beginning. Raises CorpusError: no network, or other bytes.
    """
    path = folder / corpus.file_name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        url = _mirrored(corpus.url, mirrors or {})
        try:
            _download(url, partial, corpus.byte_count)
        except (httpx.HTTPError, OSError) as error:
            raise CorpusError(
                f"{corpus.name} cannot be fetched from {url}: {error}. Without a network, copy the archives of another "
                f"machine into {folder}, or name a mirror."
            ) from error
        found = _sha256(partial)
        if found != corpus.sha256:
            partial.unlink()
            raise CorpusError(f"{url} has the SHA-256 {found}, not {corpus.sha256} as is pinned; it was removed.")
        partial.rename(path)
    return path


def files(corpus: Corpus, archive: Path) -> Iterator[HostileFile]:
    """Read the corpus's images out of its archive; never a byte is written, so no path in it can lead anywhere."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if _is_image(member, name, corpus.folders):
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                yield HostileFile(corpus.name, name, content.read())


def _is_image(member: tarfile.TarInfo, name: str, folders: Collection[str]) -> bool:
    return member.isfile() and name.startswith(tuple(folders)) and PurePosixPath(name).suffix.lower() not in _NO_IMAGES


def _mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    for start, other in mirrors.items():
        if url.startswith(start):
            return other + url.removeprefix(start)
    return url


def _download(url: str, partial: Path, byte_count: int) -> None:
    """Append to `partial` what it lacks."""
    have = partial.stat().st_size if partial.exists() else 0
    if have >= byte_count:
        return
    certificates = ssl.create_default_context()  # the system's, which may know a proxy's
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream(
        "GET", url, headers=headers, timeout=_SECONDS, follow_redirects=True, verify=certificates
    ) as answer:
        answer.raise_for_status()
        with partial.open("ab" if answer.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
            for chunk in answer.iter_raw():  # never decoded: the archive's own compression is what is pinned
                file.write(chunk)
                if file.tell() > byte_count:
                    raise OSError(f"more than the {byte_count:,} bytes that are pinned")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
