"""Does a steered world obey? Numbers for the preset `steered`, beside those of the rule itself.

    python3 -m data.evaluation.control --ckpt out/steered/sora.pt --steps 2 4 8

plays long videos with random keys, with each number of denoising steps, and goes on from the same past with
different keys. README.md beside this file says what the numbers mean.
"""
import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from data.clips.files import make_folder, write_clip
from data.clips.folder import load_data
from data.clips.moving_mnist import KEYS, draw_keys
from data.evaluation.intervals import interval, share
from data.evaluation.judge import Judge, grey
from data.evaluation.long_video import partner
from data.evaluation.metrics import centre_of, distance, ink_of
from data.evaluation.score import noise_of, through_vae
from data.evaluation.tables import show, write_table
from data.play.world import CONTEXT, STEPS, World, one_new, usual_sampler
from data.runtime.arguments import Parser
from data.runtime.checkpoints import STEERED, load_models
from data.runtime.errors import run_script
from data.runtime.machine import autocast, default_device, use_device
from sora import TIME, InputError, extend

GLIDE = list(KEYS).index("glide")
DIRECTIONS = torch.tensor(list(KEYS.values())).float()              # (5,2): y, x
OPPOSITE = (("down", "up", 0), ("right", "left", 1))                # and the axis on which they are
STRETCH = 16                                                        # video frames that are read together
MOVED, NEAR = 0.5, 1.5                                              # pixels


def seeded(seed):
    """A generator."""
    return torch.Generator().manual_seed(seed)


# --- long videos, played with random keys -------------------------------------------------------------

def played(models, caption, seed, sampling):
    """A video for each row of captions (n,F,words): (n,channels,4F,H,W) on the CPU."""
    world, parts = World(models, caption[:, 0], seed, **sampling), []
    for words in tqdm(caption.unbind(1), "playing", unit="latent frame"):
        parts.append(world.step(words))
    return torch.cat(parts, dim=2)


def obeys(video, keys):
    """The share of latent frames in which the digit of grey videos (n,1,4F,H,W) does as its key says: (n,).

    It moves at least half a pixel that way, from the frame before to the last of the four, or it meets the
    wall on that side: comes within one and a half pixels of the farthest that the video's digit ever
    gets, if it gets around at all. Latent frames without a key do not count, nor does the first."""
    centre = centre_of(ink_of(video))                               # (n,4F,2)
    low = centre.quantile(0.01, dim=1)[:, None]                     # (n,1,2)
    high = centre.quantile(0.99, dim=1)[:, None]
    windows = centre[:, TIME - 1:].unfold(1, TIME + 1, TIME)        # (n,F-1,2,5): the frame before, and four
    key = keys[:, 1:]
    towards = DIRECTIONS[key]                                       # (n,F-1,2)
    step = windows[..., -1] - windows[..., 0]
    moved = (step * towards).sum(-1) > MOVED
    roams = high - low > 4 * NEAR
    at_high = roams & (windows.amax(-1) > high - NEAR) & (towards > 0)
    at_low = roams & (windows.amin(-1) < low + NEAR) & (towards < 0)
    right = moved | at_high.any(-1) | at_low.any(-1)                # (n,F-1)
    return right.float().masked_fill(key == GLIDE, float("nan")).nanmean(1)


def play_numbers(judge, video, digits, keys):
    """{metric: cell} of played videos. digits (n,1): word ids; keys (n,F)."""
    start, end = video[:, :, :STRETCH], video[:, :, -STRETCH:]
    now, then = judge.handwriting(grey(end)), judge.handwriting(grey(start))
    other = partner(digits)
    alone = other == torch.arange(len(other))
    from_other = distance(now, then[other]).masked_fill(alone, float("nan"))
    return {"obeys its keys": share(obeys(grey(video), keys)),
            "another's keys": share(obeys(grey(video), keys.roll(1, 0))),
            f"legible, first {STRETCH}": share(judge.values(start, digits)["legibility"]),
            f"legible, last {STRETCH}": share(judge.values(end, digits)["legibility"]),
            "own handwriting": interval(distance(now, then)),
            "another's": interval(from_other)}


# --- the same past, another key -----------------------------------------------------------------------

def worlds(config, n, seed, known):
    """Real videos of held-out digits that differ in their last key only: {key: (video, caption)}.

    known: how many latent frames come before it."""
    keys = draw_keys(n, known + 1, seeded(seed + 1))
    data, futures = load_data(config, "heldout"), {}
    data.frames = TIME * (known + 1)
    for number, name in enumerate(KEYS):
        keys[:, -1] = number
        futures[name] = data.clips(n, seeded(seed), keys=keys)
    return futures


def last_four(video):
    """The last four frames of videos (n,channels,T,H,W)."""
    return video[:, :, -TIME:]


@torch.no_grad()
def branches(models, futures, seed, context, sampling):
    """What the model makes of the same past, with the same noise: {key: the last four frames (n,c,4,H,W)}."""
    config, vae, dit, process, _ = models
    device, made = vae.mean.device, {}
    sampling = dict(sampler=usual_sampler(process)) | sampling      # that of the player
    for name, (video, caption) in futures.items():
        past = vae.encode(video[:, :, :-TIME].to(device))
        windows = extend(dit, process, past, caption.to(device), *one_new(config, context),
                         randn=noise_of(seed, len(video), device), **sampling)
        latent = torch.cat([past, next(windows)], dim=2)
        made[name] = last_four(vae.decode(latent)).cpu()
    return made


