"""One contact sheet of what sample.py can do, a row for each use: the picture of the README.

    python3 -m data.studies.uses                    from the weights that come along, into out/uses.png

Each row shows 16 frames, evenly spread, of one clip with seed 0. Rows: text to video; a picture that
begins to move; up to a clip; from one clip to another; a loop; another content for the same motion.
"""
import data  # first of all: it sets how the threads of torch wait

from pathlib import Path

import torch

import sample
from data.clips.files import grid, make_folder, write_still
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.runtime import machine
from data.runtime.arguments import Parser
from data.runtime.checkpoints import SHIPPED, load_models
from data.runtime.errors import run_script

SHOWN = 16  # frames of a row


def given(config, seed):
    """A real clip of a held-out digit, (1,1,16,H,W), and its caption."""
    data = MovingMNIST(*load_digits("heldout"), (config.height, config.width), config.digit_size,
                       config.digits, 16)
    video, caption = data.clips(1, torch.Generator().manual_seed(seed))
    return video, " ".join(data.words[i - 1] for i in caption[0].tolist())


@torch.no_grad()
def decoded(models, latents, skip, frames):
    """The clip (1,channels,frames,H,W) of what a use of sample.py returns."""
    parts, n = [], 0
    for latent in latents:
        parts.append(latent)
        n += latent.shape[2] * 4
        if n >= skip + frames:
            break
    return models.vae.decode(torch.cat(parts, dim=2))[:, :, skip:skip + frames]


def rows(models):
    """Yields one clip for each use."""
    clip, caption = given(models.config, seed=3)
    other, _ = given(models.config, seed=8)

    def job(prompt):
        return sample.make_job(models, prompt)
    yield decoded(models, *sample.from_text(job(caption)))
    yield decoded(models, *sample.from_picture(job(caption), clip[:, :, :1].expand(-1, -1, 4, -1, -1)))
    yield decoded(models, *sample.up_to_clip(job(caption), clip, 32))
    yield decoded(models, *sample.between_clips(job(caption), clip, other, 48))
    yield decoded(models, *sample.in_a_circle(job(caption), 48))
    yield decoded(models, *sample.edited(job("9"), clip, 0.7))


def main(argv=None):
    """Writes the sheet."""
    parser = Parser(__doc__)
    parser.add_argument("--ckpt", default=str(SHIPPED), help="(the weights that come along)")
    parser.add_argument("--out", default="out/uses.png", help="(out/uses.png)")
    args = parser.parse_args(argv)
    make_folder(Path(args.out).parent)
    models = load_models(args.ckpt)
    frames = []
    with machine.autocast("cpu"):
        for clip in rows(models):
            at = torch.linspace(0, clip.shape[2] - 1, SHOWN).round().long()
            frames.append(clip[0, :, at].transpose(0, 1))           # (SHOWN,channels,H,W)
    sheet = grid(torch.cat(frames)[:, :, None], columns=SHOWN)
    write_still(args.out, sheet, scale=2)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_script(main)
