"""sora.py: a small Sora (what is known of it) in one readable file, from pixels to long videos.

    video (B,channels,T,H,W) in [-1,1]
      └─ VideoVAE.encode ──► latent (B,C,F,h,w)       F = T/4, h = H/8, w = W/8
           └─ patchify ──► tokens (B,L,C·p·p)         L = F · h/p · w/p spacetime patches
                └─ DiT: tokens in, a prediction for each token out. A token is conditioned on its
                   position (f,y,x) and on the noise level and the caption of its latent frame.
           ◄── unpatchify
      ◄── VideoVAE.decode

A diffusion process defines how noise is added to latents and how it is removed: DDPM, or SiT, which
is flow matching. `generate` fills in the latent frames that are not known, all of them jointly. With
it, `extend` continues a video, one window after another; `connect` and `loop` fill gaps.

One letter for each axis:
    B clips of a batch      T video frames      F latent frames, each made of 4 video frames
    H,W height and width in pixels              h,w in latent pixels      rows, columns of a grid
    channels of a video: 1 grey or 3 RGB        C channels of a latent    L tokens of a clip
    D width of the transformer                  p edge of a patch in latent pixels
Noise levels t run from 0 (clean) to N (only noise; the DDPM paper says T), integers, or reals in SiT.
A sampler goes from t to s, the next lower one. The network is given t / N, in [0,1]. A "known" latent
frame is given clean; its prediction is not used. Papers: README.md. "# >>> part 3": data/course, part 3.
"""
import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as nnf  # F is the number of latent frames

TIME, SPACE = 4, 8  # a latent pixel stands for 4 video frames of 8 x 8 pixels
PLACE = 10 ** 6     # optional, see `nearness`: id + PLACE * (1 + 1000 * y + x) is a word at pixel (y,x)


class InputError(ValueError):
    """What the user gave cannot be used: one line that says the value and what was expected."""


# --------------------------------------------------------------------------------------------------
# 1. Config. Clips and sampling: data/runtime/config.py; how to train: data/training/presets.py.

def option(default, text):
    """A field of a config; `text` becomes the help of its flag on the command line of train.py."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """The defaults are those of the preset `tiny`."""
    channels: int = option(1, "channels of the video: 1 grey, 3 RGB")
    latent_channels: int = option(8, "channels of a latent; compression is 256 x channels / this")
    vae_width: int = option(64, "channels of the VAE at 1/4 resolution, twice as many at 1/8")
    patch: int = option(1, "edge of a spacetime patch in latent pixels")
    dim: int = option(192, "width of the transformer")
    depth: int = option(6, "blocks of the transformer")
    heads: int = option(6, "attention heads; dim / heads: even, at least 8")
    process: str = option("ddpm", "ddpm or sit")
    prediction: str = option("v", "what the network predicts with ddpm: v, eps or x0 (see DDPM)")
    noise_steps: int = option(1000, "N, the highest noise level of ddpm")
    level_shift: float = option(0.0, "-10 to 10; above 0: training's levels are higher (see DDPM)")
    known: float = option(0.5, "share of clips in which latent frames may be known")
    anchors: float = option(0.5, "share of known end frames that are anchors (section 7)")
    reach: int = option(96, "how far away anchors are said to be, in video frames, a multiple of 4")
    caption_drop: float = option(0.1, "share of captions dropped where no frame is known")
    caption_drop_known: float = option(0.5, "the same where frames are known")
    placed: float = option(0.0, "share of captions that say where things are (see `nearness`)")


# --------------------------------------------------------------------------------------------------
# 2. The video compression network: a convolutional VAE, 4 frames of 8 x 8 pixels to a latent pixel.
# The encoder is local in time: a latent frame depends on its own 4 video frames only, so it means
# the same wherever it stands in a clip. The decoder is causal: a video can be decoded in pieces.

class CausalConv3d(nn.Conv3d):
    """A 3D convolution that sees frames of the past: time is padded in front only, with zeros.
    To go through a video piece by piece, hand in the same dict as `cache` each time, empty at
    first: each layer keeps its last input frames there, and pads the next piece with them."""

    def __init__(self, c_in, c_out, kernel, stride=(1, 1, 1)):
        padding = (0, (kernel[1] - stride[1]) // 2, (kernel[2] - stride[2]) // 2)
        super().__init__(c_in, c_out, kernel, stride, padding)
        self.frames_before = kernel[0] - stride[0]  # so that F' = F / stride; 0 in the encoder

    def forward(self, x, cache=None):  # (B,c_in,F,h,w) -> (B,c_out,F',h',w')
        if self.frames_before > 0:
            B, c, _, h, w = x.shape
            before = x.new_zeros(B, c, self.frames_before, h, w)
            if cache is not None:
                before = cache.get(self, before)
            x = torch.cat([before, x], dim=2)
            if cache is not None:
                cache[self] = x[:, :, -self.frames_before:].clone()     # a view keeps x alive
        return super().forward(x)


def channel_norm(x):
    """LayerNorm over the channels at each place of (B,c,F,h,w). GroupNorm, the usual choice, takes
    statistics over time too: a frame would depend on later ones, and decoding could not stream."""
    return nnf.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))). The first conv sees `time` frames, the next 1."""

    def __init__(self, width, time):
        super().__init__()
        self.conv1 = CausalConv3d(width, width, (time, 3, 3))
        self.conv2 = CausalConv3d(width, width, (1, 3, 3))

    def forward(self, x, cache=None):  # (B,width,F,h,w) -> the same shape
        y = self.conv1(nnf.silu(channel_norm(x)), cache)
        return x + self.conv2(nnf.silu(channel_norm(y)))


