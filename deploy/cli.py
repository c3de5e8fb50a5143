"""The command `distildire`. Each subcommand is imported only when it is used: the base install has few packages."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

from shared.errors import DistildireError


@dataclass(frozen=True)
class _Entry:
    summary: str
    extra: str | None = None  # the extra of the package that it needs


COMMANDS = {
    "demo": _Entry("Start everything here and judge the shipped images.", "local"),
    "up": _Entry("Start the whole service on this machine.", "local"),
    "down": _Entry("Stop the service on this machine.", "local"),
    "analyze": _Entry("Judge images in this process, without any service.", "worker"),
    "submit": _Entry("Send images to a running API."),
    "train": _Entry("Train a student on images of your own.", "worker"),
    "evaluate": _Entry("Measure a model on labelled images.", "worker"),
    "calibrate": _Entry("Choose a threshold on labelled images, as a policy.", "worker"),
    "models": _Entry("List, show, fetch, import, verify and convert models.", "worker"),
    "keys": _Entry("Create, list and revoke API keys.", "server"),
    "tenants": _Entry("List tenants; set how much they may have open and how long it is kept.", "server"),
    "jobs": _Entry("List open and dead jobs; run dead ones again.", "server"),
    "egress": _Entry("Say why a webhook's URL may be called from here, or not."),
    "db": _Entry("Bring the database's schema up to date.", "server"),
    "top": _Entry("Watch the workers and the queue.", "server"),
    "doctor": _Entry("Check this installation, with a remedy for what is wrong."),
    "bench": _Entry("Measure the model and the service on this machine, or what a teacher is worth.", "local"),
}


_OUR_PACKAGES = frozenset({"api", "deploy", "migrations", "shared", "worker"})


class LazyGroup(click.Group):
    """Knows its subcommands by name; imports the one that is called, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"deploy.commands.{cmd_name}")
        except ModuleNotFoundError as error:
            raise _missing_extra(cmd_name, error) from error
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand; an error of ours, or a path that cannot be used, is one message and exit code 1."""
        try:
            return super().invoke(ctx)
        except DistildireError as error:
            raise click.ClickException(error.message) from error
        except OSError as error:
            if error.filename is None:  # no path that somebody gave us, hence nothing that they could change
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


if __name__ == "__main__":
    main()
