"""What a guest is told of a file when something goes wrong with it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from hcall.errors import BadArgument, Busy, HcallError, NoMatch, NoSpace, NotAllowed
from hcall.formats.folder import shown

T = TypeVar("T")

_SAID: Final[dict[int | None, tuple[type[HcallError], str]]] = {
    errno.ENOENT: (NoMatch, "is not there"),
    errno.EEXIST: (NotAllowed, "is there already"),
    errno.EBADF: (BadArgument, "was not opened for that"),
    errno.EFBIG: (NoSpace, "would be too large for the host's filesystem"),
    errno.ENOSPC: (NoSpace, "does not fit: the host's filesystem is full"),
    errno.EDQUOT: (NoSpace, "does not fit: hostd has used up its quota"),
    errno.ENXIO: (NotAllowed, "is neither file nor folder"),
    errno.ENOTEMPTY: (NotAllowed, "is not empty"),
    errno.ENOTDIR: (BadArgument, "is no folder, or leads through something that is none"),
    errno.EISDIR: (BadArgument, "is a folder"),
    errno.EINVAL: (BadArgument, "cannot be used so"),
    errno.ENAMETOOLONG: (BadArgument, "has a name that is too long for the host"),
    errno.ELOOP: (NotAllowed, "leads through a symbolic link, which is never followed"),
    errno.EXDEV: (NotAllowed, "leads out of the shared folder, or to another filesystem"),
    errno.EACCES: (NotAllowed, "is not for hostd: permission denied"),
    errno.EPERM: (NotAllowed, "is not for hostd: not permitted"),
    errno.EBUSY: (Busy, "is in use on the host"),
    errno.ETXTBSY: (Busy, "is a program that runs on the host"),
    errno.EMFILE: (Busy, "cannot be opened: the host has too many files open"),
    errno.ENFILE: (Busy, "cannot be opened: the host has too many files open"),
}


def told(work: Callable[[], T], *paths: bytes) -> T:
    """Do *work*; what goes wrong is said of *paths*.  Raises HcallError, or OSError.

    An OSError is none of the guest's doing: where all calls end it becomes a status, and is logged.
    """
    try:
        return work()
    except OSError as error:
        if error.errno not in _SAID:
            raise
        kind, said = _SAID[error.errno]
        raise kind(f"{_either(paths)} {said}") from None
    except OverflowError:
        raise BadArgument(f"a number for {_either(paths)} is too large") from None


def _either(paths: Sequence[bytes]) -> str:
    return " or ".join(map(shown, filter(None, paths))) or "it"