class VideoVAE(nn.Module):
    """Video (B,channels,T,H,W) in [-1,1] <-> latent (B,C,T/4,H/8,W/8), normalised to mean 0 and
    standard deviation 1 in each channel, by statistics that are measured after training (train.py)."""

    def __init__(self, config):
        super().__init__()
        width, deep, channels = config.vae_width, 2 * config.vae_width, config.channels
        self.encoder = nn.Sequential(
            CausalConv3d(channels, width, (TIME, 8, 8), stride=(TIME, 4, 4)),  # (B,width,F,H/4,W/4)
            ResBlock(width, time=1),
            CausalConv3d(width, deep, (1, 2, 2), stride=(1, 2, 2)),             # (B,deep,F,h,w)
            ResBlock(deep, time=1))
        self.to_moments = CausalConv3d(deep, 2 * config.latent_channels, (1, 1, 1))
        self.decoder = nn.ModuleList([
            CausalConv3d(config.latent_channels, deep, (2, 3, 3)),              # (B,deep,F,h,w)
            ResBlock(deep, time=2),
            nn.ConvTranspose3d(deep, width, (1, 2, 2), stride=(1, 2, 2)),       # (B,width,F,H/4,W/4)
            ResBlock(width, time=2)])
        self.to_pixels = CausalConv3d(width, channels * TIME * 4 * 4, (1, 3, 3))
        self.to(memory_format=torch.channels_last_3d)  # convolutions are faster in this layout
        self.register_buffer("mean", torch.zeros(config.latent_channels, 1, 1, 1))
        self.register_buffer("std", torch.ones(config.latent_channels, 1, 1, 1))

    def muon_parameters(self):
        """What Muon (section 7) trains: kernels (out,in,...), so not ConvTranspose3d's (in,out,...)."""
        return [layer.weight for layer in self.modules() if isinstance(layer, CausalConv3d)]

    def moments(self, video):
        """Mean and log variance (B,C,F,h,w) of the posterior q(latent | video), not normalised."""
        B, channels, T, H, W = video.shape
        if T % TIME or H % SPACE or W % SPACE:
            raise InputError(f"video of {T} frames of {H}x{W}: expected multiples of {TIME} frames "
                             f"and of {SPACE} pixels")
        x = self.encoder(video.contiguous(memory_format=torch.channels_last_3d))
        mean, log_var = self.to_moments(nnf.silu(channel_norm(x))).float().chunk(2, dim=1)
        return mean, log_var.clamp(-20, 10)

    def encode(self, video):
        """Video (B,channels,T,H,W) in [-1,1] -> latent (B,C,F,h,w): mean of q, normalised."""
        return (self.moments(video)[0] - self.mean) / self.std

    def decode(self, latent, cache=None):
        """Latent (B,C,F,h,w) -> video (B,channels,4F,8h,8w) in [-1,1]; cache: see CausalConv3d."""
        x = (latent * self.std + self.mean).contiguous(memory_format=torch.channels_last_3d)
        for layer in self.decoder:  # ConvTranspose3d doubles h and w, frame by frame: no cache
            x = layer(x) if isinstance(layer, nn.ConvTranspose3d) else layer(x, cache)
        # Each place at 1/4 of the resolution holds 4 frames of 4 x 4 pixels, (dt,dy,dx).
        x = self.to_pixels(nnf.silu(channel_norm(x))).float().tanh()  # (B,channels·dt·dy·dx,F,H/4,W/4)
        B, _, F, rows, columns = x.shape
        x = x.view(B, -1, TIME, 4, 4, F, rows, columns)            # (B,channels,dt,dy,dx,F,H/4,W/4)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)                      # (B,channels,F,dt,H/4,dy,W/4,dx)
        return x.reshape(B, -1, TIME * F, 4 * rows, 4 * columns)    # (B,channels,T,H,W)

    def forward(self, video, eps, shift=(0, 0)):
        """Returns the reconstruction, mean and log variance (eps: normal noise of their shape).
        shift: how many pixels down and right the latent is moved before it is decoded."""
        mean, log_var = self.moments(video)
        latent = mean + (0.5 * log_var).exp() * eps                 # a draw from q(latent | video)
        if any(shift):
            latent = fourier_shift(latent, (shift[0] / SPACE, shift[1] / SPACE))
        return self.decode((latent - self.mean) / self.std), mean, log_var      # decode undoes this


def fourier_shift(x, shift):
    """Moves x (B,C,F,h,w) down and right by shift, two numbers, whole or not, wrapping around."""
    turns = torch.fft.fftfreq(x.shape[3], device=x.device)[:, None] * shift[0]          # (h,1)
    turns = turns + torch.fft.rfftfreq(x.shape[4], device=x.device) * shift[1]          # (h,w/2+1)
    factors = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)   # the shift theorem
    return torch.fft.irfft2(torch.fft.rfft2(x) * factors, s=x.shape[3:])


def vae_loss(vae, video, eps, kl_weight, shift=(0, 0)):
    """Returns loss, error, KL. Loss: squared error + kl_weight x KL(q || N(0,1)), means over pixels and
    over latent values; 2V / P times the negative ELBO, up to a constant (decoder: a Gaussian of variance
    V; P pixels, n latent values; kl_weight = 2V n / P). With a shift, the moved latent is to give the
    moved video: latents that move as things do are easy to generate (EQ-VAE: scaled, rotated)."""
    reconstruction, mean, log_var = vae(video, eps, shift)
    error = (reconstruction - video.roll(shift, dims=(3, 4))).square().mean()
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
    return error + kl_weight * kl, error, kl


