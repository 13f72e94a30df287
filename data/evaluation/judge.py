"""The judge: the referee, and what training clips of moving MNIST look like to it.

README.md beside this file says what the numbers mean.
"""
from pathlib import Path

import torch
import torch.nn.functional as nnf

from data.clips.files import grid, write_still
from data.clips.folder import load_data
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.clips.places import digits_of
from data.clips.reading import load_mnist_test
from data.evaluation import metrics
from data.evaluation.intervals import interval, jackknife, share
from data.evaluation.referee import legible, load_referee
from sora import InputError

REFERENCES = 1024                                                   # training clips to compare with
SHARES = ("legibility", "permanence", "overlaps", "usual motion")   # the values of a clip are in [0,1]


def readable(config):
    """Whether the referee can read the clips of a config: one or two digits."""
    return not config.data and config.digits <= 2


def check_measurable(ckpt, config):
    """Raises InputError unless long clips of a config can be measured: one caption each, and digits to read."""
    if not readable(config):
        raise InputError(f"{ckpt}: trained on clips that the referee cannot read; expected one or two digits")
    if config.rule == "steered":
        raise InputError(f"{ckpt}: trained on a steered world; python3 -m data.evaluation.control measures it")


def real_clips(config, split, n, seed=0, sources=None):
    """n clips of one split of a config's data, on the CPU: (video, caption). sources: a run's own data,
    as from `load_sources`; left out, it is read anew."""
    data = sources[split] if sources else load_data(config, split)
    return data.clips(n, torch.Generator().manual_seed(seed))


def words_of(caption, config):
    """Captions as they are compared from model to model: without places, if they have any."""
    return digits_of(caption, config.digits) if config.placed > 0 and not config.data else caption


def published_clips(path, config, n):
    """The first n clips of the Moving MNIST test file (Srivastava et al. 2015): (video (n,channels,22,64,64)
    in [-1,1], caption (n,1) of no word). It has 20 frames; 21 and 22 repeat the last and are not scored."""
    array = load_mnist_test(Path(path))
    if array is None:
        raise InputError(f"--mnist-test {path}: expected mnist_test_seq.npy, uint8 of shape (20,N,64,64)")
    if (config.height, config.width) != array.shape[2:]:
        raise InputError(f"--mnist-test {path}: its clips are 64x64; this model was trained at "
                         f"{config.height}x{config.width}")
    if n > array.shape[1]:
        print(f"note: {path} has {array.shape[1]} clips, not {n}")
    clips = torch.from_numpy(array[:, :n].copy()).transpose(0, 1)[:, None]      # (n,1,20,64,64)
    video = torch.cat([clips, clips[:, :, -1:], clips[:, :, -1:]], dim=2).float() / 127.5 - 1
    return video.expand(-1, config.channels, -1, -1, -1), torch.zeros(len(video), 1, dtype=torch.long)


def cells(values):
    """{metric: (B,)} -> {metric: (value, low, high)}, without metrics for which no clip counts."""
    table = {}
    for metric, each in values.items():
        cell = share(each) if metric in SHARES else interval(each)
        if cell[0] == cell[0]:                                      # else nan
            table[metric] = cell
    return table


class Judge:
    """Measures clips of one or two digits. On the CPU in float32, whatever the model uses."""

    @metrics.exact
    def __init__(self, config):
        self.config, self.referee = config, load_referee()
        video, _ = real_clips(config, "train", REFERENCES, seed=2 ** 31)
        features = self.referee.clip_features(grey(video))          # (REFERENCES,352)
        spread = features.std(0)
        self.centre, self.scale = features.mean(0), spread.clamp(min=0.1 * spread.mean())
        axes = torch.linalg.svd((features - self.centre) / self.scale, full_matrices=False)[2]
        self.directions = axes[:48].T                               # in which real clips vary most
        self.reference = self.project(features)
        if config.digits == 1:
            canvas = config.height, config.width
            digits = MovingMNIST(*load_digits("train", config.mnist), canvas, config.digit_size).images
            stills = nnf.pad(digits, (4, 4, 4, 4))[:, None, None] * 2 - 1       # (n,1,1,H,W)
            self.training = self.handwriting(stills)                # every training digit

    def project(self, features):
        """Features (B,352) of the referee -> (B,48), on the directions above."""
        return (((features - self.centre) / self.scale) @ self.directions).double()

    def handwriting(self, video):
        """The digits of grey clips of one digit: (B,size,size)."""
        return metrics.handwriting(video, self.config.digit_size + 4)

    @metrics.exact
    def readings(self, video):
        """Digits read in each frame, sorted: (B,T,digits)."""
        frames = grey(video)[:, 0]                                  # (B,T,H,W)
        digits = self.referee.read(frames.flatten(0, 1)[:, None], self.config.digits)
        return digits.unflatten(0, frames.shape[:2])

    @metrics.exact
    def values(self, video, caption):
        """What each clip has of its own: {metric: (B,)}.

        video (B,channels,T,H,W) in [-1,1]; caption (B,digits) word ids, or those of a steered world. Both on
        any device."""
        video, caption = grey(video), digits_of(caption.cpu(), self.config.digits)
        readings, ink = self.readings(video), metrics.ink_of(video)
        table = {"legibility": legible(readings, caption).mean(1),
                 "permanence": metrics.permanence(readings, ink, self.config.digit_size)}
        if self.config.digits == 1:
            table["nearest"] = metrics.nearest(self.handwriting(video), self.training)[0]
        else:
            table["overlaps"] = metrics.overlaps(ink, self.config.digit_size).float()
        return table | metrics.motion(video)

    @metrics.exact
    def together(self, video, caption):
        """What only many clips have, together: {metric: (value, low, high)}. See `values`."""
        video, caption = grey(video), digits_of(caption.cpu(), self.config.digits)
        features = self.project(self.referee.clip_features(video))

        def frechet_of(kept):
            return metrics.frechet(self.reference, features[kept])

        table = {}
        if len(video) >= 4:                                         # fewer have no covariance to speak of
            table["frechet"] = jackknife(len(video), frechet_of)
            table["kernel distance"] = metrics.kernel_distance(self.reference, features)
        if self.config.digits == 1:
            digits = self.handwriting(video)
            far = metrics.distances(digits, digits)

            def variety_of(kept):
                return metrics.variety(far[kept][:, kept], caption[kept])

            table["variety"] = jackknife(len(video), variety_of)
        return {metric: cell for metric, cell in table.items() if cell[0] == cell[0]}         # not nan

    def measure(self, video, caption):
        """Everything: {metric: (value, low, high)}. See `values`."""
        return cells(self.values(video, caption)) | self.together(video, caption)

    def pairs(self, path, video):
        """Writes a picture: the digits of 16 clips, and below each its nearest training digit."""
        digits = self.handwriting(grey(video[:16]))
        which = metrics.nearest(digits, self.training)[1]
        sheet = torch.cat([digits, self.training[which]])[:, None, None] * 2 - 1
        write_still(path, grid(sheet, columns=len(digits)), scale=2)


def grey(video):
    """Clips (B,channels,T,H,W) on any device -> the mean of the channels (B,1,T,H,W) on the CPU."""
    return video.float().cpu().mean(1, keepdim=True)
