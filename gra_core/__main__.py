"""`python -m gra_core`: the command line."""

import sys

from gra_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
