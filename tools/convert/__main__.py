"""`python tools/convert`, from a checkout: the folder is run by its path, and its modules need their package."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from convert.command import command
else:
    from .command import command

command()
