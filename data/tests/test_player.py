"""The player: keys, pictures, and games in a real pseudo-terminal."""
import contextlib
import io
import os
import re
import select
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sample
from data.play import player, terminal
from data.play.player import newest_key, show
from data.runtime.checkpoints import load_models
from data.sampling.flags import parse
from data.tests.conftest import ROOT, complaint
from sora import InputError

ENV = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
ENV |= dict(TERM="xterm", COLORTERM="", NO_COLOR="")


# --- keys and pictures --------------------------------------------------------------------------------

@pytest.mark.parametrize("key,texts", [
    ("up", ["w", "W", "\x1b[A", "\x1bOA", "\xe0H", "\x00H", "sw"]),
    ("down", ["s", "S", "\x1b[B", "\x1bOB", "\xe0P", "\x00P", "\x1b[A\x1b[B"]),
    ("left", ["a", "A", "\x1b[D", "\x1bOD", "\xe0K", "\x00K", "a?", "a\x1b[Z", "da\n"]),
    ("right", ["d", "D", "\x1b[C", "\x1bOC", "\xe0M", "\x00M", "wwd", "\x1b[1;5C", "\x1b[Ad"]),
    ("glide", ["", "x", "\n", "\x1b", "\x1b[3~", "H", "1", "\xe0G"])])
def test_the_newest_key_counts(key, texts):
    for text in texts:
        assert newest_key(text) == key, f"typed {text!r}: expected {key}, got {newest_key(text)}"


def test_a_picture_is_its_pixels():
    """Read back from the text: each character is a pixel (colour of the text) and the one below (background)."""
    pixels = np.random.RandomState(0).randint(0, 256, (6, 5, 3), np.uint8)
    text = terminal.picture(pixels, colour=True)
    cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", text)
    read = np.array(cells, int).reshape(3, 5, 2, 3).swapaxes(1, 2).reshape(6, 5, 3)
    assert np.array_equal(read, pixels), "the colours in the text are not those of the pixels"
    assert text.count("\n") == text.count("\x1b[0m\n") == 3, "expected three lines that end without a colour"
    bright = np.array([[0, 200, 0, 255], [127, 0, 128, 255]], np.uint8)
    plain = terminal.picture(bright[..., None].repeat(3, axis=2), colour=False)
    assert plain == " ▀▄█\n", f"expected a dark, an upper, a lower and a full character, got {plain!r}"


@pytest.mark.parametrize("columns,lines,fits", [
    (32, 17, True), (200, 17, True), (31, 17, False), (32, 16, False)])
