"""`python -m carrier` is the `carrier` command."""

import sys

from carrier.cli import main

if __name__ == "__main__":
    sys.exit(main())
