"""`python -m glide_core.cli`: the same as `glide`."""

import sys

from glide_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
