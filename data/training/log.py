"""The log of a run, log.csv: means since the last line, the transformer's loss by noise level."""
import csv
import math
from pathlib import Path

import torch
import torch.distributed as dist

from data.runtime.checkpoints import STAGES
from data.runtime.writing import cannot_write, replacing
from sora import InputError

LEVELS = [f"level_{i / 10:.1f}" for i in range(10)]                 # level_0.3: t / N from 0.3 to 0.4
COLUMNS = ["loss", "error", "kl", "grad_norm", *LEVELS]
HEAD = ["stage", "step", "seconds", *COLUMNS]


class Log:
    """Sums on the device, so that a step does not wait for a GPU; `write` makes a line of them."""

    def __init__(self, path, device):
        self.path = Path(path)
        self.sums = torch.zeros(2, len(COLUMNS), device=device)     # sums and counts

    def add(self, share, **values):
        """Adds a value, a tensor, of a share of a step to each of the columns named."""
        for name, value in values.items():
            column = COLUMNS.index(name)
            self.sums[0, column] += share * value.detach()
            self.sums[1, column] += share

    def add_levels(self, error, t, known):
        """Adds the error of each latent frame that is not known to the column of its level, t in [0,1]."""
        error, t, weight = error.detach().flatten(), t.flatten(), (~known).flatten().float()
        column = (t * 10).long().clamp(max=9) + COLUMNS.index(LEVELS[0])
        self.sums.index_add_(1, column, torch.stack([error * weight, weight]))

    def finite(self):
        """Whether all that was added since the last line is a finite number."""
        return bool(torch.isfinite(self.sums).all())

    def write(self, stage, step, seconds, main=True):
        """Appends a line, with columns empty to which nothing was added. Returns the mean loss.

        Of several processes all have to call it; the one that is `main` writes.
        """
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        total, count = self.sums.tolist()
        means = [f"{a / n:.6g}" if n else "" for a, n in zip(total, count)]
        if main:
            try:
                with self.path.open("a", newline="") as file:
                    csv.writer(file).writerow([stage, step, f"{seconds:.1f}", *means])
            except OSError as error:
                raise cannot_write(self.path, error) from None
        self.sums.zero_()
        return total[0] / count[0]

    def cut_back(self, stage, step):
        """Drops the lines after the checkpoint from which a run goes on; step 0: all lines."""
        kept, foreign = [], 0
        for line in self.lines():
            if not is_line(line):
                foreign += 1
            elif (STAGES.index(line[0]), int(line[1])) <= (STAGES.index(stage), step):
                kept.append(line)
        if foreign > 1:                                             # one: half a line, as a crash leaves it
            print(f"note: {foreign} lines of {self.path} are not from train.py; they are left out")
        with replacing(self.path, "w", newline="") as file:
            csv.writer(file).writerows([HEAD, *kept])

    def lines(self):
        """The lines of the file, without its head. InputError if it is no log."""
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="") as file:
                head, *lines = list(csv.reader(file)) or [HEAD]
        except (OSError, ValueError, csv.Error):                    # a folder; no text; no table
            head = None
        if head != HEAD:
            raise InputError(f"{self.path}: not a log of train.py; move it away, or choose another --out")
        return lines


def is_line(line):
    """Whether a line of a log is whole, and one of ours."""
    if len(line) != len(HEAD) or line[0] not in STAGES:
        return False
    try:
        return int(line[1]) >= 0 and all(math.isfinite(float(value or 0)) for value in line[2:])
    except ValueError:
        return False
