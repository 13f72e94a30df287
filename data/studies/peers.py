"""Networks of two other projects, to measure ours against (bench.py --against): they have to be installed."""
from sora import SPACE, TIME, InputError

PEERS = UNET, LATTE = "video-diffusion-pytorch", "latte"
REMEDY = "pip install video-diffusion-pytorch diffusers"


def make_peer(name, config):
    """(the network, whether it works on pixels); a call with (x, t, words) gives something like x."""
    c = config
    try:
        if name == UNET:
            from video_diffusion_pytorch import Unet3D
            net = Unet3D(dim=64, channels=c.channels, dim_mults=(1, 2, 4, 8))
            return net, True, lambda x, t, words: net(x, t)
        from diffusers import LatteTransformer3DModel
        net = LatteTransformer3DModel(                              # a layer has two blocks: space and time
            num_attention_heads=c.heads, attention_head_dim=c.dim // c.heads, num_layers=max(c.depth // 2, 1),
            in_channels=c.latent_channels, out_channels=c.latent_channels, patch_size=c.patch,
            sample_size=c.height // SPACE, video_length=c.frames // TIME, caption_channels=c.dim,
            attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
            norm_type="ada_norm_single", norm_elementwise_affine=False)
        return net, False, lambda x, t, words: net(x, t, words).sample
    except (ImportError, RuntimeError, AttributeError) as error:    # so end packages that do not fit torch
        reason = str(error).strip().splitlines()[-1][:90]
        raise InputError(f"--against {name}: not usable ({reason}); {REMEDY}") from None
