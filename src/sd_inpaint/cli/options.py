"""What the commands share: options that mean the same everywhere, and how help shows examples."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]


def example(*lines: str) -> str:
    """Shows command lines at the end of a command's help, each on a line of its own."""
    return "Examples:\n\n" + "\n\n".join(f"`{line}`" for line in lines)