def test_a_picture_and_a_line_below_it_need_room(monkeypatch, columns, lines, fits):
    """32 x 32 pixels: 16 lines of 32 characters, and one that says what is pressed."""
    monkeypatch.setattr(terminal.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(terminal.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: (columns, lines))
    if fits:
        terminal.check_terminal(32, 32)
    else:
        with pytest.raises(InputError, match=f"{lines} lines of {columns} .* 17 lines of 32"):
            terminal.check_terminal(32, 32)


@pytest.mark.parametrize("env,colour", [
    (dict(COLORTERM="truecolor"), True),
    (dict(COLORTERM="24bit"), True),
    (dict(WT_SESSION="1"), True),
    (dict(COLORTERM="1"), False),
    (dict(COLORTERM="truecolor", NO_COLOR="1"), False),
    ({}, False)])
def test_colour_is_used_where_the_terminal_says_so(monkeypatch, env, colour):
    for name in ("COLORTERM", "NO_COLOR", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert terminal.has_colour() == colour, f"{env}: expected colour {colour}"


def test_keys_of_windows(monkeypatch):
    """Its console has no terminal to set: what is waiting is read key by key. (A stand-in for its module.)"""
    waiting = list("\xe0Hd")
    console = SimpleNamespace(kbhit=lambda: len(waiting) > 0, getwch=lambda: waiting.pop(0))
    with monkeypatch.context() as windows:
        windows.setitem(sys.modules, "msvcrt", console)
        windows.setattr(terminal.os, "name", "nt")
        with terminal.keyboard() as typed:
            text, more = typed(), typed()
    assert (text, more) == ("\xe0Hd", ""), f"expected what was typed, then nothing, got {text!r}, {more!r}"


def test_from_key_to_picture_in_eight_frames(monkeypatch):
    """From the frame after which a key is typed to the first made with it: 4 to 7, whenever it is typed."""
    monkeypatch.setattr(player.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(player, "check_terminal", lambda height, width: None)
    late = [frames_until_seen(monkeypatch, when) for when in range(8, 16)]
    assert late == [4, 7, 6, 5, 4, 7, 6, 5], (
        f"expected 4 to 7 frames: a key is read when three frames are left to make the next four; got {late}")


def frames_until_seen(monkeypatch, when):
    """Plays 40 frames; "d" is typed while the frame `when` is drawn. A frame made with it is bright."""
    drawn, waiting = [], []

    def step(caption):
        return torch.full((1, 1, 4, 8, 8), 1.0 if caption == "right" else -1.0)

    def typed():
        text = "".join(waiting)
        waiting.clear()
        return text

    def picture(pixels, colour):
        if len(drawn) == when:
            waiting.append("d")
        drawn.append(pixels.max())
        return ""

    monkeypatch.setattr(player, "picture", picture)
    with contextlib.redirect_stdout(io.StringIO()):
        show(SimpleNamespace(step=step), lambda key: key, typed, [], 40, fps=24)
    assert len(drawn) == 40 and drawn.count(255) == 4, (
        f"one press should act for four of 40 frames, got {drawn.count(255)} of {len(drawn)}")
    return drawn.index(255) - when


def test_a_window_made_smaller_ends_the_game_and_keeps_it(steered, monkeypatch, tmp_path, capsys):
    """What was played until then is in the file, and the screen is given back."""
    left = [None] * 6                                               # so often it is large enough

    def check(height, width):
        if not left:
            raise InputError("this window has become too small")
        left.pop()

    monkeypatch.setattr(player, "check_terminal", check)
    monkeypatch.setattr(player, "keyboard", lambda: contextlib.nullcontext(lambda: ""))
    flags = ["--play", "--prompt", "5", "--ckpt", steered, "--fps", "200", "--scale", "1"]
    args = parse("", [*flags, "--out", str(tmp_path / "game.npy")])
    with torch.no_grad(), pytest.raises(InputError, match="too small"):
        player.play(load_models(steered), args)
    assert len(np.load(tmp_path / "game.npy")) == 24, "expected the 6 x 4 frames until then"
    assert terminal.END in capsys.readouterr().out, "the screen was not given back"


def test_the_screen_is_given_back_before_anything_is_said(steered, monkeypatch):
    """Else the complaint is written to the player's screen, and goes with it."""
    events = []

    class Screen(io.StringIO):
        def write(self, text):
            events.append(text)

        def flush(self):
            events.append("flush")

    def check(height, width):
        if terminal.BEGIN in events:
            raise InputError("this window has become too small")

    monkeypatch.setattr(player, "check_terminal", check)
    monkeypatch.setattr(player, "keyboard", lambda: contextlib.nullcontext(lambda: ""))
    args = parse("", ["--play", "--prompt", "5", "--ckpt", str(steered), "--fps", "200"])
    with torch.no_grad(), contextlib.redirect_stdout(Screen()), pytest.raises(InputError):
        player.play(load_models(steered), args)
    after = events[events.index(terminal.END):]
    assert "flush" in after, f"expected the old screen at once, got {after} after the end"


# --- in a pseudo-terminal -----------------------------------------------------------------------------

def in_terminal(flags, typing, columns=80, lines=24, **env):
    """Runs sample.py --play in a terminal of its own. typing: [(after how many pictures, keys)].

    Returns its exit code, all that it wrote, and whether the terminal's settings are as before."""
    pty, termios, fcntl = (pytest.importorskip(name) for name in ("pty", "termios", "fcntl"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    before = termios.tcgetattr(theirs)

    def take_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)                        # so that Ctrl-C comes as a signal
    command = [sys.executable, str(ROOT / "sample.py"), "--play", "--device", "cpu", *map(str, flags)]
    environment = {name: value for name, value in dict(ENV, **env).items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT,
                               env=environment, preexec_fn=take_terminal)
    said, typing, deadline = b"", list(typing), time.monotonic() + 100
    try:
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            ready, _, _ = select.select([ours], [], [], 0.05)
            if ready:
                said += os.read(ours, 65536)
            elif ended:
                break
            if typing and said.count(b"\x1b[H") >= typing[0][0]:
                os.write(ours, typing.pop(0)[1])
    finally:
        process.kill()
        process.wait()
    same_settings = termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
    return process.returncode, said.decode(), same_settings


def test_playing_in_a_terminal(steered, tmp_path):
    """Keys in, frames out, a recording of what was shown, and the terminal as it was."""
    flags = ["--ckpt", steered, "--prompt", "5", "--out", tmp_path / "game.npy", "--scale", 1]
    ignored = b"\x1a\x1bOQ"                                         # Ctrl-Z, which would stop it, and F2
    typing = [(24, b"\x1b[C"), (30, ignored), (36, b"w"), (48, b"q")]
    code, said, as_before = in_terminal(flags, typing, COLORTERM="truecolor")
    assert code == 0 and as_before, f"exit code {code}, settings as before: {as_before}: {said[-300:]!r}"
    assert said.startswith(terminal.BEGIN) and terminal.END in said, "expected another screen, and the old one"
    frames = said.partition(terminal.END)[0].split("\x1b[H")[1:]
    status = [re.search(r"(\w+) +arrows steer", frame)[1] for frame in frames]
    assert status.count("right") == status.count("up") == 4, f"expected each key four times, got {status}"
    recorded = np.load(tmp_path / "game.npy")
    assert 48 <= len(frames) <= len(recorded) <= len(frames) + 4 and recorded.shape[1:] == (32, 32, 3), (
        f"{len(frames)} pictures were drawn; recorded {recorded.shape}")
    for number in (0, 20, len(frames) - 1):
        cells = re.findall(r"\x1b\[38;2;(\d+);\d+;\d+;48;2;(\d+);\d+;\d+m▀", frames[number])
        drawn = np.array(cells, int).reshape(16, 32, 2).swapaxes(1, 2).reshape(32, 32)
        assert np.array_equal(drawn, recorded[number, :, :, 0]), f"picture {number} is not what was recorded"
    count = rf"{len(recorded)} frames, \d+\.\d a second"
    assert re.search(count, said), f"expected {count!r} at the end, got {said[-200:]!r}"
    assert (tmp_path / "game.png").exists(), "no contact sheet of the recording"


def test_ctrl_c_without_colour(steered):
    """It ends the game and leaves the terminal as it was; without colour no colours are sent."""
    code, said, as_before = in_terminal(["--ckpt", steered, "--prompt", "5"], [(20, b"\x03")])
    assert code == 0 and as_before, f"exit code {code}, settings as before: {as_before}: {said[-300:]!r}"
    assert terminal.END in said and "Traceback" not in said, f"expected the old screen, got {said[-300:]!r}"
    assert "38;2" not in said, "colours were sent to a terminal that knows none"
    assert re.search("[▄▀█]", said), "expected bright pixels as halves of characters"


def test_a_window_too_small(steered):
    code, said, as_before = in_terminal(["--ckpt", steered, "--prompt", "5"], [], columns=31)
    assert code == 2 and as_before and len(said.splitlines()) == 1, f"exit code {code}: {said!r}"
    assert "24 lines of 31 characters; expected at least 17 lines of 32" in said, f"got {said!r}"


def test_playing_needs_a_terminal_keys_and_a_prompt(steered, trained, capsys, monkeypatch, tmp_path):
    said = complaint(capsys, sample.main, "--play", "--prompt", 5, "--ckpt", steered)
    assert "expected a terminal, not a pipe" in said, f"in a pipe: got {said!r}"
    tty = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(terminal.sys, "stdin", tty)
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: True, raising=False)
    for flags, words in (
            (["--prompt", 5, "--ckpt", trained / "sora.pt"], "knows no keys.*--preset steered"),
            (["--ckpt", steered], "expected --prompt"),
            (["--prompt", "x", "--ckpt", steered], "'x' is not known"),
            (["--prompt", 5, "--ckpt", steered, "--out", tmp_path / "x.avi"], "x.avi")):
        said = complaint(capsys, sample.main, "--play", *flags)
        assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"
    ignored = parse("", ["--play", "--n", "2", "--window", "8", "--no-anchor", "--steps", "3"]).ignored
    assert ignored == ["--n", "--window", "--anchor"], f"expected a note on these flags, got {ignored}"
    monkeypatch.setenv("TERM", "dumb")
    assert "TERM=dumb" in complaint(capsys, sample.main, "--play", "--prompt", 5, "--ckpt", steered)
