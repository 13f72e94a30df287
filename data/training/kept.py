"""The files of a run, and what becomes of them when --overwrite starts a new one in their place."""
import os
from contextlib import contextmanager
from pathlib import Path

# sora.pt first; what a new run does not write over, and --overwrite puts aside
FILES = ("sora.pt", "log.csv", "log.png", "growth.png", "preview.gif", "preview.png", "samples.gif", "samples.png")


def aside(path):
    """What a file of an old run is called until the run that takes its place has saved."""
    return path.with_name(f"{path.name}.old")


@contextmanager
def replacing_run(args):
    """A block that starts a run and saves it once. With --overwrite, the files that `set_aside` renames
    in it are lost at its end. If it fails, they come back; if it is killed, --resume finds no new run,
    and does not take the old one for it."""
    args.aside = []
    try:
        yield
        for file in args.aside:
            aside(file).unlink(missing_ok=True)
    except BaseException:
        for file in args.aside:
            if aside(file).exists():
                os.replace(aside(file), file)
        raise


def set_aside(args):
    """Renames the files of an old run, the checkpoint first, and lists them in args.aside."""
    args.aside = [Path(args.out) / name for name in FILES]
    if args.aside[0].exists():
        for file in args.aside:                                     # what was aside is older than this
            aside(file).unlink(missing_ok=True)
    for file in args.aside:
        if file.is_file():
            os.replace(file, aside(file))
