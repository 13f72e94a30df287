"""Captions whose words say where what they name is: see PLACE in sora.py."""
import torch

from data.runtime.machine import moved
from sora import PLACE


def digits_of(caption, n_digits):
    """The digits' word ids (n, n_digits), without their places, in captions (n,words), or (n,F,words), where the
    first latent frame counts."""
    caption = caption[:, 0] if caption.ndim == 3 else caption
    return caption[:, :n_digits] % PLACE


def with_places(caption, middles):
    """Word ids (...) that say where: middles (...,2), y and x in pixels. See sora.PLACE."""
    y, x = middles.long().clamp(0, 999).unbind(-1)
    return caption + PLACE * (1 + 1000 * y + x)


def then_none(caption):
    """Captions (n,F,D) with places, and one more without: of what comes later nothing is said. Captions (n,D) have
    none, and stay."""
    if caption.ndim == 2:
        return caption
    return torch.cat([caption, caption[:, -1:] % PLACE], dim=1)


def keep_places(caption, share, generator=None):
    """Captions (n,F,D) with places, for training: in a share of the clips the first k latent frames keep theirs
    (k: 1 to F), in the others none does."""
    n, F, _ = caption.shape
    kept = 1 + (torch.rand(n, 1, 1, generator=generator) * F).long()
    kept = kept * (torch.rand(n, 1, 1, generator=generator) < share)
    keeps = moved(torch.arange(F)[:, None] < kept, caption.device)
    return torch.where(keeps, caption, caption % PLACE)
