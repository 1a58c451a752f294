"""The two attentions of CAT: IPSA within each window, and CPSA among windows, per channel.

Both take a map x_BHWC or windows x_BPSSC (five dimensions) and return the same layout. A map that
the window does not divide is padded with zeros. Nothing is masked: the padding takes part in the
attention, as in the reference.

`attend_in_windows` computes softmax(scale q k^T + bias) v in the form that measured fastest on the
device it runs on (docs/performance.md).

Letters: B images, H and W map positions, L = HW, C channels, P windows of a map, S positions along
a window, N = SS, h heads, d channels of a head, E = 3C (q, k and v side by side), K keys, O = 2S -
1 offsets between positions; in `attend_in_windows`, W windows of all images, and v = Wh.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cat_model.layers import can_skip_calls
from cat_model.tracing import holds, is_scripting, is_tracing, whole_module
from cat_model.windows import fits_window, is_windowed, merge, split


@whole_module
class Ipsa(nn.Module):
    """Inner-patch self-attention: multi-head attention inside each window, with a relative position
    bias."""

    # torch.jit.script uses the layers that the module has when it is scripted.
    __constants__ = ("reads_weights",)
    __jit_unused_properties__ = ("reads_weights",)

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
        self.scale = float(qk_scale or (dim // num_heads) ** -0.5)
        self.attn_drop = attn_drop
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window - 1) ** 2, num_heads)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    @property
    def reads_weights(self) -> bool:
        """Whether a padded position takes its queries, keys and values from the bias of `qkv`."""
        return can_skip_calls(self.qkv)

    def forward(self, x: Tensor) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        if is_windowed(x):  # the stage already cut the map into windows: no padding
            mixed = self._mix_windows(x, drop)
        elif not self.reads_weights:
            # An adapter can map a padded zero to any value, so it must see the padding too.
            mixed = merge(self._mix_windows(split(x, self.window), drop), x.shape[1], x.shape[2])
        elif fits_window(x, self.window) and drop == 0.0:
            # One window: its padded positions are equal keys, so one key can replace them all.
            # Dropout draws for each key separately, so it needs the general path.
            mixed = self._mix_small_map(x)
        else:
            # Only the map's own positions go through `qkv`; a padded position yields its bias.
            mixed = self._mix_map(x, drop)
        out: Tensor = self.proj_drop(self.proj(mixed))
        return out

    def position_bias(self) -> Tensor:
        """bias_hNN: entry (i, j) is the table's row for the offset from position j to position i.

        A window that slides over the table holds, in reverse order, the offsets of all j to one i.
        So no index needs to be stored.
        """
        S = self.window
        table_OOh = self.relative_position_bias_table.view(2 * S - 1, 2 * S - 1, self.num_heads)
        bias_SShSS = table_OOh.unfold(0, S, 1).unfold(1, S, 1)
        return bias_SShSS.permute(2, 0, 1, 3, 4).reshape(self.num_heads, S * S, S * S).flip(2)

    def _mix_windows(self, x_BPSSC: Tensor, drop: float) -> Tensor:
        qkv_BPNE = self.qkv(x_BPSSC).flatten(2, 3)
        return self._mix(qkv_BPNE, self.position_bias(), drop).view(x_BPSSC.shape)

    def _mix_map(self, x_BHWC: Tensor, drop: float) -> Tensor:
        """Multiplies only the map itself: a padded position is zero, so its q, k and v are the
        bias."""
        qkv_BPSSE = split(F.linear(x_BHWC, self.qkv.weight), self.window)
        if self.qkv.bias is not None:
            qkv_BPSSE = qkv_BPSSE + self.qkv.bias.to(qkv_BPSSE.dtype)
        mixed_BPNC = self._mix(qkv_BPSSE.flatten(2, 3), self.position_bias(), drop)
        B, P, _, C = mixed_BPNC.shape
        mixed_BPSSC = mixed_BPNC.view(B, P, self.window, self.window, C)
        return merge(mixed_BPSSC, x_BHWC.shape[1], x_BHWC.shape[2])

    def _mix_small_map(self, x_BHWC: Tensor) -> Tensor:
        """Attention for a map within one window: all its padding acts as one key, whose bias is the
        logsumexp of the biases of the padded positions."""
        B, height, width, C = x_BHWC.shape
        S, h = self.window, self.num_heads
        qkv_B1LE: Tensor = self.qkv(x_BHWC.reshape(B, 1, height * width, C))
        padding_E = (
            qkv_B1LE.new_zeros(3 * C) if self.qkv.bias is None else self.qkv.bias.to(qkv_B1LE.dtype)
        )
        qkv_B1KE = torch.cat([qkv_B1LE, padding_E.expand(B, 1, 1, 3 * C)], dim=2)
        bias_hLij = self.position_bias().reshape(h, S, S, S, S)[:, :height, :width].flatten(1, 2)
        beside_hLn, below_hLn = (
            bias_hLij[:, :, :height, width:].flatten(2),
            bias_hLij[:, :, height:].flatten(2),
        )
        padding_hL1 = torch.cat([beside_hLn, below_hLn], dim=2).logsumexp(dim=2, keepdim=True)
        bias_hLK = torch.cat([bias_hLij[:, :, :height, :width].flatten(2), padding_hL1], dim=2)
        return self._mix(qkv_B1KE, bias_hLK, 0.0).view(B, height, width, C)

    def _mix(self, qkv_BPKE: Tensor, bias_hNK: Tensor, drop: float) -> Tensor:
        """x_BPNC: the first N of the K positions attend to all K."""
        B, P, K, E = qkv_BPKE.shape
        N = bias_hNK.shape[1]
        q_WKhd, k_WKhd, v_WKhd = qkv_BPKE.reshape(
            B * P, K, 3, self.num_heads, E // 3 // self.num_heads
        ).unbind(2)
        x_WNC = attend_in_windows(q_WKhd[:, :N], k_WKhd, v_WKhd, bias_hNK, self.scale, drop)
        return x_WNC.view(B, P, N, E // 3)


@whole_module
class Cpsa(nn.Module):
    """Cross-patch self-attention, per channel: windows are the tokens, their N positions the
    features.

    There is one head, so its matrices fold into two. Within a softmax, q k^T varies only by x_i M
    x_j + u x_j, where M = Wq^T Wk and u = Wk^T bq. The rows of the softmax add up to 1, so
    proj(weights v) is weights x V^T + c, where V = Wp Wv and c = Wp bv + bp. Two products with NxN
    matrices replace four; x is its own key and value.

    Folding reads the weights of the layers. Layers that do more than multiply by their weights
    (adapters, quantised or pruned layers, layers with hooks) are called instead, at twice the
    products.
    """

    # torch.jit.script uses the layers that the module has when it is scripted.
    __constants__ = ("reads_weights",)
    __jit_unused_properties__ = ("reads_weights",)

    def __init__(
        self,
        *,
        window: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        features = window**2
        self.window = window
        self.scale = float(qk_scale or features**-0.5)
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(features, 3 * features, bias=qkv_bias)
        self.proj = nn.Linear(features, features)
        self.proj_drop = nn.Dropout(proj_drop)

    @property
    def reads_weights(self) -> bool:
        """Whether the layers' matrices are folded; if not, the layers are called."""
        return can_skip_calls(self.qkv, self.proj) and self.proj.bias is not None

    def forward(self, x: Tensor) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        if not self.reads_weights:
            mixed = self._mix_by_calls(x, drop)
        elif is_windowed(x):
            # With one window the softmax runs over one token and is always 1, so only V and c
            # remain.
            is_linear = holds(x.shape[1] == 1) and drop == 0.0
            mixed = self._mix_one_window(x) if is_linear else self._mix(x, drop)
        elif fits_window(x, self.window) and drop == 0.0:
            mixed = self._mix_small_map(x)  # one window again; padded zeros add nothing
        else:
            mixed = merge(self._mix(split(x, self.window), drop), x.shape[1], x.shape[2])
        out: Tensor = self.proj_drop(mixed)
        return out

    def _mix(self, x_BPSSC: Tensor, drop: float) -> Tensor:
        B, P, S, _, C = x_BPSSC.shape
        N = S * S
        x_vPN = x_BPSSC.permute(0, 4, 1, 2, 3).reshape(B * C, P, N)
        weight_NN, bias_N = self._folded_query()
        q_vPN = F.linear(x_vPN, weight_NN, bias_N)
        x_vPN = x_vPN.to(q_vPN.dtype)
        weights_vPP = torch.bmm(q_vPN, x_vPN.transpose(1, 2)).softmax(dim=-1)
        weight_NN, bias_N, value_bias_N = self._folded_output()
        if drop > 0.0:
            weights_vPP = F.dropout(weights_vPP, drop)
        out_vPN = F.linear(torch.bmm(weights_vPP, x_vPN), weight_NN, bias_N)
        if drop > 0.0:  # the rows no longer add up to 1
            out_vPN = out_vPN + (weights_vPP.sum(dim=-1, keepdim=True) - 1) * value_bias_N
        return out_vPN.view(B, C, P, S, S).permute(0, 2, 3, 4, 1)

    def _mix_by_calls(self, x: Tensor, drop: float) -> Tensor:
        """Softmax(scale q k^T) v computed by calling the layers, without reading their weights."""
        x_BPSSC = x if is_windowed(x) else split(x, self.window)
        B, P, S, _, C = x_BPSSC.shape
        x_vPN = x_BPSSC.permute(0, 4, 1, 2, 3).reshape(B * C, P, S * S)
        q_vPN, k_vPN, v_vPN = self.qkv(x_vPN).chunk(3, dim=-1)
        weights_vPP = torch.bmm(q_vPN * self.scale, k_vPN.transpose(1, 2)).softmax(dim=-1)
        if drop > 0.0:
            weights_vPP = F.dropout(weights_vPP, drop)
        out_vPN = self.proj(torch.bmm(weights_vPP, v_vPN))
        out_BPSSC = out_vPN.view(B, C, P, S, S).permute(0, 2, 3, 4, 1)
        return out_BPSSC if is_windowed(x) else merge(out_BPSSC, x.shape[1], x.shape[2])

    def _mix_one_window(self, x_B1SSC: Tensor) -> Tensor:
        return self._mix_small_map(x_B1SSC.squeeze(1)).unsqueeze(1)

    def _mix_small_map(self, x_BHWC: Tensor) -> Tensor:
        """Attention for a map within one window: the softmax over one token is 1, so only the
        output product remains.

        Padded positions are zero in the input and cropped from the output, so they drop out of the
        product. q and k stay in the graph as the unused rows of `qkv`: their gradient is zero, not
        missing.
        """
        B, height, width, C = x_BHWC.shape
        S, L = self.window, height * width
        weight_NN, bias_N, _ = self._folded_output()
        weight_LL = weight_NN.view(S, S, S, S)[:height, :width, :height, :width].reshape(L, L)
        bias_L = bias_N.view(S, S)[:height, :width].reshape(L)
        out_BLC = torch.baddbmm(bias_L[:, None], weight_LL.expand(B, L, L), x_BHWC.reshape(B, L, C))
        return out_BLC.view(B, height, width, C)

    def _folded_query(self) -> tuple[Tensor, Tensor | None]:
        """M^T and u from the class docstring, times the scale."""
        N = self.window * self.window
        query_NN, key_NN = self.qkv.weight[:N], self.qkv.weight[N : 2 * N]
        weight_NN = (key_NN.t() @ query_NN) * self.scale
        bias = self.qkv.bias
        return weight_NN, None if bias is None else (key_NN.t() @ bias[:N]) * self.scale

    def _folded_output(self) -> tuple[Tensor, Tensor, Tensor]:
        """V and c from the class docstring, and the part Wp bv of c."""
        N = self.window * self.window
        weight_NN = self.proj.weight @ self.qkv.weight[2 * N :]
        if self.qkv.bias is None:
            return weight_NN, self.proj.bias, torch.zeros_like(self.proj.bias)
        value_bias_N = self.proj.weight @ self.qkv.bias[2 * N :]
        return weight_NN, self.proj.bias + value_bias_N, value_bias_N


