"""`python -m tbtrainer` is the command `tbtrainer`."""

import sys

from tbtrainer.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
