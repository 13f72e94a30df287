"""The ten-minute board: an entry is trained and sampled by its own code, and measured by ours.

    python3 -m data.course board DIR --name "my idea" --json ../copy/open/recipe.json

The rule: 2 cores, a limit of minutes for `python3 train.py` as it stands, three seeds, one file changed.
Training starts from random weights, so an entry runs in a copy without those that come along.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from data.course.blanks import PACKED, ROOT
from data.evaluation.judge import Judge
from data.runtime import machine
from data.runtime.config import ClipConfig
from sora import InputError

KINDS = (".py", ".pt", ".npz")                                      # of files that count
SAMPLER = Path(__file__).with_name("board_sampler.py")


def add_arguments(parser):
    """What the command takes."""
    add = parser.add_argument
    add("--name", help="of the entry (the folder's)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each (0 1 2)")
    add("--minutes", type=float, default=12, help="the limit of a run, pictures and verdict included (12)")
    add("--n", type=int, default=26, help="samples of each digit (26)")
    add("--json", help="file to write the numbers to")
    add("--baseline", help="such a file of the baseline, to be written along")


def board(args):
    """Checks an entry, trains and measures it, prints its row."""
    if args.n < 2:
        raise InputError(f"--n {args.n}: expected 2 or more samples of each digit: one has no variety")
    folder, numbers = Path(args.dir).resolve(), []
    file = changed_file(folder)
    baseline = read_baseline(args.baseline)
    with tempfile.TemporaryDirectory() as temporary:
        entry = copy_without_weights(folder, Path(temporary) / "entry")
        for seed in args.seeds:
            numbers.append(one_seed(entry, seed, args))
            said = ", ".join(f"{name} {value:.3f}" for name, value in numbers[-1].items())
            print(f"seed {seed}: {said}", flush=True)
    print("\n| entry | changed | machine | minutes | legibility | Frechet distance "
          "|\n|---|---|---|---|---|---|")
    print(row(args.name or folder.name, file, numbers))
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        table = {"entry": args.name or folder.name, "changed": file, "baseline": baseline,
                 "frechet": [each["frechet"] for each in numbers], "seeds": numbers}
        Path(args.json).write_text(json.dumps(table, indent=1))


def read_baseline(path):
    """The baseline's Frechet distances; none: an empty list."""
    if not path:
        return []
    try:
        return json.loads(Path(path).read_text())["frechet"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--baseline {path}: not a file that --json wrote "
                         f"({type(error).__name__})") from None


def files_of(folder):
    """{name: content} of the files that count."""
    paths = [path for path in Path(folder).rglob("*") if path.suffix in KINDS and path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if counts(name)}


def counts(name):
    """Whether a file can change an entry: not tests, the course's own, or what is beside the code."""
    if is_beside(name.split("/")[0]) or name == "test_sora.py":
        return False
    return not name.startswith(("data/tests/", "data/course/"))


def is_beside(name):
    """Whether a file or folder at the top is none of the code: runs of training, open parts, packages."""
    return name.startswith((".", "out")) or name in ("open", "venv")


def copy_without_weights(folder, new):
    """Copies an entry's code to a new folder, but not the weights that come along."""
    def ignored(path, names):
        if Path(path) == folder:
            return [name for name in names if is_beside(name)]
        if Path(path) == folder / "data" / "weights":
            return [name for name in names if name.endswith(".pt")]
        return []
    shutil.copytree(folder, new, ignore=ignored)
    return new


def changed_file(folder):
    """The one file in which an entry differs from this repository; "" for the baseline."""
    if PACKED.exists():
        raise InputError("board: this is a student's copy, whose sora.py has blanks: run it in the "
                         "repository itself")
    if not (folder / "train.py").is_file():
        raise InputError(f"{folder}: no train.py; expected a copy of this repository with one file changed")
    theirs, ours = files_of(folder), files_of(ROOT)
    changed = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if len(changed) > 1:
        raise InputError(f"{folder}: {len(changed)} files differ ({', '.join(changed[:5])}): expected one")
    return changed[0] if changed else ""


def one_seed(folder, seed, args):
    """Trains and samples in the entry's folder, measures here: {minutes, legibility, frechet, variety}."""
    with tempfile.TemporaryDirectory() as out:
        begin = time.monotonic()
        run(folder, args.minutes, "train.py", "--seed", seed, "--out", out)
        minutes = (time.monotonic() - begin) / 60
        path = Path(out) / "clips.pt"
        run(folder, args.minutes, SAMPLER, Path(out) / "sora.pt", args.n, path)
        made = torch.load(path, weights_only=True)
    numbers = measure(made["clips"].float() / 127.5 - 1, made["caption"])
    return {"minutes": minutes} | numbers


def measure(video, caption):
    """The frozen evaluator: clips of 16 frames of 32x32, whoever made them."""
    expected = (1, 16, 32, 32)
    if tuple(video.shape[1:]) != expected:
        raise InputError(f"the entry's clips are {tuple(video.shape[1:])}: expected {expected}")
    cells = Judge(ClipConfig()).measure(video, caption)
    return {metric: cells[metric][0] for metric in ("legibility", "frechet", "variety")}


def run(folder, minutes, *command):
    """Runs a script of an entry on two cores. InputError if it fails or takes longer."""
    environment = dict(os.environ, OMP_NUM_THREADS="2", PYTHONPATH=str(folder))
    names = [str(part) for part in command]
    cores, limit = two_cores(), 60 * minutes
    try:
        subprocess.run([sys.executable, *names], cwd=folder, env=environment, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise InputError(f"{names[0]}: not done after {minutes:g} minutes, the limit") from None
    except subprocess.CalledProcessError as error:
        raise InputError(f"{names[0]}: ended with code {error.returncode}; see above") from None
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


def two_cores():
    """Keeps this process, and those it starts, on two cores; returns those it had. Linux only."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:2]))
    return before


def row(name, file, numbers):
    """The entry's line in the table: means over seeds and their deviations."""
    cells = []
    for metric, places in (("minutes", 1), ("legibility", 3), ("frechet", 1)):
        values = [each[metric] for each in numbers]
        text = f"{statistics.mean(values):.{places}f}"
        if len(values) > 1:
            text += f" +- {statistics.stdev(values):.{places}f}"
        cells.append(text)
    kind = "bfloat16" if machine.has_bfloat16("cpu") else "float32"
    return f"| {name} | {file or 'nothing'} | 2 cores, {kind} | {' | '.join(cells)} |"
