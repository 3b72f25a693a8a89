"""`truecue data`: looking at images before training on them."""

from __future__ import annotations

import typer

app = typer.Typer(help="Look at images before training on them.", no_args_is_help=True)