# --------------------------------------------------------------------------------------------------
# 3. Spacetime patches: a latent becomes a sequence of tokens with positions. A token holds p x p
# latent pixels of one latent frame. Any grid will do, so any duration, height and width.

def patchify(latent, p):
    """Latent (B,C,F,h,w) -> tokens (B,L,C·p·p), frame after frame, row after row."""
    # >>> part 1
    B, C, F, h, w = latent.shape
    rows, columns = h // p, w // p
    x = latent.view(B, C, F, rows, p, columns, p)
    x = x.permute(0, 2, 3, 5, 1, 4, 6)                              # (B,F,rows,columns,C,p,p)
    return x.reshape(B, F * rows * columns, C * p * p)
    # <<<


def unpatchify(tokens, p, F, h, w):
    """Tokens (B,L,C·p·p) -> latent (B,C,F,h,w). The inverse of `patchify`."""
    # >>> part 1
    B, rows, columns = tokens.shape[0], h // p, w // p
    x = tokens.view(B, F, rows, columns, -1, p, p)                  # (B,F,rows,columns,C,p,p)
    x = x.permute(0, 4, 1, 2, 5, 3, 6)                              # (B,C,F,rows,p,columns,p)
    return x.reshape(B, -1, F, h, w)
    # <<<


def token_positions(frame_positions, rows, columns):
    """From positions of latent frames in time (B,F): positions of tokens (B,L,3), frame, row, column;
    and distances (L,4) to the four walls, off which things bounce: RoPE, being relative, cannot tell."""
    cells = torch.arange(rows * columns, device=frame_positions.device)
    y, x = cells // columns, cells % columns
    walls = torch.stack([y, rows - 1 - y, x, columns - 1 - x], dim=-1)          # (rows·columns,4)
    f = frame_positions[:, :, None].expand(-1, -1, rows * columns)              # (B,F,rows·columns)
    positions = torch.stack([f, y.expand_as(f), x.expand_as(f)], dim=-1)      # (B,F,rows·columns,3)
    return positions.flatten(1, 2), walls.repeat(f.shape[1], 1)


