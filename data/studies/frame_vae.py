"""A per-frame (2D) VAE in the place of the 3D one: what is it worth to compress time? See study.py, compressor."""
import torch.nn.functional as nnf

from sora import TIME, Conv3d, ResBlock, VideoVAE, channel_norm


class FrameVAE(VideoVAE):
    """A VAE that sees single frames, with the shapes of the 3D one: the latents of four frames, a quarter of the
    channels each, lie one behind the other in the channels of a latent frame. Four times the positions: at half the
    width it costs the same."""

    def __init__(self, config):
        super().__init__(config)
        width, deep, c, C = config.vae_width, 2 * config.vae_width, config.channels, config.latent_channels // TIME
        self.encoder[0] = Conv3d(c, width, (1, 8, 8), stride=(1, 4, 4))
        self.to_moments = Conv3d(deep, 2 * C, (1, 1, 1))
        self.from_latent = Conv3d(C, deep, (1, 3, 3))
        for i, layer in enumerate(self.decoder):
            if isinstance(layer, ResBlock):
                self.decoder[i] = ResBlock(layer.conv2.shape[0], time=1)
        self.to_pixels = Conv3d(width, c * 4 * 4, (1, 3, 3))

    def moments(self, video):
        return tuple(x.unflatten(2, (-1, TIME)).movedim(3, 1).flatten(1, 2)    # (B,C/4,T,h,w) -> (B,C,F,h,w)
                     for x in super().moments(video))

    def paint(self, z, cache=None):
        x = self.from_latent(z.unflatten(1, (TIME, -1)).movedim(1, 3).flatten(2, 3))         # (B,C/4,T,h,w)
        for layer in self.decoder:
            x = layer(x)
        x = self.to_pixels(nnf.silu(channel_norm(x))).float()
        return x.unflatten(1, (-1, 4, 4)).permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)
