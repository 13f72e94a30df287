"""The referee: a small convolutional network that reads which digits are in a frame of moving MNIST.

It is trained on the training digits only, at several canvas and digit sizes, with one or two digits (overlaps
included), and shipped as referee.pt, so that scores compare across machines. To train it again:

    python -m data.evaluation.referee          trains, prints the accuracy on held-out digits, writes data/evaluation/referee.pt
    python -m data.evaluation.referee --check  prints the accuracy of the shipped one
"""
import argparse
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as nnf
from tqdm import tqdm

from data.clips.moving_mnist import MovingMNIST, load_digits
from data.runtime.cli import tune_cpu

WEIGHTS = Path(__file__).with_name("referee.pt")
SETTINGS = [dict(canvas=(32, 32), digit_size=20, n_digits=1), dict(canvas=(32, 32), digit_size=20, n_digits=2),
            dict(canvas=(64, 64), digit_size=28, n_digits=1), dict(canvas=(64, 64), digit_size=28, n_digits=2)]


class Referee(nn.Module):
    """Frames (n,1,H,W) in [-1,1], any H and W from 16 up -> logits (n,10,3): each digit is there 0, 1 or 2 times."""

    def __init__(self, width=24):
        super().__init__()
        layers = [(1, width, 5, 2), (width, 2 * width, 3, 2), (2 * width, 3 * width, 3, 1),
                  (3 * width, 4 * width, 3, 2)]                                # inputs, outputs, kernel, stride
        self.convs = nn.ModuleList([nn.Conv2d(a, b, k, stride, padding=k // 2) for a, b, k, stride in layers])
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
        """What clips (B,1,T,H,W) show and how it changes, for a Frechet distance: (B,352).

        Mean and deviation over time of the pooled features, and the mean change of the maps from frame to frame.
        """
        features = []
        for part in video.split(8):
            maps = self.maps(part[:, 0].flatten(0, 1)[:, None])                # (B·T,96,h,w)
            pooled = self.pool(maps).unflatten(0, (len(part), -1))             # (B,T,128)
            change = maps.unflatten(0, (len(part), -1)).diff(dim=1).abs().mean((1, 3, 4))      # (B,96)
            features.append(torch.cat([pooled.mean(1), pooled.std(1), change], dim=1))
        return torch.cat(features)

    def forward(self, frames):
        return self.head(self.pool(self.maps(frames))).view(-1, 10, 3)

    @torch.no_grad()
    def read(self, frames, n_digits):
        """The n_digits (1 or 2) most likely digits of each frame (n,1,H,W), sorted: (n, n_digits)."""
        log_p = torch.cat([self(part).log_softmax(-1) for part in frames.split(128)])
        once, twice = log_p[..., 1] - log_p[..., 0], log_p[..., 2] - log_p[..., 0]   # against not being there
        best = once.topk(n_digits, dim=1)
        if n_digits == 1:
            return best.indices
        double, which = twice.max(dim=1)
        same = (double > best.values.sum(1))[:, None]
        return torch.where(same, which[:, None], best.indices.sort(dim=1).values)


def load_referee(device="cpu"):
    """The shipped referee, ready to read."""
    referee = Referee()
    referee.load_state_dict({k: v.float() if v.is_floating_point() else v
                             for k, v in torch.load(WEIGHTS, map_location="cpu", weights_only=True).items()})
    return referee.eval().to(device)


def legibility(referee, video, caption):
    """Share of the frames of each clip that read as its caption: video (B,1,T,H,W), caption (B,n) word ids -> (B,T)."""
    B, _, T, H, W = video.shape
    read = referee.read(video[:, 0].reshape(B * T, 1, H, W), caption.shape[1])
    asked = (caption - 1).sort(dim=1).values
    return (read.view(B, T, -1) == asked[:, None]).all(-1).float()


def counts(caption):
    """Caption word ids (n, digits) -> how often each digit is there (n,10)."""
    return nnf.one_hot(caption - 1, 10).sum(1)


def distorted(images, generator):
    """Training images (n,s,s), each slightly turned, scaled and sheared, so that few digits make a good reader."""
    n = len(images)
    draw = lambda spread: (torch.rand(n, generator=generator) * 2 - 1) * spread
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
    for step in (bar := tqdm(range(steps))):
        data, images = sets[step % len(sets)], plain[step % len(sets)]
        if step % 100 < len(sets):
            data.images = distorted(images, generator)
        video, caption = data.clips(batch, generator)
        noisy = video[:, :, 0] + 0.1 * torch.randn(batch, 1, 1, 1, generator=generator) * torch.randn(
            video[:, :, 0].shape, generator=generator)
        loss = nnf.cross_entropy(referee(noisy).flatten(0, 1), counts(caption).flatten(), label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return referee.eval()


def report(referee, n=2000):
    """Prints the share of frames read exactly, for training and held-out digits at each of SETTINGS."""
    for setting in SETTINGS:
        for split in ("train", "heldout"):
            data = MovingMNIST(*load_digits(split), frames=1, **setting)
            right = legibility(referee, *data.clips(n, torch.Generator().manual_seed(1)))
            print(f"{setting['canvas']} canvas, {setting['n_digits']} digits of {setting['digit_size']} pixels, "
                  f"{split}: {100 * right.mean():.1f} % of {n} frames read exactly")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    tune_cpu()
    if args.check:
        report(load_referee())
    else:
        trained = train(args.steps)
        report(trained)
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in trained.state_dict().items()}, WEIGHTS)