def sinusoid(x, dim, max_period):
    """x (...) -> (...,dim): cosines and sines at wavelengths from 2 pi towards 2 pi max_period."""
    exponents = torch.arange(dim // 2, device=x.device) / (dim // 2)            # Transformer, 3.5
    angles = x[..., None] * max_period ** -exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rope_angles(positions, head_dim):
    """Cosines and sines (B,L,1,head_dim/2) of the angles by which `rotate` rotates pairs of channels.
    RoPE (eq. 15), but on three axes: about a quarter of the pairs rotates with f, three eighths
    with y and as many with x. Base 100, not 10,000: grids are small. In heads of 32 channels, of the 6
    pairs of y the fastest rotates by 1 radian a patch, the slowest by 1 in 46 patches."""
    pairs = head_dim // 2
    n_space = 3 * pairs // 8
    n_time = pairs - 2 * n_space
    # >>> part 2
    angles = []
    for axis, n in enumerate((n_time, n_space, n_space)):
        frequencies = 100.0 ** (-torch.arange(n, device=positions.device) / n)
        angles.append(positions[..., axis, None] * frequencies)                 # (B,L,n)
    angles = torch.cat(angles, dim=-1)[:, :, None]                          # the same for all heads
    # <<<
    return angles.cos(), angles.sin()


def rotate(x, rope):
    """Rotates the pairs (i, i + head_dim/2) of x (B,L,heads,head_dim) by their angles. A query and a
    key are each rotated in proportion to their positions, so their product depends only on the
    difference (RoPE eq. 16; its pairs are (2i, 2i+1): only the order of channels differs)."""
    # >>> part 2
    cos, sin = rope
    a, b = x.chunk(2, dim=-1)                                               # (B,L,heads,head_dim/2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    # <<<


# --------------------------------------------------------------------------------------------------
# 4. The diffusion transformer (DiT). Noise level and caption are given for each latent frame, so
# clean and noisy frames can stand in one clip: this is what all of section 8 builds on.

def norm(x):
    """LayerNorm over the last axis, with no learned scale and shift (`modulate` follows; queries get a gain)."""
    return nnf.layer_norm(x, x.shape[-1:])


def modulate(x, shift, scale):
    """adaLN: shifts and scales the output of `norm`; all are (B,L,D)."""
    return x * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys (QK-norm, ViT-22B) and RoPE.
    Normalised vectors have the length sqrt(head_dim), so a logit q·k / sqrt(head_dim) is at most
    that, 5.7 for 32 channels: little to pick one of small's 320 keys. A head learns a gain, first 2."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.gain = nn.Parameter(torch.full((heads, 1), 2.0))
        self.out = nn.Linear(dim, dim)

    def forward(self, x, rope, lengths=None):
        """x (B,L,D) -> (B,L,D); rope: of `rope_angles`; lengths: only for `forward_packed`."""
        B, L, D = x.shape
        # >>> part 3
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        q = rotate(norm(q) * self.gain, rope)                                 # (B,L,heads,head_dim)
        k = rotate(norm(k), rope)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)     # (B,heads,L,head_dim)
        if lengths is None:
            y = nnf.scaled_dot_product_attention(q, k, v)
        else:
            y = packed_attention(q, k, v, lengths)
        return self.out(y.transpose(1, 2).reshape(B, L, D))
        # <<<


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-Zero, DiT fig. 3)."""

    def __init__(self, dim, heads):
        super().__init__()
        self.modulation = nn.Linear(dim, 6 * dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, condition, frame, rope, lengths=None):
        """x (B,L,D); condition (B,F,D): of latent frames; frame (L,): which one a token is in."""
        # >>> part 4
        modulation = self.modulation(nnf.silu(condition)).float().index_select(1, frame)  # (B,L,6D)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        x = x + gate1 * self.attention(modulate(norm(x), shift1, scale1), rope, lengths)
        x = x + gate2 * self.mlp(modulate(norm(x), shift2, scale2))
        return x
        # <<<


class DiT(nn.Module):
    """Predicts what the process asks for (v, eps, x0 or a velocity) from noisy latents, conditioned
    on a noise level and a caption for each latent frame. A caption is a bag of words: ids from 1 to
    n_words, and 0 for "no word". "3 7" and "7 3" are the same. A word may say where it is: see PLACE."""

    def __init__(self, config, n_words):
        super().__init__()
        dim, self.p, self.head_dim = config.dim, config.patch, config.dim // config.heads
        token = config.latent_channels * self.p ** 2
        self.embed_token = nn.Linear(token, dim)
        self.embed_walls = nn.Linear(4 * 16, dim)            # 4 distances, 16 numbers each
        self.embed_level = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embed_word = nn.Embedding(n_words + 1, dim, padding_idx=0)
        self.embed_place = nn.Embedding(n_words + 1, dim, padding_idx=0) if config.placed > 0 else None
        self.blocks = nn.ModuleList([DiTBlock(dim, config.heads) for _ in range(config.depth)])
        self.modulation = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, token)
        self.initialise()

    def initialise(self):
        """Initial values, and why."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)       # as in DiT: keeps variances alike
                nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, std=0.5)      # about as large as embed_level's output
                nn.init.zeros_(layer.weight[0])             # "no word" adds nothing to a caption
        # >>> part 4
        for block in self.blocks:
            nn.init.zeros_(block.modulation.weight)         # adaLN-Zero: gates 0, blocks do nothing
        nn.init.zeros_(self.modulation.weight)              # the last shift and scale do nothing
        nn.init.zeros_(self.head.weight)             # predict 0; in step 1 only the head learns
        # <<<

    def muon_parameters(self):
        """What Muon trains: attention and MLP. As is usual, AdamW trains both ends, and the rest."""
        return [layer.weight for block in self.blocks
                for layer in (block.attention.qkv, block.attention.out, block.mlp[0], block.mlp[2])]

    def forward(self, x, t, caption, positions=None):
        """x (B,C,F,h,w) noisy latents, t (B,F) their levels / N -> predictions (B,C,F,h,w).
        caption: word ids (B,F,words), or (B,words), the same for all latent frames.
        positions (B,F): where each latent frame is in time. None: one after the other from 0."""
        tokens = self.forward_tokens(*self.tokenise(x, t, caption, positions))
        return unpatchify(tokens, self.p, *x.shape[2:])

    def tokenise(self, x, t, caption, positions=None):
        """Turns what `forward` takes into what `forward_tokens` takes."""
        B, _, F, h, w = x.shape
        rows, columns = h // self.p, w // self.p
        if positions is None:
            positions = torch.arange(F, device=x.device).expand(B, F)
        if caption.ndim == 2:
            caption = caption[:, None].expand(B, F, -1)                         # (B,F,words)
        frame = torch.arange(F, device=x.device).repeat_interleave(rows * columns)
        positions, walls = token_positions(positions, rows, columns)            # (B,L,3), (L,4)
        return patchify(x, self.p), positions, walls, frame, t, caption

    def forward_tokens(self, tokens, positions, walls, frame, t, caption, lengths=None):
        """The transformer itself: tokens (B,L,C·p·p), in any order -> predictions (B,L,C·p·p).
        positions (B,L,3), walls (L,4): see `token_positions`; frame (L,): the latent frame of each
        token; t (B,F), caption (B,F,words): of each latent frame; lengths: see packed_attention."""
        walls = self.embed_walls(sinusoid(walls, 16, max_period=100).flatten(1))
        x = (self.embed_token(tokens) + walls).float()        # (B,L,D); float32 also under autocast
        if self.embed_place is not None:
            near = nearness(caption // PLACE, positions, frame, self.p)             # (B,L,words)
            words = self.embed_place(caption % PLACE).index_select(1, frame)        # (B,L,words,D)
            x = x + torch.einsum("blw,blwd->bld", near, words)
        # The sinusoids expect levels up to 1000, as in DiT; in [0,1] most would hardly change.
        condition = self.embed_level(sinusoid(1000 * t, 256, max_period=10000))
        condition = condition + self.embed_word(caption % PLACE).sum(2)     # (B,F,D); % PLACE: id alone
        rope = rope_angles(positions, self.head_dim)
        for block in self.blocks:
            x = block(x, condition, frame, rope, lengths)
        modulation = self.modulation(nnf.silu(condition)).float().index_select(1, frame)
        shift, scale = modulation.chunk(2, dim=-1)
        return self.head(modulate(norm(x), shift, scale)).float()

    def forward_packed(self, clips):
        """Optional: clips of any F, h, w in one sequence (Patch n' Pack, NaViT section 2.1). From a list
        of (x, t, caption, positions) as for `forward`, with B = 1: a list of what it would return."""
        inputs = []
        n_frames = 0                                    # latent frames of the clips before
        for clip in clips:
            tokens, positions, walls, frame, t, caption = self.tokenise(*clip)
            inputs.append((tokens, positions, walls[None], frame[None] + n_frames, t, caption))
            n_frames += t.shape[1]
        tokens, positions, walls, frame, t, caption = [torch.cat(kind, dim=1) for kind in zip(*inputs)]
        lengths = [clip_inputs[0].shape[1] for clip_inputs in inputs]
        output = self.forward_tokens(tokens, positions, walls[0], frame[0], t, caption, lengths)
        return [unpatchify(out, self.p, *clip[0].shape[2:])
                for out, clip in zip(output.split(lengths, dim=1), clips)]


def packed_attention(q, k, v, lengths):
    """Optional: variable-length attention in a sequence (1,heads,L,head_dim) that joins clips of
    `lengths` tokens each, end to end: tokens attend to those of their own clip only."""
    clips = zip(q.split(lengths, dim=2), k.split(lengths, dim=2), v.split(lengths, dim=2))
    return torch.cat([nnf.scaled_dot_product_attention(*clip) for clip in clips], dim=2)


def nearness(place, positions, frame, p):
    """Optional: how near tokens are to words of their latent frame, (B,L,words): exp(-d^2 / 2), d in
    latent pixels. place (B,F,words): id // PLACE, 0 is nowhere; the rest as for `DiT.forward_tokens`.
    Without places "3 7" is alike for all tokens, and two blobs in the noise may both become the 3:
    nothing says which is which. (GLIGEN, Li et al. 2023, tells boxes, by attention.)"""
    place = place[:, frame]
    where = torch.stack([(place - 1) // 1000, (place - 1) % 1000], dim=-1) / SPACE      # (B,L,words,2)
    middles = (positions[:, :, None, 1:] + 0.5) * p                             # (B,L,1,2)
    return (-(middles - where).square().sum(-1) / 2).exp() * (place > 0)


# --------------------------------------------------------------------------------------------------
# 5. DDPM. A process, this or SiT (`make_process` in data/runtime/checkpoints.py), has this interface:
#     N                                the highest level: nothing but noise
#     draw_levels(shape)               random levels to train at
#     q_sample(x0, t, eps)             the noisy latent x_t
#     target(x0, eps, t)               what the network has to predict at level t
#     schedule(steps, strength)        levels of a sampler, from strength x N (section 8) down to 0
#     samplers                         names of its steps (model, x, t, s, caption, randn) -> x_s
# Levels t and s are (B,F), one for each latent frame: integers here, and level 0 is the data.
# The `model` of a sampler needs no positions: `generate` has bound them. `generate` also puts known
# frames back before each step and at the end: with their t = s = 0 a step may compute NaN (0/0).

def per_frame(value):
    """A value for each latent frame (B,F), shaped to multiply a latent (B,C,F,h,w)."""
    return value[:, None, :, None, None]


class DDPM:
    """Noise is added in N small steps and is taken away in as many, or fewer (Ho et al. 2020).
    Step i: x_i = sqrt(1 - beta_i) x_(i-1) + sqrt(beta_i) noise. alpha_bar_t is the product of the
    1 - beta_i up to t, so that x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps."""
    samplers = ("ancestral", "ddim")

    def __init__(self, N=1000, prediction="v", device=None, level_shift=0.0):
        self.N, self.prediction, self.level_shift = N, prediction, level_shift
        # >>> part 5
        u = torch.arange(N + 1, dtype=torch.float64) / N
        f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2       # improved DDPM, eq. 17: cosine
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)               # beta_1 .. beta_N, none of them 1
        alpha_bar = torch.cat([torch.ones(1), (1 - betas).cumprod(0)])
        # <<<
        self.alpha_bar = alpha_bar.float().to(device)               # (N+1,)

    def draw_levels(self, shape, generator=None, device=None):
        """Levels in 1..N: N x sigmoid(normal + level_shift), as in Stable Diffusion 3 (eq. 19, its m).
        With 0 most are in the middle, where most is learned; but where things go is decided near N."""
        normal = torch.randn(shape, generator=generator, device=device) + self.level_shift
        return (self.N * normal.sigmoid()).ceil().long()

    def schedule(self, steps, strength=1.0, device=None):
        """Up to steps + 1 levels, evenly spaced, from strength x N, at least 1, down to 0."""
        levels = torch.linspace(max(strength * self.N, 1), 0, steps + 1, device=device)
        return levels.round().long().unique_consecutive()  # close ones are equal

    def signal_noise(self, t):
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), (B,1,F,1,1): how much of x_t is data, and noise."""
        # >>> part 5
        alpha_bar = per_frame(self.alpha_bar[t])
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        # <<<

    def q_sample(self, x0, t, eps):
        """x_t from data and noise, in one go (DDPM eq. 4)."""
        # >>> part 5
        signal, noise = self.signal_noise(t)
        return signal * x0 + noise * eps
        # <<<

    def target(self, x0, eps, t):
        """What the network has to predict: eps, x0 or v (Salimans & Ho, section 4). v is about eps
        where x_t is about x0, and -x0 where x_t is about eps: always the part that x_t hides."""
        # >>> part 6
        signal, noise = self.signal_noise(t)
        return {"v": signal * eps - noise * x0, "eps": eps, "x0": x0}[self.prediction]
        # <<<

    def predict(self, model, x, t, caption):
        """The network's estimates of x0 and eps in x_t: `target` solved for them."""
        # >>> part 6
        signal, noise = self.signal_noise(t)
        output = model(x, t / self.N, caption)
        if self.prediction == "v":  # solved with signal^2 + noise^2 = 1
            return signal * x - noise * output, noise * x + signal * output
        x0 = output
        if self.prediction == "eps":  # at t = N = 1000 the signal is 5e-5: errors blow up
            x0 = ((x - noise * output) / signal).clamp(-5, 5)       # 5 standard deviations
        return x0, (x - signal * x0) / noise                        # an eps that fits this x0
        # <<<

    def posterior(self, x0, x, t, s):
        """Mean and variance of q(x_s | x_t, x0), a Gaussian: q(x_t | x_s) q(x_s | x0) / q(x_t | x0).
        With s = t - 1 this is DDPM eq. 6 and 7, and 1 - alpha is beta_t."""
        # >>> part 7
        bar_t, bar_s = per_frame(self.alpha_bar[t]), per_frame(self.alpha_bar[s])
        alpha = bar_t / bar_s                                   # product of all alphas after s, to t
        share = (1 - bar_s) / (1 - bar_t)                       # noise variance at s over that at t
        mean = bar_s.sqrt() * (1 - alpha) / (1 - bar_t) * x0 + alpha.sqrt() * share * x
        return mean, (1 - alpha) * share
        # <<<

    def ancestral(self, model, x, t, s, caption, randn=torch.randn_like):
        """DDPM algorithm 2, with the smaller variance in its section 3.2: draws from the posterior,
        with the estimate of x0 in place of the true one."""
        # >>> part 7
        x0, _ = self.predict(model, x, t, caption)
        mean, variance = self.posterior(x0, x, t, s)
        return mean + variance.sqrt() * randn(x)                    # at s = 0 the variance is 0
        # <<<

    def ddim(self, model, x, t, s, caption, randn=torch.randn_like):
        """DDIM eq. 12 with sigma = 0: re-noises the estimated x0 with the estimated eps."""
        # >>> part 8
        x0, eps = self.predict(model, x, t, caption)
        return self.q_sample(x0, s, eps)
        # <<<


# --------------------------------------------------------------------------------------------------
# 6. SiT, optional: the same transformer, but straight lines join data and noise. The network
# learns the mean velocity of all lines through x_t; backward in t it leads from noise to data.

@dataclass
class SiT:
    """The linear interpolant x_t = (1 - t) x0 + t eps, t in [0,1] (Ma et al. 2024)."""
    level_shift: float = 0.0                                        # see DDPM.draw_levels
    samplers = ("euler", "heun")
    N = 1                                                           # so t / N is t

    def draw_levels(self, shape, generator=None, device=None):
        """Levels in (0,1): see DDPM."""
        return (torch.randn(shape, generator=generator, device=device) + self.level_shift).sigmoid()

    def schedule(self, steps, strength=1.0, device=None):
        """steps + 1 levels, evenly spaced, from `strength` down to 0."""
        return torch.linspace(strength, 0, steps + 1, device=device)

    def q_sample(self, x0, t, eps):
        """x_t from data and noise."""
        # >>> part 9
        t = per_frame(t)
        return (1 - t) * x0 + t * eps
        # <<<

    def target(self, x0, eps, t):
        """The velocity dx_t / dt."""
        # >>> part 9
        return eps - x0
        # <<<

    def euler(self, model, x, t, s, caption, randn=torch.randn_like):
        """One step along the velocity at the start: a first-order method."""
        # >>> part 9
        return x + per_frame(s - t) * model(x, t, caption)
        # <<<

    def heun(self, model, x, t, s, caption, randn=torch.randn_like):
        """A step along the mean of the velocities at both ends: second order."""
        # >>> part 9
        velocity = model(x, t, caption)
        at_end = model(x + per_frame(s - t) * velocity, s, caption)
        at_end = torch.where(per_frame(s == 0), velocity, at_end)  # no loss trains level 0: Euler
        return x + per_frame(s - t) * (velocity + at_end) / 2
        # <<<


# --------------------------------------------------------------------------------------------------
# 7. Training: which frames are known, the loss, the optimiser. The loop is in train.py.

def draw_windows(config, B, F, generator=None):
    """Draws what B training clips of F latent frames show, to train all uses of sections 8 and 9.
    In a share `config.known` of the clips, latent frames may be known: at the start, at the end, or
    both. A known first (last) frame may be an anchor, of an earlier (later) moment than its place says:
    in `extend`, how the video began. With reach 96 an anchor is really 0 to 24 latent frames beyond its
    place (clips are short), but is said to be 24 beyond it: at -24, or F - 1 + 24. Returns, on the CPU:
    known (B,F) bool; positions (B,F); frames (B,4F) to show, below 0 before the window."""
    def whole(low, high):  # random integers, low <= n <= high; high may differ from clip to clip
        return low + (torch.rand(B, generator=generator) * (high - low + 1)).long()

    n_first = whole(0, F - 1)
    n_last = whole(0, F - 1 - n_first)
    index = torch.arange(F)
    known = (index < n_first[:, None]) | (index >= F - n_last[:, None])
    mirrored = torch.rand(B, 1, generator=generator) < 0.5          # n_last is smaller on average
    known = torch.where(mirrored, known.flip(1), known)
    known &= torch.rand(B, 1, generator=generator) < config.known
    positions = index.repeat(B, 1)
    source = positions.clone()                                      # where frames really are
    reach = config.reach // TIME
    for end, direction in ((0, -1), (F - 1, 1)):
        is_anchor = known[:, end] & (torch.rand(B, generator=generator) < config.anchors)
        source[:, end] += direction * is_anchor * whole(0, reach)   # shown: from 0 to reach farther
        positions[:, end] += direction * is_anchor * reach          # position: always reach farther
    frames = TIME * source[:, :, None] + torch.arange(TIME)         # (B,F,4)
    return known, positions, frames.flatten(1)


def draw_noise(process, config, shape, known, caption, generator=None):
    """The other random parts of a training step, on latents of `shape` (B,C,F,h,w).
    Returns t (B,F), one level for the unknown frames of a clip, 0 for known ones; the noise eps; and the
    caption, set to 0 (none) in some clips, for `guided`, and in more where frames show it already."""
    B, device = shape[0], known.device
    # >>> part 11
    t = torch.where(known, 0, process.draw_levels((B, 1), generator, device))   # (B,F)
    # <<<
    eps = torch.randn(shape, generator=generator, device=device)
    share = torch.where(known.any(1), config.caption_drop_known, config.caption_drop)
    drop = torch.rand(B, generator=generator, device=device) < share            # (B,)
    caption = caption.clone()
    caption[drop] = 0
    return t, eps, caption


def diffusion_loss(model, process, x0, caption, known, positions, t, eps, count=None):
    """Squared error of the network's predictions, averaged over the unknown latent frames.
    x0 (B,C,F,h,w): clean latents; known, positions (B,F): from `draw_windows`; t, eps, caption:
    from `draw_noise`; count: what to divide by if these clips are only a part of a batch. Returns
    the loss and the error of each latent frame (B,F)."""
    # >>> part 11
    x_t = process.q_sample(x0, t, eps)
    output = model(x_t, t / process.N, caption, positions)
    error = (output - process.target(x0, eps, t)).square().mean((1, 3, 4))      # (B,F)
    if count is None:
        count = (~known).sum()
    return (error * ~known).sum() / count, error
    # <<<


def newton_schulz(matrices, steps=5):
    """Makes matrices (n,rows,columns) nearly orthogonal (for Muon): U S V^T becomes about U V^T.
    A step x <- (a I + b x x^T + c (x x^T)^2) x keeps U and V, and maps a singular value s to
    a s + b s^3 + c s^5. The coefficients (Jordan et al. 2024) make small values grow 3.4-fold; those
    above 0.01 of the norm end in [0.68, 1.14], not at 1. As x may have many columns, the brackets of
    all steps are multiplied with one another first, and x only once (bfloat16 is too coarse for it)."""
    # >>> part 13
    if matrices.shape[1] > matrices.shape[2]:                       # x x^T would be the larger square
        return newton_schulz(matrices.mT, steps).mT
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)        # singular values <= 1 now
    square = x @ x.mT                               # (n,rows,rows); x x^T after the steps so far
    identity = torch.eye(square.shape[1], device=x.device)
    product = identity                              # of the steps so far
    for _ in range(steps):
        step = a * identity + b * square + c * (square @ square)
        product = step @ product
        square = step @ square @ step                       # (step x)(step x)^T: step is symmetric
    return product @ x
    # <<<


