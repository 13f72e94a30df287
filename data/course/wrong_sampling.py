"""Wrong answers of parts 10 to 12: (old, new, what the grader has to say)."""

SAMPLING = {
    10: [("without + scale * (", "without + (1 + scale) * (", "taken for the paper's w"),
         ("return without + scale * (with_caption - without)",
          "return with_caption + scale * (without - with_caption)", "with and without caption are swapped"),
         ("torch.zeros_like(caption)", "caption", "word 0 is no word"),
         ("return without + scale * (with_caption - without)",
          "mixed = without + scale * (with_caption - without)\n"
          "        return torch.cat([mixed[:, :3], with_caption[:, 3:]], dim=1)", "got it on [0, 1, "
                  "2] only")],
    11: [("torch.where(known, 0, process.draw_levels((B, 1), generator, device))",
          "process.draw_levels((B, 1), generator, device).expand(known.shape)", "level 0 in known frames"),
         ("torch.where(known, 0,", "torch.where(~known, 0,", "the wrong way round"),
         ("process.draw_levels((B, 1),", "process.draw_levels(known.shape,", "that would be diffusion "
                 "forcing"),
         ("(error * ~known).sum() / count", "error.mean()", "known frames count too"),
         ("(error * ~known).sum() / count", "(error * ~known).mean()", "divided by the number of all"),
         ("    if count is None:\n        count = (~known).sum()", "    count = (~known).sum()",
          "`count` is ignored"),
         ("t / process.N, caption, positions)", "t, caption, positions)", "the level that "
          "diffusion_loss tells"),
         ("levels[:, None, None] * unknown", "levels[:, None, None].expand(-1, B, F)",
          "multiply the levels by the mask"),
         ("        x = torch.where(known_mask, latent, x)\n", "", "Put them in before each step"),
         ("return torch.where(known_mask, latent, x)", "return x", "Put them in a last time"),
         ("process.q_sample(latent, levels[0], x)", "latent", "there is no noise")],
    12: [("recent[:, :, max(recent.shape[2] - context, 0):]", "recent[:, :, :context]",
          "got the oldest"),
         ("**sampling)[:, :, n:]", "**sampling)", "got the whole window"),
         ("max(recent.shape[2] - context, 0):]", "-context:]", "Beware of [-0:]"),
         ("if anchor and made > n_recent:", "if anchor:", "no anchor while"),
         ("positions[0] = -anchor", "pass", "at position -anchor"),
         ("known = torch.cat([first, recent], dim=2)", "known = torch.cat([recent[:, :, :1], recent], dim=2)",
          "expected frames [0, 2, 3], got [2, 2, 3]"),
         ("first = new[:, :, :1] if made == 0 else first", "pass", "whoever made it"),
         ("-positions if backward else positions ", "positions ", "time runs the other way"),
         ("past = past.flip(2)", "pass", "Flip `past` once"),
         ("shown = positions + made - n_recent", "shown = positions ", "not from the window's"),
         ("shown.clamp(max=caption.shape[1] - 1)", "shown % caption.shape[1]", "hold for all that"),
         ("            shown = torch.cat([shown.new_zeros(1), shown[:-1]])\n", "",
          "the anchor's caption")],
}
