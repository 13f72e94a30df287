"""The referee: a small convolutional network that reads which digits are in a frame of moving
MNIST.

It is trained on the training digits only, at several sizes of canvas and digit, with one or two
digits (overlaps included). It is shipped as referee.pt, so that scores compare across machines.

    python3 -m data.evaluation.referee --check    prints how well it reads training and held-out digits
    python3 -m data.evaluation.referee            trains it again, prints that, writes referee.pt
"""
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as nnf
from tqdm import tqdm

from data.clips.moving_mnist import MovingMNIST, load_digits
from data.runtime.arguments import Parser
from data.runtime.machine import tune_cpu

WEIGHTS = Path(__file__).with_name("referee.pt")
SETTINGS = [dict(canvas=(32, 32), digit_size=20, n_digits=1),
            dict(canvas=(32, 32), digit_size=20, n_digits=2),
            dict(canvas=(64, 64), digit_size=28, n_digits=1),
            dict(canvas=(64, 64), digit_size=28, n_digits=2)]


class Referee(nn.Module):
    """Frames (n,1,H,W) in [-1,1], H and W 16 or more -> logits (n,10,3): how often each digit is
    there (0, 1 or 2 times)."""

    def __init__(self, width=24):
        super().__init__()
        layers = [(1, width, 5, 2), (width, 2 * width, 3, 2), (2 * width, 3 * width, 3, 1),
                  (3 * width, 4 * width, 3, 2)]                     # inputs, outputs, kernel, stride
        self.convs = nn.ModuleList([nn.Conv2d(a, b, k, stride, padding=k // 2)
                                    for a, b, k, stride in layers])
        self.norms = nn.ModuleList([nn.GroupNorm(8, b) for _, b, _, _ in layers])
        self.last = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.hidden, self.head = nn.Linear(8 * width, 128), nn.Linear(128, 30)

    def maps(self, frames):
        """What is where: (n,96,H/8,W/8)."""
        x = frames
        for conv, group_norm in zip(self.convs, self.norms):
            x = nnf.relu(group_norm(conv(x)))
        return nnf.relu(self.last(x))

    def pool(self, maps):
        """What is in a frame, wherever it is: (n,128)."""
        return nnf.relu(self.hidden(torch.cat([maps.amax((2, 3)), maps.sum((2, 3)) / 16], dim=1)))

    @torch.no_grad()
    def clip_features(self, video):
        """What grey clips (B,1,T,H,W) show and how it changes: features (B,352), to compare sets of
        clips by.

        Mean and standard deviation over time of the pooled features, and by how much the maps
        change from frame to frame on average."""
        features = []
        for part in video.split(8):
            maps = self.maps(part[:, 0].flatten(0, 1)[:, None])                 # (B·T,96,h,w)
            pooled = self.pool(maps).unflatten(0, (len(part), -1))              # (B,T,128)
            change = maps.unflatten(0, (len(part), -1)).diff(dim=1).abs().mean((1, 3, 4))       # (B,96)
            features.append(torch.cat([pooled.mean(1), pooled.std(1), change], dim=1))
        return torch.cat(features)

    def forward(self, frames):
        return self.head(self.pool(self.maps(frames))).view(-1, 10, 3)

    @torch.no_grad()
    def read(self, frames, n_digits):
        """The n_digits (1 or 2) likeliest digits of each frame (n,1,H,W), sorted: (n,n_digits)."""
        log_p = torch.cat([self(part).log_softmax(-1) for part in frames.split(128)])
        once = log_p[..., 1] - log_p[..., 0]                        # against not being there
        twice = log_p[..., 2] - log_p[..., 0]
        best = once.topk(n_digits, dim=1)
        if n_digits == 1:
            return best.indices
        double, which = twice.max(dim=1)
        same = (double > best.values.sum(1))[:, None]
        return torch.where(same, which[:, None], best.indices.sort(dim=1).values)


def load_referee(device="cpu"):
    """The shipped referee, ready to read."""
    weights = torch.load(WEIGHTS, map_location="cpu", weights_only=True)        # halved, for the size
    referee = Referee()
    referee.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return referee.eval().to(device)


def legible(readings, caption):
    """1 where the digits read in a frame, sorted (B,T,n), are those of the caption (B,n): (B,T)."""
    asked = (caption - 1).sort(dim=1).values                        # word id 1 is digit 0
    return (readings == asked[:, None]).all(-1).float()


def legibility(referee, video, caption):
    """Which frames of clips (B,1,T,H,W) the referee reads as the caption (B,n): (B,T), 1 or 0."""
    frames = video[:, 0]                                            # (B,T,H,W)
    read = referee.read(frames.flatten(0, 1)[:, None], caption.shape[1])
    return legible(read.unflatten(0, frames.shape[:2]), caption)


# --- training it --------------------------------------------------------------------------------------

def counts(caption):
    """Caption word ids (n,digits) -> how often each digit is there (n,10)."""
    return nnf.one_hot(caption - 1, 10).sum(1)


def distorted(images, generator):
    """Training images (n,s,s), each slightly turned, scaled and sheared: as if there were more."""
    n = len(images)

    def draw(spread):                                               # uniform in [-spread, spread]
        return (torch.rand(n, generator=generator) * 2 - 1) * spread

    turn, size, shear = draw(0.25), 1 + draw(0.15), draw(0.2)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = turn.cos() * size, -turn.sin() + shear
    affine[:, 1, 0], affine[:, 1, 1] = turn.sin(), turn.cos() / size
    grid = nnf.affine_grid(affine, [n, 1, *images.shape[1:]], align_corners=False)
    return nnf.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def train(steps, batch=128, seed=0):
    """Trains a referee on single frames of all SETTINGS in turn."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = load_digits("train")
    sets = [MovingMNIST(images, labels, frames=1, **setting) for setting in SETTINGS]
    plain = [data.images for data in sets]
    referee = Referee().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(referee.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    bar = tqdm(range(steps))
    for step in bar:
        data, images = sets[step % len(sets)], plain[step % len(sets)]
        if step % 100 < len(sets):
            data.images = distorted(images, generator)
        video, caption = data.clips(batch, generator)
        frames = video[:, :, 0]                                     # (batch,1,H,W)
        level = 0.1 * torch.randn(batch, 1, 1, 1, generator=generator)
        noisy = frames + level * torch.randn(frames.shape, generator=generator)
        logits, target = referee(noisy).flatten(0, 1), counts(caption).flatten()
        loss = nnf.cross_entropy(logits, target, label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return referee.eval()


def report(referee, n=2000):
    """Prints the share of frames that are read exactly, of both splits, at each of SETTINGS."""
    for setting in SETTINGS:
        for split in ("train", "heldout"):
            data = MovingMNIST(*load_digits(split), frames=1, **setting)
            right = legibility(referee, *data.clips(n, torch.Generator().manual_seed(1)))
            print(f"{setting['canvas']} canvas, {setting['n_digits']} digits of {setting['digit_size']} "
                  f"pixels, {split}: {100 * right.mean():.1f} % of {n} frames read exactly")


def main(argv=None):
    """Checks, or trains, checks and writes."""
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="training steps (3000)")
    parser.add_argument("--check", action="store_true", help="only check the one that is shipped")
    args = parser.parse_args(argv)
    tune_cpu()
    if args.check:
        report(load_referee())
        return
    trained = train(args.steps)
    report(trained)
    torch.save({name: weight.half() for name, weight in trained.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
