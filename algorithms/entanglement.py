"""Gradient entanglement: why pushing one answer up and the other down may move both the same way.

For a pair loss with gradient -(d_w G_w - d_l G_l), where G = grad log pi(y) of the chosen (w) and the rejected (l)
answer, a step of size eta changes their log-probabilities, to first order, by

    eta (d_w |G_w|^2 - d_l <G_w, G_l>)    and    eta (d_w <G_w, G_l> - d_l |G_l|^2)

(Yuan et al. 2024, arXiv 2410.13828). So the chosen answer rises only if d_w |G_w|^2 >= d_l <G_w, G_l>, and the
rejected one falls only if d_w <G_w, G_l> <= d_l |G_l|^2. The step is plain gradient descent; an adaptive optimizer
takes another.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entanglement:
    """Inner products of n pairs' gradients, each [n], in any parameters: all, an adapter's, or the last layer's alone.

    What it predicts is then a step that trains these parameters.
    """

    chosen: FloatArray
    """|G_w|^2."""
    rejected: FloatArray
    """|G_l|^2."""
    inner: FloatArray
    """<G_w, G_l>."""

    @classmethod
    def of(cls, products: npt.ArrayLike) -> "Entanglement":
        """From rows (|G_w|^2, |G_l|^2, <G_w, G_l>), [n, 3]; see `last_layer_products`."""
        chosen, rejected, inner = np.asarray(products, dtype=np.float64).T
        return cls(chosen=chosen, rejected=rejected, inner=inner)

    def ratio(self) -> FloatArray:
        """<G_w, G_l> / min(|G_w|^2, |G_l|^2), [n]: with d_w = d_l (DPO, IPO), 1 or less is what moves both right."""
        return np.asarray(self.inner / np.minimum(self.chosen, self.rejected), dtype=np.float64)

    def cosine(self) -> FloatArray:
        """Cosine of the angle between the two gradients, [n]."""
        return np.asarray(self.inner / np.sqrt(self.chosen * self.rejected), dtype=np.float64)

    def changes(
        self, weight_chosen: npt.ArrayLike, weight_rejected: npt.ArrayLike, step: float
    ) -> tuple[FloatArray, FloatArray]:
        """First-order changes of log pi(chosen) and log pi(rejected), [n] each, nats.

        weight_chosen, weight_rejected: d_w and d_l, [n] or one number: equal for DPO and IPO, 1 / |y| for SimPO; a
        likelihood term of weight lambda adds lambda to d_w. step: eta of a plain gradient step on one pair.
        """
        up, down = np.asarray(weight_chosen, dtype=np.float64), np.asarray(weight_rejected, dtype=np.float64)
        return step * (up * self.chosen - down * self.inner), step * (up * self.inner - down * self.rejected)

    def moves_right(
        self, weight_chosen: npt.ArrayLike = 1.0, weight_rejected: npt.ArrayLike = 1.0
    ) -> tuple[BoolArray, BoolArray]:
        """Whether the chosen answer rises, and whether the rejected one falls, [n] each."""
        risen, fallen = self.changes(weight_chosen, weight_rejected, 1.0)
        return risen >= 0.0, fallen <= 0.0


def last_layer_products(chosen: tuple[Tensor, Tensor, Tensor], rejected: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """(|G_w|^2, |G_l|^2, <G_w, G_l>), [3], of gradients in the output head's weight alone, without forming them.

    Each answer is (hidden [T, d], logits [T, V], targets [T] int64). With errors e_t = onehot(target_t) -
    softmax(logits_t) the gradient is sum_t e_t h_t^T, and the product of two is sum_ts <e_t, e_s> <h_t, h_s>.
    """
    (hidden_w, error_w), (hidden_l, error_l) = _errors(*chosen), _errors(*rejected)
    return torch.stack(
        [
            _product(hidden_w, error_w, hidden_w, error_w),
            _product(hidden_l, error_l, hidden_l, error_l),
            _product(hidden_w, error_w, hidden_l, error_l),
        ]
    )


def _errors(hidden: Tensor, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    errors = -logits.to(wide).softmax(-1)
    errors[torch.arange(len(targets)), targets] += 1.0
    return hidden.to(wide), errors


def _product(hidden: Tensor, errors: Tensor, other_hidden: Tensor, other_errors: Tensor) -> Tensor:
    return ((errors @ other_errors.T) * (hidden @ other_hidden.T)).sum()
