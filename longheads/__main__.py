"""`python -m longheads` is the command, too."""

from longheads.command import leave
from longheads.run import main

leave(main())
