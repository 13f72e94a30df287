"""A VAE that sees single frames, in the place of the 3D one: see compressor.py."""
import torch.nn.functional as nnf

from sora import TIME, CausalConv3d, ResBlock, VideoVAE, channel_norm


class FrameVAE(VideoVAE):
    """A per-frame (2D) VAE with latents of the same shape: those of 4 frames, a quarter of the channels
    each, lie one behind the other in the channels of a latent frame. latent_channels: a multiple of 4.

    It has four times as many positions to compute: at half the width, a step costs about the same."""

    def __init__(self, config):
        super().__init__(config)
        width, deep, channels = config.vae_width, 2 * config.vae_width, config.channels
        C = config.latent_channels // TIME                          # channels of the latent of a frame
        self.encoder[0] = CausalConv3d(channels, width, (1, 8, 8), stride=(1, 4, 4))
        self.to_moments = CausalConv3d(deep, 2 * C, (1, 1, 1))
        self.decoder[0] = CausalConv3d(C, deep, (1, 3, 3))
        self.decoder[1] = ResBlock(deep, time=1)
        self.decoder[3] = ResBlock(width, time=1)
        self.to_pixels = CausalConv3d(width, channels * 4 * 4, (1, 3, 3))

    def moments(self, video):
        """Mean and log variance (B,4·C,F,h,w)."""
        return tuple(four_to_one(x) for x in super().moments(video))

    def decode(self, latent, cache=None):
        """Latent (B,4·C,F,h,w) -> video (B,channels,4F,8h,8w). There is no past to keep in a cache."""
        x = one_to_four(latent * self.std + self.mean)              # (B,C,T,h,w)
        for layer in self.decoder:
            x = layer(x)
        x = self.to_pixels(nnf.silu(channel_norm(x))).float().tanh()    # (B,channels·4·4,T,H/4,W/4)
        B, _, T, rows, columns = x.shape                            # pixel shuffle:
        x = x.view(B, -1, 4, 4, T, rows, columns)                   # (B,channels,4,4,T,H/4,W/4)
        x = x.permute(0, 1, 4, 5, 2, 6, 3)                          # (B,channels,T,H/4,4,W/4,4)
        return x.reshape(B, -1, T, 4 * rows, 4 * columns)


def four_to_one(x):
    """Latents of frames (B,C,T,h,w) -> latent frames (B,4·C,F,h,w)."""
    B, C, T, h, w = x.shape
    x = x.reshape(B, C, T // TIME, TIME, h, w)
    return x.permute(0, 3, 1, 2, 4, 5).reshape(B, TIME * C, T // TIME, h, w)


def one_to_four(x):
    """Latent frames (B,4·C,F,h,w) -> latents of frames (B,C,T,h,w). The inverse of `four_to_one`."""
    B, C, F, h, w = x.shape
    x = x.reshape(B, TIME, C // TIME, F, h, w)
    return x.permute(0, 2, 3, 1, 4, 5).reshape(B, C // TIME, F * TIME, h, w)
