"""What the studies share: runs of train.py that go on where they were, numbers measured once, tables.

Each study is a module with a command of its own; README.md says what it asks. A flag that a study does not
know goes to train.py: `python3 -m data.studies.recipe --steps 100 --dim 96` compares smaller networks.
"""
import argparse
import csv
import json
import signal
import statistics
import zlib
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import train
from data.evaluation.judge import Judge, real_clips
from data.runtime import machine
from data.runtime.checkpoints import default_ckpt, load_checkpoint, load_models
from data.studies import plots
from sora import InputError

DEVICE = machine.default_device()
TABLES = Path(__file__).with_name("tables")


class Row(NamedTuple):
    """A line of a table: one number of one run, with its 95 % interval over clips."""
    run: str
    seed: int
    step: int
    metric: str
    value: float
    low: float
    high: float


class Study:
    """The command line of a study, its runs, and its rows."""

    def __init__(self, name, text, argv, steps, seeds=(0, 1, 2), n=128, shares_vae=True, flags=(), runs=()):
        """text: for --help; steps, seeds, n: the defaults; shares_vae: whether all runs take the VAE of
        --ckpt; flags: of train.py, for all runs; runs: labels for --only, the first of which always runs."""
        formatter = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(description=text, allow_abbrev=False, formatter_class=formatter,
                                         epilog="other flags: see train.py")
        add, numbers = parser.add_argument, " ".join(map(str, seeds))
        add("--steps", type=int, default=steps, help=f"training steps of a run ({steps})")
        add("--seeds", type=int, nargs="+", default=list(seeds), help=f"one run for each ({numbers})")
        add("--n", type=int, default=n, help=f"clips for each number ({n})")
        add("--out", default=f"out/studies/{name}", help=f"folder of the runs (out/studies/{name})")
        if runs:
            add("--only", nargs="+", choices=runs, default=list(runs), help=f"only these, beside {[*runs][0]}")
        if shares_vae:
            add("--ckpt", default=default_ckpt(), help="checkpoint whose VAE all runs take (as sample.py)")
        self.args, others = parser.parse_known_args(argv)
        if self.args.steps < 1 or self.args.n < 4:
            raise InputError(f"--steps {self.args.steps} --n {self.args.n}: expected 1 step or more, 4 clips")
        self.name, self.rows, self.one_judge = name, [], None
        self.flags = [*map(str, flags), *others]
        train.parse(self.flags)                                     # complains now, not after the first run
        self.take_vae, self.vae = [], "its own"
        plots.need_matplotlib()
        machine.use_device(DEVICE)
        if shares_vae:
            self.take_vae = ["--vae", self.args.ckpt]
            self.vae = fingerprint(load_checkpoint(self.args.ckpt)["vae"])

    def folder(self, label, seed):
        """Where a run is kept."""
        name = label.replace(" ", "-").replace(",", "")
        return Path(self.args.out) / f"{name}-steps{self.args.steps}-seed{seed}"

    def run(self, label, seed, flags, measure, trained_as=None):
        """Trains a run, measures it, once, and adds the rows.

        flags: what this run has of its own; measure(models) -> {metric: (value, low, high)}; trained_as:
        the label of the run whose weights to take, if it is another's."""
        folder, steps = self.folder(trained_as or label, seed), self.args.steps
        flags = [*self.flags, "--steps", steps, "--seed", seed, *flags]
        flags = [str(flag) for flag in flags]
        check_flags(folder, " ".join(flags) + f"\nVAE: {self.vae}\n")

        def work():
            print(f"{self.name}: {label}, seed {seed}")
            train_to_the_end(folder, self.take_vae + flags, steps)
            with machine.autocast(DEVICE):
                return measure(load_models(folder / "sora.pt", DEVICE))
        name = f"{self.folder(label, seed).name}-n{self.args.n}.json"
        self.add(label, seed, steps, once(folder / name, work))

    def add(self, label, seed, step, table):
        """Adds rows. table: {metric: (value, low, high)}."""
        self.rows += [Row(label, seed, step, metric, *cell) for metric, cell in table.items()]

    def add_held_out(self, label):
        """Adds rows of what real clips measure. label: of any run; all have the same clips."""
        def work():
            config = load_models(self.folder(label, self.args.seeds[0]) / "sora.pt").config
            return self.judge(config).measure(*real_clips(config, "heldout", self.args.n))
        self.add(plots.HELD_OUT, "", "", once(self.held_out_path(), work))

    def held_out_path(self):
        """Where the numbers of real clips are kept: they depend on the flags that all runs have."""
        return Path(self.args.out) / f"held-out-n{self.args.n}-{zlib.crc32(' '.join(self.flags).encode()):08x}.json"

    def judge(self, config):
        """The judge, made when it is first needed. All runs have the same clips, so there is one."""
        if self.one_judge is None:
            self.one_judge = Judge(config)
        return self.one_judge

    def runs(self):
        """The labels, in order, without the held-out clips."""
        return [run for run in dict.fromkeys(row.run for row in self.rows) if run != plots.HELD_OUT]

    def cells(self, run, metric):
        """(value, low, high) of a run, one for each seed."""
        return [row[4:] for row in self.rows if (row.run, row.metric) == (run, metric)]

    def finish(self, metrics):
        """Writes the table and prints some of its metrics: a line a run."""
        path = TABLES / f"{self.name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(Row._fields)
            csv.writer(file).writerows([*row[:4], *(f"{x:.6g}" for x in row[4:])] for row in self.rows)
        seeds = len(self.args.seeds)
        spread = f"mean +- deviation over {seeds} seeds" if seeds > 1 else "[95 % interval over clips]"
        print(f"\nafter {self.args.steps} steps; {spread}\n")
        print(f"| | {' | '.join(metrics)} |\n|---|{'---|' * len(metrics)}")
        for run in [*self.runs(), plots.HELD_OUT]:
            cells = [self.cells(run, metric) for metric in metrics]
            if any(cells):
                print(f"| {run} | {' | '.join(in_words(cell) if cell else '' for cell in cells)} |")
        print(f"\nwrote {path}")


