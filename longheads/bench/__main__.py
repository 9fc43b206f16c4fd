from longheads.bench.command import main
from longheads.command import leave

leave(main())
