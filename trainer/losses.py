"""Symmetric InfoNCE over a batch that is spread over ranks.

    L = 1/2 mean_i [ -log softmax_j(s u_i.v_j)_i ] + 1/2 mean_i [ -log softmax_j(s v_i.u_j)_i ]

is CLIP's convention, the mean of the two directions. The paper's L_con is their sum: 2 L with s = 1.

Each of W ranks holds b = B / W rows and gathers the columns of all, so negatives come from the whole batch, while no
rank computes more than [b, B] similarities in each direction. Let l_r be the mean loss of the rows of rank r, so
that L = 1/W sum_r l_r. The columns tie every l_r to the embeddings of every rank:

    dL/du_i = 1/W sum_r dl_r/du_i      for each row i, wherever it is held.

`_Gather` sums over r on the way back. Rank q then backpropagates sum_r dl_r/du_i = W dL/du_i through its own rows i,
and the mean over ranks that data-parallel training takes of all gradients is

    1/W sum_q sum_{i on q} W dL/du_i du_i/dtheta = dL/dtheta,

the gradient of one process that holds the whole batch, not an approximation of it.

The gradient of s is averaged at once, so that every rank knows its true sign: `_UpperBound` in `trainer/model.py`
decides by it. The later mean leaves it as it is.

Cost per rank: 4 b B d operations forward, 2 b B logits, and B d numbers over the wire each way.

Legend: b rows of this rank, B rows in all, d dims, W ranks.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# torch 2.13 renamed both and warns about the old names, which are all that earlier versions have.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def info_nce(
    u: Float[Tensor, "b d"], v: Float[Tensor, "b d"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean loss of this rank's rows against the columns of all ranks.

    Args:
        u: embeddings of this rank's slice of the batch; as many on every rank.
        v: their partners.
        scale: 1 / temperature.

    Returns:
        l_r; its mean over ranks is the loss of the batch, and the mean over ranks of its gradients is the gradient
        of that loss. Logits are float32 at least.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    u, v, scale = u.to(dtype), v.to(dtype), scale.to(dtype)
    rank, U, V = 0, u, v
    if dist.is_initialized() and dist.get_world_size() > 1:
        rank = dist.get_rank()
        U, V, scale = _Gather.apply(u, v, scale)  # type: ignore[misc]  # apply is untyped
    targets = torch.arange(len(u), device=u.device) + rank * len(u)
    u_to_v = F.cross_entropy(scale * u @ V.T, targets)
    v_to_u = F.cross_entropy(scale * v @ U.T, targets)
    return (u_to_v + v_to_u) / 2


class _Gather(torch.autograd.Function):
    """The rows of all ranks, in rank order; see the module docstring for the way back.

    One function for u, v and the scale: one message each way, and the same order of messages on every rank.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Float[Tensor, "b d"], v: Float[Tensor, "b d"], scale: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, ""]]:
        local = torch.cat([u, v], dim=1)
        gathered = local.new_empty(dist.get_world_size() * len(local), local.shape[1])
        _all_gather(gathered, local)
        U, V = gathered.chunk(2, dim=1)
        return U.contiguous(), V.contiguous(), scale.clone()

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"], Float[Tensor, ""]]:
        grad_U, grad_V, grad_scale = grad_outputs
        world_size = dist.get_world_size()
        gathered = torch.cat([grad_U, grad_V], dim=1)
        local = gathered.new_empty(len(gathered) // world_size, gathered.shape[1])
        _reduce_scatter(local, gathered)
        grad_scale = grad_scale.clone()
        dist.all_reduce(grad_scale)
        grad_u, grad_v = local.chunk(2, dim=1)
        return grad_u, grad_v, grad_scale / world_size
