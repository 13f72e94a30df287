"""Graders of parts 3 and 4: attention, one head at a time, and the adaLN-Zero block."""
import math

import torch
import torch.nn.functional as nnf

from data.course.checks import expect, lively, noise, require

MINI = dict(vae_width=8, dim=48, depth=2, heads=2, latent_channels=4)


# --- 3. attention -------------------------------------------------------------------------------------

def slow_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def attend(layer, s, x, rope, normed=("q", "k"), rotated=("q", "k"), gain=True, late=False, joined=True):
    """Attention one head at a time; the keywords are ways to get it wrong."""
    B, L, D = x.shape
    outputs = []
    for head, part in enumerate(layer.qkv(x).view(B, L, 3, layer.heads, -1).unbind(3)):
        parts = dict(zip("qkv", part.unbind(2)))                                # (B,L,head_dim) each
        for name in parts:
            if name in rotated and late:                                        # before the norm
                parts[name] = s.rotate(parts[name][:, :, None], rope)[:, :, 0]
            if name in normed:
                parts[name] = slow_norm(parts[name])
            if name == "q" and gain:
                parts[name] = parts[name] * layer.gain[head]
            if name in rotated and not late:
                parts[name] = s.rotate(parts[name][:, :, None], rope)[:, :, 0]
        logits = parts["q"] @ parts["k"].mT / math.sqrt(D // layer.heads)
        outputs.append(logits.softmax(-1) @ parts["v"])
    if joined:
        return layer.out(torch.cat(outputs, dim=-1))
    return layer.out(torch.stack(outputs, dim=1).reshape(B, L, D))


def attention_case(s, L=5):
    layer = lively(s.Attention(32, 2))
    rope = s.rope_angles(torch.randint(0, 9, (2, L, 3)), 16)
    return layer, noise(2, L, 32), rope


@torch.no_grad()
def check_attention(s):
    layer, x, rope = attention_case(s)
    mistakes = {
        "keys are not normalised": attend(layer, s, x, rope, normed=("q",)),
        "queries are not normalised": attend(layer, s, x, rope, normed=("k",)),
        "neither queries nor keys are normalised": attend(layer, s, x, rope, normed=()),
        "the gain of the queries is forgotten": attend(layer, s, x, rope, gain=False),
        "values are rotated too: they carry what, not where": attend(layer, s, x, rope, rotated="qkv"),
        "keys are not rotated": attend(layer, s, x, rope, rotated=("q",)),
        "rotation comes before the norm": attend(layer, s, x, rope, late=True),
        "heads were not moved back behind the tokens before self.out": attend(
            layer, s, x, rope, joined=False)}
    expect(layer(x, rope), attend(layer, s, x, rope), "Attention", mistakes)


@torch.no_grad()
def check_size_of_queries(s):
    layer, x, rope = attention_case(s)
    layer.qkv.bias.zero_()
    before = layer(x, rope)
    layer.qkv.weight[:64] *= 100
    expect(layer(x, rope), before, "attention with queries and keys a hundred times longer (QK-norm makes "
           "it the same)", atol=1e-3)


@torch.no_grad()
def check_packed(s):
    layer, x, rope = attention_case(s)
    x, rope = x[:1], [part[:1] for part in rope]
    pieces = [attend(layer, s, x[:, part], [r[:, part] for r in rope])
              for part in (slice(0, 2), slice(2, 5))]
    mistakes = {"`lengths` is ignored: clips see each other": attend(layer, s, x, rope)}
    expect(layer(x, rope, [2, 3]), torch.cat(pieces, 1), "Attention of two packed clips", mistakes)


# --- 4. the block -------------------------------------------------------------------------------------

def block_of(block, s, x, condition, frame, rope, silu=True, order=(0, 1, 2), gates=True, parallel=False):
    """The block with the numbers of each token; the keywords are ways to get it wrong."""
    rows = block.modulation(nnf.silu(condition) if silu else condition)[:, frame]           # (B,L,6D)
    first, second = rows.unflatten(-1, (2, 3, -1)).unbind(2)                    # (B,L,3,D) each
    begin = x
    for part, f in ((first, "attention"), (second, "mlp")):
        shift, scale, gate = (part[:, :, i] for i in order)
        y = slow_norm(begin if parallel else x) * (1 + scale) + shift
        y = block.attention(y, rope) if f == "attention" else block.mlp(y)
        x = x + (gate * y if gates or f == "attention" else y)
    return x


@torch.no_grad()
def check_block(s):
    block = lively(s.DiTBlock(32, 2))
    x, condition, frame = noise(2, 6, 32), noise(2, 3, 32), torch.tensor([0, 0, 1, 1, 2, 2])
    args = x, condition, frame, s.rope_angles(torch.randint(0, 9, (2, 6, 3)), 16)
    mistakes = {
        "silu is not applied to the condition": block_of(block, s, *args, silu=False),
        "shift and scale are swapped": block_of(block, s, *args, order=(1, 0, 2)),
        "the gate of the MLP is forgotten": block_of(block, s, *args, gates=False),
        "the MLP sees what the attention saw, not its result": block_of(block, s, *args, parallel=True),
        "every token has the condition of frame 0": block_of(
            block, s, x, condition, frame * 0, args[3])}
    expect(block(*args), block_of(block, s, *args), "DiTBlock", mistakes, atol=2e-3)


@torch.no_grad()
def check_zero(s):
    model = s.DiT(s.Config(**MINI), 3)
    x, condition, frame = noise(1, 4, 48), noise(1, 2, 48), torch.tensor([0, 0, 1, 1])
    rope = s.rope_angles(torch.randint(0, 9, (1, 4, 3)), 24)
    for block in model.blocks:
        require(torch.equal(block(x, condition, frame, rope), x), "a block at initialisation: expected the "
                "identity, got something else. Are its gates 0: is block.modulation.weight zeroed?")


@torch.no_grad()
def check_head(s):
    model = s.DiT(s.Config(**MINI), 3)
    got = model(noise(1, 4, 2, 2, 2), torch.ones(1, 2), torch.ones(1, 1).long())
    expect(got, torch.zeros(1, 4, 2, 2, 2), "a DiT's prediction at initialisation (is the head zeroed?)")
    weight = model.modulation.weight
    expect(weight, torch.zeros_like(weight), "the weights of the DiT's last modulation")


CHECKS = {3: [check_attention, check_size_of_queries, check_packed],
          4: [check_block, check_zero, check_head]}
