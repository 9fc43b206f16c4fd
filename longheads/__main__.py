"""`python -m longheads` is the command, too."""

import sys

from longheads.run import main

sys.exit(main())
