"""One writer: a file is replaced by a whole one or not at all, and a folder has one run at a time."""
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from sora import InputError


@contextmanager
def replacing(path, mode="wb", **how):
    """A file to write in place of `path`, which stays as it is until the new one is whole.

    mode, how: as for `open`. InputError if it cannot be written, with what is free on the disk.
    """
    part = Path(f"{path}.tmp")
    with putting_in_place(part, path), part.open(mode, **how) as file:
        yield file


@contextmanager
def putting_in_place(part, path):
    """A block that writes the file `part`; at its end that becomes `path`.

    If the block fails, `part` is removed, and `path` stays as it was. InputError if another process writes
    the same `part`: the file would be a mixture.
    """
    try:
        part.touch()
        with only_one(part):
            try:
                yield
                with part.open("rb+") as file:                      # on disk before it has the name:
                    os.fsync(file.fileno())                         # else a power cut could empty it
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__     # torch.save hides it
        if not isinstance(reason, OSError):
            raise
        raise cannot_write(path, reason) from None


def cannot_write(path, error):
    """The InputError for an OSError that came while `path` was written."""
    folder = Path(path).absolute().parent
    free = "there is no such folder"
    if folder.is_dir():
        free = f"{shutil.disk_usage(folder).free / 1e9:.3g} GB are free on its disk"
    reason = (error.strerror or str(error)).partition("\n")[0][:80]
    return InputError(f"{path}: cannot be written ({reason}; {free}); what was there before stands")


@contextmanager
def only_one(folder):
    """Holds a folder, or a file, for the block. The system lets go of it when the process ends, however it ends.

    InputError if another process holds it. Where that is not possible (some network disks; single files
    on Windows), nothing is held. Of several processes of one run (torchrun) the first holds it for all.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        handle = lock(folder)
    except (BlockingIOError, PermissionError):
        raise InputError(f"{folder}: another process is writing here; wait for it, or choose another "
                         "--out") from None
    except OSError:
        handle = None
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def lock(folder):
    """An open handle that holds the folder, or the file. OSError if it is held already."""
    if os.name == "nt":                                             # no folder can be opened there
        import msvcrt
        handle = os.open(Path(folder) / ".lock", os.O_RDWR | os.O_CREAT)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        return handle
    import fcntl
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def check_disk(what, path, needed):
    """Raises InputError if `needed` bytes are more than is free where `path` is to be. what: in words."""
    free = shutil.disk_usage(Path(path).absolute().parent).free
    if needed > free:
        raise InputError(f"{what}: that would take {needed / 1e9:.3g} GB of the disk, and "
                         f"{free / 1e9:.3g} GB are free; ask for less")
