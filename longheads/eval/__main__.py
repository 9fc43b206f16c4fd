from longheads.command import leave
from longheads.eval.command import main

leave(main())
