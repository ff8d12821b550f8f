# Honest: rotates query and key where they lie.
# task: L1/rotary_emb
import torch
from fastkernels_gym.tasks.baseline.L1.rotary_emb import scaling
from torch import nn


class RotaryEmbedding(nn.Module):
    def __init__(
        self, head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype, init_cache=True,
        *, rope_parameters=None,
    ):
        super().__init__()
        self.head_size = head_size
        parameters = rope_parameters or {}
        frequencies = 1.0 / base ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim)
        rule = scaling(parameters.get("rope_type", "default"))
        frequencies, _ = rule(frequencies, parameters, max_position_embeddings)
        angles = torch.outer(torch.arange(max_position_embeddings, dtype=torch.float32), frequencies)
        self.register_buffer("cos_sin_cache", torch.cat([angles.cos(), angles.sin()], -1).to(dtype), persistent=False)

    def forward(self, positions, query, key=None):
        cos, sin = self.cos_sin_cache[positions].chunk(2, dim=-1)
        for x in (query, key):
            if x is not None:
                heads = x.view(len(x), -1, self.head_size)
                a, b = heads.float().chunk(2, dim=-1)
                c, s = cos.float()[:, None], sin.float()[:, None]
                heads.copy_(torch.cat([a * c - b * s, b * c + a * s], dim=-1))
        return query, key
