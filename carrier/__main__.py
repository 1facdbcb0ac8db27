"""`python -m carrier` is the `carrier` command."""

import sys

from carrier.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
