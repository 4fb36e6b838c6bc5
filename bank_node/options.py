"""Options that every command of `mintmark-bank` shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path, typer.Option("--home", help="The bank's folder, made by init.", envvar="MINTMARK_BANK_HOME")
]
