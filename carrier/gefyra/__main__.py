"""`python -m carrier.gefyra [--background] [-c] [FILE]`: the daemon behind the `carrier2` command."""

import sys

from carrier.gefyra.daemon import main

sys.exit(main(sys.argv[1:]))
