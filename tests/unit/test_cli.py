"""The command: what it offers, how it fails, how verdicts look."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.spinner import Spinner

from deploy.cli import COMMANDS, main
from deploy.image_files import gather, stems
from deploy.terminal.console import output, program
from deploy.terminal.exits import resumable
from deploy.terminal.streams import _plain, readable
from deploy.terminal.tables import show_rows
from deploy.terminal.verdicts import Row, VerdictView, caveat_lines, closing_words, confidence_bar, verdict_table


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the command writes of what it does not know how to take."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


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
    for module in ("deploy.commands.operator.keys", "shared.crypto"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)

    result = runner.invoke(main, ["keys", "list"])

    assert result.exit_code == 1
    assert 'pip install "distildire[server]"' in result.output


def test_a_package_of_our_own_that_is_missing_is_no_missing_extra(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "deploy.commands.operator.keys", raising=False)
    monkeypatch.setitem(sys.modules, "shared.tenants.api_keys", None)

    result = runner.invoke(main, ["keys", "list"])

    assert result.exit_code == 70
    assert "pip install" not in result.output


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


@pytest.mark.parametrize("command", [("db", "upgrade"), ("db", "roles"), ("keys", "list"), ("top", "--once")])
def test_a_database_that_is_away_is_one_line(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
):
    for name, value in {
        "DATABASE_URL": "postgresql://app:hidden@127.0.0.1:1/name",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SECRET_KEY": "0" * 32,
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "S3_ACCESS_KEY": "access",
        "S3_SECRET_KEY": "secret",
    }.items():
        monkeypatch.setenv(f"DISTILDIRE_{name}", value)
    result = runner.invoke(main, [*command])
    assert result.exit_code == 1
    assert "The database" in result.output
    assert "hidden" not in result.output
    assert isinstance(result.exception, SystemExit)


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


@pytest.mark.parametrize(
    ("confidence", "said"),
    [(0.0, " <1%"), (0.004, " <1%"), (0.5, " 50%"), (0.9949, " 99%"), (0.9953, ">99%"), (1.0, ">99%")],
)
def test_no_verdict_is_called_certain(confidence: float, said: str, capsys: pytest.CaptureFixture[str]):
    assert confidence_bar(confidence, "red").plain.endswith(f" {said}")
    row = judged(confidence=confidence)
    with VerdictView([row], as_json=False) as view:
        view.refresh(row)
    assert capsys.readouterr().out == f"cat.png: FAKE {said.strip()} in 0.50 s\n"


def test_what_images_are_known_to_be_is_shown_only_where_it_is_known():
    assert "known to be" not in [column.header for column in verdict_table([judged()]).columns]
    known = [judged(), Row("dog.png", known="a photograph")]
    assert "known to be" in [column.header for column in verdict_table(known).columns]


def test_what_small_changes_do_is_shown_only_where_that_was_asked():
    assert "under small changes" not in [column.header for column in verdict_table([judged(stability=None)]).columns]
    stability = {"flip_rate": 0.25, "probability_min": 0.1, "probability_max": 0.6, "passes": 5}
    [*_, column] = verdict_table([judged(stability=stability), Row("dog.png", status="running")]).columns
    assert column.header == "under small changes"
    assert list(column.cells) == ["flip rate 25%, probability of fake 10.0% to 60.0%", ""]


def test_small_changes_leave_nothing_certain_either():
    stability = {"flip_rate": 0.004, "probability_min": 0.0, "probability_max": 0.99996, "passes": 251}
    [*_, column] = verdict_table([judged(stability=stability)]).columns
    assert list(column.cells) == ["flip rate <1%, probability of fake <0.1% to >99.9%"]


def test_lines_are_printed_once_for_each_image_that_ended(capsys: pytest.CaptureFixture[str]):
    failed = Row("dog.png", problem="It is damaged. (corrupt_image)")
    rows = [judged(), failed, Row("cow.png", status="running")]
    with VerdictView(rows, as_json=False) as view:
        for row in (*rows, *rows):
            view.refresh(row)
    told = capsys.readouterr()
    assert told.out.splitlines() == ["cat.png: FAKE 75% in 0.50 s"]
    assert told.err.splitlines() == ["dog.png: It is damaged. (corrupt_image)"]  # no result


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
    called = closing_words([judged(policy=policy)])
    assert "strict was made, it classified 0.40% of 310 photographs as FAKE (95% interval: 0.00% to 1.20%)" in called
    rare = closing_words(
        [judged(policy=policy | {"measured_fpr": 0.00001, "fpr_interval": interval | {"high": 0.99999}})]
    )
    assert "it classified <0.01% of 310 photographs as FAKE (95% interval: 0.00% to >99.99%)" in rare
    strict = closing_words([judged(policy=policy | {"fpr_interval": interval | {"confidence": 0.999}})])
    assert "(99.9% interval: " in strict


def test_every_caveat_is_printed_once_with_the_images_that_it_is_about(capsys: pytest.CaptureFixture[str]):
    rows = [judged(caveats=["No policy was chosen.", *blank]) for blank in (["It is blank."], [], ["It is blank."])]
    rows[0].name, rows[2].name = "page.png", "sheet.png"
    failed = Row("dog.png", problem="It is damaged.")
    assert caveat_lines([*rows, failed]) == ["No policy was chosen.", "page.png, sheet.png: It is blank."]
    VerdictView(rows, as_json=False).conclude()
    told = capsys.readouterr().out
    assert "\nNo policy was chosen.\npage.png, sheet.png: It is blank.\nA verdict is evidence" in told


def test_a_caveat_about_many_images_names_a_few():
    rows = [judged(caveats=["It is blank."] if number else []) for number in range(1300)]
    for number, row in enumerate(rows):
        row.name = f"{number}.png"
    assert caveat_lines(rows) == ["1.png, 2.png, 3.png, 4.png, 5.png and 1,294 more: It is blank."]


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


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "127.0.0.1:8000", "ftp://api", "http://", "http://:8000", "http://a:99999", "http://a b", "junk"],
)
def test_an_address_that_is_none_is_named(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setenv("DISTILDIRE_API_URL", url)
    monkeypatch.setenv("DISTILDIRE_API_KEY", "dd_x")
    result = runner.invoke(main, ["submit", "cat.png"])
    assert result.exit_code == 1
    assert "DISTILDIRE_API_URL is not the URL of an API" in result.output


def test_an_address_with_a_password_is_refused_and_not_repeated(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILDIRE_API_URL", "http://me:hidden@127.0.0.1:8000")
    monkeypatch.setenv("DISTILDIRE_API_KEY", "dd_x")
    result = runner.invoke(main, ["submit", "cat.png"])
    assert "leave out user, password" in result.output
    assert "hidden" not in result.output


@pytest.mark.parametrize(
    "key", ["dd_hidden\r", "dd_hidden\n", "dd_hidden ", "dd_hiddené", "dd_hid\tden", "dd_hidden\udcff"]
)
def test_a_key_with_a_character_that_no_key_has_is_refused_and_not_repeated(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, key: str
):
    monkeypatch.setenv("DISTILDIRE_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DISTILDIRE_API_KEY", key)
    result = runner.invoke(main, ["submit", "cat.png"])
    assert result.exit_code == 1
    assert "DISTILDIRE_API_KEY is no API key" in result.output
    assert "hid" not in result.output


def test_an_error_that_nobody_foresaw_is_one_line_and_the_rest_is_in_a_private_file(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
):
    def fail(_data_dir: Path) -> None:
        raise ZeroDivisionError("of\nseveral lines")

    monkeypatch.setattr("deploy.commands.doctor.check_installation", fail)
    result = runner.invoke(main, ["doctor"])
    assert result.exit_code == 70
    (line,) = result.output.splitlines()
    assert "ZeroDivisionError: of several lines" in line
    (log,) = Path.home().rglob("errors.log")
    assert str(log) in line
    assert "in fail" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("home", ["/proc/nowhere", None])
def test_where_no_log_can_be_written_the_line_is_said_all_the_same(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, home: str | None
):
    def no_place() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    def no_such_user(_uid: int) -> None:
        raise KeyError

    if home is None:  # as in a container that runs as a user of no name
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", no_such_user)
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("tempfile.gettempdir", no_place)
    monkeypatch.setattr("deploy.commands.doctor.check_installation", lambda _: 1 / 0)
    result = runner.invoke(main, ["doctor"])
    assert (result.exit_code, "ZeroDivisionError" in result.output) == (70, True)


def test_a_folder_that_somebody_else_made_gets_no_log(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / f"distildire-{os.geteuid()}").symlink_to(Path.home())
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("deploy.commands.doctor.check_installation", lambda _: 1 / 0)
    home = Path.home()
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert runner.invoke(main, ["doctor"]).exit_code == 70
    assert list(home.iterdir()) == []


def test_a_full_disk_is_no_error_of_ours(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    def fill(_data_dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deploy.commands.doctor.check_installation", fill)
    result = runner.invoke(main, ["doctor"])
    assert (result.exit_code, result.output) == (
        1,
        "Error: No space left on device. Free some space, and run the command again.\n",
    )


def test_ctrl_c_is_130_and_a_no_is_1(runner: CliRunner, monkeypatch: pytest.MonkeyPatch):
    def stop(_data_dir: Path) -> None:
        raise KeyboardInterrupt

    def refuse(_data_dir: Path) -> None:
        raise click.Abort

    def stop_at_a_question(_data_dir: Path) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None  # as `click.confirm` does

    for act, code, words in (
        (stop, 130, "Stopped."),
        (stop_at_a_question, 130, "Stopped."),
        (refuse, 1, "Nothing was done."),
    ):
        monkeypatch.setattr("deploy.commands.doctor.check_installation", act)
        result = runner.invoke(main, ["doctor"])
        assert (result.exit_code, words in result.output) == (code, True)


def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_traceback():
    program = """
        import os, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        class CtrlC:
            def find_spec(self, name, *_):
                if name == "click":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, CtrlC())
        from deploy.__main__ import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_the_command_begins_where_ctrl_c_is_foreseen():
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"distildire": "deploy.__main__:main"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(("sumbit",), "submit"), (("doctr",), "doctor"), (("models", "lst"), "list"), (("jobs", "cancle"), "cancel")],
)
def test_a_misspelled_command_is_wrong_usage_and_the_nearest_one_is_named(
    runner: CliRunner, typed: tuple[str, ...], meant: str
):
    result = runner.invoke(main, [*typed])
    assert result.exit_code == 2
    assert f"Did you mean `{meant}`" in result.output


