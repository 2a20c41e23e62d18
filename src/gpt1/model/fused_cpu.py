"""Faster training on a CPU: `fuse` replaces parts of one model from outside, with equal numbers (except for rounding).

Two parts are always replaced: attention becomes batched matrix products (the backward pass of PyTorch's fused CPU
kernel is several times slower, and that kernel has no dropout), and dropout masks come from a hash (PyTorch draws them
number by number). With compiled kernels, each block's two sublayers, LayerNorm(x + dropout(f(x))), are replaced too,
because PyTorch spends as much time on passes over memory as on matrix products. Here biases, dropout, sums and norms
share a few compiled passes (`model.kernels`), matrix products also scale the attention scores and add the residual's
gradient, and one of the feed-forward layer's two wide tensors is recomputed in the backward pass.

The gradient of a weight is a product whose first factor is a transposed view, which oneDNN's bfloat16 GEMM runs at half
its speed; copying it to contiguous memory first costs less. All weights get a gradient, frozen or not.

Legend: N sequences, H heads, B = N H, T tokens, M = N T, d width of a head, D width, C = 3 D (q, k and v side by side),
I width of the feed-forward layer (in `_weight_gradient` the inputs, O the outputs, of any linear layer).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpt1.model.cross_entropy import cross_entropy
from gpt1.model.gpt import Attention, Block, Cache
from gpt1.model.kernels import DropoutSeed, Kernels, mask_multipliers, new_seed
from gpt1.model.objectives import LanguageModel, TaskModel

# Longest sequence whose T x T attention weights are kept while training; beyond it PyTorch's fused kernel is used.
LONGEST = 1024


def fuse(model: LanguageModel | TaskModel, compiled: bool) -> None:
    """Replace the parts of this model that are slow to train on a CPU; parameters and their names stay."""
    kernels = Kernels(compiled)
    model.cross_entropy = partial(cross_entropy, transpose=kernels.transpose_contiguous)
    vars(model.body.dropout)["forward"] = partial(_dropout, kernels, model.body.dropout)
    for block in model.body.blocks:
        fuse_block(block, kernels)


def fuse_block(block: nn.Module, kernels: Kernels) -> None:
    """Replace a block's attention and dropout and, with compiled kernels, its sublayers."""
    assert isinstance(block, Block)
    # Set attributes of the instance, as `torch.compile` and FSDP do; the class and other models stay as they are.
    vars(block.attention)["attend"] = partial(_attend, kernels)
    vars(block.dropout)["forward"] = partial(_dropout, kernels, block.dropout)
    if kernels.compiled:
        vars(block)["forward"] = partial(_forward, kernels, block)


class Mask:
    """A dropout mask for a forward and its backward pass: kept, or drawn again where compiled code makes that cheap."""

    def __init__(self, kernels: Kernels, shape: torch.Size, dtype: torch.dtype, p: float) -> None:
        self.kernels, self.seed = kernels, new_seed(shape[:-1].numel(), shape[-1], p)
        self.multipliers = None if kernels.compiled else mask_multipliers(self.seed, dtype).view(shape)

    def __call__(self, *xs: Tensor) -> list[Tensor]:
        if self.multipliers is not None:
            return [x * self.multipliers for x in xs]
        dropped = self.kernels.drop(self.seed, *(x.flatten(0, -2).contiguous() for x in xs))
        return [y.view_as(x) for y, x in zip(dropped, xs, strict=True)]


def _dropout(kernels: Kernels, module: nn.Dropout, x: Tensor) -> Tensor:
    """Apply inverted dropout (Srivastava et al. 2014); replaces `nn.Dropout.forward`."""
    return masked_dropout(kernels, x, module.p) if module.training else x


def masked_dropout(kernels: Kernels, x: Tensor, p: float) -> Tensor:
    """Return x with a random fraction p of its elements 0 and the others divided by 1 - p."""
    if p == 0:
        return x
    y: Tensor = _Dropout.apply(x, Mask(kernels, x.shape, x.dtype, p))
    return y


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return mask(x)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.mask(grads[0])[0], None


def _attend(
    kernels: Kernels, q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, mask_NTS: Tensor | None, p: float
) -> Tensor:
    """Compute `Attention.attend`; while training, by matrix products."""
    N, H, T, d = q_NHTd.shape
    if mask_NTS is not None or not q_NHTd.requires_grad or T > LONGEST:
        return Attention.attend(q_NHTd, k_NHSd, v_NHSd, mask_NTS, p)
    qkv_BTd = (x.reshape(N * H, T, d) for x in (q_NHTd, k_NHSd, v_NHSd))
    a_BTd: Tensor = _AttentionByProducts.apply(*qkv_BTd, _weights_mask(kernels, q_NHTd, N * H, p))
    return a_BTd.view(N, H, T, d)


def _weights_mask(kernels: Kernels, x: Tensor, B: int, p: float) -> Mask | None:
    """Draw a dropout mask for attention weights of shape (B, T, T), where x is (..., T, columns); None if p is 0."""
    T = x.shape[-2]
    return Mask(kernels, torch.Size((B, T, T)), x.dtype, p) if p else None


