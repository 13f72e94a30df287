"""A world to play in: videos that go on four frames at a time, each four with a caption of their own."""
import torch

from data.runtime import machine
from data.runtime.config import window_of
from sora import SPACE, TIME, extend

STEPS = 4        # denoising steps of four new frames: README.md says what fewer or more change
CONTEXT = 2      # latent frames of the past that are shown to the network, beside the anchor
LONGEST = 2 ** 16  # latent frames that can be told apart by their captions: three hours at 24 frames a second


def usual_sampler(process):
    """DDIM, if the process has it: in so few steps there is no time to take added noise away again."""
    return "ddim" if "ddim" in process.samplers else None


def one_new(config, context):
    """(window, context, anchor) of `extend`, in latent frames: the anchor, the context, and one new frame."""
    *_, anchor = window_of(config, (context + 2) * TIME, context * TIME)
    return (context + 2 if anchor else context + 1), context, anchor


class World:
    """n videos that begin with a caption (n,words) and are then told, four frames at a time, how to go on.

    What comes first, a window without a past, is made as `sample.py --prompt` makes it, with the config's
    steps and guidance: it is the anchor, so all that follows looks as good as it. size: (H,W) in pixels."""

    @torch.no_grad()
    def __init__(self, models, caption, seed=0, size=None, context=CONTEXT, steps=STEPS, guidance=1.0,
                 sampler=None):
        config, self.vae, dit, process, _ = models
        n = len(caption)
        randn = machine.seeded_noise(range(seed, seed + n), caption.device)
        height, width = size or (config.height, config.width)
        empty = torch.zeros(n, config.latent_channels, 0, height // SPACE, width // SPACE,
                            device=caption.device)
        self.cache, window = {}, config.frames // TIME
        context = min(context, window - 1)      # so that each window has the anchor, and one new latent frame
        with machine.autocast(caption.device):
            first = next(extend(dit, process, empty, caption, window, 0, steps=config.sample_steps,
                                guidance=config.guidance, randn=randn))
        self.ready = list(self.decode(first).split(TIME, dim=2))
        # `extend` looks the captions up window by window: so those to come can be filled in on the way.
        self.captions = caption[:, None].repeat(1, LONGEST, 1)
        self.made = window
        self.windows = extend(dit, process, first, self.captions, *one_new(config, context), steps=steps,
                              guidance=guidance, sampler=sampler or usual_sampler(process), randn=randn)

    @torch.no_grad()
    def step(self, caption):
        """The next four frames, (n,channels,4,H,W) in [-1,1] on the CPU, as the caption (n,words) says. The
        first window's frames are made already, whatever it says."""
        if self.ready:
            return self.ready.pop(0)
        self.captions[:, min(self.made, LONGEST - 1)] = caption
        self.made += 1
        with machine.autocast(caption.device):                          # its state is that of a thread
            return self.decode(next(self.windows))

    def decode(self, latent):
        """Latent (n,C,F,h,w) -> the video's next 4F frames; the decoder goes on where it was."""
        return self.vae.decode(latent, self.cache).cpu()