def test_nothing_is_suggested_where_nothing_is_near(runner: CliRunner):
    assert "Did you mean" not in runner.invoke(main, ["zzzzzz"]).output


def test_a_shell_completes_commands_and_their_subcommands():
    for words, expected in (("distildire su", "submit"), ("distildire jobs ca", "cancel")):
        number = len(words.split()) - 1
        told = subprocess.check_output(
            [str(Path(sys.executable).with_name("distildire"))],
            env={**os.environ, "_DISTILDIRE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)},
            text=True,
        )
        assert f"plain,{expected}" in told.split()


def test_files_of_one_name_get_names_of_their_own_that_fit(tmp_path: Path):
    paths = [
        Path("a/x.png"),
        Path("b/x.png"),
        Path("b/X.jpg"),
        Path("x-2.png"),
        Path("ä" * 125 + ".png"),
        Path("b\udcff.png"),
    ]
    names = stems(paths, 13)
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[0] == "x"
    assert names[5] == "b\udcff"
    for name in names:
        (tmp_path / f"{name}.dire_map.png").write_bytes(b"")


def test_two_long_names_that_begin_alike_stay_apart():
    first, second = stems([Path("a" * 251 + "1"), Path("a" * 251 + "2")], 13)
    assert first != second
    assert len(second) + 13 <= 255


def test_a_folder_is_taken_with_its_images_where_that_is_asked(tmp_path: Path):
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("in/b.PNG", "in/deep/a.jpg", "in/notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(click.UsageError, match="--recursive"):
        gather([tmp_path], recursive=False)
    found = gather([tmp_path, tmp_path / "absent.png"], recursive=True)
    assert found == [tmp_path / "in/b.PNG", tmp_path / "in/deep/a.jpg", tmp_path / "absent.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(click.UsageError, match="no image"):
        gather([tmp_path / "empty"], recursive=True)


def test_more_files_than_rows_still_show_the_count_and_what_is_under_way():
    rows = [Row(f"{number}.png", status="queued") for number in range(200)]
    rows[150].stage = "diffusing"
    view = VerdictView(rows, as_json=False)
    console = Console(width=100, height=24, record=True)
    console.print(view.live_table(console.height))
    told = console.export_text()
    assert "0 of 200 done (180 more than fit here)" in told
    assert "150.png" in told
    assert len(told.splitlines()) <= 24


def test_names_of_any_length_leave_the_count_of_a_small_terminal_its_line():
    rows = [Row(f"{number}{'x' * 251}.png", known="generated", stage="diffusing") for number in range(200)]
    view = VerdictView(rows, as_json=False)
    console = Console(width=80, height=24, record=True)
    console.print(view.live_table(console.height))
    told = console.export_text()
    assert len(told.splitlines()) <= 24
    assert "0 of 200 done" in told


def test_a_table_of_jobs_has_their_ids_whole_and_all_of_their_verdicts():
    rows = [Row(ID, result=judged().result), Row(ID, stage="diffusing")]
    for live in (True, False):
        console = Console(width=80, record=True)
        console.print(verdict_table(rows, of_jobs=True, live=live))
        told = console.export_text()
        assert told.count(ID) == 2
        assert "75%" in told
        assert "diffusing" in told
        assert "…" not in told


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[31mb.png", "a\rb.png", "a\u202eb.png", "a\udcffb.png"])
def test_a_name_neither_ends_its_line_nor_steers_the_terminal(name: str):
    told = readable(name)
    assert told.isprintable()
    assert (told[0], told[-5:]) == ("a", "b.png")
    assert readable("caf\u00e9 \u65e5.png") == "caf\u00e9 \u65e5.png"


ID = "0b3f7a52-1c9d-4f6e-9a0e-6f1d2c3b4a59"
ROWS = [{"id": ID, "tenant": "t" * 60, "name": "n" * 60, "created": "2026-11-30T18:00:00.000Z"}]


@pytest.mark.parametrize(("width", "lines"), [(30, 4), (80, 4), (200, 2)])
def test_a_table_never_breaks_an_id_or_a_time_which_names_its_zone(
    monkeypatch: pytest.MonkeyPatch, width: int, lines: int
):
    console = Console(width=width, record=True, force_terminal=True, color_system=None)
    monkeypatch.setattr("deploy.terminal.tables.output", lambda: console)
    show_rows(("id", "tenant", "name", "created"), ROWS, as_json=False)
    told = console.export_text()
    for whole in (ID, "2026-11-30 18:00 UTC", "t" * 60):
        assert whole in told
    assert len(told.splitlines()) == lines, "one line a field where the table is too wide for the terminal"


def test_a_table_that_is_piped_is_not_broken(monkeypatch: pytest.MonkeyPatch):
    piped = io.StringIO()
    monkeypatch.setattr("sys.stdout", piped)
    output().print(verdict_table([Row("x" * 251)]))
    assert "x" * 251 in piped.getvalue()


def test_rows_that_are_piped_are_a_line_each(capsys: pytest.CaptureFixture[str]):
    show_rows(("id", "tenant", "name", "created"), ROWS, as_json=False)
    assert capsys.readouterr().out == f"{ID}\t{'t' * 60}\t{'n' * 60}\t2026-11-30 18:00 UTC\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_that_knows_few_signs_stops_nothing(encoding: str, tmp_path: Path):
    code = r"""
        from deploy.terminal.streams import make_safe, print_json
        from deploy.terminal.console import output
        make_safe()
        output().print("\N{CHECK MARK} caf\u00e9 \u65e5 \udcff \N{RIGHTWARDS ARROW}", markup=False)
        print_json({"file": "caf\u00e9 \udcff"})
    """
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr.decode()
    first, second = told.stdout.decode(encoding).splitlines()
    assert "\\xff" in first
    assert json.loads(second) == {"file": "caf\u00e9 \udcff"}


def test_each_character_of_our_own_words_has_its_form_in_ascii():
    root = Path(__file__).parents[2]
    files = [
        *(root / "deploy").rglob("*.py"),
        *(root / "worker/model").rglob("*.py"),
        root / "worker/metrics/rounding.py",
    ]
    constants = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    words = {node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    ours = {each for each in "".join(words) if not each.isascii() and each.isprintable()}
    assert "\N{CHECK MARK}" in ours
    assert all(_plain(each)[0] != "\\" for each in (*ours, *Spinner("dots").frames)), ours


def test_work_that_is_kept_says_how_it_goes_on(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended, resumable(Path("evaluation")):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "kept in evaluation; the same command continues them" in capsys.readouterr().err
