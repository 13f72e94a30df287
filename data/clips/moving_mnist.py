"""Moving MNIST: endless clips of real handwritten digits that drift over a black canvas and bounce off its walls.

Three rules for the motion, the first two as published:
- `official`   (Srivastava et al. 2015): a straight line at constant speed, mirrored at the walls. The future is known.
- `stochastic` (SVG, Denton & Fergus 2018): at a wall the digit leaves with a new random velocity.
- `steered`    a world to play in: as official, but in every latent frame (4 video frames) a key may push the digit.

Everything is vectorised over the batch. The few random numbers a clip needs come from the generator that is handed
in; the pixels are drawn on the training device. The caption of a clip names its digits: "3 7"; in the steered world
each latent frame has a caption of its own, with its key: "5 up".

    python3 -m data.clips.moving_mnist clip.npy

writes a real clip of held-out digits to look at or to extend, as npy, gif, mp4 or webm, and prints its
caption (--help: other sizes, rules, numbers).
"""
import data  # first of all: it sets how the threads of torch wait

import math
from pathlib import Path

import numpy as np
import torch

from data.clips.idx import FILES, read_idx
from data.clips.places import with_places
from data.runtime.machine import moved
from sora import TIME, InputError

RULES = ("official", "stochastic", "steered")
KEYS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1), "glide": (0, 0)}  # y, x; glide: no key
PUSH, FASTEST = 0.05, 0.1  # of the free range: what a key adds to the speed in a frame, and where it ends on each axis
HELD = 0.5  # how often a key is the one before, as if it were held


def load_digits(split, mnist=""):
    """Images (n,28,28) and labels (n,), uint8, of one split: "train" or "heldout"; the two share no digit.

    `mnist`: a folder with the four idx files of the full MNIST (.gz or not) instead of the 5,000 digits shipped here.
    Raises InputError naming the file if one is missing or not what it should be.
    """
    if not mnist:
        with np.load(Path(__file__).with_name("digits.npz")) as shipped:
            return shipped[f"{split}_images"], shipped[f"{split}_labels"]
    images, labels = (read_idx(Path(mnist), name) for name in FILES[split])
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise InputError(f"{mnist}: {images.shape} images and {labels.shape} labels, expected (n, 28, 28) and (n,)")
    if not len(labels) or labels.max() > 9:
        raise InputError(f"{mnist}: {len(labels)} {split} images, labels up to {labels.max(initial=0)}: expected "
                         "some, of digits, which have labels 0 to 9")
    return images, labels


def official_path(position, direction, frames):
    """The official rule in units of the free range: each frame steps first, then bounces, then is drawn.

    position (..., 2) in [0,1], direction (...) in radians, both float64 -> positions (frames, ..., 2) in [0,1].
    """
    velocity = official_velocity(direction)
    path = []
    for _ in range(frames):
        position, velocity = step_and_bounce(position, velocity)
        path.append(position)
    return torch.stack(path)


def official_velocity(direction):
    """Direction (...) in radians -> velocity (..., 2): y, x."""
    return 0.1 * torch.stack([torch.sin(direction), torch.cos(direction)], dim=-1)


def step_and_bounce(position, velocity):
    """The next frame: position and velocity (..., 2) after a step, mirrored where it meets a wall."""
    position = position + velocity
    hit = (position <= 0) | (position >= 1)
    return position.clamp(0, 1), torch.where(hit, -velocity, velocity)


def steered_path(position, velocity, keys):
    """The steered rule in units of the free range: each frame the key pushes, then all is as in the official rule.

    The key of latent frame f acts in the video frames 4f to 4f + 3. Without one a digit glides on as fast as it was.
    position, velocity (n, ..., 2), float64; keys (n,F): numbers in KEYS -> positions (4F, n, ..., 2) in [0,1].
    """
    pushes = PUSH * torch.tensor(list(KEYS.values()), dtype=torch.float64)[keys]               # (n,F,2)
    path = []
    for push in pushes.repeat_interleave(TIME, dim=1).unbind(1):
        push = push.view(len(push), *[1] * (velocity.ndim - 2), 2)
        position, velocity = step_and_bounce(position, (velocity + push).clamp(-FASTEST, FASTEST))
        path.append(position)
    return torch.stack(path)


def draw_keys(n, F, generator=None):
    """Keys (n,F), numbers in KEYS, as a player might press them: some are held for a while."""
    keys = torch.randint(len(KEYS), (n, F), generator=generator)
    held = torch.rand(n, F, generator=generator) < HELD
    for f in range(1, F):
        keys[:, f] = torch.where(held[:, f], keys[:, f - 1], keys[:, f])
    return keys


