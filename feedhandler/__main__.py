"""``python -m feedhandler``."""

import sys

from feedhandler.cli import main

sys.exit(main())
