"""`python -m carrier` is the `carrier` command."""

import os
import sys

if __name__ == "__main__":
    if sys.path[:1] == [os.getcwd()] != [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]:
        del sys.path[0]  # `-m` looks into the working directory first: whoever can write there would have his code run

    from carrier.cli.main import main

    sys.exit(main())
