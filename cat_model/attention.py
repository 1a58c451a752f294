"""The two attentions of CAT: within each window (IPSA) and, for each channel on its own, among windows (CPSA).

Both take a map x_BHWC, or windows x_BPNC when `is_windowed`, and return the same layout. A map that the window does
not divide is padded with zeros, and nothing is masked: the padding takes part in the attention, as in the reference.

Letters: B images, H and W map positions, C channels, P windows of a map, N positions of a window, h heads,
d channels of a head, E = 3C (q, k and v side by side), D = 3N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cat_model.windows import merge, split


class Ipsa(nn.Module):
    """Inner-patch self-attention: multi-head attention inside each window, with a relative position bias."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, *, is_windowed: bool) -> Tensor:
        mixed = self._mix(self.qkv(x)) if is_windowed else self._mix_map(x)
        out: Tensor = self.proj_drop(self.proj(mixed))
        return out

    def _mix_map(self, x_BHWC: Tensor) -> Tensor:
        """A padded position is zero, so its q, k and v are the bias: only the map itself is multiplied."""
        height, width = x_BHWC.shape[1:3]
        qkv_BPNE = split(F.linear(x_BHWC, self.qkv.weight), self.window)
        if self.qkv.bias is not None:
            qkv_BPNE = qkv_BPNE + self.qkv.bias.to(qkv_BPNE.dtype)
        return merge(self._mix(qkv_BPNE), height, width, self.window)

    def _mix(self, qkv_BPNE: Tensor) -> Tensor:
        B, P, N, E = qkv_BPNE.shape
        qkv_3BhNd = qkv_BPNE.reshape(B * P, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv_3BhNd.unbind(0)
        drop = self.attn_drop if self.training else 0.0
        out_BhNd = attend(q, k, v, bias=self.position_bias(), scale=self.scale, drop=drop)
        return out_BhNd.transpose(1, 2).reshape(B, P, N, E // 3)

    def position_bias(self) -> Tensor:
        """bias_hNN: entry (i, j) is the table's row for the offset from position j to position i.

        Sliding windows over the table hold these offsets already, so no index has to be stored.
        """
        window, side = self.window, 2 * self.window - 1
        table = self.relative_position_bias_table.view(side, side, self.num_heads)
        bias_jjhii = table.unfold(0, window, 1).unfold(1, window, 1).flip(0, 1)
        return bias_jjhii.permute(2, 3, 4, 0, 1).reshape(self.num_heads, window**2, window**2)


class Cpsa(nn.Module):
    """Cross-patch self-attention: each channel on its own, its windows as tokens, their N positions as features."""

    def __init__(
        self, *, window: int, qkv_bias: bool, qk_scale: float | None, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__()
        features = window**2
        self.window = window
        self.scale = qk_scale or features**-0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(features, 3 * features, bias=qkv_bias)
        self.proj = nn.Linear(features, features)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, *, is_windowed: bool) -> Tensor:
        if is_windowed:
            out = self._mix(x)
        else:
            height, width = x.shape[1:3]
            out = merge(self._mix(split(x, self.window)), height, width, self.window)
        dropped: Tensor = self.proj_drop(out)
        return dropped

    def _mix(self, x_BPNC: Tensor) -> Tensor:
        B, P, N, C = x_BPNC.shape
        drop = self.attn_drop if self.training else 0.0
        if P == 1 and drop == 0.0:
            return self._mix_one_window(x_BPNC)
        qkv_BCPD: Tensor = self.qkv(x_BPNC.permute(0, 3, 1, 2))
        q, k, v = qkv_BCPD.view(B * C, P, 3 * N).chunk(3, dim=-1)
        out_BCPN: Tensor = self.proj(attend(q, k, v, bias=None, scale=self.scale, drop=drop)).view(B, C, P, N)
        return out_BCPN.permute(0, 2, 3, 1)

    def _mix_one_window(self, x_B1NC: Tensor) -> Tensor:
        """A softmax over one window is 1, so attention is v, and v and proj are one product (2x faster on a CPU).

        q and k stay in the graph as the unused rows of `qkv`: their gradient is zero, not missing.
        """
        B, _, N, C = x_B1NC.shape
        weight_NN = self.proj.weight @ self.qkv.weight[2 * N :]
        bias_N: Tensor = self.proj.bias
        if self.qkv.bias is not None:
            bias_N = bias_N + self.proj.weight @ self.qkv.bias[2 * N :]
        out_BNC = torch.baddbmm(bias_N[:, None], weight_NN.expand(B, N, N), x_B1NC.reshape(B, N, C))
        return out_BNC.view(B, 1, N, C)


def attend(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None, scale: float, drop: float) -> Tensor:
    """softmax(scale q k^T + bias) v over the last two dimensions."""
    if q.is_cuda:
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, scale=scale)
    # On a CPU the fused kernel loses: a bias that wants a gradient sends it to its slow path (1.3 to 1.5x).
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits += bias
    weights = F.dropout(logits.softmax(dim=-1), drop) if drop else logits.softmax(dim=-1)
    return weights @ v
