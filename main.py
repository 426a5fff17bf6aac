"""The program's start, also for the executable."""

import sys

if __name__ == "__main__":
    try:
        from tcgamirror.__main__ import main

        main()
    except KeyboardInterrupt:
        # Ctrl-C before the program's own handler is set.
        sys.exit(130)
