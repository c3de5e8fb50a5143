"""Fetching the corpora, from a server of our own."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.hostile import corpora
from tests.hostile.corpora import CORPORA, Corpus, CorpusError, fetch, files, missing


@functools.cache  # gzip writes the time of day, so two archives of different seconds have different digests
def archive() -> bytes:
    """Images and much that may not be taken for one, under the one folder that archives have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("images/a.png", "images/poc", "images/run.py", "src/b.png", "images/../../escaped.png"):
            member = tarfile.TarInfo(f"suite-1.0/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("suite-1.0/images/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


@dataclass
class Shop:
    """What the server has, and the ranges that were asked for."""

    data: bytes
    breaks_off_after: int | None = None
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def open_shop(data: bytes) -> Iterator[Shop]:
    shop = Shop(data)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            shop.asked.append(wanted)
            start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(shop.data) - start))
            self.end_headers()
            self.wfile.write(shop.data[start : shop.breaks_off_after])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        shop.url = f"http://127.0.0.1:{server.server_port}"
        yield shop
        server.shutdown()
        thread.join()


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop(archive()) as opened:
        yield opened


def corpus(shop: Shop) -> Corpus:
    data = archive()
    return Corpus("suite", f"{shop.url}/suite.tar.gz", hashlib.sha256(data).hexdigest(), len(data), ("images/",))


def test_an_archive_is_fetched_once(shop: Shop, tmp_path: Path):
    first = fetch(corpus(shop), tmp_path)
    assert fetch(corpus(shop), tmp_path) == first
    assert (first.read_bytes(), shop.asked) == (archive(), [None])


def test_what_broke_off_is_gone_on_with(shop: Shop, tmp_path: Path):
    shop.breaks_off_after = 50
    with pytest.raises(CorpusError, match="cannot be fetched"):
        fetch(corpus(shop), tmp_path)
    shop.breaks_off_after = None
    assert fetch(corpus(shop), tmp_path).read_bytes() == archive()
    assert shop.asked == [None, "bytes=50-"]


def test_other_bytes_are_refused_and_removed(shop: Shop, tmp_path: Path):
    shop.data = archive()[:-1] + b"x"
    with pytest.raises(CorpusError, match=r"not [0-9a-f]{64} as is pinned"):
        fetch(corpus(shop), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_read_than_is_pinned(shop: Shop, tmp_path: Path):
    shop.data += bytes(1 << 20)
    with pytest.raises(CorpusError, match="more than the"):
        fetch(corpus(shop), tmp_path)


def test_without_a_network_it_is_said_what_to_do(tmp_path: Path):
    nowhere = replace(CORPORA[0], url="http://127.0.0.1:1/pillow.tar.gz")
    with pytest.raises(CorpusError, match=f"copy the archives of another machine into {tmp_path}"):
        fetch(nowhere, tmp_path)


def test_a_mirror_takes_the_place_of_a_urls_beginning(shop: Shop, tmp_path: Path):
    elsewhere = replace(corpus(shop), url="https://upstream.invalid/pool/suite.tar.gz")
    assert fetch(elsewhere, tmp_path, {"https://upstream.invalid/pool": shop.url}).exists()


def test_images_are_read_and_nothing_is_unpacked(shop: Shop, tmp_path: Path):
    path = fetch(corpus(shop), tmp_path)
    found = {file.name: file.data for file in files(corpus(shop), path)}
    names = ["images/a.png", "images/poc", "images/../../escaped.png"]
    assert found == {name: name.encode() for name in names}, "what is no file, no image or elsewhere is left out"
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_cache_lacks_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = corpora.cache_folder()
    assert folder.is_relative_to(tmp_path)
    assert missing(folder) == list(CORPORA)
    folder.mkdir(parents=True)
    (folder / CORPORA[0].file_name).touch()
    assert missing(folder) == list(CORPORA[1:])