def branch_numbers(judge, made, real):
    """{metric: cell} of what opposite keys do. made, real: {key: the last four frames}."""
    at = {name: last_centre(video) for name, video in made.items()}
    wrong = {name: (at[name] - last_centre(real[name])).norm(dim=-1) for name in made}         # (n,) each
    along, across, written = [], [], []
    for one, other, axis in OPPOSITE:
        apart = at[one] - at[other]                                 # (n,2)
        along.append(apart[:, axis])
        across.append(apart[:, 1 - axis].abs())
        hands = [judge.handwriting(grey(made[name])) for name in (one, other)]
        written.append(distance(*hands))
    pushed = torch.stack([wrong[name] for name in KEYS if name != "glide"])
    return {"keys apart, along": interval(torch.stack(along).mean(0)),
            "keys apart, across": interval(torch.stack(across).mean(0)),
            "keys apart, hand": interval(torch.stack(written).mean(0)),
            "misplaced, a key": interval(pushed.mean(0)),
            "misplaced, none": interval(wrong["glide"])}


def last_centre(video):
    """Where the ink is in the last frame: (n,2)."""
    return centre_of(ink_of(grey(video)))[:, -1]


# --- speed, and the table -----------------------------------------------------------------------------

def frames_a_second(models, caption, sampling, steps=24):
    """How many frames a second one video gets on this machine: (median, lower quartile, upper quartile)."""
    world, rates = World(models, caption, **sampling), []
    while world.ready:
        world.step(caption)
    for _ in range(steps):
        begun = time.perf_counter()
        world.step(caption)
        rates.append(TIME / (time.perf_counter() - begun))
    low, middle, high = statistics.quantiles(rates, n=4)
    return middle, low, high


def measure(models, args, context):
    """{column: {metric: cell}}: the rule, its copies, and the model with each number of steps."""
    config, vae, words = models.config, models.vae, models.words
    judge, data = Judge(config), load_data(config, "heldout")
    data.frames, n, seed = args.frames, args.n, args.seed
    keys = draw_keys(n, args.frames // TIME, seeded(seed))
    keys[:, :config.frames // TIME] = GLIDE                         # World makes these before it is asked
    video, caption = data.clips(n, seeded(seed), keys=keys)
    digits = caption[:, 0, :1]
    futures = worlds(config, n, seed, known=context + 1)
    real = {name: last_four(clip) for name, (clip, _) in futures.items()}
    copies = {name: last_four(through_vae(vae, clip)) for name, (clip, _) in futures.items()}
    table = {"the rule": play_numbers(judge, video, digits, keys) | branch_numbers(judge, real, real),
             "VAE's copy": branch_numbers(judge, copies, real)}
    caption = caption.to(vae.mean.device)
    for steps in args.steps:
        sampling = dict(steps=steps, guidance=args.guidance)
        video = played(models, caption, seed, sampling | dict(context=context))
        made = branches(models, futures, seed, context, sampling)
        numbers = play_numbers(judge, video, digits, keys) | branch_numbers(judge, made, real)
        rate = frames_a_second(models, caption[:1, 0], sampling | dict(context=context))
        table[f"steps: {steps}"] = numbers | {"frames a second": rate}
        write_clip(Path(args.out).with_suffix(f".{steps}.gif"), video[:16, :, :240], fps=24, scale=2)
    return table


def parse(argv):
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--ckpt", default=str(STEERED), help="checkpoint of a steered world (the weights that come along)")
    add("--out", default="out/control.json", metavar="FILE", help="table to write, videos beside it")
    add("--n", type=int, default=32, help="videos (32)")
    add("--frames", type=int, default=1000, help="video frames of each, a multiple of 4 (1000)")
    add("--seed", type=int, default=0, help="of digits, keys and noise (0)")
    add("--steps", type=int, nargs="+", default=[STEPS], help=f"denoising steps of four frames ({STEPS})")
    add("--guidance", type=float, default=1.0, help="guidance scale of them, 1 is none (1)")
    add("--context", type=int, default=CONTEXT * TIME, help="video frames of the past that a window sees (8)")
    add("--device", default=default_device(), help="cuda or cpu")
    return parser.parse_args(argv)


def main(argv=None):
    """Plays, measures, prints the table and writes it."""
    args = parse(argv)
    use_device(args.device)
    models = load_models(args.ckpt, args.device)
    config, least = models.config, models.config.frames + STRETCH
    if config.rule != "steered" or config.digits != 1:
        raise InputError(f"{args.ckpt}: expected a checkpoint of the preset `steered`, with one digit")
    if args.n < 2 or args.frames < least or args.frames % TIME or min(args.steps) < 1:
        raise InputError(f"--n {args.n} --frames {args.frames} --steps {min(args.steps)}: expected at least "
                         f"2 videos, a multiple of {TIME} frames from {least} on, and 1 step")
    most = config.frames - TIME
    if not TIME <= args.context <= most or args.context % TIME:
        raise InputError(f"--context {args.context}: expected a multiple of {TIME} up to {most}")
    make_folder(Path(args.out).parent)
    with autocast(args.device):
        table = measure(models, args, args.context // TIME)
    show(f"{args.n} x {args.frames} frames", table)
    command = " ".join(sys.argv)
    write_table(Path(args.out), {"command": command, "threads": torch.get_num_threads(), "table": table})
    print(f"\nwrote {args.out}")


if __name__ == "__main__":
    run_script(main)
