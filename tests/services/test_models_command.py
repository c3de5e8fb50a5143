"""`distildire models`: what it tells and asks, with weights from a real server."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy.cli import main
from tests.support.tiny_model import NAME, write_model
from tests.support.weights_server import WeightsServer, running_weights_server
from worker.model.weights.digests import record_path

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("DISTILDIRE_MODELS_DIR", "DISTILDIRE_DEVICE", "DISTILDIRE_PRECISION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with running_weights_server(b"") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: WeightsServer) -> Path:
    """A models folder whose student is not there, but published; not for commerce."""
    models = tmp_path / "models"
    models.mkdir()
    write_model(models)
    student = models / "student.safetensors"
    server.content = student.read_bytes()
    digest = hashlib.md5(server.content).hexdigest()
    student.unlink()
    card = models / "card.toml"
    text = card.read_text().replace("CC0-1.0", "CC-BY-NC-4.0").replace("[adm]", '[adm]\nlicense = "MIT"')
    card.write_text(f'{text}urls = ["{server.url()}"]\nmd5 = "{digest}"\n')
    return models


def run(*arguments: str, folder: Path) -> Result:
    return CliRunner().invoke(main, ["models", *arguments, "--models-dir", str(folder)])


def listed(folder: Path) -> dict[str, bool]:
    result = run("list", "--json", folder=folder)
    return {each["name"]: each["present"] for each in map(json.loads, result.stdout.splitlines())}


def test_what_is_missing_is_fetched_verified_and_listed(folder: Path):
    assert listed(folder)[NAME] is False

    fetched = run("fetch", NAME, "--accept-license", folder=folder)
    assert fetched.exit_code == 0, fetched.output
    assert fetched.stdout.splitlines()[0] == f"✓ {folder / 'student.safetensors'}"
    assert record_path(folder / "student.safetensors").exists()

    assert listed(folder)[NAME] is True
    verified = run("verify", NAME, "--device", "cpu", folder=folder)
    assert verified.exit_code == 0, verified.output
    assert "md5 as its card states" in verified.stdout
    assert "parameters fit" in verified.stdout
    assert run("fetch", NAME, folder=folder).stdout == "All files are there.\n"  # and no licence is asked about


def test_the_licence_is_shown_and_nothing_comes_unless_it_is_acknowledged(folder: Path, server: WeightsServer):
    refused = run("fetch", NAME, folder=folder)
    assert refused.exit_code == 1
    assert "student.safetensors: licence CC-BY-NC-4.0: no commercial use" in refused.stderr
    assert "--accept-license" in refused.stderr
    assert server.asked == []


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1)])
def test_on_a_terminal_a_person_is_asked(folder: Path, server: WeightsServer, answer: str, status: int):
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "deploy.cli", "models", "fetch", NAME, "--models-dir", str(folder)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, close_fds=True)
    os.close(slave)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(master, 1000)
    assert b"no commercial use" in shown
    assert server.asked == []
    os.write(master, f"{answer}\n".encode())
    while chunk := _read(master):
        shown += chunk
    assert process.wait(60) == status, shown
    assert (folder / "student.safetensors").exists() is (status == 0)
    assert (b"%" in shown or b"MB" in shown) is (status == 0)  # the bar


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1000)
    except OSError:  # EIO: nobody has the other end any more
        return b""


def test_without_a_network_the_way_by_hand_is_told_and_works(folder: Path, server: WeightsServer, tmp_path: Path):
    card = folder / "card.toml"
    with running_weights_server(b"") as gone:
        card.write_text(card.read_text().replace(server.url(), gone.url("/published.bin")))
    failed = run("fetch", NAME, "--accept-license", folder=folder)
    assert failed.exit_code == 1
    assert "no connection" in failed.stderr
    assert f"curl --location --fail --output student.safetensors {gone.url('/published.bin')}" in failed.stderr
    command = re.search(rf"distildire models import {NAME} (.*)", failed.stderr)
    assert command is not None

    brought = tmp_path / command[1]
    brought.write_bytes(server.content)
    imported = run("import", NAME, str(brought), folder=folder)
    assert imported.exit_code == 0, imported.output
    assert f"✓ {brought} is {folder / 'student.safetensors'}" in imported.stdout
    assert run("verify", NAME, "--device", "cpu", folder=folder).exit_code == 0


def test_a_file_that_is_not_the_cards_is_not_fetched_over(folder: Path, server: WeightsServer):
    damaged = folder / "student.safetensors"
    damaged.write_bytes(server.content[:-1])
    failed = run("fetch", NAME, "--accept-license", folder=folder)
    assert failed.exit_code == 1
    assert f"remove {damaged} first" in failed.stderr
    assert server.asked == []


def test_the_folder_is_made(folder: Path, tmp_path: Path):
    new = tmp_path / "a" / "b"
    result = run("fetch", "DISTILDIRE-DEMO", folder=new)
    assert (result.exit_code, new.is_dir()) == (0, True)
    assert CliRunner().invoke(main, ["models", "fetch", "DISTILDIRE-DEMO"]).exit_code == 2  # which folder?


def test_a_card_without_urls_says_what_to_do(folder: Path):
    card = folder / "card.toml"
    card.write_text(re.sub(r"urls = .*\n", "", card.read_text()))
    failed = run("fetch", NAME, "--accept-license", folder=folder)
    assert failed.exit_code == 1
    assert "names no URL for student.safetensors" in failed.stderr


def test_what_brings_files_needs_no_torch():
    """As in the image of the API, or on the machine that has the network."""
    code = "import sys, deploy.commands.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_show_names_licences_sources_digests_and_what_is_there(folder: Path, server: WeightsServer):
    card = folder / "card.toml"
    card.write_text('notice = "Of [drawings] alone."\n' + card.read_text())
    shown = run("show", NAME, folder=folder).stdout
    assert "Of [drawings] alone." in shown
    for told in ("CC-BY-NC-4.0: no commercial use", "MIT", server.url(), "md5", "self-test  none", "present    no"):
        assert told in shown
    document = json.loads(run("show", NAME, "--json", folder=folder).stdout)
    assert document["license"] == "CC-BY-NC-4.0"
    assert document["files"]["adm"]["license"] == "MIT"
    assert document["files"]["adm"]["path"] == str(folder / "adm.safetensors")
    assert document["files"]["student"]["path"] is None
    assert document["contents"]["student"]["urls"] == [server.url()]


def test_show_and_verify_name_policies_and_those_that_no_worker_takes(folder: Path):
    policies = folder / f"{NAME}.policies"
    policies.mkdir()
    (policies / "broken.toml").write_text("threshold = ")
    shown = run("show", NAME, folder=folder)
    assert f"✗ The policy {policies / 'broken.toml'} cannot be read" in " ".join(shown.stdout.split())
    assert "Correct or remove it" in json.loads(run("show", NAME, "--json", folder=folder).stdout)["policy_problems"][0]
    run("fetch", NAME, "--accept-license", folder=folder)
    verified = run("verify", NAME, "--device", "cpu", folder=folder)
    assert verified.exit_code == 1
    assert f"✗ The policy {policies / 'broken.toml'} cannot be read" in " ".join(verified.stdout.split())


def test_verify_as_a_document(folder: Path):
    failed = run("verify", NAME, "--json", folder=folder)
    assert failed.exit_code == 1
    document = json.loads(failed.stdout)
    assert [bool(file["problem"]) for file in document["files"]] == [False, True]
    assert "models fetch" in document["problems"][0]

    run("fetch", NAME, "--accept-license", folder=folder)
    recorded = run("verify", NAME, "--record", "--json", folder=folder)
    document = json.loads(recorded.stdout)
    assert (recorded.exit_code, document["self_test"], document["problems"]) == (0, "passed", [])
    assert "self-test  in the card" in run("show", NAME, folder=folder).stdout


def test_safetensors_need_no_conversion(folder: Path):
    run("fetch", NAME, "--accept-license", folder=folder)
    converted = run("convert", NAME, folder=folder)
    assert converted.exit_code == 0, converted.output
    assert converted.stdout.count("is safetensors already") == 2
