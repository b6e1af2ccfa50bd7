"""One run folder, one process: a lock that the system drops by itself when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import platform
from contextlib import suppress
from pathlib import Path

from engine.errors import RunError


class FolderLock:
    """Holds `<folder>/.lock`.

    Raises:
        RunError: a live process holds it, or the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._file = (folder / ".lock").open("a+")
        except OSError as error:
            raise RunError(f"{folder}: cannot be locked ({error.strerror}); choose another --work_dir") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise RunError(
                f"{folder} is in use by {holder}; wait for it, stop it, or start another run with --name"
            ) from None
        except OSError:  # a file system without locks: better an unguarded run than none
            return
        with suppress(OSError):  # a full disk: the lock holds without the name of its holder
            os.truncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())

    def release(self) -> None:
        """Let others have the folder."""
        self._file.close()
