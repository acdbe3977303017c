"""From arguments to an exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence

from robustprune.cli.imports import import_parts
from robustprune.cli.parser import parser
from robustprune.errors import InterruptedRun, InvalidError, SoundnessError, UsageError
from robustprune.files import FULL

OK, FAULT, USAGE, INTERRUPTED = 0, 1, 2, 130
_MOST_LINES = 23  # with the line before and the line after them: one screen


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments; the process's own if absent.
    """
    arguments = parser().parse_args(argv)
    try:
        if getattr(arguments, "imports_of", None) is not None:
            import_parts(arguments.imports_of)
        arguments.run(arguments)
    except UsageError as error:
        return _say(_text(error), USAGE)
    except SoundnessError as error:
        return _say(str(error), FAULT)
    except InterruptedRun as stop:
        return _say(f"interrupted; finished epochs and evaluations are kept.\n{stop}", INTERRUPTED)
    except KeyboardInterrupt:
        return _say("interrupted.", INTERRUPTED)
    except BrokenPipeError:  # `robustprune list | head`
        sys.stderr.close()
        return OK
    except OSError as error:
        if error.errno in FULL:
            return _say(f"{FULL[error.errno]} ({error.filename}). Make room and resume.", USAGE)
        if error.errno == errno.EROFS:
            text = f"the disk has become read-only ({error.filename}). Mend that and resume."
            return _say(text, USAGE)
        return _fault()
    except Exception:
        return _fault()
    return OK


def _text(error: UsageError) -> str:
    if not isinstance(error, InvalidError):
        return str(error)
    lines = str(error).splitlines()
    count = len(error.problems)
    head = [] if count == 1 else [f"{count} problems:"]
    more = [f"… and {len(lines) - _MOST_LINES} lines more"] if len(lines) > _MOST_LINES else []
    return "\n".join([*head, *lines[:_MOST_LINES], *more])


def _fault() -> int:
    traceback.print_exc()
    return _say("this is a fault of robustprune, not of your input. Please report it.", FAULT)


def _say(text: str, code: int) -> int:
    prefix = "" if code == INTERRUPTED else "error: "
    print(f"{prefix}{text}", file=sys.stderr)
    return code
