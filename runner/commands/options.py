"""What commands share: an option, and how they fail."""

import click

from specs.common.checkout import require_own
from specs.common.errors import UserError

FORMAT = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")


class Group(click.Group):
    """Bad input is one clear line and exit code 2, never a traceback; so is standing in another checkout."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the chosen command."""
        try:
            if "--help" not in ctx.args:
                require_own()
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
