"""What differs between two scores, clip by clip: paired differences of two .score.json files.

    python3 -m data.evaluation.compare A.score.json B.score.json

Rows of clips are compared if both scores have the same number of clips, the same seed and the same
captions. Then each sample of A has a sample of B with its caption and noise, and each copy one of
the same clip. Rows of real clips are the same clips, so only the loss can differ there.
"""
import json

import torch

from data.evaluation.intervals import difference
from data.evaluation.tables import as_text
from data.runtime.arguments import Parser
from data.runtime.errors import run_script
from sora import InputError

KEYS = ("n", "seed", "data", "values", "captions")


def read(path):
    """A score as `score` wrote it."""
    try:
        with open(path) as file:
            table = json.load(file)
        missing = [key for key in KEYS if key not in table]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a score ({type(error).__name__}); expected a .score.json that "
                         "`python3 sample.py --score` wrote") from None
    if missing:
        raise InputError(f"{path}: a score without {', '.join(missing)}: score the checkpoint again")
    return table


def paired(a, b):
    """What two scores share: (row, metric, mean of A, mean of B, (difference, low, high)) each."""
    if (a["n"], a["seed"]) != (b["n"], b["seed"]):
        raise InputError(f"{a['n']} clips of seed {a['seed']} against {b['n']} of seed {b['seed']}: "
                         "expected two scores with the same --n and --seed")
    if a["data"] != b["data"]:
        raise InputError("the scores are of different clips: expected the same size, length, digits and folder")
    rows = []
    for name in a["values"]:
        if name not in b["values"] or a["captions"][name] != b["captions"][name]:
            continue
        for metric in a["values"][name]:
            if metric in b["values"][name]:
                x, y = numbers(a["values"][name][metric]), numbers(b["values"][name][metric])
                rows.append((name, metric, x.nanmean().item(), y.nanmean().item(), difference(x, y)))
    if not rows:
        raise InputError("the scores share no clips: expected models of the same data set")
    return rows


def numbers(values):
    """The values of clips as .json has them: (n,), nan where a clip does not count."""
    return torch.tensor([float("nan") if x is None else x for x in values], dtype=torch.float64)


def main(argv=None):
    """Prints the differences, and leaves out what is equal in every clip."""
    parser = Parser(__doc__)
    parser.add_argument("a", metavar="A", help="a .score.json")
    parser.add_argument("b", metavar="B", help="another")
    args = parser.parse_args(argv)
    a, b = read(args.a), read(args.b)
    rows = paired(a, b)
    print(f"{a['n']} clips each; differences with 95 % bootstrap intervals, * where 0 is outside\n")
    print(f"{'':36}{'A':>12}{'B':>12}{'A - B':>30}")
    for name, metric, x, y, cell in rows:
        if cell == (0, 0, 0) or cell[0] != cell[0]:                 # equal, or no clip counts
            continue
        clear = "*" if cell[1] > 0 or cell[2] < 0 else ""
        print(f"{name + ': ' + metric:36}{x:12.4f}{y:12.4f}{as_text(cell, 4):>30} {clear}")


if __name__ == "__main__":
    run_script(main)
