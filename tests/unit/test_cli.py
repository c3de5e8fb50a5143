"""The command: what it offers, how it fails, how verdicts look."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.cli import COMMANDS, main
from deploy.terminal import program
from deploy.verdicts import Row, VerdictView, closing_words, confidence_bar, verdict_table


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    for name in ("DISTILDIRE_API_URL", "DISTILDIRE_API_KEY", "DISTILDIRE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


def judged(**changes: object) -> Row:
    """A row with a verdict."""
    result = {
        "prediction": "FAKE",
        "confidence": 0.75,
        "processing_time": 0.5,
        "dimensions": {"width": 640, "height": 480},
        "model": {"name": "TEST", "demonstration": False},
    }
    return Row("cat.png", result=result | changes)


def test_help_names_every_subcommand(runner: CliRunner):
    told = runner.invoke(main, ["--help"]).output
    assert [name for name in COMMANDS if f"\n  {name} " in told] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help(runner: CliRunner, name: str):
    result = runner.invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: main " + name in result.output


def test_an_unknown_subcommand_is_wrong_usage(runner: CliRunner):
    assert runner.invoke(main, ["dectect"]).exit_code == 2


def test_a_missing_extra_is_named_with_the_line_that_adds_it(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    for module in ("deploy.commands.keys", "shared.crypto"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)

    result = runner.invoke(main, ["keys", "list"])

    assert result.exit_code == 1
    assert 'pip install "distildire[server]"' in result.output


def test_a_package_of_our_own_that_is_missing_is_no_missing_extra(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "deploy.commands.keys", raising=False)
    monkeypatch.setitem(sys.modules, "shared.keys", None)

    result = runner.invoke(main, ["keys", "list"])

    assert isinstance(result.exception, ModuleNotFoundError)


def test_submit_without_an_api_says_how_to_get_one(runner: CliRunner):
    result = runner.invoke(main, ["submit", "cat.png"])
    assert result.exit_code == 1
    assert "distildire up" in result.output


def test_submit_wants_both_address_and_key(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILDIRE_API_URL", "http://127.0.0.1:1")
    result = runner.invoke(main, ["submit", "cat.png"])
    assert "Set both" in result.output


def test_submit_wants_a_whole_address(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILDIRE_API_URL", "127.0.0.1:8000")
    monkeypatch.setenv("DISTILDIRE_API_KEY", "dd_key")
    result = runner.invoke(main, ["submit", "cat.png"])
    assert "must begin with http://" in result.output


def test_keys_without_servers_say_how_to_get_some(runner: CliRunner):
    result = runner.invoke(main, ["keys", "list"])
    assert result.exit_code == 1
    assert "distildire up" in result.output
    assert "DISTILDIRE_DATABASE_URL: field required" in result.output


@pytest.mark.parametrize("arguments", [["up"], ["demo"]])
def test_a_folder_that_cannot_be_made_is_one_message(runner: CliRunner, tmp_path: Path, arguments: list[str]):
    (tmp_path / "file").touch()
    place = ["--data-dir" if arguments == ["up"] else "--output", str(tmp_path / "file" / "folder")]

    result = runner.invoke(main, [*arguments, *place])

    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path / 'file' / 'folder'}: Not a directory. Check")


def test_submit_needs_an_image(runner: CliRunner):
    assert runner.invoke(main, ["submit"]).exit_code == 2


def test_down_where_nothing_runs_is_no_error(runner: CliRunner, tmp_path: Path):
    result = runner.invoke(main, ["down", "--data-dir", str(tmp_path / "nothing")])
    assert result.exit_code == 0
    assert "Nothing runs" in result.output
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(("confidence", "cells"), [(0.0, 0), (0.5, 6), (1.0, 12)])
def test_the_bar_is_as_long_as_the_confidence(confidence: float, cells: int):
    bar = confidence_bar(confidence, "red")
    filled = [span for span in bar.spans if span.style == "red"]
    assert sum(span.end - span.start for span in filled) == cells
    assert bar.plain.endswith(f"{confidence:.0%}")


def test_what_images_are_known_to_be_is_shown_only_where_it_is_known():
    assert "known to be" not in [column.header for column in verdict_table([judged()]).columns]
    known = [judged(), Row("dog.png", known="a photograph")]
    assert "known to be" in [column.header for column in verdict_table(known).columns]


def test_what_small_changes_do_is_shown_only_where_that_was_asked():
    assert "under small changes" not in [column.header for column in verdict_table([judged(stability=None)]).columns]
    stability = {"flip_rate": 0.25, "probability_min": 0.1, "probability_max": 0.6, "passes": 5}
    [*_, column] = verdict_table([judged(stability=stability), Row("dog.png", status="running")]).columns
    assert column.header == "under small changes"
    assert list(column.cells) == ["flip rate 25%, probability of fake 0.100 to 0.600", ""]


def test_lines_are_printed_once_for_each_image_that_ended(capsys: pytest.CaptureFixture[str]):
    failed = Row("dog.png", problem="It is damaged. (corrupt_image)")
    rows = [judged(), failed, Row("cow.png", status="running")]
    with VerdictView(rows, as_json=False) as view:
        for row in (*rows, *rows):
            view.refresh(row)
    assert capsys.readouterr().out.splitlines() == [
        "cat.png: FAKE 75% in 0.50 s",
        "dog.png: It is damaged. (corrupt_image)",
    ]


def test_where_nothing_has_a_verdict_nothing_is_said_of_verdicts(capsys: pytest.CaptureFixture[str]):
    VerdictView([Row("dog.png", problem="No such file or directory")], as_json=False).conclude()
    assert capsys.readouterr().out == ""


def test_the_command_is_named_as_one_has_to_type_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    script = tmp_path / "my bin" / "distildire"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "up"])

    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == f"'{script}'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "distildire"


def test_what_is_known_of_the_threshold_is_said():
    interval = {"low": 0.0, "high": 0.012, "confidence": 0.95}
    policy = {"name": "strict", "measured_fpr": 0.004, "fpr_interval": interval, "photographs": 310}
    called = closing_words([judged(policy=policy, prediction="INCONCLUSIVE")])
    assert "strict was made, it called 0.40% of 310 photographs FAKE (95% interval: 0.00% to 1.20%)" in called
    assert "INCONCLUSIVE is no evidence of FAKE" in called
    assert "No policy was chosen" not in called
    assert "No policy was chosen" in closing_words([judged(policy=None)])


def test_json_leaves_standard_output_to_the_documents(capsys: pytest.CaptureFixture[str]):
    rows = [judged()]
    with VerdictView(rows, as_json=True) as view:
        view.refresh(rows[0])
    view.conclude()
    assert capsys.readouterr().out == ""


def test_a_verdict_is_called_evidence_and_the_demonstration_model_by_its_name():
    assert "evidence, not proof" in closing_words([judged()])
    assert "demonstration" not in closing_words([judged()])
    demonstrated = closing_words([judged(model={"name": "DISTILDIRE-DEMO", "demonstration": True})])
    assert "DISTILDIRE-DEMO is the demonstration model" in demonstrated
