"""Does a digit become another when its prompt changes on the way, as in `--prompt "3, 8 at 60"`?

    python3 -m data.evaluation.change --ckpt out/sora.pt

makes long videos whose caption changes from one digit to another, with an anchor and with a plain window,
and reads them before and after. README.md beside this file says what the numbers mean.
"""
import torch
from tqdm import tqdm

from data.evaluation.intervals import share
from data.evaluation.judge import Judge, check_measurable
from data.evaluation.referee import legible
from data.evaluation.score import blank_latent, noise_of
from data.evaluation.tables import show
from data.runtime.arguments import Parser
from data.runtime.checkpoints import default_ckpt, load_models
from data.runtime.config import window_of
from data.runtime.errors import run_script
from data.runtime.machine import autocast, default_device, use_device
from sora import TIME, InputError, extend

STRETCH = 16                                                        # video frames that are read together


def pairs(n, seed):
    """Two different digits for each video, as word ids: (n,1) and (n,1)."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randint(10, (n, 1), generator=generator)
    further = torch.randint(1, 10, (n, 1), generator=generator)
    return before + 1, (before + further) % 10 + 1


@torch.no_grad()
def changing(models, before, after, at, seed, windows, sampling):
    """Videos (n,channels,2 at,H,W) on the CPU, whose caption is `before` (n,1), and `after` from frame `at` on."""
    config, vae, dit, process, _ = models
    device, n, F = vae.mean.device, len(before), 2 * at // TIME
    is_later = torch.arange(F)[:, None] >= at // TIME
    caption = torch.where(is_later, after[:, None], before[:, None]).to(device)                # (n,F,1)
    new = extend(dit, process, blank_latent(config, n, 0, device), caption, *windows,
                 randn=noise_of(seed, n, device), **sampling)
    cache, parts, made = {}, [], 0
    with tqdm(total=F, unit="latent frame") as bar:
        while made < F:
            latent = next(new)
            parts.append(vae.decode(latent, cache).cpu())
            made += latent.shape[2]
            bar.update(latent.shape[2])
    return torch.cat(parts, dim=2)[:, :, :2 * at]


def readings(judge, video, before, after, at):
    """{stretch and digit: (value, low, high)}: how many of its frames are read as either digit."""
    table = {}
    read = judge.readings(video)                                    # (n,T,1)
    for start in range(at - STRETCH, 2 * at - STRETCH + 1, STRETCH):
        part = read[:, start:start + STRETCH]
        for name, digit in (("before", before), ("after", after)):
            row = f"{start - at:+} to {start - at + STRETCH - 1:+}, {name}"
            table[row] = share(legible(part, digit).mean(1))
    return table


def main(argv=None):
    """Both arms, in one table."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--ckpt", default=default_ckpt(), help="checkpoint (out/sora.pt, else the weights shipped)")
    add("--n", type=int, default=32, help="videos (32)")
    add("--at", type=int, default=64, help="video frame of the change, a multiple of 16; as many follow (64)")
    add("--seed", type=int, default=0, help="of digits and noise (0)")
    add("--steps", type=int, help="denoising steps (left out: as in the config)")
    add("--guidance", type=float, help="guidance scale (as in the config)")
    add("--device", default=default_device(), help="cuda or cpu")
    args = parser.parse_args(argv)
    use_device(args.device)
    models = load_models(args.ckpt, args.device)
    config = models.config
    check_measurable(args.ckpt, config)
    if config.digits != 1:
        raise InputError(f"{args.ckpt}: trained on {config.digits} digits; expected one, to become another")
    if args.n < 2 or args.at < STRETCH or args.at % STRETCH or args.steps is not None and args.steps < 1:
        raise InputError(f"--n {args.n} --at {args.at} --steps {args.steps}: expected at least 2 videos, a "
                         f"multiple of {STRETCH} frames, and 1 step")
    guidance = config.guidance if args.guidance is None else args.guidance
    sampling = dict(steps=args.steps or config.sample_steps, guidance=guidance)
    before, after = pairs(args.n, args.seed)
    table = {}
    with autocast(args.device):
        judge = Judge(config)
        for name, anchor in (("anchor", True), ("plain window", False)):
            windows = window_of(config, anchor=anchor)
            video = changing(models, before, after, args.at, args.seed, windows, sampling)
            table[name] = readings(judge, video, before, after, args.at)
    show(f"{args.n} changes", table)


if __name__ == "__main__":
    run_script(main)