class Muon(torch.optim.Optimizer):
    """Momentum, with every update made orthogonal (Jordan et al. 2024): all directions of a matrix
    change about equally, also those that a few large ones would hide. The RMS of a step is 0.2 lr,
    about AdamW's (Liu et al. 2025: 0.2 to 0.4). Kernels are flattened to (outputs, all else)."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = {}                                # by shape, for batches: [(parameter, update)]
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])   # Nesterov: the newest counts more
                updates.setdefault(p.shape, []).append((p, update.flatten(1)))
            for pairs in updates.values():
                orthogonal = newton_schulz(torch.stack([update for _, update in pairs]))
                size = 0.2 * max(orthogonal.shape[1:]) ** 0.5   # its RMS: 1 / sqrt(max(...))
                for (p, _), update in zip(pairs, orthogonal):
                    p.sub_(update.view_as(p), alpha=group["lr"] * size)


# --------------------------------------------------------------------------------------------------
# 8. Sampling. One mask of known latent frames makes text-to-video (none known), image-to-video (the
# first known), extension forward and backward, and infilling (both ends known).

def guided(model, scale):
    """The model with classifier-free guidance: the caption's effect is made `scale` times as large
    (Ho & Salimans, eq. 6; scale = 1 + w). To guide v, x0 or a velocity, affine in eps, is the same."""
    # >>> part 10
    def guided_model(x, t, caption):
        captions = torch.cat([caption, torch.zeros_like(caption)])
        with_caption, without = model(torch.cat([x, x]), torch.cat([t, t]), captions).chunk(2)
        return without + scale * (with_caption - without)
    return model if scale == 1 else guided_model
    # <<<


@torch.no_grad()
def generate(model, process, latent, known, caption, positions=None, steps=50, guidance=1.0,
             sampler=None, strength=1.0, randn=torch.randn_like):
    """Fills in the unknown latent frames, all jointly. The known ones come back bit for bit.
    latent (B,C,F,h,w): its unknown frames are ignored unless strength < 1; known (F,) bool
    caption: word ids (B,words), or (B,F,words), one for each latent frame
    positions (F,): where each latent frame is in time; None: one after the other from 0
    sampler: one of process.samplers, None: the first; guidance: see `guided`, 1 is none
    strength in (0,1]: below 1, begin with the unknown frames of `latent`, noised to level
        strength x N, instead of with noise alone (SDEdit); less noise keeps more of them
    randn(x): draws normal noise like x; hand in your own to give each clip a seed of its own"""
    if steps < 1 or not 0 < strength <= 1:
        raise InputError(f"steps {steps}, strength {strength}: expected 1 or more, and (0,1]")
    B, _, F, _, _ = latent.shape
    positions = torch.arange(F, device=latent.device) if positions is None else positions
    known_mask = per_frame(known[None])                   # (1,1,F,1,1)

    def model_here(x, t, caption):
        return model(x, t, caption, positions.expand(len(x), F))
    denoiser = guided(model_here, guidance)
    step = getattr(process, sampler or process.samplers[0])
    levels = process.schedule(steps, strength, latent.device)       # at most steps + 1
    # >>> part 11
    levels = levels[:, None, None] * ~known.expand(B, F)            # (levels,B,F), 0 where known
    x = randn(latent)                                               # noise
    if strength < 1:
        x = process.q_sample(latent, levels[0], x)
    for t, s in pairwise(levels):
        x = torch.where(known_mask, latent, x)
        x = step(denoiser, x, t, s, caption, randn)
    return torch.where(known_mask, latent, x)
    # <<<


# --------------------------------------------------------------------------------------------------
# 9. Long video. All stays in latent space: what was generated is never decoded and encoded again.
# But it counts as known, with its errors: clips can drift; README.md says how much.

def extend(model, process, past, caption, window, context, anchor=0, backward=False, **sampling):
    """An autoregressive rollout without end: yields the next latent frames, window after window.
    past (B,C,F,h,w): the latent frames so far; F may be 0
    caption: (B,words), or (B,F',words), one for each latent frame, those of `past` first, then the
        new ones; the last caption holds for all frames after it
    window: latent frames sampled jointly; context: at most so many of them are the newest of the past
    anchor: 0 (none), or config.reach / 4: when the context has lost the video's first latent frame,
        each window begins with it at position -anchor, as in training.
    backward: `past`, in normal order, is what comes later; yields what is before it, in reverse.
        So captions run from the video's end to its beginning; the anchor is its last, at +anchor."""
    most = window - 1 if anchor == 0 else window - 2                # at least one frame is new
    if not 0 <= context <= most:
        raise InputError(f"context of {context} latent frames: expected 0 to {most} in this window")
    # >>> part 12
    if backward:
        past = past.flip(2)                                         # the newest is last, as forward
    first, recent = past[:, :, :1], past
    made = past.shape[2]                                            # so far, past included
    while True:
        recent = recent[:, :, max(recent.shape[2] - context, 0):]
        given, n_recent = recent, recent.shape[2]
        positions = torch.arange(window, device=past.device)
        shown = positions + made - n_recent                    # which frames of the video these are
        if anchor and made > n_recent:
            # For example window 4, context 2, made 10: instead of frames 8 9 10 11 at positions
            # 0 1 2 3, the window shows 0 8 9 10 at positions -anchor 1 2 3; 10 is new.
            given = torch.cat([first, recent], dim=2)
            shown = torch.cat([shown.new_zeros(1), shown[:-1]])
            positions[0] = -anchor                              # the others stay 1, 2, ...
        B, C, n, h, w = given.shape
        latent = torch.cat([given, given.new_zeros(B, C, window - n, h, w)], dim=2)
        known = torch.arange(window, device=past.device) < n
        captions = caption
        if caption.ndim == 3:
            captions = caption[:, shown.clamp(max=caption.shape[1] - 1)]        # (B,window,words)
        if backward:  # the window stays reversed: only positions tell the network what comes first
            positions = -positions
        new = generate(model, process, latent, known, captions, positions, **sampling)[:, :, n:]
        yield new
        first = new[:, :, :1] if made == 0 else first
        recent = torch.cat([recent, new], dim=2)
        made += new.shape[2]
    # <<<


def take(windows, frames):
    """The first `frames` latent frames that `extend` yields: (B,C,frames,h,w)."""
    new = next(windows)
    while new.shape[2] < frames:
        new = torch.cat([new, next(windows)], dim=2)
    return new[:, :, :frames]


def connect(model, process, before, after, gap, caption, window, context, anchor=0, **sampling):
    """The `gap` latent frames that lead from one clip to another, (B,C,gap,h,w); caption (B,words).
    The last window has up to max(context // 2, 1) known frames on either side, no anchor, and fills
    the room between. If the gap is longer than this room, `before` is extended first."""
    side = max(context // 2, 1)
    room = window - 2 * side
    if room < 1 or gap < 1:
        raise InputError(f"gap {gap}, window {window}: expected at least 1 and {2 * side + 1}")
    new = before[:, :, :0]
    if gap > room:
        windows = extend(model, process, before, caption, window, context, anchor, **sampling)
        new = take(windows, gap - room)
    start, end = torch.cat([before, new], dim=2)[:, :, -side:], after[:, :, :side]
    B, C, n, h, w = start.shape
    blank = start.new_zeros(B, C, min(gap, room), h, w)
    latent = torch.cat([start, blank, end], dim=2)
    index = torch.arange(latent.shape[2], device=latent.device)
    known = (index < n) | (index >= n + blank.shape[2])
    filled = generate(model, process, latent, known, caption, **sampling)
    return torch.cat([new, filled[:, :, n:n + blank.shape[2]]], dim=2)


def loop(model, process, empty, frames, caption, window, context, anchor=0, **sampling):
    """Latents whose end leads back to their beginning, (B,C,frames,h,w): samples a window, or less
    of it so that `room` frames are left for the way back, which `connect` then fills. The decoder looks
    back: decode the loop twice in a row, keep the second half. empty: (B,C,0,h,w), else as `extend`."""
    room = window - 2 * max(context // 2, 1)                       # what `connect` can fill at once
    if frames <= room:
        raise InputError(f"loop of {frames} latent frames: expected more than {room}, the way back")
    windows = extend(model, process, empty, caption, window, context, **sampling)
    start = next(windows)[:, :, :frames - room]
    gap = frames - start.shape[2]
    last = caption if caption.ndim == 2 else caption[:, -1]         # the way back has one caption
    back = connect(model, process, start, start, gap, last, window, context, anchor, **sampling)
    return torch.cat([start, back], dim=2)