def attend_in_windows(
    q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float, drop: float
) -> Tensor:
    """x_WNC: attention of each head of each window; `drop` is the dropout rate of the attention
    weights."""
    bias_hNK = bias_hNK.to(q_WNhd.dtype)
    if q_WNhd.is_cuda:
        return _fused(q_WNhd, k_WKhd, v_WKhd, bias_hNK, scale, drop)
    if not is_scripting() and _is_plain_inference(q_WNhd) and drop == 0.0:
        return _head_by_head(q_WNhd, k_WKhd, v_WKhd, bias_hNK, scale)
    return _batched(q_WNhd, k_WKhd, v_WKhd, bias_hNK, scale, drop)


def _is_plain_inference(x: Tensor) -> bool:
    """Whether the per-head loop may run: float32 on the CPU, without gradients and outside traces.

    A trace keeps one path for all modes, and torch checks it with a second trace without gradients.
    """
    is_watched = is_tracing() or torch.compiler.is_compiling()
    return not (torch.is_grad_enabled() or is_watched) and x.dtype == torch.float32


def _fused(
    q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float, drop: float
) -> Tensor:
    x_WhNd = F.scaled_dot_product_attention(
        q_WNhd.transpose(1, 2),
        k_WKhd.transpose(1, 2),
        v_WKhd.transpose(1, 2),
        attn_mask=bias_hNK,
        dropout_p=drop,
        scale=scale,
    )
    return x_WhNd.transpose(1, 2).flatten(2)


