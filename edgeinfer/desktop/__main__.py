"""``python -m edgeinfer.desktop``: the chat application."""

import sys

from edgeinfer.desktop.app import main

if __name__ == "__main__":
    sys.exit(main())
