"""The tables, each by the name that a page calls it by."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import click
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from api.problems.table import PROBLEMS
from deploy.cli import COMMANDS, main
from docs.reference import source
from shared.environment import PREFIX
from shared.errors import ErrorCode, JobError
from shared.settings import Settings


def problems() -> str:
    """Every refusal of the API."""
    rows = [(p.status, f"`{p.code}`", f"{p.title}.", p.remedy) for p in sorted(PROBLEMS, key=lambda p: p.status)]
    return _table(("status", "code", "what it means", "what to do"), rows)


def job_errors() -> str:
    """Every reason for which a job fails."""
    errors = map(JobError, ErrorCode)
    rows = [(f"`{error.code}`", error.message, "may help" if error.retryable else "does not help") for error in errors]
    return _table(("code", "what it means, and what to do", "sending the same again"), rows)


def webhook_errors() -> str:
    """Every reason for which a try of a webhook has no answer."""
    found = source.member_sentences("shared/egress/url_policy.py", "EgressCode")
    found |= source.member_sentences("worker/webhooks/sender.py", "OwnFault")
    return _table(("error", "what it means"), [(f"`{code}`", sentence) for code, sentence in found.items()])


def settings(first: str, last: str) -> str:
    """The settings from one field to another."""
    names = list(Settings.model_fields)
    chosen = names[names.index(first) : names.index(last) + 1]
    rows = [(f"`{PREFIX}{name.upper()}`", _default(name), Settings.model_fields[name].description) for name in chosen]
    return _table(("setting", "default", "meaning"), rows)


def variables() -> str:
    """Every environment variable that is read beside the settings."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    rows = []
    for name, variable in source.variables().items():
        if name not in known:
            if len(set(variable.sentences)) != 1:
                raise source.SourceError(
                    f"{variable.places[0]}: write one `#:` comment above the line that names {name}."
                )
            default = f"`{variable.default}`" if variable.default else ""
            rows.append((f"`{name}`", default, variable.sentences[0]))
    return _table(("variable", "default", "meaning"), rows)


def events() -> str:
    """Every event of the log."""
    rows = [(f"`{name}`", ", ".join(event.levels), event.sentences[0]) for name, event in source.events().items()]
    return _table(("event", "level", "what it means, and what to do"), rows)


def commands() -> str:
    """Every command with its options, as its `--help` says it."""
    root = click.Context(main, info_name="distildire", help_option_names=["-h", "--help"])
    parts = []
    for name, entry in COMMANDS.items():
        command = main.get_command(root, name)
        assert command is not None  # noqa: S101  # every name of COMMANDS is one
        needs = f"Needs the extra `{entry.extra}`." if entry.extra else "Needs no extra."
        parts += [_command(command, click.Context(command, info_name=name, parent=root), needs)]
    return "\n\n".join(parts)


TABLES: dict[str, Callable[..., str]] = {
    "problems": problems,
    "job-errors": job_errors,
    "webhook-errors": webhook_errors,
    "settings": settings,
    "variables": variables,
    "events": events,
    "commands": commands,
}


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def _default(name: str) -> str:
    default = Settings.model_fields[name].default
    if isinstance(default, timedelta):  # as an ISO 8601 duration, which the setting takes
        return f"`{TypeAdapter(timedelta).dump_python(default, mode='json')}`"
    return {PydanticUndefined: "required", None: "", (): ""}.get(default, f"`{default}`")


def _command(command: click.Command, context: click.Context, needs: str = "") -> str:
    path = context.command_path
    depth = "#" * (1 + path.count(" "))
    parts = [f"{depth} `{' '.join([path, *_arguments(command, context)])}`", _prose(command.help)]
    if needs:
        parts.append(needs)
    if rows := [(f"`{names}`", _plain(said)) for names, said in _options(command, context)]:
        parts.append(_table(("option", "meaning"), rows))
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            parts.append(_command(child, click.Context(child, info_name=name, parent=context)))
    return "\n\n".join(parts)


def _arguments(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        yield "[COMMAND]" if command.invoke_without_command else "COMMAND"
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            yield parameter.make_metavar(context)


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record:
            names, said = record
            yield names, said.replace("  [", " [")


def _prose(text: str | None) -> str:
    """A help text as Markdown: click marks what must not be wrapped by a character of its own."""
    return _plain(inspect.cleandoc(text or "").replace("\b\n", ""))


def _plain(text: str) -> str:
    return re.sub(r"(?<!`)([*<_])", r"\\\1", text)
