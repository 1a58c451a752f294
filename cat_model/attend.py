"""softmax(scale q k^T + bias) v in the form that measured fastest where it runs (docs/performance.md).

Letters: W windows (of all images), h heads, d channels of a head, N queries, K keys, C = hd channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cat_model.tracing import is_scripting, is_tracing


def attend_in_windows(
    q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float, drop: float
) -> Tensor:
    """x_WNC: every head of every window on its own; `drop` is the dropout rate of the attention weights."""
    bias_hNK = bias_hNK.to(q_WNhd.dtype)
    if q_WNhd.is_cuda:
        return _fused(q_WNhd, k_WKhd, v_WKhd, bias_hNK, scale, drop)
    if not is_scripting() and _is_plain_inference(q_WNhd) and drop == 0.0:
        return _head_by_head(q_WNhd, k_WKhd, v_WKhd, bias_hNK, scale)
    return _batched(q_WNhd, k_WKhd, v_WKhd, bias_hNK, scale, drop)


def _is_plain_inference(x: Tensor) -> bool:
    """Never in a trace: it keeps one way for all modes, and is checked by a second trace without gradients."""
    is_watched = is_tracing() or torch.compiler.is_compiling()
    return not (torch.is_grad_enabled() or is_watched) and x.dtype == torch.float32


def _fused(q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float, drop: float) -> Tensor:
    x_WhNd = F.scaled_dot_product_attention(
        q_WNhd.transpose(1, 2),
        k_WKhd.transpose(1, 2),
        v_WKhd.transpose(1, 2),
        attn_mask=bias_hNK,
        dropout_p=drop,
        scale=scale,
    )
    return x_WhNd.transpose(1, 2).flatten(2)


def _head_by_head(q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float) -> Tensor:
    """A head's windows are strided matrices that BLAS takes as they are: nothing is copied. Backward, slices lose."""
    heads_WNd = []
    for head in range(q_WNhd.shape[2]):
        q_WNd, k_WdK = q_WNhd[:, :, head], k_WKhd[:, :, head].transpose(1, 2)
        weights_WNK = torch.baddbmm(bias_hNK[head], q_WNd, k_WdK, alpha=scale).softmax(dim=-1)
        heads_WNd.append(weights_WNK @ v_WKhd[:, :, head])
    return torch.cat(heads_WNd, dim=2)


def _batched(q_WNhd: Tensor, k_WKhd: Tensor, v_WKhd: Tensor, bias_hNK: Tensor, scale: float, drop: float) -> Tensor:
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
