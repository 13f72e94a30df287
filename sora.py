"""sora.py: a small Sora in one file: the video VAE, the diffusion transformer, diffusion, the loss and the samplers.

    video (B,3|1,T,H,W) in [-1,1]
      └─ VideoVAE.encode ─► latent (B,C,F,h,w)       F = T/4, h = H/8, w = W/8     the video compression network
           └─ patchify ─► tokens (B,l,C·p·p) with coordinates (f,y,x)              spacetime patches
                └─ DiT: a set of tokens in, a prediction for each out; they know where they stand, how noisy they are
           ◄─ unpatchify
      ◄─ VideoVAE.decode
    DDPM or SiT say how noise is added and removed; `generate` fills unknown latent frames; `extend` goes on,
    `connect` leads from one clip to another, `loop` back to its beginning.

One letter an axis:
    B batch      c video channels, C latent channels    T video frames, F latent frames    H,W pixels, h,w latent pixels
    p patch size    L tokens of a sequence, l of one clip    D width of the transformer
    words: word ids of a caption, padded with 0
    R rows: a row is one latent frame of one clip, the tokens that share a noise level and a caption
    t noise level, s the next lower, N the last: in the units of the process; the network's t is t / N, in [0,1]

Papers: VAE (Kingma & Welling 2013), Transformer (Vaswani et al. 2017), DDPM (Ho et al. 2020), DDIM (Song et al. 2020),
improved DDPM (Nichol & Dhariwal 2021), RoPE (Su et al. 2021), classifier-free guidance (Ho & Salimans 2022), latent
diffusion (Rombach et al. 2022), SDEdit (Meng et al. 2022), v-prediction (Salimans & Ho 2022), DiT (Peebles & Xie 2023),
NaViT and ViT-22B (Dehghani et al. 2023), SiT (Ma et al. 2024; flow matching), diffusion forcing (Chen et al. 2024),
GameNGen (Valevski et al. 2024), Muon (Jordan et al. 2024), Sora (OpenAI 2024), history guidance (Song et al. 2025).

In a hurry? Read sections 4 (the transformer), 5 (diffusion) and 8 (`generate`).
"""
import math
import os
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as nnf  # F is the number of latent frames

TIME, SPACE = 4, 8  # the VAE makes one latent frame of TIME video frames, one latent pixel of SPACE x SPACE pixels


class InputError(ValueError):
    """Something the user gave cannot be used. One line that names it, what was expected and what to do."""


# ------------------------------------------------------------------------------------------------------------------
# 1. Config. The settings of a run, in one flat place; train.py makes its command line from it.