def _head_by_head(
    q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float
) -> Tensor:
    """Attention head by head: a head's windows are strided matrices that BLAS takes without a copy.

    In the backward pass, slices are slower than a batch.
    """
    heads_WNd = []
    for head in range(q_WNhd.shape[2]):
        q_WNd, k_WdK = q_WNhd[:, :, head], k_WKhd[:, :, head].transpose(1, 2)
        weights_WNK = torch.baddbmm(bias_hNK[head], q_WNd, k_WdK, alpha=scale).softmax(dim=-1)
        heads_WNd.append(weights_WNK @ v_WKhd[:, :, head])
    return torch.cat(heads_WNd, dim=2)


def _batched(
    q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float, drop: float
) -> Tensor:
    W, N, h, d = q_WNhd.shape
    K = k_WKhd.shape[1]
    q_vNd = q_WNhd.transpose(1, 2).reshape(W * h, N, d)
    k_vdK = k_WKhd.permute(0, 2, 3, 1).reshape(W * h, d, K)
    v_vKd = v_WKhd.transpose(1, 2).reshape(W * h, K, d)
    bias_vNK = bias_hNK.expand(W, h, N, K).reshape(W * h, N, K)
    weights_vNK = torch.baddbmm(bias_vNK, q_vNd, k_vdK, alpha=scale).softmax(dim=-1)
    if drop > 0.0:
        weights_vNK = F.dropout(weights_vNK, drop)
    return torch.bmm(weights_vNK, v_vKd).view(W, h, N, d).transpose(1, 2).reshape(W, N, h * d)
