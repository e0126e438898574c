"""`python -m specact_rl.cli`."""

import sys

from specact_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
