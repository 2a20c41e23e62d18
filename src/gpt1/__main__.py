"""`python -m gpt1` is the same program as `gpt1`."""

import sys

from gpt1.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
