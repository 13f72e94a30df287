"""What there is to write: thirteen parts of sora.py and three open ones. See `python3 -m data.course part 3`.

The letters of shapes are those at the head of sora.py.
"""
from typing import NamedTuple


class Part(NamedTuple):
    """title; where: what to write; source: equation and paper; shapes: in and out; hint; minutes; points."""
    title: str
    where: str
    source: str
    shapes: str
    hint: str
    minutes: int
    points: int


PARTS = {
    1: Part(
        title="Spacetime patches",
        where="patchify, unpatchify",
        source="ViT (Dosovitskiy et al. 2021, section 3.1) and DiT (section 3.2), with an axis of "
               "time more.",
        shapes="latent (B,C,F,h,w) <-> tokens (B,L,C·p·p), L = F · h/p · w/p; a token holds "
               "(C,p,p) in this order.",
        hint="Split h into (rows,p) and w into (columns,p) with view; permute; reshape. The "
             "inverse runs backward. Try it on torch.arange(...) of a small shape.",
        minutes=15, points=4),
    2: Part(
        title="Rotary positions on three axes",
        where="rope_angles, rotate",
        source="RoPE (Su et al. 2021) eq. 15: theta_i = base^(-i/n), i = 0 .. n-1, with base 100 "
               "and n pairs on an axis; eq. 34, with pairs (i, i + head_dim/2): (a, b) -> (a cos - "
               "b sin, a sin + b cos).",
        shapes="positions (B,L,3) -> two of (B,L,1,head_dim/2), first the n_time angles, then "
               "n_space for y, then for x; x (B,L,heads,head_dim) -> the same shape.",
        hint="positions[..., axis, None] * frequencies is (B,L,n). The empty axis of size 1 is for "
             "the heads. Make frequencies on the device of `positions`. Call the angles `angles`: the line "
             "below the place takes their cosine.",
        minutes=20, points=6),
    3: Part(
        title="Attention with QK-norm",
        where="Attention.forward",
        source="softmax(q k^T / sqrt(head_dim)) v (Transformer eq. 1). Queries and keys are "
               "normalised first (QK-norm, ViT-22B, section 2) with `norm`, a LayerNorm over head_dim "
               "without parameters, not to length 1; queries are then multiplied by self.gain, and "
               "last both are rotated.",
        shapes="x (B,L,D) -> (B,L,D); self.qkv gives (q,k,v), each of (heads,head_dim); head_dim is "
               "D // self.heads.",
        hint="nnf.scaled_dot_product_attention wants (B,heads,L,head_dim). If `lengths` is given, "
             "call packed_attention instead. Move the heads back before self.out.",
        minutes=35, points=6),
    4: Part(
        title="The adaLN-Zero block",
        where="DiTBlock.forward, DiT.initialise (its end)",
        source="DiT (Peebles & Xie 2023), figure 3 and section 3.2: x + gate · f(modulate(norm(x), "
               "shift, scale)), f = attention, then f = MLP. The six come from "
               "self.modulation(silu(condition)) in the order shift, scale, gate, twice. Zero: at "
               "initialisation modulations and the head give 0.",
        shapes="x (B,L,D), condition (B,F,D), frame (L,) the latent frame of each token -> "
               "(B,L,D).",
        hint="index_select(1, frame) gives each token what belongs to its frame. Hand `lengths` on to "
             "self.attention. Keep modulations "
             "in float32 (the residual stream is, under autocast). In `initialise` set weights to zero "
             "with nn.init.zeros_: those of "
             "`modulation` in every block and in the DiT, and of `head`.",
        minutes=20, points=6),
    5: Part(
        title="The cosine schedule and q(x_t | x0)",
        where="DDPM.__init__, signal_noise, q_sample",
        source="Improved DDPM (Nichol & Dhariwal 2021) eq. 17: alpha_bar_t = f(t) / f(0), f(t) = "
               "cos^2((t/N + s) / (1 + s) · pi/2), s = 0.008, and below it: beta_t = 1 - "
               "alpha_bar_t / alpha_bar_t-1, at most 0.999. DDPM (Ho et al. 2020) eq. 4: x_t = "
               "sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps.",
        shapes="alpha_bar (N+1,): entry t belongs to level t, entry 0 is 1; signal_noise: t (B,F) "
               "-> two of (B,1,F,1,1); q_sample: x0, eps (B,C,F,h,w), t (B,F) -> (B,C,F,h,w).",
        hint="Compute in float64, cap the betas, multiply the 1 - beta up again with cumprod, put a 1 "
             "in front. per_frame "
             "shapes what belongs to (B,F) so that it multiplies a latent. In __init__ assign "
             "`alpha_bar`: the line below the place uses it.",
        minutes=30, points=6),
    6: Part(
        title="v-prediction, and back",
        where="DDPM.target, DDPM.predict",
        source="Salimans & Ho (2022), section 4 and appendix D: v = sqrt(alpha_bar) eps - sqrt(1 - "
               "alpha_bar) x0. Solved with DDPM eq. 4: x0 = signal x - noise v, eps = noise x + "
               "signal v.",
        shapes="target: x0, eps (B,C,F,h,w), t (B,F) -> (B,C,F,h,w), for self.prediction v, eps or "
               "x0. predict: (x0, eps), both estimated from the network's output at x (B,C,F,h,w).",
        hint="signal, noise = self.signal_noise(t) are (B,1,F,1,1) already. The network is given "
             "t / self.N. With eps-prediction clamp x0 to -5 .. 5; do not clamp with x0 or v. With "
             "eps and x0 return the eps that fits this x0: (x - signal x0) / noise.",
        minutes=30, points=6),
    7: Part(
        title="The posterior and the ancestral step",
        where="DDPM.posterior, DDPM.ancestral",
        source="DDPM eq. 6 and 7, for any s < t: alpha = alpha_bar_t / alpha_bar_s in place of "
               "alpha_t; algorithm 2 with the posterior's variance (section 3.2).",
        shapes="x0, x (B,C,F,h,w), t, s (B,F) -> mean (B,C,F,h,w), variance (B,1,F,1,1); a step "
               "gives x_s.",
        hint="Product of two Gaussians in x_s: q(x_s | x0) and q(x_t | x_s). At s = 0 the variance "
             "is 0, so nothing need be done to leave the noise out at the end. self.predict(...) gives two: "
             "x0 and eps.",
        minutes=25, points=8),
    8: Part(
        title="DDIM",
        where="DDPM.ddim",
        source="DDIM (Song et al. 2020) eq. 12 with sigma = 0 (eta = 0 in eq. 16): x_s = "
               "sqrt(alpha_bar_s) x0 + sqrt(1 - alpha_bar_s) eps, both as estimated at t.",
        shapes="x (B,C,F,h,w), t, s (B,F) -> x_s (B,C,F,h,w). randn is not used.",
        hint="Two lines: predict, and a method that puts noise on data.",
        minutes=5, points=4),
    9: Part(
        title="SiT: interpolant, velocity, Euler, Heun",
        where="SiT.q_sample, target, euler, heun",
        source="SiT (Ma et al. 2024), section 2 with the linear interpolant: x_t = (1 - t) x0 + t "
               "eps; its velocity dx_t/dt; Euler's step, and Heun's: the mean of the velocities at "
               "both ends.",
        shapes="as in DDPM, but t, s (B,F) are real numbers in [0,1], t > s: time runs backward "
               "when sampling.",
        hint="s - t is negative; per_frame(t) multiplies a latent. For Heun: an Euler step first, "
             "then ask the model there, at level s. Where s = 0 it was never trained: take the first "
             "velocity alone (torch.where with per_frame(s == 0)).",
        minutes=15, points=5),
    10: Part(
        title="Classifier-free guidance",
        where="guided",
        source="Ho & Salimans (2022) eq. 6: (1 + w) eps(caption) - w eps(nothing); here scale = 1 "
               "+ w.",
        shapes="returns a function (x, t, caption) -> prediction (B,C,F,h,w) like `model`; word 0 "
               "is no word.",
        hint="One call for both, with the batch doubled: torch.cat, then chunk. At scale 1 return "
             "`model` itself.",
        minutes=10, points=4),
    11: Part(
        title="Known frames",
        where="draw_noise (the levels), diffusion_loss, generate (its end)",
        source="Diffusion forcing (Chen et al. 2024), section 3: a level for each frame; here "
               "known frames have 0 and the unknown ones of a clip share one. The loss is the mean "
               "over all unknown frames of the batch.",
        shapes="draw_noise: known (B,F) bool -> t (B,F). diffusion_loss: the loss, and the error "
               "(B,F) of all frames, known ones too, a mean over C, h and w; `count`: a number of unknown frames. "
               "generate: levels (n,), n at most steps + 1, known (F,), known_mask (1,1,F,1,1) -> (B,C,F,h,w).",
        hint="In generate: make the levels (n,B,F), 0 where known; begin with x = randn(latent); "
             "if strength < 1, replace x by q_sample(latent, levels[0], x); then for each pair "
             "of levels put the known frames in and call step(denoiser, x, t, s, caption, randn) "
             "(denoiser, not model: it has the positions already); "
             "at last put them in again. Put in with torch.where: a step may leave nan. `pairwise` "
             "is imported. In diffusion_loss the network is called as model(x, t / process.N, "
             "caption, positions), and `count`, if given, is the divisor. In draw_noise assign `t`; "
             "draw_levels takes (shape, generator, device); levels are reals in SiT: do not cast them.",
        minutes=50, points=7),
    12: Part(
        title="Long video: extend",
        where="extend",
        source="An autoregressive rollout. See the docstring. For example window 4, context 2, 10 "
               "frames made: a window shows frames 8 9 10 11 at positions 0 1 2 3; 10 and 11 are "
               "new. With an anchor it shows 0 8 9 10 at positions -anchor 1 2 3; only 10 is new.",
        shapes="past (B,C,F,h,w), F may be 0 -> yields (B,C,n,h,w), the n new latent frames of a "
               "window, again and again.",
        hint="Keep `recent` (what the next window may see), `made` (how many frames there are) and "
             "`first`, the video's first frame, whoever made it. Call generate(model, process, "
             "latent, known, captions, positions, **sampling). If anchor is not 0, show "
             "`first` whenever made > the number of context frames shown, also in the first window and with "
             "context 0; it comes on top of the `context` frames. Hand a caption (B,words) on as it is; of "
             "one for each frame hand on those of the frames shown, by their numbers in the video. "
             "Backward: flip `past` once, and hand in -positions; all else is as forward, captions "
             "too, and what you yield is not flipped.",
        minutes=90, points=12),
    13: Part(
        title="Muon's Newton-Schulz iteration",
        where="newton_schulz",
        source="Jordan et al. (2024): x <- a x + (b x x^T + c (x x^T)^2) x, with a, b, c = 3.4445, "
               "-4.7750, 2.0315; begun with each matrix divided by its Frobenius norm. (By at least 1e-7: in "
               "the first training step gates are 0, so gradients are, and 0/0 is nan.)",
        shapes="matrices (n,rows,columns) -> the same shape; every matrix of the batch by itself.",
        hint="x.mT swaps the last two axes. Turn tall matrices, so that x x^T is small, and turn "
             "them back at the end. The plain loop is right; multiplying steps first is only faster.",
        minutes=15, points=4),
}

