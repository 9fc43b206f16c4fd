"""`python -m longheads` is the command, too."""

from longheads.run import command

command()
