"""Grades a copy, part by part. Each part is put into the complete sora.py, so no part needs another.

A part runs in a process of its own with a time limit: what it breaks, prints or never ends is its own.
"""
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from data.course import (grade_diffusion, grade_muon, grade_patches, grade_sampling, grade_steps,
                         grade_training, grade_transformer)
from data.course.blanks import fill, find, module_of, pieces
from data.course.checks import Missed
from data.course.parts import PARTS

GRADERS = (grade_patches, grade_transformer, grade_diffusion, grade_steps, grade_sampling, grade_training,
           grade_muon)
CHECKS = {part: checks for grader in GRADERS for part, checks in grader.CHECKS.items()}
LIMIT = 20                                                          # seconds a part may take
MOST_PRINTED = 10 ** 7                                              # bytes; more is a loop without end


class Grade(NamedTuple):
    """Points of a part, of how many, and a reason for each check that was missed."""
    points: float
    most: int
    reasons: list


def check_part(text, part):
    """A complete text of sora.py against a part's checks, here and now: a reason for each, None if passed."""
    try:
        module = module_of(text)
    except Exception as error:
        return [f"sora.py does not import with this part: {said_by(error, text, part)}"] * len(CHECKS[part])
    whole = sys.modules.get("sora", module)
    sys.modules["sora"] = module                                    # `import sora` finds the student's, not ours
    try:
        return [reason_of(check, module, text, part) for check in CHECKS[part]]
    finally:
        sys.modules["sora"] = whole


def reason_of(check, module, text, part):
    """Why a check is missed, in one line; None if it is passed."""
    torch.manual_seed(0)
    try:
        check(module)
    except Missed as missed:
        return str(missed)
    except NotImplementedError as error:
        reason = str(error)
        for piece in pieces(text, part):
            if "raise NotImplementedError" in piece and "\n" in piece.strip():
                return f"{reason} (written? delete the line `raise NotImplementedError` above your code)"
        return reason
    except (Exception, SystemExit) as error:
        return said_by(error, text, part)
    finally:
        changed = torch.get_default_dtype() != torch.float32 or not torch.is_grad_enabled()
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    if changed:
        return ("torch's global settings were changed (default dtype, or gradients switched off): expected "
                "them as they were")
    return None


def said_by(error, text, part):
    """An exception in one line, with the last line of the part that it went through. What lies deeper
    is not shown: it may be the solution of another part."""
    reason = str(error).strip().split("\n")[0]
    name, lines = type(error).__name__, text.split("\n")
    if isinstance(error, SyntaxError):
        line = lines[error.lineno - 1] if error.lineno else ""      # error.text is read from another file
        return f"{name}: {error.msg}, at `{line.strip()}`"
    own = {i for first, end in find(text)[part] for i in range(first, end)}
    steps = [step.lineno - 1 for step in traceback.extract_tb(error.__traceback__)
             if step.filename == "sora.py" and step.lineno - 1 in own]
    if not steps:                                                   # raised by whoever called the part
        return f"{name}: {reason}. Your code returned what its caller cannot use: is there a `return`?"
    return f"{name}: {reason}, at `{lines[steps[-1]].strip()}`"


def grade_part(student, staff, part, limit=LIMIT):
    """The grade of one part of a student's text of sora.py, in a process of its own."""
    most, expected, found = PARTS[part].points, len(find(staff)[part]), pieces(student, part)
    if len(found) != expected:
        return Grade(0, most, [f"expected {expected} places between `# >>> part {part}` and `# <<<`, "
                               f"found {len(found)}: put the marks back (as in a fresh copy)"])
    text = fill(staff, part, found)
    reasons, problem, printed = in_process(check_part, (text, part), limit)
    reasons = reasons or [problem]
    passed = reasons.count(None)
    missed = list(dict.fromkeys(reason for reason in reasons if reason))        # each once, in order
    if missed and printed:
        missed.append(f"(your code printed {printed})")
    return Grade(most * passed / len(reasons), most, missed)


def in_process(function, args, limit):
    """function(*args) in another process: (what it returns or None, what went wrong, what was printed)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        context = multiprocessing.get_context(start_method())
        process = context.Process(target=work, args=(function, args, str(path)))
        process.start()
        try:
            stopped = wait(process, path / "printed", limit)
        finally:                                                    # also after Ctrl-C: it may loop for ever
            process.kill()
            process.join()
        printed = ends_of(path / "printed")
        if stopped:
            why = "is there a loop without end, or a generator without `yield`?"
            return None, f"stopped after {stopped}: {why}", printed
        if not (path / "result.json").exists():
            return None, f"the process ended (code {process.exitcode}) before the checks did", printed
        return json.loads((path / "result.json").read_text()), "", printed


def wait(process, printed, limit):
    """Waits until a process ends. If it takes too long, or prints too much, returns how much; else ""."""
    end = time.monotonic() + limit
    while process.is_alive():
        if time.monotonic() > end:
            return f"{limit:g} seconds"
        if printed.exists() and printed.stat().st_size > MOST_PRINTED:
            return f"it had printed {MOST_PRINTED / 1e6:g} MB"
        process.join(0.1)
    return ""


def start_method():
    """A server that has imported torch once and forks; Windows has none and starts anew for each part."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(["data.course.grading"])
    return "forkserver"


def work(function, args, folder):
    """In the other process: calls, and writes the result. What is printed goes to a file."""
    path = Path(folder)
    file = (path / "printed").open("w", encoding="utf-8", errors="replace", buffering=1)
    sys.stdout = sys.stderr = file                                  # to the end: tracebacks too
    torch.set_num_threads(1)
    result = function(*args)
    (path / "half").write_text(json.dumps(result))
    os.replace(path / "half", path / "result.json")


def ends_of(path, size=4000):
    """The first and last five lines of a file, each cut short, in one line; "" if nothing is in it. Of a long
    file only its ends are read, `size` bytes each."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        data = file.read(2 * size)
        length = path.stat().st_size
        if length > len(data):
            file.seek(length - size)
            data = data[:size] + b"\n" + file.read(size)
    lines = [line[:80] for line in data.decode(errors="replace").strip().splitlines()]
    if len(lines) > 10:
        lines = [*lines[:5], "...", *lines[-5:]]
    return repr(" | ".join(lines)) if lines else ""