OPEN = {
    "cache": Part(
        title="Cache keys and values of known frames",
        where="open/cache.py: generate(model, process, latent, known, caption, positions=None, "
              "steps=50, sampler=None, randn=torch.randn_like)",
        source="As in language models: if known frames attend to known frames only, their keys and "
               "values are the same in every step. Unknown frames attend to all.",
        shapes="as `generate` without guidance, noise drawn as there: latent (B,C,F,h,w), known (F,) bool, "
               "model a DiT -> (B,C,F,h,w)",
        hint="4 points if the result is that of the same network with masked attention, computed "
             "anew in each step; 6 for the work saved: counted multiplications with 4 of 8 frames "
             "known and 12 steps, all 6 at 60 % of the masked network's, none at 100 %, in "
             "proportion between.",
        minutes=180, points=10),
    "forcing": Part(
        title="Diffusion forcing",
        where="open/forcing.py: draw_levels(process, known, generator), staircase(process, steps, "
              "F); open/forcing.pt",
        source="Diffusion forcing (Chen et al. 2024), algorithms 1 and 2: every unknown frame is "
               "trained at a level of its own, and early frames may be denoised first.",
        shapes="draw_levels: known (B,F) -> t (B,F), 0 where known; staircase: levels (rows,F), as "
               "many rows as you like, from N down to 0, early frames never noisier than later ones, in one row at "
               "least less noisy.",
        hint="2 points each for the two; 6 for the checkpoint that was trained with your levels: "
             "its held-out loss with a level drawn for each frame, against that of data/weights/tiny.pt, all 6 "
             "at 3 % less, in proportion between (--init data/weights/tiny.pt --vae-steps 0 "
             "--steps 200 --lr 7e-4 --muon 5e-3 made it 3.4 %). Train in a second copy, where all parts are there "
             "and draw_noise calls your draw_levels, and hand in its out/sora.pt as open/forcing.pt; in your "
             "own copy part 11 stays as it was.",
        minutes=240, points=10),
    "recipe": Part(
        title="Any better recipe",
        where="open/recipe.json, written by `python3 -m data.course board ... --json`; beside it the changed file",
        source="See the ten-minute board in README.md.",
        shapes="one file changed, three seeds, a baseline of three seeds on the same machine",
        hint="10 points if the mean Frechet distance is lower than the baseline's by two standard "
             "deviations of the baseline's seeds, in proportion below; none if the mean legibility is below 0.85.",
        minutes=240, points=10),
}
