"""The command `distildire`. Each subcommand is imported only when it is used: the base install has few packages."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from deploy.terminal import exits
from deploy.terminal.groups import SuggestingGroup
from deploy.terminal.streams import make_safe
from shared.environment import hide_from_libraries
from shared.errors import DistildireError


@dataclass(frozen=True)
class _Entry:
    module: str  # of deploy.commands; its `command` is the click command
    summary: str
    extra: str | None = None  # the extra of the package that it needs


COMMANDS = {
    "demo": _Entry("stack.demo", "Start everything here and classify the shipped images.", "local"),
    "up": _Entry("stack.up", "Start the whole service on this machine.", "local"),
    "down": _Entry("stack.down", "Stop the service on this machine.", "local"),
    "analyze": _Entry("analyze", "Classify images in this process, without any service.", "worker"),
    "submit": _Entry("submit", "Send images to a running API."),
    "train": _Entry("train", "Train a student on images of your own.", "worker"),
    "evaluate": _Entry("evaluate", "Measure a model on labelled images.", "worker"),
    "calibrate": _Entry("calibrate", "Choose a threshold on labelled images, as a policy.", "worker"),
    "models": _Entry("models", "List, show, fetch, import, verify and convert models.", "worker"),
    "keys": _Entry("operator.keys", "Create, list and revoke API keys.", "server"),
    "tenants": _Entry(
        "operator.tenants", "List tenants; set how much they may have open and how long it is kept.", "server"
    ),
    "jobs": _Entry(
        "operator.jobs", "Show, follow and cancel jobs; list open and dead ones, run dead ones again.", "server"
    ),
    "egress": _Entry("operator.egress", "Say why a webhook's URL may be called from here, or not."),
    "db": _Entry("operator.db", "Bring the database's schema up to date.", "server"),
    "store": _Entry("operator.store", "Make the bucket, and keys that open nothing else.", "server"),
    "top": _Entry("operator.top", "Watch the workers and the queue.", "server"),
    "doctor": _Entry("doctor", "Check this installation, with a remedy for what is wrong."),
    "bench": _Entry("bench", "Measure the model and the service on this machine, or what a teacher is worth.", "local"),
}


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_OUR_PACKAGES = frozenset({"api", "deploy", "migrations", "shared", "worker"})


class LazyGroup(SuggestingGroup):
    """Knows its subcommands by name; imports the one that is called, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"deploy.commands.{COMMANDS[cmd_name].module}")
        except ModuleNotFoundError as error:
            if ctx.resilient_parsing:  # a shell completes: it wants the names, whatever is installed
                return click.Command(cmd_name, help=COMMANDS[cmd_name].summary)
            raise _missing_extra(cmd_name, error) from error
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def main(self, *arguments: Any, standalone_mode: bool = True, **named: Any) -> Any:
        """Run a command line; whatever happens, it ends with words and an exit code, never with a traceback."""
        make_safe()
        if not standalone_mode:
            return self._run(*arguments, **named)
        try:
            status = self._run(*arguments, **named)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except click.Abort as abort:
            stopped = isinstance(abort.__context__, KeyboardInterrupt)
            click.echo("Stopped." if stopped else "Nothing was done.", err=True)
            sys.exit(exits.INTERRUPTED if stopped else 1)
        except Exception as error:  # noqa: BLE001  # the boundary: a person reads what comes now
            exits.report_unexpected(error)
            sys.exit(exits.UNEXPECTED)
        sys.exit(status if isinstance(status, int) else 0)

    def _run(self, *arguments: Any, **named: Any) -> Any:
        run: Callable[..., Any] = super().main
        return run(*arguments, standalone_mode=False, **named)

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand; an error of ours, or a path that cannot be used, is one message and exit code 1."""
        try:
            return super().invoke(ctx)
        except DistildireError as error:
            raise click.ClickException(error.message) from error
        except OSError as error:
            if error.errno in _FULL:
                raise click.ClickException(f"{error.strerror}. Free some space, and run the command again.") from error
            if error.filename is None:  # no path that a user gave, so nothing that a user could change
                raise
            raise click.ClickException(
                f"{error.filename}: {error.strerror}. Check that the path exists and that you may use it."
            ) from error
        except ModuleNotFoundError as error:
            raise _missing_extra(ctx.invoked_subcommand, error) from error


def _missing_extra(command: str | None, error: ModuleNotFoundError) -> Exception:
    """Return what to say where a package is missing that an extra of ours brings; a mistake of ours stays as it is."""
    entry = COMMANDS.get(command or "")
    package = (error.name or "").partition(".")[0]
    if entry is None or entry.extra is None or package in _OUR_PACKAGES:
        return error
    return click.ClickException(
        f"`distildire {command}` needs the package {package}, which is not installed. Add it with:\n"
        f'  pip install "distildire[{entry.extra}]"'
    )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="distildire")
def main() -> None:
    """Tell whether an image was made by a diffusion model. A verdict is evidence, not proof."""
    hide_from_libraries()


if __name__ == "__main__":
    main()
