import sys

from longheads.bench.command import main

sys.exit(main())
