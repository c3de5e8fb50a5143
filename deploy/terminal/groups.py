"""Groups of commands that say what may have been meant where a name is unknown."""

from __future__ import annotations

from difflib import get_close_matches

import click


class SuggestingGroup(click.Group):
    """A group whose error for an unknown subcommand names the nearest ones."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; an unknown one is wrong usage."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), n=3, cutoff=0.5)
            if not near:
                raise
            meant = " or ".join(f"`{name}`" for name in near)
            raise click.UsageError(f"{error.message} Did you mean {meant}?", ctx) from error
