"""Graders of parts 3 and 4: attention, one head at a time, and the adaLN-Zero block."""
import math

import torch
import torch.nn.functional as nnf

from data.course.checks import expect, lively, noise, require

MINI = dict(vae_width=8, dim=48, depth=2, heads=2, latent_channels=4)


# --- 3. attention -------------------------------------------------------------------------------------

def slow_norm(x):
    """LayerNorm, written out."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt()


def unit(x):
    """Vectors of length 1."""
    return x / x.square().sum(-1, keepdim=True).sqrt()


def rms(x):
    """Vectors whose mean square is 1; the mean is left in."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def attend(layer, s, x, rope, normed="qk", how=slow_norm, rotated="qk", gained="q", late=False,
           joined=True, heads_first=False, scalings=1):
    """Attention one head at a time; the keywords are ways to get it wrong."""
    B, L, D = x.shape
    outputs = []
    heads = layer.qkv(x).view(B, L, 3, layer.heads, -1)
    if heads_first:
        heads = layer.qkv(x).view(B, L, layer.heads, 3, -1).transpose(2, 3)

    def turn(part):
        return s.rotate(part[:, :, None], rope)[:, :, 0]

    for head in range(layer.heads):
        parts = {}
        for i, name in enumerate("qkv"):
            part = heads[:, :, i, head]                                         # (B,L,head_dim)
            if name in rotated and late:                                        # before the norm
                part = turn(part)
            if name in normed:
                part = how(part)
            if name in gained:
                part = part * layer.gain[head]
            if name in rotated and not late:
                part = turn(part)
            parts[name] = part
        logits = parts["q"] @ parts["k"].mT
        weights = (logits / math.sqrt(D // layer.heads) ** scalings).softmax(-1)
        outputs.append(weights @ parts["v"])
    if joined:
        return layer.out(torch.cat(outputs, dim=-1))
    return layer.out(torch.stack(outputs, dim=1).reshape(B, L, D))


def ropes(s, B, L, head_dim):
    """Rotations of tokens at random places."""
    positions = torch.randint(0, 9, (B, L, 3))
    return s.rope_angles(positions, head_dim)


def attention_case(s):
    """An `Attention` with random weights, and something to give it."""
    layer = lively(s.Attention(32, 2))
    x = noise(2, 5, 32)
    return layer, x, ropes(s, 2, 5, 16)


@torch.no_grad()
def check_attention(s):
    """Against attention written out, head by head."""
    layer, x, rope = attention_case(s)
    mistakes = {
        "keys are not normalised": attend(layer, s, x, rope, normed="q"),
        "queries are not normalised": attend(layer, s, x, rope, normed="k"),
        "neither queries nor keys are normalised": attend(layer, s, x, rope, normed=""),
        "the gain of the queries is forgotten": attend(layer, s, x, rope, gained=""),
        "the gain is on queries and keys: it is the queries' alone": attend(
            layer, s, x, rope, gained="qk"),
        "vectors have length 1: with `norm` it is sqrt(head_dim)": attend(layer, s, x, rope, how=unit),
        "the mean is left in (RMS norm): use `norm`": attend(layer, s, x, rope, how=rms),
        "self.qkv is split into (heads,3): it gives (3,heads)": attend(
            layer, s, x, rope, heads_first=True),
        "values are rotated too: they carry what, not where": attend(layer, s, x, rope, rotated="qkv"),
        "keys are not rotated": attend(layer, s, x, rope, rotated="q"),
        "logits are divided by sqrt(head_dim) twice: scaled_dot_product_attention does it": attend(
            layer, s, x, rope, scalings=2),
        "rotation comes before the norm": attend(layer, s, x, rope, late=True),
        "heads were not moved back behind the tokens before self.out": attend(
            layer, s, x, rope, joined=False)}
    expect(layer(x, rope), attend(layer, s, x, rope), "Attention", mistakes)


@torch.no_grad()
def check_size_of_queries(s):
    """Longer queries and keys change nothing: they are normalised."""
    check_attention(s)                                                  # else to do nothing would be right
    layer, x, rope = attention_case(s)
    layer.qkv.bias.zero_()
    before = layer(x, rope)
    layer.qkv.weight[:64] *= 100
    expect(layer(x, rope), before, "attention with queries and keys a hundred times longer (QK-norm "
           "makes it the same)", atol=1e-3)


@torch.no_grad()
def check_packed(s):
    """Packed clips do not see each other."""
    layer, x, rope = attention_case(s)
    x, rope = x[:1], [part[:1] for part in rope]
    first = attend(layer, s, x[:, :2], [part[:, :2] for part in rope])
    second = attend(layer, s, x[:, 2:], [part[:, 2:] for part in rope])
    mistakes = {"`lengths` is ignored: clips see each other": attend(layer, s, x, rope)}
    expect(layer(x, rope, [2, 3]), torch.cat([first, second], 1), "Attention of two packed clips", mistakes)


# --- 4. the block -------------------------------------------------------------------------------------

def block_of(block, x, condition, frame, rope, silu=True, order="shift scale gate", gates=True,
             parallel=False, pairs=False, in_float32=True):
    """The block with the numbers of each token; the keywords are ways to get it wrong."""
    if silu:
        condition = nnf.silu(condition)
    modulation = block.modulation(condition)
    if in_float32:
        modulation = modulation.float()
    six = modulation[:, frame].chunk(6, dim=-1)                                 # (B,L,D) each
    if pairs:
        six = [six[i] for i in (0, 1, 4, 2, 3, 5)]                  # shift, scale, twice, then the two gates
    first, second = dict(zip(order.split(), six[:3])), dict(zip(order.split(), six[3:]))

    def shifted(x, by):
        return slow_norm(x) * (1 + by["scale"]) + by["shift"]

    after = x + first["gate"] * block.attention(shifted(x, first), rope)
    seen = x if parallel else after
    result = block.mlp(shifted(seen, second))
    if gates:
        result = second["gate"] * result
    return after + result


def block_case(s):
    """A block, x of 6 tokens, the condition of 3 frames, the tokens' rotations."""
    return lively(s.DiTBlock(32, 2)), noise(2, 6, 32), noise(2, 3, 32), ropes(s, 2, 6, 16)


@torch.no_grad()
def check_block(s):
    """Against a block written out."""
    block, x, condition, rope = block_case(s)
    frame = torch.arange(3).repeat_interleave(2)
    args = x, condition, frame, rope
    mistakes = {
        "silu is not applied to the condition": block_of(block, *args, silu=False),
        "shift and scale are swapped": block_of(
            block, *args, order="scale shift gate"),
        "the gate comes first: the order is shift, scale, gate": block_of(
            block, *args, order="gate shift scale"),
        "the two gates come last: the order is shift, scale, gate, twice": block_of(
            block, *args, pairs=True),
        "the gate of the MLP is forgotten": block_of(block, *args, gates=False),
        "the MLP sees what the attention saw, not its result": block_of(block, *args, parallel=True),
        "every token has the condition of frame 0": block_of(block, x, condition, 0 * frame, rope)}
    expect(block(*args), block_of(block, *args), "DiTBlock", mistakes, atol=2e-3)
    check_float32(block, args)


@torch.no_grad()
def check_float32(block, args):
    """Modulations that come in bfloat16, as under autocast, are used in float32."""
    block.modulation.register_forward_hook(lambda layer, inputs, output: output.bfloat16())
    mistakes = {"1 + scale is rounded to bfloat16: `.float()` keeps modulations in float32":
                block_of(block, *args, in_float32=False)}
    got = block(*args)
    expect(got, block_of(block, *args), "DiTBlock under autocast", mistakes, atol=2e-3)


@torch.no_grad()
def check_uneven(s):
    """Clips that are packed in one sequence may have frames of different sizes."""
    block, x, condition, rope = block_case(s)
    frame = torch.tensor([0, 0, 0, 1, 2, 2])
    alike = torch.arange(3).repeat_interleave(2)
    args = x, condition, frame, rope
    mistakes = {"all frames have equally many tokens: `frame` says which frame a token is in":
                block_of(block, x, condition, alike, rope)}
    expect(block(*args), block_of(block, *args), "DiTBlock, frames of 3, 1 and 2 tokens", mistakes, atol=2e-3)


@torch.no_grad()
def check_lengths(s):
    """The lengths of packed clips reach attention."""
    block, x, condition, rope = block_case(s)
    frame = torch.tensor([0, 0, 1, 1, 2, 2])
    together = block(x[:1], condition[:1], frame, [part[:1] for part in rope], [2, 4])
    clips = []
    for clip in (slice(0, 2), slice(2, 6)):
        own = [part[:1, clip] for part in rope]
        clips.append(block_of(block, x[:1, clip], condition[:1], frame[clip], own))
    mistakes = {"`lengths` is not handed to the attention: clips see each other":
                block_of(block, x[:1], condition[:1], frame, [part[:1] for part in rope])}
    expect(together, torch.cat(clips, 1), "DiTBlock of two packed clips", mistakes, atol=2e-3)


@torch.no_grad()
def check_zero(s):
    """A new block does nothing."""
    check_block(s)                                                  # else to do nothing would be right
    model = s.DiT(s.Config(**MINI), 3)
    x, condition, rope = noise(1, 4, 48), noise(1, 2, 48), ropes(s, 1, 4, 24)
    frame = torch.tensor([0, 0, 1, 1])
    for block in model.blocks:
        require(torch.equal(block(x, condition, frame, rope), x), "a block at initialisation: "
                "expected the identity, got something else. Are its gates 0: is "
                "block.modulation.weight zeroed?")


@torch.no_grad()
def check_head(s):
    """A new network predicts 0."""
    model = s.DiT(s.Config(**MINI), 3)
    x, caption = noise(1, 4, 2, 2, 2), torch.tensor([[1]])
    got = model(x, torch.ones(1, 2), caption)
    expect(got, torch.zeros_like(x), "a DiT's prediction at initialisation (is the head zeroed?)")


@torch.no_grad()
def check_last_modulation(s):
    """The last modulation begins at 0."""
    weight = s.DiT(s.Config(**MINI), 3).modulation.weight
    expect(weight, torch.zeros_like(weight), "the weights of the DiT's last modulation")


CHECKS = {3: [check_attention, check_size_of_queries, check_packed],
          4: [check_block, check_uneven, check_lengths, check_zero, check_head, check_last_modulation]}