def in_words(cells):
    """The mean of the seeds and their deviation; of a single one its interval."""
    values = [cell[0] for cell in cells]
    if len(values) == 1:
        return "{:.4g} [{:.4g}, {:.4g}]".format(*cells[0])
    return f"{statistics.mean(values):.4g} +- {statistics.stdev(values):.2g}"


def once(path, work):
    """What work() returns, a dict. It is kept in a file, and read from there the next time."""
    if not path.exists():
        table = work()
        path.with_suffix(".tmp").write_text(json.dumps(table))
        path.with_suffix(".tmp").replace(path)
    return json.loads(path.read_text())


def fingerprint(weights):
    """A number that tells one set of weights from another."""
    number = 0
    for name in sorted(weights):
        number = zlib.crc32(weights[name].cpu().numpy().tobytes(), number)
    return f"{number:08x}"


def check_flags(folder, text):
    """Notes with which flags a run was begun; InputError if it is there already, with others."""
    path = folder / "flags.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if path.read_text() != text:
        raise InputError(f"{folder}: was begun with other flags or another VAE (see {path.name} there): "
                         "delete the folder, or choose another --out")


def train_to_the_end(folder, flags, steps):
    """Trains a run, or what is left of it."""
    saved = folder / "sora.pt"
    if saved.exists():
        state = load_checkpoint(saved)
        if (state["stage"], state["step"]) == ("dit", steps):
            return
        flags = ["--resume", *[flag for flag in ("--compile", "--no-compile") if flag in flags]]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with patch.object(train, "finish", lambda run: None):      # pictures and a verdict that no table needs
            train.main(["--out", str(folder), *flags])
    finally:
        for number, handler in handlers.items():                    # train.py had its own
            signal.signal(number, handler)
