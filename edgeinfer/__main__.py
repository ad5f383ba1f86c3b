"""``python -m edgeinfer``: the same as the ``edgeinfer`` command."""

import sys

from edgeinfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