class _AttentionByProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BTd: Tensor, k_BTd: Tensor, v_BTd: Tensor, mask: Mask | None) -> Tensor:
        a_BTd, p_BTT = _products((q_BTd, k_BTd, v_BTd), mask)
        ctx.save_for_backward(q_BTd, k_BTd, v_BTd, p_BTT)
        ctx.mask = mask
        return a_BTd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *qkv_BTd, p_BTT = ctx.saved_tensors
        return *_products_backward(grads[0], qkv_BTd, p_BTT, ctx.mask), None


def _products(qkv_BTd: Iterable[Tensor], mask: Mask | None) -> tuple[Tensor, Tensor]:
    """Return a_BTd, the attention's output, and p_BTT, the softmax, which the backward needs with q, k, v and mask."""
    q_BTd, k_BTd, v_BTd = qkv_BTd
    T, d = q_BTd.shape[1:]
    future_TT = torch.full((T, T), float("-inf"), dtype=q_BTd.dtype).triu(1)
    s_BTT = torch.baddbmm(future_TT, q_BTd, k_BTd.mT, alpha=d**-0.5)
    p_BTT = torch.softmax(s_BTT, -1, out=s_BTT)
    (dropped_BTT,) = mask(p_BTT) if mask else (p_BTT,)
    return dropped_BTT @ v_BTd, p_BTT


