"""A package index on loopback, of wheels made for a test: releases come out when the test says so."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from threading import Thread


@dataclass(frozen=True)
class Release:
    """A distribution with one module, and what it says of itself."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """What its wheel is called."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


class PackageIndex:
    """A folder as an index: one folder for each project below `simple`, whose listing is the project's page."""

    def __init__(self, folder: Path) -> None:
        self._simple = folder / "simple"
        self._simple.mkdir(parents=True)

    def publish(self, *releases: Release) -> None:
        """Make a wheel of each, and offer it."""
        for release in releases:
            info = f"{release.file_name.removesuffix('-py3-none-any.whl')}.dist-info"
            metadata = ["Metadata-Version: 2.1", f"Name: {release.name}", f"Version: {release.version}"]
            metadata += [f"Provides-Extra: {extra}" for extra in release.extras]
            metadata += [f"Requires-Dist: {requirement}" for requirement in release.requires]
            files = {
                f"{release.name.replace('-', '_')}.py": b"",
                f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            }
            self._write(release.name, release.file_name, info, files.items())

    def publish_installed(self, name: str) -> None:
        """Pack what is installed here under this name, which must be pure Python, and offer it."""
        found = distribution(name)
        info = f"{name}-{found.version}.dist-info"
        paths = [path for path in found.files or () if path.parts[0] != ".." and path.suffix != ".pyc"]
        files = ((str(path), Path(str(path.locate())).read_bytes()) for path in paths if path.name != "RECORD")
        self._write(name, f"{name}-{found.version}-py3-none-any.whl", info, files)

    def withdraw(self, release: Release) -> None:
        """Offer it no longer."""
        (self._simple / release.name / release.file_name).unlink()

    def lock(self, *pins: str) -> str:
        """A lock of these, given as `name==version`, with the hash of each."""
        lines = []
        for pin in pins:
            name, _, version = pin.partition("==")
            wheel = self._simple / name / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
            lines.append(f"{pin} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
        return "".join(lines)

    def _write(self, project: str, file_name: str, info: str, files: Iterable[tuple[str, bytes]]) -> None:
        folder = self._simple / project
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / file_name, "w") as wheel:
            names = []
            for name, content in files:
                wheel.writestr(name, content)
                names.append(name)
            wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*names, f"{info}/RECORD"]))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Leave the test's output alone."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the index in `folder`; gives what pip takes as its index."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple/"
        finally:
            server.shutdown()
            thread.join()
