from __future__ import annotations

import torch

from trainer.modules.arches import ConstantDenseArch, OverArch, mlp
from trainer.modules.row_dropout import RowDropout


def test_constant_dense_arch_gives_every_row_the_same_learned_vector() -> None:
    arch = ConstantDenseArch(4)
    output = arch(torch.zeros(3, 0))
    assert torch.equal(output, arch.bias_D.detach().repeat(3, 1))
    output.sum().backward()
    assert torch.equal(arch.bias_D.grad, torch.full((4,), 3.0))


def test_over_arch_without_hidden_layers_is_linear() -> None:
    arch, x = OverArch(5, []), torch.randn(3, 5)
    assert torch.allclose(arch(x), x @ arch.logits.weight.T + arch.logits.bias)


def test_over_arch_has_one_logit_per_task() -> None:
    assert OverArch(5, [4], num_tasks=3)(torch.randn(2, 5)).shape == (2, 3)


def test_mlp_equals_linear_relu_by_hand() -> None:
    layers, x = mlp(5, [4, 3]), torch.randn(2, 5)
    weights = list(layers.parameters())
    expected = torch.relu(torch.relu(x @ weights[0].T + weights[1]) @ weights[2].T + weights[3])
    assert torch.allclose(layers(x), expected, atol=1e-6)


def test_every_hidden_layer_has_its_own_dropout() -> None:
    dropouts = [m for m in mlp(5, [4, 3], dropout=0.3).modules() if isinstance(m, RowDropout)]
    assert [d.p for d in dropouts] == [0.3, 0.3]
    assert len({id(d) for d in dropouts}) == 2
