"""Bad input ends a script with exit code 2 and one line; a programming error keeps its traceback."""
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from sora import InputError


def run_script(main):
    """Runs a script's main(). What the user or the system's owner can mend is said in one line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:                              # closed by who has started us
            setattr(sys, name, open(os.devnull, "w"))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):                          # no name or caption can end a run:
            stream.reconfigure(errors="backslashreplace")           # what cannot be printed is \x.., \u....
    for name in ("SIGTERM", "SIGHUP"):                              # Windows has no SIGHUP, nohup ignores it
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL and "WORLD_SIZE" not in os.environ:
            signal.signal(number, terminate)                        # of several, one would wait for a barrier
    try:
        main()
        print(end="", flush=True)                                   # now: later a lost reader is a traceback
    except KeyboardInterrupt:
        end("stopped", 130)
    except InputError as error:
        end(error, 2)
    except BrokenPipeError:                                         # whoever read the output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except OSError as error:
        if error.errno is None:                                     # not from the system
            raise
        where = f"{error.filename}: " if error.filename else "its output: "
        end(f"{where}{error.strerror}", 2, own=True)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        end(f"out of memory ({str(error).partition(chr(10))[0][:80]}): make less at once, or smaller", 2, own=True)


@contextmanager
def undisturbed():
    """A block in which Ctrl-C is not obeyed before its end."""
    if threading.current_thread() is not threading.main_thread():   # others get no signals
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def terminate(number, _):
    """Ends the script as a request to end should: what is half written is removed."""
    sys.exit(128 + number)                                          # as a shell says it


def out_of_memory(error):
    """Whether Python, numpy, or torch on the CPU or a GPU could not get memory."""
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def end(line, code, own=False):
    """Ends the script with one line. Of several processes the first says it, unless each has its `own`."""
    rank = os.environ.get("RANK", "0")
    if own and rank != "0":
        line = f"process {rank}: {line}"
    if own or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
    sys.exit(code)
