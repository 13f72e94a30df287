"""The judge: the referee and what training clips look like to it. score.py says what the numbers mean."""
import torch
import torch.nn.functional as nnf

from data.clips.files import grid, write_still
from data.evaluation.metrics import EXACT, frechet, handwriting, ink_of, interval, motion, nearest, permanence
from data.clips.folder import load_data
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.evaluation.referee import load_referee


def readable(config):
    """Whether the referee can read the clips of a config: one or two digits."""
    return not config.data and config.digits <= 2


def real_clips(config, split, n, seed=0):
    """n clips of one split of a config's data, on the CPU: (video, caption)."""
    return load_data(config, split).clips(n, torch.Generator().manual_seed(seed))


class Judge:
    """The referee, and what the training clips of a config look like to it. In float32, whatever the model uses."""

    @EXACT
    def __init__(self, config):
        self.config, self.referee = config, load_referee()
        features = self.referee.clip_features(self.grey(real_clips(config, "train", 1024, seed=2 ** 31)[0]))
        self.centre, self.scale = features.mean(0), features.std(0).clamp(min=0.1 * features.std(0).mean())
        self.directions = torch.linalg.svd((features - self.centre) / self.scale, full_matrices=False)[2][:48].T
        self.reference = self.project(features)
        canvas = config.height, config.width
        digits = MovingMNIST(*load_digits("train", config.mnist), canvas, config.digit_size).images   # (n,s,s) in [0,1]
        self.training = self.handwriting(nnf.pad(digits, (4, 4, 4, 4))[:, None, None] * 2 - 1)

    def grey(self, video):
        return video.float().cpu().mean(1, keepdim=True)

    def project(self, features):
        return (((features - self.centre) / self.scale) @ self.directions).double()

    def handwriting(self, video):
        return handwriting(video, self.config.digit_size + 4)

    @EXACT
    def readings(self, video):
        """Digits read in each frame, sorted: (B,T,digits)."""
        video = self.grey(video)
        return self.referee.read(video[:, 0].flatten(0, 1)[:, None], self.config.digits).unflatten(0, (len(video), -1))

    @EXACT
    def measure(self, video, caption):
        """Clips (B,c,T,H,W) and their captions (B,digits) -> {metric: (value, low, high)}."""
        video, readings = self.grey(video), self.readings(video)
        asked = (caption.cpu() - 1).sort(dim=1).values[:, None]
        table = {"legibility": interval((readings == asked).all(-1).float().mean(1)),
                 "frechet": interval(self.project(self.referee.clip_features(video)),
                                     lambda features: frechet(self.reference, features)),
                 "permanence": interval(permanence(readings, ink_of(video), self.config.digit_size))}
        if self.config.digits == 1:
            table["nearest"] = interval(nearest(self.handwriting(video), self.training)[0])
        table |= {name: interval(values) for name, values in motion(video).items()}
        return {name: cell for name, cell in table.items() if cell[0] == cell[0]}         # nan: no clip counted

    def pairs(self, path, video):
        """Writes a picture: the handwriting of 16 single-digit clips, and below each its nearest training digit."""
        digits = self.handwriting(self.grey(video[:16]))
        which = nearest(digits, self.training)[1]
        sheet = torch.cat([digits, self.training[which]])[:, None, None] * 2 - 1
        write_still(path, grid(sheet, columns=len(digits)), scale=2)