def with_keys(digits, keys):
    """Captions (n,F,D+1) of the steered world, from the word ids of digits (n,D) and from keys (n,F)."""
    key_words = len(MovingMNIST.words) + 1 + keys                               # behind the words of digits
    return torch.cat([digits[:, None].expand(-1, keys.shape[1], -1), key_words[..., None]], dim=-1)


def stochastic_path(position, velocity, redraw, free):
    """The stochastic rule in pixels: each frame checks the walls (y first, then x), is drawn, then steps.

    position, velocity (..., 2) integers; free (2,): the free range, canvas minus digit, per axis;
    redraw (frames, 2, ..., 2): for each frame and wall axis, the speed away from the wall (1..4) and the other
    component (-4..4), used only where that wall is hit. -> positions (frames, ..., 2).
    """
    path = []
    for draw in redraw:
        for axis in (0, 1):
            low, high = position[..., axis] < 0, position[..., axis] >= free[axis]
            position[..., axis] = position[..., axis].clamp(0, max(free[axis] - 1, 0))
            away = torch.where(low, draw[axis, ..., 0], -draw[axis, ..., 0])
            velocity[..., axis] = torch.where(low | high, away, velocity[..., axis])
            velocity[..., 1 - axis] = torch.where(low | high, draw[axis, ..., 1], velocity[..., 1 - axis])
        path.append(position.clone())
        position += velocity
    return torch.stack(path)


