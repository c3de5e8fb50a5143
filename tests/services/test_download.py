"""Fetching weights from a real server that breaks off, lies and changes its file; and importing them."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.weights_server import Manner, WeightsServer, running_weights_server
from worker.model import ModelError
from worker.model.cards.schema import WeightsFile
from worker.model.weights.digests import read_record
from worker.model.weights.download import FetchError, fetch

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with running_weights_server(CONTENT) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "weights.pt"


class Fetch:
    """The fetch of one file, and what it waited for."""

    def __init__(self, target: Path, *urls: str, sha256: str | None = SHA256, md5: str | None = None) -> None:
        self.target = target
        self.stated = WeightsFile(weights=target.name, urls=urls, sha256=sha256, md5=md5)
        self.pauses: list[float] = []
        self.progress: list[tuple[int, int | None]] = []

    def run(self) -> None:
        fetch(self.stated, self.target, lambda *seen: self.progress.append(seen), self.pauses.append)

    @property
    def left(self) -> set[str]:
        """The names of the files that are there."""
        return {path.name for path in self.target.parent.iterdir()}


def whole(fetching: Fetch) -> bool:
    return fetching.left == {"weights.pt", "weights.pt.record.json"} and fetching.target.read_bytes() == CONTENT


def test_a_file_appears_with_the_record_of_its_digests(server: WeightsServer, target: Path):
    fetching = Fetch(target, server.url(), sha256=None, md5=MD5)
    fetching.run()
    assert whole(fetching)
    record = read_record(target)
    assert record is not None
    assert (record.sha256, record.published.md5) == (SHA256, MD5)
    assert fetching.progress[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in fetching.progress] == sorted(done for done, _ in fetching.progress)


MANNERS: list[list[Manner]] = [
    ["cut"],
    ["cut", "cut", "cut"],
    ["cut-chunks"],
    ["cut", "ignore-range"],
    ["cut", "ignore-range-and-cut"],
    ["cut", "other-start"],
    ["cut", "lying-start"],
    ["cut", "busy", "close"],
    ["cut", "wrong-bytes"],
    ["busy"],
    ["longer"],
    ["cut", "longer"],
    ["redirect"],
    ["cut", "redirect"],
]


@pytest.mark.parametrize("script", MANNERS, ids="+".join)
def test_a_server_that_breaks_off_or_lies_costs_time_only(server: WeightsServer, target: Path, script: list[Manner]):
    server.script = script.copy()
    fetching = Fetch(target, server.url())
    fetching.run()
    assert whole(fetching)
    assert server.script == []


def test_only_the_rest_is_asked_for(server: WeightsServer, target: Path):
    server.script = ["cut"]
    Fetch(target, server.url()).run()
    assert [(asked.range, asked.if_range) for asked in server.asked] == [
        (None, None),
        (f"bytes={len(CONTENT) // 2}-", '"first"'),
    ]


def test_a_file_that_changes_meanwhile_is_begun_anew(server: WeightsServer, target: Path):
    server.content, server.etag, server.script = bytes(len(CONTENT)), '"old"', ["cut"]
    fetching = Fetch(target, server.url())

    def publish(_: float) -> None:
        server.content, server.etag = CONTENT, '"new"'

    fetch(fetching.stated, target, lambda *_: None, publish)
    assert whole(fetching)
    assert server.asked[-1].if_range == '"old"'


def test_a_change_that_the_server_does_not_tell_is_found_by_the_digest(server: WeightsServer, target: Path):
    server.content, server.etag, server.script = bytes(len(CONTENT)), None, ["cut"]
    fetching = Fetch(target, server.url())

    def publish(_: float) -> None:
        server.content = CONTENT

    fetch(fetching.stated, target, lambda *_: None, publish)
    assert whole(fetching)
    assert [asked.range is None for asked in server.asked] == [True, False, True]


def test_without_digest_and_without_version_nothing_is_gone_on_with(server: WeightsServer, target: Path):
    server.etag, server.always = None, "busy"
    target.parent.mkdir()
    target.with_name("weights.pt.partial").write_bytes(b"of another version")
    with pytest.raises(FetchError):
        Fetch(target, server.url(), sha256=None).run()
    assert {asked.range for asked in server.asked} == {None}


@pytest.mark.parametrize("manner", ["wrong-bytes", "shorter"])
def test_another_file_never_has_the_name(server: WeightsServer, target: Path, manner: Manner):
    server.always = manner
    fetching = Fetch(target, server.url())
    with pytest.raises(FetchError, match=f"are another file: their sha256 is .* but the card says {SHA256}"):
        fetching.run()
    assert fetching.left == set()
    assert len(server.asked) == 1


def test_a_wrong_rest_of_another_run_is_tried_once_from_the_beginning(server: WeightsServer, target: Path):
    server.script, server.always = ["cut"], "busy"
    with pytest.raises(FetchError):
        Fetch(target, server.url()).run()
    server.always = "wrong-bytes"
    before = len(server.asked)
    with pytest.raises(FetchError, match="another file"):
        Fetch(target, server.url()).run()
    assert [asked.range is None for asked in server.asked[before:]] == [False, True]


def test_a_server_that_gives_up_leaves_what_came_for_the_next_run(server: WeightsServer, target: Path):
    server.script, server.always = ["cut"], "busy"
    fetching = Fetch(target, server.url())
    with pytest.raises(FetchError, match=r"again and again \(status 503\), 1,500,000 bytes are kept"):
        fetching.run()
    assert fetching.pauses == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert fetching.left == {"weights.pt.partial", "weights.pt.partial.json"}

    server.always = "honest"
    before = len(server.asked)
    Fetch(target, server.url()).run()
    assert whole(fetching)
    assert [asked.range for asked in server.asked[before:]] == ["bytes=1500000-"]


def test_a_whole_partial_file_only_wants_its_name(server: WeightsServer, target: Path):
    target.parent.mkdir()
    target.with_name("weights.pt.partial").write_bytes(CONTENT)
    fetching = Fetch(target, server.url())
    fetching.run()
    assert whole(fetching)
    assert fetching.progress == []


@pytest.mark.parametrize(
    ("manner", "told"),
    [("missing", "status 404 Not Found"), ("page", "is a web page"), ("circle", "redirects")],
)
def test_an_answer_that_is_no_file_ends_the_fetch_at_once(
    server: WeightsServer, target: Path, manner: Manner, told: str
):
    server.always = manner
    fetching = Fetch(target, server.url())
    with pytest.raises(FetchError, match=told):
        fetching.run()
    assert (fetching.pauses, fetching.left) == ([], set())


def test_the_next_url_goes_on_where_the_first_one_failed(server: WeightsServer, target: Path):
    with running_weights_server(CONTENT) as dying:
        dying.script, dying.always = ["cut"], "busy"
        fetching = Fetch(target, dying.url(), server.url())
        fetching.run()
    assert whole(fetching)
    assert [(asked.range, asked.if_range) for asked in server.asked] == [(f"bytes={len(CONTENT) // 2}-", None)]


def test_no_connection_is_told_at_once_for_every_url(target: Path):
    with running_weights_server(CONTENT) as gone:
        urls = gone.url("/a"), gone.url("/b")
    fetching = Fetch(target, *urls)
    with pytest.raises(FetchError) as caught:
        fetching.run()
    assert caught.value.message.count("no connection (") == 2
    assert all(url in caught.value.message for url in urls)
    assert (fetching.pauses, fetching.left) == ([], set())


def test_space_is_looked_for_before_anything_is_taken(
    server: WeightsServer, target: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) - 1))
    fetching = Fetch(target, server.url())
    with pytest.raises(ModelError, match=r"0\.00 GB are needed in .*/models, but 0\.00 GB are free"):
        fetching.run()
    assert fetching.progress == []


def test_a_second_fetch_of_the_same_file_is_refused(server: WeightsServer, target: Path):
    first, second = Fetch(target, server.url()), Fetch(target, server.url())
    refused: list[ModelError] = []

    def meanwhile(*_: object) -> None:
        if not refused:
            with pytest.raises(ModelError, match="Another process is fetching") as caught:
                second.run()
            refused.append(caught.value)

    fetch(first.stated, target, meanwhile)
    assert refused
    assert whole(first)


def test_a_killed_fetch_is_gone_on_with(server: WeightsServer, target: Path):
    """Killed with SIGKILL in the middle, by a process that sees half of the file come."""
    code = f"""
        import os, signal, sys
        from pathlib import Path
        from worker.model.cards.schema import WeightsFile
        from worker.model.weights.download import fetch
        stated = WeightsFile(weights="weights.pt", urls=["{server.url()}"], sha256="{SHA256}")
        die = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > total // 2 else None
        fetch(stated, Path("{target}"), die)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    partial = target.with_name("weights.pt.partial")
    came = partial.stat().st_size
    assert len(CONTENT) // 2 < came < len(CONTENT)
    assert json.loads(partial.with_name("weights.pt.partial.json").read_text())["url"] == server.url()

    fetching = Fetch(target, server.url())
    fetching.run()
    assert whole(fetching)
    assert server.asked[-1].range == f"bytes={came}-"


def test_a_full_disk_keeps_what_came(server: WeightsServer, target: Path):
    """A limit of the size of files, which the kernel enforces like a full disk."""
    code = f"""
        import resource, signal
        from pathlib import Path
        from worker.model import ModelError
        from worker.model.cards.schema import WeightsFile
        from worker.model.weights.download import fetch
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            fetch(WeightsFile(weights="weights.pt", urls=["{server.url()}"]), Path("{target}"), lambda *_: None)
        except ModelError as error:
            print(error.message)
    """
    full = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert "cannot be written to: File too large. The bytes received so far are kept." in full.stdout
    assert target.with_name("weights.pt.partial").stat().st_size == 1_000_000
