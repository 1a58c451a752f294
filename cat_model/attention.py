"""The two attentions of CAT: within each window (IPSA) and, for each channel on its own, among windows (CPSA).

Both take a map x_BHWC, or windows x_BPNC when `is_windowed`, and return the same layout. A map that the window does
not divide is padded with zeros, and nothing is masked: the padding takes part in the attention, as in the reference.

Letters: B images, H and W map positions, L = HW, C channels, P windows of a map, N positions of a window, h heads,
d channels of a head, E = 3C and D = 3N (q, k and v side by side), K keys.
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
        drop = self.attn_drop if self.training else 0.0
        if is_windowed:
            mixed = self._mix(self.qkv(x), bias_hNK=self.position_bias(), drop=drop)
        elif max(x.shape[1:3]) <= self.window and not drop:
            mixed = self._mix_small_map(x)
        else:
            mixed = self._mix_map(x, drop=drop)
        out: Tensor = self.proj_drop(self.proj(mixed))
        return out

    def position_bias(self) -> Tensor:
        """bias_hNN: entry (i, j) is the table's row for the offset from position j to position i.

        Sliding windows over the table hold these offsets already, so no index has to be stored.
        """
        window, side = self.window, 2 * self.window - 1
        table = self.relative_position_bias_table.view(side, side, self.num_heads)
        bias_jjhii = table.unfold(0, window, 1).unfold(1, window, 1).flip(0, 1)
        return bias_jjhii.permute(2, 3, 4, 0, 1).reshape(self.num_heads, window**2, window**2)

    def _mix_map(self, x_BHWC: Tensor, *, drop: float) -> Tensor:
        """A padded position is zero, so its q, k and v are the bias: only the map itself is multiplied."""
        height, width = x_BHWC.shape[1:3]
        qkv_BPNE = split(F.linear(x_BHWC, self.qkv.weight), self.window)
        if self.qkv.bias is not None:
            qkv_BPNE = qkv_BPNE + self.qkv.bias.to(qkv_BPNE.dtype)
        mixed_BPNC = self._mix(qkv_BPNE, bias_hNK=self.position_bias(), drop=drop)
        return merge(mixed_BPNC, height, width, self.window)

    def _mix_small_map(self, x_BHWC: Tensor) -> Tensor:
        """A map within one window: all its padding acts as one key, whose bias is the logsumexp of theirs."""
        B, height, width, C = x_BHWC.shape
        qkv_B1LE: Tensor = self.qkv(x_BHWC.view(B, 1, height * width, C))
        padding_E = qkv_B1LE.new_zeros(3 * C) if self.qkv.bias is None else self.qkv.bias.to(qkv_B1LE.dtype)
        qkv_B1KE = torch.cat([qkv_B1LE, padding_E.expand(B, 1, 1, 3 * C)], dim=2)
        bias_hijij = self.position_bias().view(self.num_heads, *(self.window,) * 4)
        bias_hLij = bias_hijij[:, :height, :width].flatten(1, 2)
        beside_hLn, below_hLn = bias_hLij[:, :, :height, width:].flatten(2), bias_hLij[:, :, height:].flatten(2)
        padding_hL1 = torch.cat([beside_hLn, below_hLn], dim=2).logsumexp(dim=2, keepdim=True)
        bias_hLK = torch.cat([bias_hLij[:, :, :height, :width].flatten(2), padding_hL1], dim=2)
        return self._mix(qkv_B1KE, bias_hNK=bias_hLK, drop=0.0).view(B, height, width, C)

    def _mix(self, qkv_BPKE: Tensor, *, bias_hNK: Tensor, drop: float) -> Tensor:
        """x_BPNC: the first N of the K positions attend to all K."""
        B, P, K, E = qkv_BPKE.shape
        q, k, v = qkv_BPKE.reshape(B * P, K, 3, self.num_heads, -1).unbind(2)
        num_queries = bias_hNK.shape[1]
        out_BhNd = attend(
            q[:, :num_queries].transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            bias=bias_hNK,
            scale=self.scale,
            drop=drop,
        )
        return out_BhNd.transpose(1, 2).reshape(B, P, num_queries, E // 3)


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
        drop = self.attn_drop if self.training else 0.0
        has_one_window = x.shape[1] == 1 if is_windowed else max(x.shape[1:3]) <= self.window
        if has_one_window and not drop:
            x_BHWC = x.view(x.shape[0], self.window, self.window, -1) if is_windowed else x
            out = self._mix_small_map(x_BHWC).view(x.shape)
        elif is_windowed:
            out = self._mix(x, drop=drop)
        else:
            out = merge(self._mix(split(x, self.window), drop=drop), x.shape[1], x.shape[2], self.window)
        dropped: Tensor = self.proj_drop(out)
        return dropped

    def _mix(self, x_BPNC: Tensor, *, drop: float) -> Tensor:
        B, P, N, C = x_BPNC.shape
        qkv_BCPD: Tensor = self.qkv(x_BPNC.permute(0, 3, 1, 2))
        q, k, v = qkv_BCPD.view(B * C, P, 3 * N).chunk(3, dim=-1)
        out_BCPN: Tensor = self.proj(attend(q, k, v, bias=None, scale=self.scale, drop=drop)).view(B, C, P, N)
        return out_BCPN.permute(0, 2, 3, 1)

    def _mix_small_map(self, x_BHWC: Tensor) -> Tensor:
        """A map within one window: the softmax over one token is 1, so all there is to do is v and proj, one product.

        Positions of the padding are zero on the way in and cropped on the way out: they drop out of the product.
        q and k stay in the graph as the unused rows of `qkv`: their gradient is zero, not missing.
        """
        B, height, width, C = x_BHWC.shape
        window, N, L = self.window, self.window**2, height * width
        weight_NN = self.proj.weight @ self.qkv.weight[2 * N :]
        bias_N: Tensor = self.proj.bias
        if self.qkv.bias is not None:
            bias_N = bias_N + self.proj.weight @ self.qkv.bias[2 * N :]
        weight_LL = weight_NN.view(window, window, window, window)[:height, :width, :height, :width].reshape(L, L)
        bias_L = bias_N.view(window, window)[:height, :width].reshape(L)
        out_BLC = torch.baddbmm(bias_L[:, None], weight_LL.expand(B, L, L), x_BHWC.reshape(B, L, C))
        return out_BLC.view(B, height, width, C)


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
