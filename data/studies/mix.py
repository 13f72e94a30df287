"""What does each part of the training mix buy? Runs without one of them, and what seven uses are then like.

    python3 -m data.studies.mix

Uses; all but `text` begin with held-out clips and have no caption, so what goes on must be seen in them:
- text: samples from captions, with guidance: their legibility and Frechet distance;
- picture: the first frame of a clip is given, four times: legibility of the window that follows;
- middle: the first and the last latent frame are given: squared error of a frame between them;
- backward: legibility of the window that leads up to a clip;
- frames 97-112, frames 985-1000: legibility of a clip that goes on for so long. Models that have
  practised anchors are shown one and one latent frame of context, others half a window of context.
The first two rows are one model: sampled with anchors, and as those are that have never seen any.
"""
import torch

from data.evaluation.judge import real_clips
from data.evaluation.intervals import interval, share
from data.evaluation.metrics import squared_error
from data.runtime.config import window_of
from data.runtime.errors import run_script
from data.runtime.machine import seeded_noise
from data.studies import plots
from data.studies.measure import sample_numbers
from data.studies.study import Study
from sora import TIME, extend, generate, take

LATE, LENGTH = (96, 984), 16            # where the late stretches begin, in video frames, and their length
WHOLE, NOT_SHOWN = "the whole mix", "the whole mix, no anchor shown"
RUNS = {WHOLE: [],
        NOT_SHOWN: [],
        "no anchors": ["--anchors", 0],
        "no known frames": ["--known", 0, "--caption-drop", 0.3],   # as many without a caption in all
        "few captions dropped": ["--caption-drop-known", 0.1],
        "half the width": ["--dim", 96, "--heads", 3]}


@torch.no_grad()
def uses(models, judge, n, anchor=True):
    """{use: (value, low, high)} of one model. anchor: whether to show it one, if it has practised that."""
    config, vae, dit, process, _ = models
    device, model = vae.mean.device, (dit, process)
    windows = window, _, _ = window_of(config, anchor=anchor)
    video, caption = real_clips(config, "heldout", n)
    given, nothing = vae.encode(video.to(device)), torch.zeros_like(caption).to(device)
    still = vae.encode(video[:, :, :1].expand(-1, -1, TIME, -1, -1).to(device))

    def sampling():
        return dict(steps=config.sample_steps, randn=seeded_noise(range(n), device))

    def legibility(latent, first, last):
        """Of the video frames from first up to last, counted from 0."""
        warm = min(first // TIME, 3)                                # the decoder sees so many before it
        part = latent[:, :, first // TIME - warm:last // TIME]
        clip = vae.decode(part)[:, :, warm * TIME:].clamp(-1, 1)
        return share(judge.values(clip, caption)["legibility"])

    text = sample_numbers(models, judge, n)
    table = {"text, legibility": text["legibility"], "text, frechet": text["frechet"]}

    new = take(extend(*model, still, nothing, *windows, **sampling()), window - 1)
    table["picture, legibility"] = legibility(torch.cat([still, new], dim=2), TIME, TIME * window)

    known = torch.zeros(given.shape[2], dtype=torch.bool, device=device)
    known[0] = known[-1] = True
    filled = generate(*model, given, known, nothing, **sampling())
    made = vae.decode(filled).clamp(-1, 1).cpu()
    pixels = video[0, :, 0].numel()
    error = squared_error(video[:, :, TIME:-TIME], made[:, :, TIME:-TIME]) * pixels
    table["middle, squared error"] = interval(error)

    new = take(extend(*model, given, nothing, *windows, backward=True, **sampling()), window).flip(2)
    table["backward, legibility"] = legibility(torch.cat([new, given], dim=2), 0, TIME * window)

    frames = (LATE[-1] + LENGTH) // TIME - given.shape[2]
    new = take(extend(*model, given, nothing, *windows, **sampling()), frames)
    whole = torch.cat([given, new], dim=2)
    for start in LATE:
        table[f"frames {start + 1}-{start + LENGTH}"] = legibility(whole, start, start + LENGTH)
    return table


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("mix", __doc__, argv, steps=2400, seeds=(0,), n=64, flags=["--sample-steps", 8])
    for seed in study.args.seeds:
        for label, flags in RUNS.items():
            def measure(models):
                return uses(models, study.judge(models.config), study.args.n, anchor=label != NOT_SHOWN)
            study.run(label, seed, flags, measure, trained_as=WHOLE if label == NOT_SHOWN else label)
    shown = list(dict.fromkeys(row.metric for row in study.rows))
    study.finish(shown)
    plots.bars(study, shown)


if __name__ == "__main__":
    run_script(main)
