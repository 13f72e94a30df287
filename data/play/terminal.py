"""A terminal to play in: keys as they are typed, and pictures of two pixels to a character."""
import os
import shutil
import sys
from contextlib import contextmanager

from sora import InputError

BEGIN = "\x1b[?1049h\x1b[?25l\x1b[2J"           # another screen, without a cursor
END = "\x1b[0m\x1b[?25h\x1b[?1049l"             # the screen as it was
HALVES = (" ", "▄", "▀", "█")


def check_terminal(height, width):
    """Raises InputError unless keys can be read, and pictures of height x width pixels be drawn."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        raise InputError("--play: expected a terminal, not a pipe, a file or TERM=dumb; without one, "
                         '--prompt "5 up, 5 left at 24" makes a clip')
    columns, lines = shutil.get_terminal_size()
    if columns < width or lines < height // 2 + 1:
        raise InputError(f"--play: this window has {lines} lines of {columns} characters; expected at least "
                         f"{height // 2 + 1} lines of {width}: enlarge it, or make its letters smaller")


@contextmanager
def keyboard():
    """Yields a function that returns what was typed since its last call. Leaves the terminal as it was."""
    if os.name == "nt":
        import msvcrt
        os.system("")                           # makes the console obey escape sequences

        def typed():
            text = ""
            while msvcrt.kbhit():
                text += msvcrt.getwch()
            return text
        yield typed
        return
    import select
    import termios
    import tty

    def typed():
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return os.read(sys.stdin.fileno(), 1024).decode(errors="ignore") if ready else ""

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)                # each key at once, without an echo; Ctrl-C still interrupts
        settings = termios.tcgetattr(sys.stdin)
        settings[6][termios.VSUSP] = bytes([os.fpathconf(sys.stdin.fileno(), "PC_VDISABLE")])
        termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)     # no Ctrl-Z: the shell would get our screen
        yield typed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)


def has_colour():
    """Whether the terminal says that it knows 24-bit colour, and nobody has said that none is wanted."""
    told = os.environ.get("COLORTERM") in ("truecolor", "24bit") or "WT_SESSION" in os.environ      # Windows'
    return told and not os.environ.get("NO_COLOR")


def picture(pixels, colour):
    """Pixels uint8 (H,W,3) -> text of H/2 lines of W characters. Without colour a pixel is bright or not."""
    lines = []
    for upper, lower in zip(pixels[0::2], pixels[1::2]):
        cells = []
        for a, b in zip(upper.tolist(), lower.tolist()):
            if colour:
                cells.append("\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*a, *b))
            else:
                cells.append(HALVES[2 * (max(a) > 127) + (max(b) > 127)])
        lines.append("".join(cells))
    ending = "\x1b[0m\n" if colour else "\n"
    return ending.join(lines) + ending
