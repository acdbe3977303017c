"""From arguments to an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from robustprune.cli.imports import import_parts
from robustprune.cli.parser import parser
from robustprune.cli.replies import (
    FAULT,
    INTERRUPTED,
    OK,
    USAGE,
    ProcessError,
    Reply,
    launched,
)
from robustprune.errors import (
    FullDiskError,
    InterruptedRun,
    InvalidError,
    OwnCodeError,
    PeerError,
    SoundnessError,
    UsageError,
    first_line,
)
from robustprune.files import FULL
from robustprune.paths import reason

_MOST_LINES = 23  # with the line before and the line after them: one screen
_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}  # of what somebody named, or of what lies below it
_FAULT = "this is a fault of robustprune, not of your input. Please report it."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments; the process's own if absent.
    """
    arguments = parser().parse_args(argv)
    if (reply := Reply.before()) is not None:
        return _tell(reply)
    if _rank():
        warnings.simplefilter("ignore")  # the main process warns
    try:
        if getattr(arguments, "imports_of", None) is not None:
            import_parts(arguments.imports_of)
        arguments.run(arguments)
        _leave()
    except BrokenPipeError:  # `robustprune list | head`
        sys.stderr.close()
        return OK
    except (Exception, KeyboardInterrupt) as error:
        return _tell(_reply(error))
    return OK


def _reply(error: BaseException) -> Reply:
    """What is to be said of an error, and the exit code."""
    kind = type(error).__name__
    if isinstance(error, ProcessError):
        return error.reply
    if isinstance(error, FullDiskError):
        return Reply(USAGE, kind, f"error: {error}", folder=str(error.folder.absolute()))
    if isinstance(error, UsageError):
        return Reply(USAGE, kind, f"error: {_text(error)}")
    if isinstance(error, SoundnessError):
        return Reply(FAULT, kind, f"error: {error}")
    if isinstance(error, InterruptedRun):
        text = f"interrupted; what was finished is kept.\n{error}"
        return Reply(INTERRUPTED, kind, text, echo=True, folder=str(error))
    if isinstance(error, KeyboardInterrupt):
        return Reply(INTERRUPTED, kind, "interrupted.", echo=True)
    if isinstance(error, PeerError):
        return Reply(FAULT, kind, "error: another process of the job has failed.", echo=True)
    if _is_lost(error):
        text = f"error: another process does not answer any more: {first_line(error)}"
        return Reply(FAULT, kind, text, echo=True)
    if isinstance(error, OSError) and (text := _of_system(error)):
        return Reply(USAGE, kind, f"error: {text}")
    from robustprune.recipe.own import blamed

    if text := blamed(error):
        return Reply(USAGE, OwnCodeError.__name__, f"error: {text}")
    trace = "".join(traceback.format_exception(error))
    return Reply(FAULT, kind, f"{trace}error: {_FAULT}")


def _tell(reply: Reply) -> int:
    """Print it, or leave it to who has launched this process; returns the exit code."""
    if launched():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the others' end must not cut it short
        with suppress(OSError):  # of a full disk, of which it may be the news
            reply.leave()
            return reply.code
    if not (reply.echo and _rank()) and not _told_elsewhere(reply):
        print(reply.of(_rank()).text, file=sys.stderr)
    return reply.code


def _told_elsewhere(reply: Reply) -> bool:
    """Whether another process says it, or the launcher that watches this one."""
    if reply.kind == PeerError.__name__:
        return "TORCHELASTIC_RUN_ID" in os.environ
    # found before the processes knew of each other, and on each machine by its first one
    return reply.code == USAGE and _group() is None and os.environ.get("LOCAL_RANK", "0") != "0"


def _of_system(error: OSError) -> str:
    """What to say of a full disk, or of a path that cannot be used; empty of anything else."""
    if error.errno in FULL:
        return f"{FULL[error.errno]} ({error.filename}). Make room and resume."
    if error.errno == errno.EROFS:
        return f"the disk has become read-only ({error.filename}). Mend that and resume."
    if error.errno in _PATHS and error.filename is not None:
        return f"{error.filename}: {reason(error)}. Name another path, or mend that."
    return ""


def _text(error: UsageError) -> str:
    if not isinstance(error, InvalidError):
        return str(error)
    lines = str(error).splitlines()
    count = len(error.problems)
    head = [] if count == 1 else [f"{count} problems:"]
    more = [f"… and {len(lines) - _MOST_LINES} lines more"] if len(lines) > _MOST_LINES else []
    return "\n".join([*head, *lines[:_MOST_LINES], *more])


def _is_lost(error: BaseException) -> bool:
    """Whether it says that the connection to another process has been lost."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not isinstance(error, RuntimeError):
        return False
    from torch import distributed

    named = any(name in str(error).lower() for name in ("gloo", "nccl", "connection closed"))
    return named or isinstance(error, getattr(distributed, "DistError", ()))


def _leave() -> None:
    """Wait for the other processes of the job, and part from them in order.

    One that is still at work would lose its connection to one that has ended, and abort.
    """
    if (group := _group()) is not None:
        group.barrier()
        group.destroy_process_group()


def _group() -> Any:
    """torch.distributed, if this process is connected to others by it."""
    distributed: Any = sys.modules.get("torch.distributed")
    known = distributed is not None and distributed.is_available()
    return distributed if known and distributed.is_initialized() else None


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
