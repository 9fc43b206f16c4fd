import sys

from longheads.eval.command import main

sys.exit(main())