def _products_backward(
    grad_BTd: Tensor, qkv_BTd: Iterable[Tensor], p_BTT: Tensor, mask: Mask | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to q, k and v."""
    q_BTd, k_BTd, v_BTd = qkv_BTd
    dropped_BTT, grad_p_BTT = p_BTT, grad_BTd @ v_BTd.mT
    if mask:
        dropped_BTT, grad_p_BTT = mask(p_BTT, grad_p_BTT)
    grad_v_BTd = dropped_BTT.mT @ grad_BTd
    grad_s_BTT = torch._softmax_backward_data(grad_p_BTT, p_BTT, -1, p_BTT.dtype)
    # The product also applies the scale; with `beta=0` the content of the first argument is ignored.
    scaled = partial(torch.baddbmm, q_BTd, beta=0, alpha=q_BTd.shape[2] ** -0.5)
    return scaled(grad_s_BTT, k_BTd), scaled(grad_s_BTT.mT, q_BTd), grad_v_BTd


def _forward(
    kernels: Kernels, block: Block, x_NTD: Tensor, mask_NTS: Tensor | None = None, cache: Cache | None = None
) -> Tensor:
    """Compute `Block.forward` by the fused sublayers; validation and generation run the block as it is."""
    if mask_NTS is not None or cache is not None or not (x_NTD.requires_grad and torch.is_grad_enabled()):
        return Block.forward(block, x_NTD, mask_NTS, cache)
    a, f = block.attention, block.feed_forward
    p_weights, p = (a.dropout.p, block.dropout.p) if block.training else (0.0, 0.0)
    if x_NTD.shape[1] <= LONGEST:
        mask = _weights_mask(kernels, x_NTD, len(x_NTD) * a.heads, p_weights)
        norm = block.attention_norm
        weights = a.qkv.weight, a.qkv.bias, a.out.weight, a.out.bias, norm.weight, norm.bias
        n_NTD: Tensor = _AttentionSublayer.apply(x_NTD, kernels, a.heads, mask, p, norm.eps, *weights)
    else:
        n_NTD = block.attention_norm(x_NTD + block.dropout(a(x_NTD)))
    norm = block.feed_forward_norm
    weights = f.up.weight, f.up.bias, f.down.weight, f.down.bias, norm.weight, norm.bias
    h_NTD: Tensor = _FeedForwardSublayer.apply(n_NTD, kernels, p, norm.eps, *weights)
    return h_NTD


class _AttentionSublayer(torch.autograd.Function):
    """norm(x + dropout(out(attention(qkv(x)))))"""

    @staticmethod
    def forward(
        ctx: Any,
        x_NTD: Tensor,
        kernels: Kernels,
        heads: int,
        mask: Mask | None,
        p: float,
        epsilon: float,
        *weights: Tensor,
    ) -> Tensor:
        qkv_CD, qkv_bias_C, out_DD, out_bias_D, gain_D, shift_D = weights
        N, T, D = x_NTD.shape
        x_MD = x_NTD.flatten(0, 1)
        qkv_3BTd = kernels.split_heads(x_MD @ qkv_CD.T, qkv_bias_C, N, heads).flatten(1, 2)
        a_BTd, p_BTT = _products(qkv_3BTd, mask)
        a_MD = a_BTd.unflatten(0, (N, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
        seed = new_seed(N * T, D, p) if p else None
        h_MD, *norm = kernels.add_and_norm(x_MD, a_MD @ out_DD.T, out_bias_D, gain_D, shift_D, seed, epsilon)
        ctx.save_for_backward(x_MD, qkv_3BTd, p_BTT, a_MD, qkv_CD, out_DD, *norm, gain_D)
        ctx.kernels, ctx.mask, ctx.seed, ctx.N = kernels, mask, seed, N
        return h_MD.view(N, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, qkv_3BTd, p_BTT, a_MD, qkv_CD, out_DD, *norm = ctx.saved_tensors
        B, T, d = qkv_3BTd.shape[1:]
        grad_MD, grad_x_MD, *grad_norm = _norm_backward(ctx.kernels, grads[0], norm, ctx.seed)
        grad_out_bias_D, grad_out_DD = grad_MD.sum(0), _weight_gradient(ctx.kernels, grad_MD, a_MD)
        grad_a_BTd = (grad_MD @ out_DD).view(ctx.N, T, -1, d).transpose(1, 2).reshape(B, T, d)
        grad_qkv_MC = _side_by_side(_products_backward(grad_a_BTd, qkv_3BTd, p_BTT, ctx.mask), ctx.N)
        grad_qkv_bias_C, grad_qkv_CD = grad_qkv_MC.sum(0), _weight_gradient(ctx.kernels, grad_qkv_MC, x_MD)
        # Last and in place: without dropout `grad_x_MD` may be `grad_MD` itself.
        grad_x_NTD = grad_x_MD.addmm_(grad_qkv_MC, qkv_CD).view_as(grads[0])
        weights = grad_qkv_CD, grad_qkv_bias_C, grad_out_DD, grad_out_bias_D, *grad_norm
        return grad_x_NTD, None, None, None, None, None, *weights


class _FeedForwardSublayer(torch.autograd.Function):
    """norm(x + dropout(down(gelu(up(x)))))"""

    @staticmethod
    def forward(ctx: Any, x_NTD: Tensor, kernels: Kernels, p: float, epsilon: float, *weights: Tensor) -> Tensor:
        up_ID, up_bias_I, down_DI, down_bias_D, gain_D, shift_D = weights
        x_MD = x_NTD.flatten(0, 1)
        wide_MI = x_MD @ up_ID.T
        y_MD = kernels.gelu(wide_MI, up_bias_I) @ down_DI.T
        seed = new_seed(len(x_MD), x_MD.shape[1], p) if p else None
        h_MD, *norm = kernels.add_and_norm(x_MD, y_MD, down_bias_D, gain_D, shift_D, seed, epsilon)
        ctx.save_for_backward(x_MD, wide_MI, up_ID, up_bias_I, down_DI, *norm, gain_D)
        ctx.kernels, ctx.seed = kernels, seed
        return h_MD.view_as(x_NTD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, wide_MI, up_ID, up_bias_I, down_DI, *norm = ctx.saved_tensors
        grad_MD, grad_x_MD, *grad_norm = _norm_backward(ctx.kernels, grads[0], norm, ctx.seed)
        activated_MI, grad_wide_MI = ctx.kernels.gelu_and_backward(grad_MD @ down_DI, wide_MI, up_bias_I)
        grad_down_bias_D, grad_down_DI = grad_MD.sum(0), _weight_gradient(ctx.kernels, grad_MD, activated_MI)
        del activated_MI
        grad_up_bias_I, grad_up_ID = grad_wide_MI.sum(0), _weight_gradient(ctx.kernels, grad_wide_MI, x_MD)
        # Last and in place: without dropout `grad_x_MD` may be `grad_MD` itself.
        grad_x_NTD = grad_x_MD.addmm_(grad_wide_MI, up_ID).view_as(grads[0])
        return grad_x_NTD, None, None, None, grad_up_ID, grad_up_bias_I, grad_down_DI, grad_down_bias_D, *grad_norm


def _norm_backward(
    kernels: Kernels, grad_NTD: Tensor, norm: list[Tensor], seed: DropoutSeed | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return grad_y_MD and grad_x_MD of the sum y + x under the norm, and the gradients of gain and shift."""
    grad_MD = grad_NTD.flatten(0, 1)
    sum_MD, mean_M1, inverse_M1, gain_D = norm
    grad_x_MD, grad_y_MD = kernels.add_and_norm_backward(grad_MD, sum_MD, mean_M1, inverse_M1, gain_D, seed)
    return grad_y_MD, grad_x_MD, *kernels.norm_weight_gradients(grad_MD, sum_MD, mean_M1, inverse_M1)


def _weight_gradient(kernels: Kernels, grad_MO: Tensor, x_MI: Tensor) -> Tensor:
    """Return grad^T x. oneDNN is slow when the first factor is a transposed view, so copy the narrower one first."""
    if grad_MO.shape[1] <= x_MI.shape[1]:
        return kernels.transpose_contiguous(grad_MO) @ x_MI
    return kernels.transpose_contiguous(kernels.transpose_contiguous(x_MI) @ grad_MO)


def _side_by_side(parts: tuple[Tensor, ...], sequences: int) -> Tensor:
    """Return x_MC: the heads of q, then those of k, then those of v."""
    B, T, d = parts[0].shape
    x_MC = parts[0].new_empty(sequences * T, 3 * B // sequences * d)
    x_3NHTd = x_MC.view(sequences, T, 3, -1, d).permute(2, 0, 3, 1, 4)
    for to_NHTd, part_BTd in zip(x_3NHTd, parts, strict=True):
        to_NHTd.copy_(part_BTd.view_as(to_NHTd))
    return x_MC
