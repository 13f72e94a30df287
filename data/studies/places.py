"""What captions must say: samples of one checkpoint, told more and more about where things are.

    python3 -m data.studies.places --ckpt data/weights/small.pt

The checkpoint is of a run with --placed, which has practised all of this. A row for each number of latent frames
whose captions have places, from none to a window. "twice": of the frames for which two different digits are asked,
the share in which one of them is read twice; "both" are read in another. Writes places.csv to tables.
"""
import csv

import torch

from data.clips.files import make_folder
from data.clips.places import digits_of
from data.evaluation.intervals import share
from data.evaluation.judge import Judge, check_measurable, real_clips
from data.evaluation.score import sample_clips
from data.evaluation.tables import show
from data.runtime import machine
from data.runtime.arguments import Parser
from data.runtime.checkpoints import default_ckpt, load_models
from data.runtime.errors import run_script
from data.sampling.prompt import why_no_places
from data.studies import study
from sora import PLACE, TIME, InputError


def told(caption, frames):
    """Captions (n,F,D) with the places of the first `frames` latent frames only."""
    index = torch.arange(caption.shape[1], device=caption.device)[:, None]
    return torch.where(index < frames, caption, caption % PLACE)


def twins(readings, words):
    """Of clips (n,T,2) that were to show two different digits (n,2): in which frames both are read, and in which
    one of them twice, (n',T) each."""
    asked = (words - 1).sort(dim=1).values[:, None]                 # word id 1 is digit 0
    different = asked[:, 0, 0] != asked[:, 0, 1]
    both = (readings == asked).all(-1)
    twice = (readings[..., 0] == readings[..., 1]) & (readings[..., :1] == asked).any(-1)
    return both[different].float(), twice[different].float()


def measure(models, judge, n, frames, seed=0, **sampling):
    """What is read in n samples whose captions have places in `frames` latent frames: {metric: cell}."""
    config, vae, dit, process, _ = models
    caption = real_clips(config, "train", n, seed=seed + 1)[1]
    on_device = told(caption, frames).to(vae.mean.device)
    video = sample_clips(dit, vae, process, config, on_device, seed, progress=True, **sampling)
    numbers = judge.measure(video, caption)
    both, twice = twins(judge.readings(video), digits_of(caption, 2))
    return {metric: numbers[metric] for metric in ("legibility", "frechet")} | {
        "both": share(both.mean(1)), "twice": share(twice.mean(1))}


def main(argv=None):
    """Measures, prints and writes."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--ckpt", default=default_ckpt(), help="checkpoint (out/sora.pt, else the weights that come along)")
    add("--n", type=int, default=128, help="samples of each row (128)")
    add("--seed", type=int, default=0, help="of captions and noise (0)")
    add("--steps", type=int, help="denoising steps (as in the config)")
    args = parser.parse_args(argv)
    if not 4 <= args.n <= 100_000 or not 0 <= args.seed < 2 ** 60 or args.steps is not None and args.steps < 1:
        raise InputError(f"--n {args.n} --seed {args.seed} --steps {args.steps}: expected 4 to 100,000 samples, a seed "
                         "from 0 to 2^60 and at least 1 step")
    path = study.TABLES / "places.csv"
    make_folder(path.parent)                                        # refused now, not after the sampling
    machine.use_device(study.DEVICE)
    models = load_models(args.ckpt, study.DEVICE)
    config = models.config
    check_measurable(args.ckpt, config)
    if config.digits != 2 or why_no_places(config, (config.height, config.width)):
        raise InputError(f"{args.ckpt}: {config.digits} digits, placed {config.placed}: expected a run with --digits 2 "
                         "--placed 0.9")
    judge, rows = Judge(config), {}
    sampling = {"steps": args.steps} if args.steps else {}
    with machine.autocast(study.DEVICE):
        for frames in range(config.frames // TIME + 1):
            name = f"{frames} with places" if frames else "words only"
            rows[name] = measure(models, judge, args.n, frames, args.seed, **sampling)
            print(name, {metric: round(cell[0], 3) for metric, cell in rows[name].items()}, flush=True)
    show("latent frames", rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(["told", "metric", "value", "low", "high"])
        for name, row in rows.items():
            for metric, cell in row.items():
                csv.writer(file).writerow([name, metric, *(f"{x:.4g}" for x in cell)])
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
