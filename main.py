"""The program's start, also for the executable."""

import sys

from tcgamirror.cli import main

if __name__ == "__main__":
    sys.exit(main())
