"""`python -m smalti` is the command line."""

from __future__ import annotations

import sys

from smalti.cli.main import main

sys.exit(main())
