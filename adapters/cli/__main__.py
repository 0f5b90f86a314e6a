"""`python -m masklib.adapters.cli`."""

import sys

from . import main

sys.exit(main())
