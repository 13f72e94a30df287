"""Kills training at random, again and again, and checks that nothing is lost.

    python3 -m data.studies.kills --n 50        fifty SIGKILLs; on quiet cores about five minutes

A run is started, killed, resumed, killed again, and at last left to its end. Then its checkpoint and
its log have to be those of a run that was never killed, bit for bit (but for the clock). Half of the
kills come at a random time, half at the places where a fault would hurt: see `PLACES`. After each kill,
what is on disk has to be a whole checkpoint.
"""
import data  # first of all: it sets how the threads of torch wait

import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import train
from data.runtime import writing
from data.runtime.arguments import Parser
from data.runtime.checkpoints import load_checkpoint
from data.runtime.errors import run_script
from data.training import report
from data.training.log import Log
from sora import InputError

FLAGS = ("--vae-width 8 --dim 48 --depth 2 --heads 2 --latent-channels 4 --batch 2 --vae-batch 2 "
         "--sample-steps 2 --vae-steps 60 --steps 90 --log-every 2 --save-every 7 --device cpu").split()
PLACES = ("before a line of the log", "within a line of the log", "after a line of the log",
          "within a checkpoint", "before its renaming", "after its renaming")
RANDOM = "at a random time"
KILLS = 10                                                          # of one run


# --- the victim: train.py that kills itself at a place ---------------------------------------------------

def die():
    """As `kill -9` and the kernel's out-of-memory killer do it."""
    os.kill(os.getpid(), signal.SIGKILL)


def plant(place, at):
    """Makes this process die when it comes to a place for the `at`-th time."""
    visits = {"log": 0, "save": 0}
    write_line, save, rename = Log.write, torch.save, os.replace

    def logging(log, *args):
        visits["log"] += 1
        last = visits["log"] == at
        if last and place == "before a line of the log":
            die()
        before = log.path.stat().st_size
        loss = write_line(log, *args)
        if last and place == "within a line of the log":
            os.truncate(log.path, (before + log.path.stat().st_size) // 2)
        if last and place in ("within a line of the log", "after a line of the log"):
            die()
        return loss

    def saving(state, file):
        visits["save"] += 1
        if visits["save"] == at and place == "within a checkpoint":
            file.write(b"half a checkpoint")
            file.flush()
            die()
        save(state, file)

    def renaming(part, path):
        last = Path(path).name == "sora.pt" and visits["save"] == at
        if last and place == "before its renaming":
            die()
        rename(part, path)
        if last and place == "after its renaming":
            die()
    Log.write, torch.save, writing.os.replace = logging, saving, renaming


def nothing(*_, **__):
    """In the place of pictures and reports, which take longer than the training of a miniature."""


def victim(place, at, *flags):
    """train.py with a place to die at, which may be none."""
    train.preview, train.finish, report.begin = nothing, nothing, nothing
    if place in PLACES:
        plant(place, int(at))
    train.main(list(flags))


# --- the hunter ---------------------------------------------------------------------------------------

def started(out, place="", at=0):
    """A run in a process of its own: begun, or gone on with."""
    flags = ["--resume", "--device", "cpu"] if (out / "sora.pt").exists() else FLAGS
    command = [sys.executable, "-m", "data.studies.kills", "--victim", place, str(at), *flags,
               "--out", str(out)]
    return subprocess.Popen(command, cwd=Path(train.__file__).parent, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def ended(process):
    """The exit code of a process. Anything but an end and a kill is an error, which is shown."""
    said = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        raise InputError(f"a run ended with {process.returncode} by itself: {said[-2000:]}")
    return process.returncode


def hunt(out, kills, span, draw):
    """A run that is killed up to `kills` times, then left to its end. Returns where it was killed.

    span: seconds that it takes in all; draw: random.Random."""
    places = []
    while len(places) < kills:
        place = draw.choice([RANDOM] * len(PLACES) + list(PLACES))
        process = started(out, place, draw.randint(1, 5))
        if place == RANDOM:
            time.sleep(draw.uniform(0, span))
            process.kill()
        if ended(process) == 0:                                     # it came to its end before
            return places
        if (out / "sora.pt").exists():
            load_checkpoint(out / "sora.pt")                        # InputError unless it is whole
        places.append(place)
    ended(started(out))
    return places


def differences(one, two):
    """What is not the same, bit for bit, in two runs: names of parts of the checkpoint, or the log."""
    states = [load_checkpoint(out / "sora.pt") for out in (one, two)]
    found = [name for name in states[0] if name not in ("seconds", "command")
             and not same(states[0][name], states[1].get(name))]
    logs = []
    for out in (one, two):
        with (out / "log.csv").open(newline="") as file:
            logs.append([line[:2] + line[3:] for line in csv.reader(file)])     # all but the seconds
    return found if logs[0] == logs[1] else [*found, "log.csv"]


def same(a, b):
    """Whether two trees of tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


def run(folder, n, seed=0):
    """Hunts runs until there were n kills. Returns a list of (places, differences), one for each run."""
    begun = time.monotonic()
    ended(started(folder / "whole"))
    span = time.monotonic() - begun
    results, left, tries = [], n, 0
    while left > 0:
        out = folder / f"run{tries}"                                # anew, also after one without a kill
        places = hunt(out, min(left, KILLS), span, random.Random(seed + tries))
        tries += 1
        found = differences(folder / "whole", out)
        print(f"killed {len(places)} times ({'; '.join(places)}): {', '.join(found) or 'no difference'}",
              flush=True)
        if places:                                                  # else it came to its end before
            results.append((places, found))
        left -= len(places)
    return results


def main(argv=None):
    """Prints a line for each run, and how many were the same."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--victim"]:
        return victim(*argv[1:])
    parser = Parser(__doc__)
    parser.add_argument("--n", type=int, default=50, help="kills in all (50)")
    parser.add_argument("--seed", type=int, default=0, help="of when and where (0)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder), args.n, args.seed)
    kills = sum(len(places) for places, _ in results)
    equal = sum(not found for _, found in results)
    print(f"{kills} kills in {len(results)} runs; {equal} of {len(results)} runs ended as one that was never "
          "killed, bit for bit; every checkpoint in between was whole")
    if equal < len(results):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