class MovingMNIST:
    """Clips of `n_digits` moving digits. `words` is the vocabulary; caption ids are word numbers from 1, 0 is no word.

    canvas (H,W) and digit_size in pixels; rule: one of RULES; images (n,28,28) uint8, labels (n,).
    placed: captions, one for each latent frame, say where each digit is.
    """
    words = [str(digit) for digit in range(10)]
    usual = 10 ** 9  # frames of a clip, if one wants them

    def __init__(self, images, labels, canvas=(64, 64), digit_size=28, n_digits=2, frames=20, rule="official",
                 channels=1, device="cpu", placed=False):
        if rule not in RULES:
            raise InputError(f"motion rule {rule!r}: expected one of {', '.join(RULES)}")
        if not 1 <= digit_size <= min(canvas):
            raise InputError(f"digit size {digit_size}: expected 1 to {min(canvas)}, the shorter edge of the canvas")
        images = torch.as_tensor(np.array(images)).float()[:, None] / 255
        if digit_size != 28:
            images = torch.nn.functional.interpolate(images, size=digit_size, mode="bilinear", antialias=True)
        self.images, self.labels = images[:, 0].to(device), torch.as_tensor(np.array(labels)).long()
        self.canvas, self.size, self.n_digits, self.frames, self.rule = canvas, digit_size, n_digits, frames, rule
        self.channels, self.device, self.placed = channels, device, placed
        if rule == "steered":
            self.words = self.words + list(KEYS)

    def clips(self, n, generator=None, frames=None, keys=None):
        """n clips on the device: video (n,channels,T,H,W) in [-1,1], ids (n, n_digits); with places (n,F,n_digits).

        The random numbers are drawn on the CPU from `generator`, so a seed means the same clips on every device.
        frames (n,T): which frames of longer clips to show, in any order; None: self.frames in a row.
        Of the steered world: caption (n, F, n_digits + 1), the digits and the key of each four of the T frames;
        keys (n, latent frames), pressed from the earliest frame on; None: random ones.
        """
        frames = self.shown(n, frames)
        which = torch.randint(len(self.labels), (n, self.n_digits), generator=generator)
        caption = self.labels[which] + 1
        if self.rule == "steered":
            keys = draw_keys(n, int(frames.max()) // TIME + 1, generator) if keys is None else keys
            caption = with_keys(caption, keys.gather(1, frames[:, ::TIME] // TIME))
        paths = self.paths(n, generator, frames, keys)
        if self.placed:
            caption = with_places(caption[:, None], self.middles(paths))       # (n,F,D)
        with torch.autocast(torch.device(self.device).type, enabled=False):    # pixels are exact, whoever asks
            video = self.draw(self.images[moved(which, self.device)], moved(paths, self.device))
        return (video * 2 - 1).expand(-1, self.channels, -1, -1, -1), moved(caption, self.device)

    def middles(self, paths):
        """The middles of digits in each latent frame (n,F,D,2) in pixels, from paths (n,T,D,2)."""
        return torch.stack([four.float().mean(1) for four in paths.split(TIME, dim=1)], dim=1) + self.size / 2

    def shown(self, n, frames=None):
        """Which frames to show (n,T), counted from the earliest of each clip, where its world begins."""
        return torch.arange(self.frames).expand(n, -1) if frames is None else frames - frames.amin(1, keepdim=True)

    def paths(self, n, generator=None, frames=None, keys=None, start=None):
        """Top left corners (n, T, n_digits, 2) in whole pixels, y then x. keys: of the steered rule, see `clips`.
        start (n_digits,2): where digits begin, left out: anywhere."""
        frames = self.shown(n, frames)
        length = int(frames.max()) + 1
        free = torch.tensor(self.canvas) - self.size
        who = (n, self.n_digits)
        if self.rule != "stochastic":
            position = torch.rand(*who, 2, generator=generator, dtype=torch.float64)
            direction = torch.rand(who, generator=generator, dtype=torch.float64) * 2 * math.pi
            if start is not None:
                position = (start.double() / free.clamp(min=1)).expand(*who, 2)
            if self.rule == "official":
                path = official_path(position, direction, length)
            else:
                path = steered_path(position, official_velocity(direction), keys)
            path = (path * free).long()                                        # truncated, as the original does
        else:
            drawn = torch.stack([torch.randint(max(int(f), 1), who, generator=generator) for f in free], dim=-1)
            start = drawn if start is None else start.long().repeat(n, 1, 1)
            velocity = torch.randint(-4, 5, (*who, 2), generator=generator)
            away = torch.randint(1, 5, (length, 2, *who), generator=generator)
            other = torch.randint(-4, 5, (length, 2, *who), generator=generator)
            path = stochastic_path(start, velocity, torch.stack([away, other], dim=-1), free.tolist())
        return path.movedim(0, 1)[torch.arange(n)[:, None], frames]

    def draw(self, digits, path):
        """digits (B,D,s,s) in [0,1], path (B,T,D,2) -> video (B,1,T,H,W) in [0,1].

        A shift is a product with a 0/1 matrix on either side: canvas = rows @ digit @ columns. Exact, and fast.
        """
        inside = torch.arange(self.size, device=digits.device)
        place = [(torch.arange(length, device=digits.device)[:, None] - path[..., axis, None, None] == inside).float()
                 for axis, length in enumerate(self.canvas)]  # (B,T,D,H,s), (B,T,D,W,s)
        layers = place[0] @ digits[:, None] @ place[1].transpose(-1, -2)  # (B,T,D,H,W)
        video = layers.sum(dim=2).clamp(max=1) if self.rule == "stochastic" else layers.amax(dim=2)
        return video[:, None]


def main():
    """Writes clips to a file."""
    from data.clips.files import check_writable, write_clip  # needs imageio; the generator does not
    from data.runtime.arguments import Parser
    from data.runtime.memory import check_memory
    parser = Parser(__doc__)
    parser.add_argument("out", help="file to write, .npy, .gif, .mp4 or .webm")
    for name, default in dict(n=1, seed=0, size=32, digit_size=20, digits=1, frames=16, scale=1).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"({default})")
    parser.add_argument("--rule", default="official", choices=RULES)
    parser.add_argument("--split", default="heldout", choices=tuple(FILES))
    args = parser.parse_args()
    check_writable(args.out)
    if min(args.n, args.frames, args.digits, args.scale) < 1 or not 0 <= args.seed < 2 ** 62:
        raise InputError(f"--n {args.n} --frames {args.frames} --digits {args.digits} --scale {args.scale} --seed "
                         f"{args.seed}: expected at least 1 of each, and a seed of 0 to 2^62")
    each = 4 * args.frames * args.digits + 3 * min(args.frames, 64) * args.scale ** 2      # drawn, written at once
    check_memory(f"--n {args.n} --frames {args.frames} --digits {args.digits} --size {args.size} --scale {args.scale}",
                 args.n * args.size ** 2 * each)
    data = MovingMNIST(*load_digits(args.split), (args.size, args.size), args.digit_size, args.digits, args.frames,
                       args.rule)
    video, caption = data.clips(args.n, torch.Generator().manual_seed(args.seed))
    write_clip(args.out, video, scale=args.scale)
    caption = caption.flatten(0, -2)                                           # one behind the other
    print(f"wrote {args.out}:", ", ".join(" ".join(data.words[i - 1] for i in ids) for ids in caption.tolist()))


if __name__ == "__main__":
    from data.runtime.errors import run_script
    run_script(main)