_opt = lambda default, help: field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Config:
    """The defaults are the preset `tiny`. Sizes in pixels and video frames; learning rates are peak values."""
    # clips
    height: int = _opt(32, "canvas height in pixels, a multiple of 8 x patch")
    width: int = _opt(32, "canvas width in pixels, a multiple of 8 x patch")
    frames: int = _opt(16, "video frames in a training clip, a multiple of 4, at least 8")
    channels: int = _opt(1, "1 grey, 3 RGB")
    shapes: str = _opt("", "FRAMESxHEIGHTxWIDTH:CLIPS ..., 1 frame an image: what a step packs instead of batch clips")
    data: str = _opt("", "folder of clips to train on (see data/loader.py); left out: moving MNIST")
    heldout: str = _opt("", "hold out the clips whose names contain one of these words; left out: every tenth")
    stride: int = _opt(1, "keep every stride-th frame of the clips in the folder")
    cache: str = _opt("", "folder to keep decoded clips in (left out: .cache in the folder of clips)")
    mnist: str = _opt("", "folder of the four MNIST idx files to use instead of the 5,000 digits shipped")
    rule: str = _opt("official", "motion of the digits: official (straight lines, mirrored) or stochastic")
    digits: int = _opt(1, "digits in a clip")
    digit_size: int = _opt(20, "edge of a digit in pixels")
    # video VAE
    latent_channels: int = _opt(8, "channels of a latent pixel; 256 x channels / this = compression")
    vae_width: int = _opt(64, "channels at 1/4 of the resolution, twice as many at 1/8")
    vae_depth: int = _opt(1, "residual blocks a resolution")
    vae_kl: float = _opt(1e-4, "weight of the KL term against the squared error")
    vae_steps: int = _opt(5000, "training steps of the VAE (0, with --init only: it stays as it is)")
    vae_batch: int = _opt(8, "clips in a step of the VAE")
    vae_muon: float = _opt(4e-3, "learning rate of the VAE's kernels (Muon; 0: AdamW instead)")
    vae_lr: float = _opt(2e-3, "learning rate of the rest of the VAE (AdamW)")
    # diffusion transformer
    patch: int = _opt(1, "edge of a spacetime patch in latent pixels")
    dim: int = _opt(192, "width of the transformer")
    depth: int = _opt(6, "blocks")
    heads: int = _opt(6, "attention heads; dim / heads is even and at least 8")
    known: float = _opt(0.5, "share of clips trained with some of their latent frames known")
    anchors: float = _opt(0.5, "share of known first and last latent frames that come from earlier or later")
    reach: int = _opt(96, "how far away at most, in video frames, a multiple of 4; more than half is told as half")
    stills: float = _opt(0.25, "share of known first latent frames that are a still")
    forcing: float = _opt(0.25, "share of clips whose known latent frames have noise levels of their own")
    steps: int = _opt(2600, "training steps of the transformer")
    batch: int = _opt(32, "clips in a step of the transformer")
    muon: float = _opt(1e-2, "learning rate of the matrices inside the blocks (Muon; 0: AdamW instead)")
    lr: float = _opt(2e-3, "learning rate of everything else (AdamW)")
    ema: float = _opt(0.995, "decay a step of the averaged weights that sampling uses")
    caption_drop: float = _opt(0.1, "share of clips trained without their caption, for guidance")
    caption_drop_known: float = _opt(0.5, "the same for clips with known frames, which say what the caption says")
    # diffusion
    process: str = _opt("ddpm", "ddpm or sit")
    prediction: str = _opt("v", "what the network predicts under ddpm: v, eps or x0 (sit: always its velocity)")
    noise_steps: int = _opt(1000, "N, the last DDPM level")
    guidance: float = _opt(3.0, "classifier-free guidance scale when sampling, 1 is none")
    sample_steps: int = _opt(50, "denoising steps when sampling")
    # the run
    seed: int = _opt(0, "of everything random")
    log_every: int = _opt(20, "steps between two lines of the log")
    save_every: int = _opt(500, "steps between two checkpoints and previews")

    @property
    def far(self):  # in latent frames, half of `reach`: what the network is told of anchors that are as far, or farther
        return (self.reach // TIME + 1) // 2


PRESETS = {
    "tiny": Config(),
    "small": Config(height=64, width=64, frames=20, digits=2, digit_size=28, vae_steps=8000, vae_batch=4, batch=16,
                    steps=60000),
    "base": Config(height=128, width=128, frames=32, channels=3, digits=2, digit_size=28, latent_channels=16,
                   vae_width=192, vae_depth=2, vae_steps=50000, patch=2, dim=768, depth=12, heads=12, batch=64,
                   steps=200000),
}


# ------------------------------------------------------------------------------------------------------------------
# 2. The video compression network: a convolutional VAE, 4 x 8 x 8 pixels to one latent pixel.
# The encoder is local in time: a latent frame depends on its own 4 video frames and on no others, so a latent means
# the same wherever it stands. The decoder is causal in time (its first layer and the first convolution of each block
# see one latent frame back), so it can stream: piece by piece with a cache gives what decoding all at once gives.
# Tests: encoder_is_local_in_time, streaming_decode_equals_offline_decode.

class Conv3d(nn.Module):
    """A 3D convolution that pads space evenly and time on the left only: with zeros, or with what `cache` remembers.

    The kernel is kept as a matrix, (outputs, taps x inputs): so Muon can treat it as one, and the layout is channels
    last. `cache`: a dict, empty before the first frames of a clip; each layer keeps its last inputs there.
    """

    def __init__(self, c_in, c_out, kernel, stride=(1, 1, 1)):
        super().__init__()
        self.shape, self.stride = (c_out, *kernel, c_in), stride
        self.left = kernel[0] - stride[0]                                       # frames seen before the present ones
        self.padding = (0, (kernel[1] - stride[1]) // 2, (kernel[2] - stride[2]) // 2)
        bound = math.prod(self.shape[1:]) ** -0.5                               # variance 1 / 3 fan-in, torch's default
        self.kernel = nn.Parameter(torch.empty(c_out, math.prod(self.shape[1:])).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x, cache=None):  # (B,C,F,h,w) -> (B,C',F',h',w')
        if self.left:
            past = (cache or {}).get(self)
            x = torch.cat([x.new_zeros(*x.shape[:2], self.left, *x.shape[3:]) if past is None else past, x], dim=2)
            if cache is not None:
                cache[self] = x[:, :, -self.left:]
        kernel = self.kernel.view(self.shape).permute(0, 4, 1, 2, 3)            # (C',C,time,height,width)
        return nnf.conv3d(x, kernel, self.bias, self.stride, self.padding)


def channel_norm(x):
    """LayerNorm over the channels of each voxel. Statistics over time would tie frames together: no streaming then."""
    return nnf.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)  # (B,C,F,h,w)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the first convolution sees `time` latent frames, the newest last."""

    def __init__(self, width, time=1):
        super().__init__()
        self.conv1, self.conv2 = Conv3d(width, width, (time, 3, 3)), Conv3d(width, width, (1, 3, 3))

    def forward(self, x, cache=None):
        return x + self.conv2(nnf.silu(channel_norm(self.conv1(nnf.silu(channel_norm(x)), cache))))


class VideoVAE(nn.Module):
    """Video (B,channels,T,H,W) in [-1,1] <-> latent (B,C,T/4,H/8,W/8) with mean 0 and deviation 1 per channel.

    The latent's statistics are measured after training (`measure`) and travel with the weights.
    """

    def __init__(self, config):
        super().__init__()
        width, deep, c = config.vae_width, 2 * config.vae_width, config.channels
        blocks = lambda width, time: [ResBlock(width, time) for _ in range(config.vae_depth)]
        self.encoder = nn.ModuleList([
            Conv3d(c, width, (TIME, 8, 8), stride=(TIME, 4, 4)),                            # (B,width,F,H/4,W/4)
            *blocks(width, time=1),
            Conv3d(width, deep, (1, 2, 2), stride=(1, 2, 2)),                               # (B,deep,F,h,w)
            *blocks(deep, time=1)])
        self.to_moments = Conv3d(deep, 2 * config.latent_channels, (1, 1, 1))
        self.from_latent = Conv3d(config.latent_channels, deep, (2, 3, 3))
        self.decoder = nn.ModuleList([
            *blocks(deep, time=2),
            nn.ConvTranspose3d(deep, width, (1, 2, 2), stride=(1, 2, 2)),                   # (B,width,F,H/4,W/4)
            *blocks(width, time=2)])
        self.to_pixels = Conv3d(width, c * TIME * 4 * 4, (1, 3, 3))  # each position paints 4 frames of 4 x 4 pixels
        self.register_buffer("mean", torch.zeros(config.latent_channels, 1, 1, 1))
        self.register_buffer("std", torch.ones(config.latent_channels, 1, 1, 1))

    def matrices(self):
        """What Muon trains: the kernels of all Conv3d."""
        return [module.kernel for module in self.modules() if isinstance(module, Conv3d)]

    def moments(self, video):
        """Mean and log variance (B,C,F,h,w) of the posterior q(latent | video), before normalisation."""
        B, c, T, H, W = video.shape
        if T % TIME or H % SPACE or W % SPACE:
            raise InputError(f"video of {T} frames of {H}x{W}: expected multiples of {TIME} frames, {SPACE} pixels")
        x = video.contiguous(memory_format=torch.channels_last_3d)
        for layer in self.encoder:
            x = layer(x)
        mean, log_var = self.to_moments(nnf.silu(channel_norm(x))).float().chunk(2, dim=1)
        return mean, log_var.clamp(-20, 10)

    def encode(self, video):
        """Video (B,channels,T,H,W) in [-1,1] -> latent (B,C,F,h,w): the posterior mean, normalised."""
        return (self.moments(video)[0] - self.mean) / self.std

    def decode(self, latent, cache=None):
        """Latent (B,C,F,h,w) -> video (B,channels,4F,8h,8w), about [-1,1]. With a `cache` dict, goes on from there."""
        return self.paint(latent * self.std + self.mean, cache)

    def paint(self, z, cache=None):
        """`decode` of a latent that is not normalised."""
        x = self.from_latent(z.contiguous(memory_format=torch.channels_last_3d), cache)
        for layer in self.decoder:
            x = layer(x, cache) if isinstance(layer, ResBlock) else layer(x)
        x = self.to_pixels(nnf.silu(channel_norm(x))).float()                     # (B,c·4·4·4,F,H/4,W/4)
        B, _, F, h4, w4 = x.shape
        x = x.view(B, -1, TIME, 4, 4, F, h4, w4).permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B,c,F,4,H/4,4,W/4,4)
        return x.reshape(B, -1, TIME * F, 4 * h4, 4 * w4)

    def loss(self, video, kl_weight, generator=None):
        """The evidence bound, rescaled: squared error + kl_weight x KL per latent value. -> (loss, error, KL)."""
        mean, log_var = self.moments(video)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        error = (self.paint(mean + (0.5 * log_var).exp() * noise) - video).square().mean()
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()           # KL(q || N(0,1)) in nats
        return error + kl_weight * kl, error.detach(), kl.detach()

    @torch.no_grad()
    def measure(self, videos):
        """Sets the latent's mean and deviation per channel from an iterable of videos (no constant 0.18215)."""
        z = torch.cat([self.moments(video)[0].transpose(0, 1).flatten(1) for video in videos], dim=1)  # (C,B·F·h·w)
        self.mean.copy_(z.mean(1).view_as(self.mean))
        self.std.copy_(z.std(1).view_as(self.std))


