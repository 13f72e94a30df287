"""Run by board.py in an entry's folder: makes clips with its code. Arguments: checkpoint, clips a digit, file.

Writes a file with clips (B,channels,T,H,W) as uint8 and their captions.
"""
import sys

import torch

from sample import load_models, text_to_video

if __name__ == "__main__":
    ckpt, n, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    models = load_models(ckpt)
    clips, captions = [], []
    for i, word in enumerate(models.words):
        video = text_to_video(models, word, n=n, seed=1000 * i)
        clips.append(((video + 1) * 127.5).round().to(torch.uint8))
        captions += [[i + 1]] * n
    torch.save({"clips": torch.cat(clips), "caption": torch.tensor(captions)}, out)
