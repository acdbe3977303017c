"""``python -m robustprune``."""

import os
import sys

from robustprune.cli import main
from robustprune.cli.outcome import launched

code = main()
if launched():  # the threads of a process group may abort while the interpreter is taken down
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
