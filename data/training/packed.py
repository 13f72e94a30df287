"""Optional, for --shapes: the loss of clips of several shapes, packed into one sequence."""
import torch


class Packed(torch.nn.Module):
    """A DiT whose `forward` is `forward_packed`."""

    def __init__(self, dit):
        super().__init__()
        self.dit = dit

    def forward(self, clips):
        return self.dit.forward_packed(clips)


def packed_loss(model, process, groups, count=None):
    """Optional: `diffusion_loss` of clips of several shapes in one sequence. Every unknown latent pixel
    counts alike, so it is the mean of the losses of the shapes, weighted by these.

    model: `DiT.forward_packed`; groups: a list of (x0, caption, known, positions, t, eps), a shape each;
    count: latent pixels to divide by, if the clips are only a part of a batch.
    Returns (loss, a list of the error of each latent frame (B,F)).
    """
    noisy = []
    for x0, caption, _, positions, t, eps in groups:
        inputs = process.q_sample(x0, t, eps), t / process.N, caption, positions
        noisy += zip(*[x.split(1) for x in inputs])                 # clip by clip
    outputs, errors, total = model(noisy), [], 0
    for x0, _, known, _, t, eps in groups:
        output, outputs = torch.cat(outputs[:len(x0)]), outputs[len(x0):]
        error = (output - process.target(x0, eps, t)).square().mean((1, 3, 4))
        total = total + (error * ~known).sum() * x0.shape[3] * x0.shape[4]
        errors.append(error)
    if count is None:
        count = sum(unknown_pixels(known, x0) for x0, _, known, *_ in groups)
    return total / count, errors


def unknown_pixels(known, latent):
    """How many latent pixels of clips (B,C,F,h,w) are in unknown frames; known (B,F)."""
    return (~known).sum() * latent.shape[3] * latent.shape[4]