# ------------------------------------------------------------------------------------------------------------------
# 3. Spacetime patches: a latent becomes a set of tokens, each with its coordinates. A token is p x p latent pixels of
# one latent frame, which the VAE made of 4 video frames: that is its extent in time.
# Tests: patchify_is_inverted_by_unpatchify, rope_depends_on_relative_position_only.

def patchify(latent, p):
    """Latent (B,C,F,h,w) -> tokens (B, F·h/p·w/p, C·p·p), frame by frame, line by line."""
    B, C, F, h, w = latent.shape
    x = latent.view(B, C, F, h // p, p, w // p, p)                             # (B,C,F,h/p,p,w/p,p)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(B, F * (h // p) * (w // p), C * p * p)


def unpatchify(tokens, p, F, h, w):
    """Tokens (B, F·h/p·w/p, C·p·p) -> latent (B,C,F,h,w). The inverse of `patchify`."""
    B = tokens.shape[0]
    x = tokens.view(B, F, h // p, w // p, -1, p, p)                            # (B,F,h/p,w/p,C,p,p)
    return x.permute(0, 4, 1, 2, 5, 3, 6).reshape(B, -1, F, h, w)


def grid_coords(F, h, w, device=None):
    """Coordinates (F·h·w, 5) of F times h x w patches, in the order of `patchify`: f, y, x, and the canvas h, w."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in (F, h, w)]
    f, y, x = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    return torch.stack([f, y, x, torch.full_like(f, h), torch.full_like(f, w)], dim=-1)


def sinusoid(x, dim, max_period):
    """x (...) -> (..., dim): cosines and sines of wavelengths from 2 pi to about 2 pi max_period (Transformer, 3.5)."""
    freqs = max_period ** (-torch.arange(dim // 2, dtype=torch.float32, device=x.device) / (dim // 2))
    angle = x[..., None].float() * freqs
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def rope_angles(coords, head_dim):
    """Cosines and sines (...,L,head_dim/2) of the angles that turn the pairs of a head (RoPE, eq. 15, on three axes).

    About a quarter of the pairs turns with f, the rest half with y and half with x. Base 100 instead of the 10,000 made
    for text: our axes are some ten patches long, and slower angles would not tell neighbours apart.
    """
    pairs = head_dim // 2
    per_axis = (pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8)
    angle = torch.cat([coords[..., axis, None] * 100.0 ** (-torch.arange(n, device=coords.device) / n)
                       for axis, n in enumerate(per_axis)], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """Turns the pairs (i, i + head_dim/2) of x (...,L,heads,head_dim) by their angles (RoPE, eq. 34, in halves).

    The product of a turned query and a turned key then depends on the difference of their coordinates only.
    """
    a, b = x.chunk(2, dim=-1)                                                  # (L,heads,head_dim/2) each
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


# ------------------------------------------------------------------------------------------------------------------
# 4. The diffusion transformer. Its core sees tokens, clip after clip, never a grid: which latent frame of which clip a
# token belongs to is said by `row`, and noise level and caption are given per row.
# Tests: tokens_are_a_set, packed_clips_do_not_see_each_other, remembered_frames_change_nothing.

def norm(x):
    """LayerNorm over the last axis. The modulation scales it; queries and keys get one length: bounded logits."""
    return nnf.layer_norm(x, x.shape[-1:])


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the row's level and caption (adaLN-Zero, DiT fig. 3)."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(dim, 6 * dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x, condition, row, rope, sees, memory):
        """x (L,D); condition (R,D); row (L,): which of them; rope: cosines and sines (L,1,head_dim/2)."""
        per_row = self.modulation(nnf.silu(condition))                                    # (R,6D)
        shift1, scale1, gate1, shift2, scale2, gate2 = per_row.index_select(0, row).chunk(6, dim=-1)    # (L,D) each
        x = x + gate1 * self.attend(norm(x) * (1 + scale1) + shift1, rope, sees, memory)
        return x + gate2 * self.down(nnf.gelu(self.up(norm(x) * (1 + scale2) + shift2)))

    def attend(self, x, rope, sees, memory):
        """Multi-head self-attention among the tokens of each clip; queries and keys normalised (as in ViT-22B), turned.

        sees: for each group of n clips of l tokens, which go through it together, (n,1,l,l): does token i see token j?
        memory: a dict for one group. The first call keeps its keys and values there; later ones see them, too.
        """
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)                   # (L,heads,head_dim) each
        q, k = rotate(norm(q), *rope), rotate(norm(k), *rope)
        out, lengths = [], [mask.shape[0] * mask.shape[-1] for mask in sees]
        for mask, *group in zip(sees, *(part.split(lengths) for part in (q, k, v))):
            q, k, v = (part.view(len(mask), -1, *part.shape[1:]).transpose(1, 2) for part in group)  # (n,heads,l,..)
            if memory is not None:
                mask, past = None, memory.setdefault(self, (k, v))             # all see all
                if past[0] is not k:                                           # a later call
                    k, v = (torch.cat(pair, dim=2) for pair in zip(past, (k, v)))
            seen = nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            out.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))                     # (n·l,D)
        return self.out(torch.cat(out))                                                   # (L,D)


class DiT(nn.Module):
    """Predicts what the process asks for (v, eps, x0 or a velocity) from noisy latents, noise levels and captions."""

    def __init__(self, config, n_words):
        super().__init__()
        self.p, self.heads, dim = config.patch, config.heads, config.dim
        token = config.latent_channels * self.p ** 2
        self.embed_token = nn.Linear(token, dim)
        self.embed_walls = nn.Linear(4 * 16, dim)        # 4 walls, 16 cosines and sines each
        self.embed_level = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embed_word = nn.Embedding(n_words + 1, dim, padding_idx=0)  # word 0 is "no word": the zero vector
        self.blocks = nn.ModuleList([DiTBlock(dim, config.heads) for _ in range(config.depth)])
        self.modulation = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, token)
        self.initialise()

    def initialise(self):
        """All initial values that are not torch's own, and why."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)       # as in DiT: keeps variances, forward and backward
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed_word.weight, std=0.5)     # as loud as the noise level, from the start
        self.embed_word.weight.data[0] = 0                   # "no word" adds nothing
        for module in (self.modulation, self.head, *(block.modulation for block in self.blocks)):
            nn.init.zeros_(module.weight)                    # adaLN-Zero: blocks start as identities, the net says 0

    def matrices(self):
        """What Muon trains: attention and MLP. The modulations start at 0 and stay with AdamW."""
        return [layer.weight for block in self.blocks for layer in (block.qkv, block.out, block.up, block.down)]

    def forward(self, x, t, caption, times=None, known=None):
        """Noisy latents x (B,C,F,h,w), levels t (B,F) in [0,1], caption (B,words) -> predictions (B,C,F,h,w).

        A caption is a bag of words, their numbers from 1 and 0 for none; "3 7" and "7 3" are the same.
        times (B,F): where in time each latent frame stands; None: one after the other.
        known (B,F): which are given; they do not look at the others. None: none.
        """
        return self.packed([(x, t, caption, times, known)])[0]

    def remember(self, known, times):
        """`forward` of (x, t, caption), to call while the known frames (F,), their t and the batch stay what they are:
        not looking at the others, they are computed at the first call only, keys and values. It predicts 0 for them."""
        old, new, memory = known.nonzero()[:, 0], (~known).nonzero()[:, 0], {}

        def model(x, t, caption):
            part = lambda at: self.packed([(x[:, :, at], t[:, at], caption, times[at].expand(len(x), -1), None)],
                                          memory if len(old) else None)[0]
            if len(old) and not memory:
                part(old)
            return torch.zeros_like(x).index_copy(2, new, part(new)) if len(new) else torch.zeros_like(x)
        return model

    def packed(self, groups, memory=None):
        """Clips of several shapes, one behind the other in one sequence (Patch n' Pack, NaViT section 2.1): a list of
        (x, t, caption, times, known), each as in `forward`, with its own B and shape -> a list of predictions."""
        parts, sizes, R, most = [], [], 0, max(caption.shape[1] for _, _, caption, *_ in groups)
        for x, t, caption, times, known in groups:
            B, _, F, h, w = x.shape
            grid = grid_coords(F, h // self.p, w // self.p, x.device).repeat(B, 1, 1)     # (B,l,5)
            frame = grid[:, :, 0].long()                                                  # (B,l): its latent frame
            row = frame + F * torch.arange(B, device=x.device)[:, None] + R               # (B,l)
            if times is not None:
                grid[:, :, 0] = times.to(grid).gather(1, frame)
            words = nnf.pad(caption, (0, most - caption.shape[1])).repeat_interleave(F, dim=0)      # (B·F,words)
            known = torch.zeros_like(t, dtype=torch.bool) if known is None else known
            parts.append((patchify(x, self.p).flatten(0, 1), grid.flatten(0, 1), row.flatten(),     # (B·l,..) each
                          t.flatten(), words, known.flatten()))                                     # (B·F,..) each
            sizes.append(frame.shape)
            R += B * F
        out = self.forward_tokens(*map(torch.cat, zip(*parts)), sizes, memory).split([B * l for B, l in sizes])
        return [unpatchify(part.view(*size, -1), self.p, *x.shape[2:])
                for part, size, (x, *_) in zip(out, sizes, groups)]

    def forward_tokens(self, tokens, coords, row, t, caption, known, sizes, memory=None):
        """The core. Tokens of any number of clips -> a prediction for each, in the same order, (L,C·p·p).

        tokens (L,C·p·p), clip after clip, those of a clip in any order; coords (L,5): f, y, x, canvas h, w in patches;
        row (L,): which latent frame of which clip a token belongs to; t (R,) in [0,1], caption (R,words), known (R,) of
        each row (known ones see known ones only); sizes: a list of (n, l): n clips of l tokens; memory: see `attend`.
        """
        f, y, x, h, w = coords.unbind(-1)
        walls = torch.stack([y, h - 1 - y, x, w - 1 - x], dim=-1)  # RoPE is relative, but where things bounce is not
        z = self.embed_token(tokens) + self.embed_walls(sinusoid(walls, 16, max_period=100).flatten(-2))  # (L,D)
        level = sinusoid(1000 * t, 256, max_period=10000)  # in [0,1] these waves would be flat: DiT's t goes to 1000
        condition = self.embed_level(level) + self.embed_word(caption).sum(1)             # (R,D)
        rope = [part.to(z.dtype)[:, None]  # or bfloat16 queries and keys would come out as float32
                for part in rope_angles(coords, z.shape[-1] // self.heads)]               # (L,1,head_dim/2) each
        known = known.index_select(0, row).split([n * l for n, l in sizes])    # (n·l,) each
        sees = [~part.view(n, 1, l, 1) | part.view(n, 1, 1, l) for part, (n, l) in zip(known, sizes)]  # (n,1,l,l)
        for block in self.blocks:
            z = block(z, condition, row, rope, sees, memory)
        shift, scale = self.modulation(nnf.silu(condition)).index_select(0, row).chunk(2, dim=-1)
        return self.head(norm(z) * (1 + scale) + shift).float()


# ------------------------------------------------------------------------------------------------------------------
# 5. DDPM. Levels t are integers 0..N, one per latent frame, (B,F); alpha_bar[0] = 1: level 0 is the data itself.
# Every sampler steps from levels t to lower levels s; what it makes of known frames (t = s) is not used.
# Tests: q_sample_has_the_stated_mean_and_variance, posterior_follows_from_bayes_rule,
# ancestral_follows_the_gaussian_recursion, deterministic_samplers_converge_at_their_order.

def per_frame(value, x):
    """A value per latent frame (B,F), shaped to multiply a latent x (B,C,F,h,w)."""
    return value.to(x.device)[:, None, :, None, None]


def gauss(x, generator=None):
    """Normal noise like x (B,...). generator: one, or a list of one for each clip: its own in any batch."""
    pairs = zip(x.split(1), generator, strict=True) if isinstance(generator, list) else [(x, generator)]
    return torch.cat([torch.randn(part.shape, generator=g, device=x.device) for part, g in pairs])


class DDPM:
    """Noise is added in N small steps with variances beta_1..beta_N and taken away in as many, or fewer."""
    samplers = ("ancestral", "ddim")

    def __init__(self, steps=1000, prediction="v", device=None):
        self.N, self.prediction = steps, prediction
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2                # improved DDPM, eq. 17: cosine schedule
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        self.alpha_bar = torch.cat([torch.ones(1), (1 - betas).cumprod(0)]).float().to(device)  # (N+1,)

    def draw_levels(self, shape, generator=None, device=None):
        """Levels to train at: uniform in 1..N."""
        return torch.randint(1, self.N + 1, shape, generator=generator, device=device)

    def level_of(self, noise):
        """The level whose noise has this standard deviation, rounded up: a number or tensor in [0,1) -> integer t."""
        deviation = (1 - self.alpha_bar).sqrt()                                # rises with t
        return torch.searchsorted(deviation, torch.as_tensor(noise, dtype=deviation.dtype, device=deviation.device))

    def schedule(self, steps, device=None):
        """The levels a sampler visits, from N down to 0: (steps+1,)."""
        return torch.linspace(self.N, 0, steps + 1, device=device).round().long()

    def signal_noise(self, t, x):
        """alpha = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t): how much data and how much noise is in x_t."""
        bar = per_frame(self.alpha_bar[t], x)
        return bar.sqrt(), (1 - bar).sqrt()

    def q_sample(self, x0, t, eps):
        """x_t from data and noise in one go (DDPM eq. 4)."""
        alpha, sigma = self.signal_noise(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0, eps, t):
        """What the network should say at level t."""
        alpha, sigma = self.signal_noise(t, x0)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[self.prediction]  # v: Salimans & Ho, section 4

    def predict(self, model, x, t, caption):
        """The network's idea of (x0, eps) in x_t."""
        alpha, sigma = self.signal_noise(t, x)
        out = model(x, t / self.N, caption)
        if self.prediction == "v":
            return alpha * x - sigma * out, sigma * x + alpha * out
        if self.prediction == "eps":  # alpha is 5e-5 at t = N and would blow up any error: latents have deviation 1
            return ((x - sigma * out) / alpha).clamp(-5, 5), out
        return out, (x - alpha * out) / sigma

    def posterior(self, x0, x, t, s):
        """Mean and variance of q(x_s | x_t, x0), s <= t (DDPM eq. 6 and 7, which is s = t - 1)."""
        bar_t, bar_s = per_frame(self.alpha_bar[t], x), per_frame(self.alpha_bar[s], x)
        beta = 1 - bar_t / bar_s                                               # of the whole way from s to t
        mean = bar_s.sqrt() * beta / (1 - bar_t) * x0 + (bar_t / bar_s).sqrt() * (1 - bar_s) / (1 - bar_t) * x
        return mean, beta * (1 - bar_s) / (1 - bar_t)

    def ancestral(self, model, x, t, s, caption, generator=None):
        """DDPM algorithm 2 with the smaller variance of section 3.2, from t to any s < t at once: draw x_s from the
        posterior, the predicted x0 in place of the true one."""
        x0, _ = self.predict(model, x, t, caption)
        mean, variance = self.posterior(x0, x, t, s)                           # at s = 0 the variance is 0: no noise
        return mean + variance.sqrt() * gauss(x, generator)

    def ddim(self, model, x, t, s, caption, generator=None):
        """DDIM eq. 12 with eta 0: keep the predicted noise, only less of it. Deterministic."""
        x0, eps = self.predict(model, x, t, caption)
        return self.q_sample(x0, s, eps)


# ------------------------------------------------------------------------------------------------------------------
# 6. SiT: the same transformer, but noise and data are joined by straight lines and the network predicts the velocity
# along them. Levels t in [0,1], 0 is data. The same signatures as DDPM: switching is one word.

class SiT:
    """The linear interpolant x_t = (1 - t) x0 + t eps of SiT, solved as an ordinary differential equation."""
    samplers = ("euler", "heun")
    N = 1  # the last level, as in DDPM: the network is told t / N

    def draw_levels(self, shape, generator=None, device=None):
        """Levels to train at: uniform in (0,1]."""
        return 1 - torch.rand(shape, generator=generator, device=device)

    def level_of(self, noise):
        """The level whose noise has this standard deviation: itself."""
        return torch.as_tensor(noise)

    def schedule(self, steps, device=None):
        """The levels a sampler visits, from 1 down to 0: (steps+1,)."""
        return torch.linspace(1, 0, steps + 1, device=device)

    def q_sample(self, x0, t, eps):
        """x_t from data and noise."""
        t = per_frame(t, x0)
        return (1 - t) * x0 + t * eps

    def target(self, x0, eps, t):
        """The velocity dx_t/dt."""
        return eps - x0

    def euler(self, model, x, t, s, caption, generator=None):
        """One step along the velocity at the start. Error of order 1."""
        return x + per_frame(s - t, x) * model(x, t, caption)

    def heun(self, model, x, t, s, caption, generator=None):
        """The mean of the velocities at both ends. Error of order 2."""
        velocity = model(x, t, caption)
        at_end = model(x + per_frame(s - t, x) * velocity, s, caption)
        at_end = torch.where(per_frame(s == 0, x), velocity, at_end)           # level 0 is not trained: Euler there
        return x + per_frame(s - t, x) * (velocity + at_end) / 2


def make_process(config, device=None):
    """The process that a config names."""
    return DDPM(config.noise_steps, config.prediction, device) if config.process == "ddpm" else SiT()


# ------------------------------------------------------------------------------------------------------------------
# 7. Training: which frames are known, the loss, the optimizers. The loop itself is in train.py.
# Tests: training_windows_hold_every_use, loss_ignores_known_frames, every_unknown_token_weighs_the_same.

def draw_windows(config, B, F, generator=None):
    """Draws what to show in B training clips of F latent frames: so every use in sections 8 and 9 is practised.

    In a share `config.known` 1 to F-1 latent frames are known: at the start, at the end, or, if there are two, at both.
    A known first or last one may be an anchor, from up to `config.reach` video frames before or after its place; more
    than half of that (`config.far`) is told as half: "so far or farther", which holds at any distance. A known first
    one may be a still, one frame four times; clips of one latent frame, images, always are.
    Returns, on the CPU, (known (B,F) bool, times (B,F): where in time each latent frame stands, usually 0..F-1,
    frames (B,4F): the video frames that they are made of, counted like times but in video frames).
    """
    draw = lambda low, high, n=1: torch.randint(low, high, (B, n), generator=generator)
    chance = lambda share, n=1: torch.rand(B, n, generator=generator) < share
    index, kind = torch.arange(F), draw(0, 3)                                  # kind 0: start, 1: end, 2: both
    n = draw(min(1, F - 1), F) * chance(config.known)                          # (B,1): how many are known
    split = ((n - 1) * torch.rand(B, 1, generator=generator)).ceil().long()    # of both, 1..n-1 at the start
    start = torch.where(kind == 2, split, n * (kind == 0))
    known = (index < start) | (index >= F - n + start)                         # (B,F)
    outward = (index == F - 1).long() - (index == 0).long()                    # (F,): -1 the first, 1 the last
    anchor = known & chance(config.anchors if config.reach else 0, F)
    gap = outward * anchor * draw(1, max(config.reach // TIME, 1) + 1, F)
    times = index + gap.clamp(-config.far, config.far)
    frames = TIME * (index + gap)[..., None] + torch.arange(TIME)              # (B,F,4)
    still = (known & chance(config.stills))[:, 0] | (F == 1)                   # (B,)
    frames[still, 0] = frames[still, 0, -1:]
    return known, times, frames.flatten(1)


def diffusion_loss(model, process, config, groups, generator=None):
    """Squared error of the network's predictions, averaged over the tokens of unknown frames, of all clips alike.

    model: `DiT.packed`, or a function like it; groups: a list of (x0 (B,C,F,h,w) clean normalised latents, caption
    (B,words) ids, known (B,F), times (B,F)), the last two as `draw_windows` draws them; times may be None.
    All unknown frames of a clip share one level. The known ones have levels of their own in a share `config.forcing` of
    the clips (as in diffusion forcing); elsewhere, clean or, in half, with a noise of up to 0.3. Captions are dropped.
    Returns (loss, error (R,), t (R,) in [0,1], set to 0 where a frame is known so that a log by level can skip it).
    """
    noisy, targets, weights, levels = [], [], [], []
    for x0, caption, known, times in groups:
        B, _, F, h, w = x0.shape
        uniform = lambda *shape: torch.rand(shape, generator=generator, device=x0.device)
        draw_levels = lambda *shape: process.draw_levels(shape, generator, x0.device)
        drop = torch.where(known.any(1, keepdim=True), config.caption_drop_known, config.caption_drop)
        caption = caption.masked_fill(uniform(B, 1) < drop, 0)
        known_level = process.level_of(0.6 * (uniform(B, 1) - 0.5).clamp(min=0))           # (B,1): of half of them 0
        known_level = torch.where(uniform(B, 1) < config.forcing, draw_levels(B, F), known_level)
        t = torch.where(known, known_level, draw_levels(B, 1))                 # (B,F)
        eps = gauss(x0, generator)
        noisy.append((process.q_sample(x0, t, eps), t / process.N, caption, times, known))
        targets.append(process.target(x0, eps, t))
        weights.append(~known.flatten() * (h * w))
        levels.append(t.masked_fill(known, 0).flatten() / process.N)
    error = torch.cat([(out - target).square().mean(dim=(1, 3, 4)).flatten()
                       for out, target in zip(model(noisy), targets)])         # (R,)
    weights = torch.cat(weights)
    return (error * weights).sum() / weights.sum(), error.detach(), torch.cat(levels)


def newton_schulz(matrices, steps=5):
    """Brings all singular values of matrices (..., rows, columns) near 1: they become about orthogonal.

    Every step applies the odd polynomial a x + b x^3 + c x^5 to the singular values, without computing them. The
    coefficients (Jordan et al. 2024) make it as steep as possible at 0, so that small ones grow 3.4-fold a step, at the
    price of never settling: after 5 steps those that were above about 0.01 of the norm are in [0.68, 1.2].
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)          # no singular value above 1
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT                                                               # x @ x.mT is then the smaller square
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Gradient descent in which every direction of a matrix moves by the same amount (Muon, Jordan et al. 2024).

    A gradient's few large singular values would otherwise drown the many small ones, which carry rare features. The
    step is scaled to be as large as AdamW's usually are (root mean square 0.2 lr an entry; Liu et al. 2025).
    Matrices of one shape are orthogonalised in one batch, in `dtype`: bfloat16 pays only where it is multiplied by
    hardware. Kernels of more axes count as matrices of (outputs, all else).
    """

    def __init__(self, params, lr, momentum=0.95, dtype=torch.float32):
        super().__init__(params, dict(lr=lr, momentum=momentum))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = {}                                                       # {shape: [(parameter, update), ...]}
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                average = self.state[p]["momentum"]
                average.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(average, group["momentum"])               # Nesterov: the average one step ahead
                updates.setdefault(p.shape, []).append((p, update))
            for shape, pairs in updates.items():
                batch = torch.stack([update.flatten(1) for _, update in pairs])            # (n, rows, columns)
                scale = 0.2 * max(batch.shape[1:]) ** 0.5
                for (p, _), update in zip(pairs, newton_schulz(batch.to(self.dtype))):
                    p.sub_(update.view_as(p).to(p.dtype), alpha=group["lr"] * scale)


def make_optimizers(net, lr_muon, lr):
    """Muon for the matrices that the network lists, AdamW for everything else; lr_muon 0: AdamW alone."""
    matrices = net.matrices() if lr_muon else []
    rest = [p for p in net.parameters() if not any(p is q for q in matrices)]
    muon = [Muon(matrices, lr_muon)] if matrices else []
    return [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True), *muon]


# ------------------------------------------------------------------------------------------------------------------
# 8. Sampling. One mask of known latent frames makes text-to-video (nothing known), extension forward and backward (the
# first or last known), connecting two clips (both ends known): known frames stay at their level, untouched. Tests:
# known_frames_come_back_bit_equal, guidance_is_linear_and_acts_on_every_channel, strength_says_how_much_is_left.

def guided(model, known, noise, scale, history):
    """The model with guidance: away from what it says without a caption, and without the known frames.

        out = model() + history * (model(known) - model()) + scale * (model(known, caption) - model(known))

    where model() is told neither: it sees `noise` alone (t / N = 1) where frames are known. With history = 1 this is
    classifier-free guidance (Ho & Salimans, eq. 6; scale is 1 + their w), without a caption the history guidance of
    Song et al. 2025. They guide eps; v, x0 and the velocity are linear in it at a given x_t. All channels are guided.
    """
    def with_guidance(x, t, caption):
        nothing = torch.zeros_like(caption)
        blank = torch.where(per_frame(known, x), noise, x), t.masked_fill(known, 1), nothing
        terms = (scale, (x, t, caption)), (history - scale, (x, t, nothing)), (1 - history, blank)
        weights, inputs = zip(*[term for term in terms if term[0]])            # those with weight 0 need no computing
        outputs = model(*map(torch.cat, zip(*inputs))).chunk(len(weights))
        return sum(weight * out for weight, out in zip(weights, outputs))
    return with_guidance


@torch.no_grad()
def generate(model, process, latent, known, caption, times=None, steps=50, guidance=1.0, history_guidance=1.0,
             sampler=None, context_noise=0.0, strength=1.0, generator=None):
    """Fills in the unknown latent frames, all of them jointly. Known frames come back bit for bit.

    model(x, t, caption[, times]): a DiT, or any function like it; latent (B,C,F,h,w); known (F,), True: given;
    caption (B,words) ids; times (F,): where in time the frames stand, None: one after the other;
    sampler: one of process.samplers, None for the first; guidance, history_guidance: see `guided`, 1 is none;
    context_noise: while sampling, bring the known frames to the level whose noise has this deviation, and tell the
    model so: it then does not rely on their last detail (GameNGen, section 3.2.1; trained for up to 0.3);
    strength in (0,1]: start from the unknown frames of `latent`, noised to this share of N, instead of from noise
    alone; what is left of them then leads the result (SDEdit, algorithm 1). At 1, none is left; generator: see `gauss`.
    """
    if hasattr(model, "remember"):                                             # a DiT, compiled or not
        model = model.remember(known, torch.arange(len(known), device=latent.device) if times is None else times)
    elif times is not None:
        model = lambda x, t, caption, plain=model: plain(x, t, caption, times.expand(t.shape))
    known = known.expand(latent.shape[0], latent.shape[2])
    known_level, held = process.level_of(context_noise) * known, per_frame(known, latent)  # (B,F) and (B,1,F,1,1)
    levels = process.schedule(max(round(strength * steps), 1), latent.device)
    levels = (strength * levels).to(levels.dtype)
    noise = gauss(latent, generator)
    x = noise if strength == 1 else process.q_sample(latent, levels[:1].expand_as(known), noise)
    x = torch.where(held, process.q_sample(latent, known_level, noise), x)
    led = guided(model, known, noise, guidance, history_guidance)
    step = getattr(process, sampler or process.samplers[0])
    for t, s in pairwise(torch.where(known, known_level, t) for t in levels):
        x = torch.where(held, x, step(led, x, t, s, caption, generator))
    return torch.where(held, latent, x)


# ------------------------------------------------------------------------------------------------------------------
# 9. Long video: the window slides, forward or backward in time. Everything stays in latent space: what was generated
# is never encoded again. Tests: extension_continues_from_the_newest_frames, backward_extension_mirrors_forward,
# the_anchor_stays_in_the_window_at_its_place, connecting_fills_the_gap, the_other_end_is_in_sight.

def fill(model, process, before, new, after, caption, **sampling):
    """New latent frames between those known before and after, maybe none, all sampled jointly, (B,C,F,h,w) each.
    new: how many, or, for `strength`, what to start from; sampling: passed on to `generate`."""
    new = before.new_zeros(*before.shape[:2], new, *before.shape[3:]) if isinstance(new, int) else new
    known = torch.cat([torch.full((x.shape[2],), x is not new, device=x.device) for x in (before, new, after)])
    return generate(model, process, torch.cat([before, new, after], dim=2), known, caption, **sampling)[:, :, ~known]


def extend(model, process, past, caption, window, context, anchor=0, backward=False, draft=None, **sampling):
    """Goes on without end: yields the next latent frames, one window after the other; `take` what you need.

    past (B,C,F,h,w): the latent frames so far, F may be 0; window: latent frames sampled jointly, of which up to
    `context` are the newest of the past; sampling: passed on to `generate`;
    anchor: the first latent frame of all stays in every window, to remember by, and the network is told how many lie
    between it and the context, `anchor` if more do (trained: the config's `far`). 0: windows do without it;
    backward: `past` is what comes after, and what is before it is yielded, the nearest frames first;
    draft (B,C,F',h,w), forward only: the new frames start from these, if `strength` is below 1, and end where they end.
    """
    if not 0 <= context < window - bool(anchor):
        raise InputError(f"context of {context} latent frames{' and an anchor' * bool(anchor)}: expected fewer in all "
                         f"than the {window} of the window")
    past, direction = (past.flip(2), -1) if backward else (past, 1)            # the newest last, and times run down
    length, first, nothing = past.shape[2], past[:, :, :1], past[:, :, :0]
    while draft is None or draft.shape[2]:
        near = past[:, :, max(past.shape[2] - context, 0):]
        away = min(anchor + bool(anchor), length - near.shape[2])              # from the anchor to the context
        old = torch.cat([first[:, :, :bool(away)], near], dim=2)
        new = size = window - old.shape[2]
        if draft is not None:
            new, draft, size = draft[:, :, :size], draft[:, :, size:], min(size, draft.shape[2])
        times = direction * torch.tensor([-away] * bool(away) + [*range(near.shape[2] + size)], device=near.device)
        new = fill(model, process, old, new, nothing, caption, times=times, **sampling)
        yield new.flip(2) if backward else new
        first, past, length = first if length else new[:, :, :1], torch.cat([near, new], dim=2), length + new.shape[2]


def take(windows, frames, backward=False):
    """The first `frames` latent frames of what `extend` yields, in the order of time: (B,C,frames,h,w)."""
    new = next(windows)
    while new.shape[2] < frames:
        new = torch.cat([next(windows), new] if backward else [new, next(windows)], dim=2)
    return new[:, :, new.shape[2] - frames:] if backward else new[:, :, :frames]


def connect(model, process, before, after, gap, caption, window, context, anchor=0, **sampling):
    """The `gap` latent frames between two clips (B,C,F,h,w): (B,C,gap,h,w).

    The last window knows both ends, half of the context, at least a frame, on either side. Those before it go on from
    `before`, as in `extend`; their last frame is the first of `after`, as if at most `anchor` lay between (0: without).
    """
    side, new = max(context // 2, 1), before[:, :, :0]
    if window <= (least := max(2 * side, context + bool(anchor))):
        raise InputError(f"window of {window} latent frames: expected {least + 1} or more, to know both ends")
    while (left := gap - new.shape[2]) > 0:
        rest = max(left - (window - 2 * side), 0)                              # to be made before the last window
        near = torch.cat([before, new], dim=2)[:, :, -(context if rest else side):]
        end = after[:, :, :bool(anchor) if rest else side]
        size = min(rest or left, window - near.shape[2] - end.shape[2])
        times = torch.arange(near.shape[2] + size + end.shape[2], device=near.device)
        times[near.shape[2] + size:] += min(left - size, anchor)
        new = torch.cat([new, fill(model, process, near, size, end, caption, times=times, **sampling)], dim=2)
    return new


def loop(model, process, nothing, frames, caption, window, context, anchor=0, **sampling):
    """A window of frames connected to itself: (B,C,frames,h,w), more than fit between two ends. nothing: (B,C,0,h,w)"""
    body = min(window, frames - (window - 2 * max(context // 2, 1)))
    new = take(extend(model, process, nothing, caption, window, context, **sampling), body)
    back = connect(model, process, new, new, frames - body, caption, window, context, anchor, **sampling)
    return torch.cat([new, back], dim=2)


# ------------------------------------------------------------------------------------------------------------------
# 10. Checkpoints, one file with everything, written so that a crash never leaves half of one.

FORMAT = 3  # goes up when an old checkpoint can no longer be read, or would compute something else


def save_checkpoint(path, **state):
    """Writes a temporary file beside `path`, then renames: the old checkpoint is there until the new one is whole.

    train.py keeps config, words, command, the weights vae, dit and ema (the average that samples), the stage it is in
    (0: VAE, 1: transformer) with its optimizers, step, seconds, and the half-filled line of the log.
    """
    torch.save({"format": FORMAT, **state}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_checkpoint(path, device="cpu"):
    """What `save_checkpoint` wrote, config as a Config. Raises InputError if it is missing, damaged, foreign or old."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such checkpoint; `python train.py` makes one")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can fail in the zip, the pickle or the tensor reader
        raise InputError(f"{path}: damaged, or not a checkpoint of sora.py ({type(error).__name__})") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this sora.py (format {found}, not {FORMAT}): train it again")
    try:
        return state | {"config": Config(**state["config"])}
    except TypeError as error:
        raise InputError(f"{path}: from another version of sora.py ({error})") from None
