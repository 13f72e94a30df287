"""Watches sampling: a bar that moves with every denoising step, and whether a video comes out."""
import torch
from tqdm import tqdm

from sora import TIME, InputError


class Progress:
    """A transformer for `generate` that counts how often it is called. The bar counts video frames: of
    a window, every call finishes an equal share, so that it moves before the first frame is decoded."""

    def __init__(self, dit, process, frames, steps, strength=1.0, sampler=None):
        calls = len(process.schedule(steps, strength)) - 1
        self.dit, self.calls = dit, 2 * calls if sampler == "heun" else calls
        self.called, self.made, self.unknown = 0, 0.0, 0
        self.frames, self.bar = frames, None

    def __call__(self, x, t, caption, positions):
        if self.called % self.calls == 0:                           # a window begins
            self.unknown = TIME * int((t[0] > 0).sum())             # video frames in it that are new
        self.called += 1
        self.made += self.unknown / self.calls
        self.show(self.made)
        return self.dit(x, t, caption, positions)

    def show(self, frames):
        """Moves the bar to so many frames; it never goes back, and not beyond its end."""
        if self.bar is None:                                        # not before all flags are checked
            self.bar = tqdm(bar_format="{l_bar}{bar}| {n:.0f}/{total} frames [{elapsed}<{remaining}]",
                            total=self.frames)
        self.bar.total = self.frames
        self.bar.update(max(min(frames, self.frames) - self.bar.n, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.close()


class Range:
    """The darkest and the brightest pixel of each clip so far."""

    def __init__(self):
        self.low, self.high = torch.tensor(1.0), torch.tensor(-1.0)

    def add(self, video):
        """The next frames (B,c,T,H,W) of all clips; InputError if they are no numbers."""
        low, high = video.float().cpu().flatten(1).aminmax(dim=1)
        if not torch.isfinite(high - low).all():
            raise InputError("the model made numbers that are not finite: its weights have diverged, or size "
                             "or guidance are far from what it was trained with; nothing is written")
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def check(self):
        """Raises InputError if no clip shows anything."""
        if ((self.high - self.low) * 127.5 < 2).all():              # grey levels of 255
            level = round(float((self.low.mean() + 1) * 127.5))
            raise InputError(f"the model made nothing but the grey level {level} of 255: it is not trained "
                             "for this size, length or caption, or not enough; nothing is written")


def checked(video):
    """Clips (B,c,T,H,W) that are all there already, or InputError if they show nothing."""
    seen = Range()
    seen.add(video)
    seen.check()
    return video
