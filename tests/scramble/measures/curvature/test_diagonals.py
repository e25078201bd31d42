"""Fisher and Hessian diagonals, Hessian products and eigenvalues against full matrices of a tiny model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call
from transformers import PreTrainedModel

from scramble.errors import SelectionError, UndecidedError
from scramble.measures.curvature.diagonal import Diagonal, Vectors
from scramble.measures.curvature.fisher import drawn, fisher_diagonal
from scramble.measures.curvature.hessian import hessian_product, hutchinson, rademacher, top_eigenvalues
from scramble.measures.curvature.loss import parameters_of
from tests.models import Float64, Tiny
from tests.scramble.measures.curvature.conftest import eager

TINY = Tiny("llama", kv_heads=1, group=2, head_dim=4, layers=2, seed=3)
# More sequences than go through the model at once.
TOKENS = torch.randint(0, 31, (5, 6), generator=torch.Generator().manual_seed(1))
NAMES = ("model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.weight")


def loss(model: PreTrainedModel, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """transformers' own mean token loss, of the matrices of `NAMES`."""
    parameters = dict(zip(NAMES, weights, strict=True))
    with Float64():
        logits = functional_call(model, parameters, (TOKENS,)).logits
    flat = logits[:, :-1].reshape(-1, 31)
    return torch.nn.functional.cross_entropy(flat, TOKENS[:, 1:].reshape(-1))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return eager(TINY).requires_grad_(False)


@pytest.fixture(scope="module")
def parameters(model: PreTrainedModel) -> Vectors:
    return parameters_of(model, NAMES)


@pytest.fixture(scope="module")
def hessian(model: PreTrainedModel) -> np.ndarray:
    """In full, over the entries of both matrices."""
    at = tuple(model.get_parameter(name).detach().clone() for name in NAMES)
    blocks: Any = torch.autograd.functional.hessian(lambda *weights: loss(model, weights), at)
    sizes = [one.numel() for one in at]
    return np.block([[blocks[i][j].reshape(sizes[i], sizes[j]).numpy() for j in range(2)] for i in range(2)])


def flat(vectors: Vectors) -> np.ndarray:
    return torch.cat([vectors[name].reshape(-1) for name in NAMES]).detach().numpy()


def test_products_are_those_of_the_full_hessian(
    model: PreTrainedModel, parameters: Vectors, hessian: np.ndarray
) -> None:
    generator = torch.Generator().manual_seed(4)
    vector = {
        name: torch.randn(one.shape, generator=generator, dtype=one.dtype) for name, one in parameters.items()
    }
    image = flat(hessian_product(model, parameters, TOKENS)(vector))
    np.testing.assert_allclose(image, hessian @ flat(vector), rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(hessian[:40, 60:]) > 1e-6  # the two matrices do interact


def test_hutchinson_is_unbiased_within_its_standard_error(hessian: np.ndarray) -> None:
    """On the tiny model's own Hessian, with more probes than a model would bear."""
    names = {"h": torch.zeros(len(hessian), dtype=torch.float64)}
    full, probes = torch.from_numpy(hessian), 4000
    found = hutchinson(lambda v: {"h": full @ v["h"]}, names, probes)
    variance = ((hessian**2).sum(1) - np.diag(hessian) ** 2) / probes
    z = (found.mean("h").numpy() - np.diag(hessian)) / np.sqrt(variance)
    assert np.abs(z).max() < 4.5
    assert 0.7 < np.mean(z**2) < 1.4
    assert found.error_square("h") == pytest.approx(variance.sum(), rel=0.1)


def test_hutchinson_on_the_model_has_the_mean_of_its_probes(
    model: PreTrainedModel, parameters: Vectors, hessian: np.ndarray
) -> None:
    found = hutchinson(hessian_product(model, parameters, TOKENS), parameters, 3, seed=5)
    samples = []
    for probe in range(3):
        z = flat({name: rademacher(one, 5, probe, name) for name, one in parameters.items()})
        assert set(z) == {-1.0, 1.0}
        samples.append(z * (hessian @ z))
    mean = flat({name: found.mean(name).reshape(one.shape) for name, one in parameters.items()})
    np.testing.assert_allclose(mean, np.mean(samples, axis=0), rtol=1e-8, atol=1e-12)
    errors = np.var(samples, axis=0, ddof=1) / 3
    assert sum(found.error_square(name) for name in NAMES) == pytest.approx(errors.sum(), rel=1e-8)


def test_hutchinson_is_exact_where_the_hessian_is_diagonal() -> None:
    diagonal = torch.linspace(-2, 3, 12, dtype=torch.float64).reshape(3, 4)
    found = hutchinson(lambda v: {"w": diagonal * v["w"]}, {"w": diagonal}, 2)
    assert torch.equal(found.mean("w"), diagonal)
    assert found.error_square("w") == pytest.approx(0, abs=1e-14)


def test_one_sample_has_no_standard_error() -> None:
    found = Diagonal()
    found.add({"w": torch.ones(2, 2)})
    assert np.isnan(found.error_square("w"))


def test_eigenvalues_are_the_top_of_the_full_hessian(
    model: PreTrainedModel, parameters: Vectors, hessian: np.ndarray
) -> None:
    found = top_eigenvalues(hessian_product(model, parameters, TOKENS), parameters, 3)
    true = np.linalg.eigvalsh(hessian)[::-1]
    np.testing.assert_allclose(found.values, true[:3], rtol=1e-4)
    assert -true[-1] > true[2] / 100  # there are negative ones, which are not taken for the top
    assert max(found.residuals) < 1e-3 * true[0]
    assert found.products > 3


def test_eigenvalues_that_are_not_found_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense spectrum needs more than one restart."""
    spectrum = torch.linspace(0.5, 1, 400, dtype=torch.float64)
    like = {"w": torch.zeros(400, dtype=torch.float64)}

    def product(vector: Vectors) -> Vectors:
        return {"w": spectrum * vector["w"]}

    with pytest.raises(SelectionError, match="the block has 400 weights"):
        top_eigenvalues(product, like, 400)
    assert top_eigenvalues(product, like, 2).values[0] == pytest.approx(1, rel=1e-3)
    monkeypatch.setattr("scramble.measures.curvature.hessian.MOST_RESTARTS", 1)
    with pytest.raises(UndecidedError, match="Lanczos found no 2 top eigenvalues"):
        top_eigenvalues(product, like, 2)


def test_empirical_fisher_is_the_mean_of_squared_gradients(
    model: PreTrainedModel, parameters: Vectors
) -> None:
    """The gradient of every token by itself, summed over a sequence, then squared."""
    found = fisher_diagonal(model, parameters, TOKENS)
    samples = []
    for tokens in TOKENS:
        score = 0
        for at in range(5):
            with Float64():
                logs = model(tokens[None]).logits[0, at].log_softmax(-1)
            gradient = torch.autograd.grad(logs[tokens[at + 1]], list(parameters.values()))
            score = score + flat(dict(zip(NAMES, gradient, strict=True)))
        samples.append(score**2 / 5)
    mean = flat({name: found.mean(name) for name in NAMES})
    np.testing.assert_allclose(mean, np.mean(samples, axis=0), rtol=1e-9)
    errors = np.var(samples, axis=0, ddof=1) / 5
    assert sum(found.error_square(name) for name in NAMES) == pytest.approx(errors.sum(), rel=1e-8)
    assert found.samples == 5


def test_fisher_of_drawn_labels_is_unbiased(model: PreTrainedModel, parameters: Vectors) -> None:
    """Against every label's score, weighted by its probability, position by position."""
    true = 0
    for at in range(5):
        with Float64():
            logs = model(TOKENS[:1]).logits[0, at].log_softmax(-1)
        for one in logs:
            gradient = torch.autograd.grad(one, list(parameters.values()), retain_graph=True)
            square = flat(dict(zip(NAMES, gradient, strict=True))) ** 2
            true = true + float(one.detach().exp()) * square / 5
    draws = []
    for seed in range(225):
        found = fisher_diagonal(model, parameters, TOKENS[:1], "sampled", seed)
        draws.append(flat({name: found.mean(name) for name in NAMES}))
    z = (np.mean(draws, axis=0) - true) / (np.std(draws, axis=0, ddof=1) / 15)
    assert np.abs(z).max() < 5
    assert np.mean(draws) == pytest.approx(np.mean(true), rel=0.1)
    text = fisher_diagonal(model, parameters, TOKENS[:1])
    assert abs(flat({name: text.mean(name) for name in NAMES}).mean() / np.mean(true) - 1) > 0.2


def test_every_sequence_draws_its_own_labels(model: PreTrainedModel, parameters: Vectors) -> None:
    same = TOKENS[:1].repeat(4, 1)
    rounding = fisher_diagonal(model, parameters, same).error_square(NAMES[0])
    assert fisher_diagonal(model, parameters, same, "sampled").error_square(NAMES[0]) > 1e6 * rounding


def test_labels_are_drawn_as_often_as_the_model_says() -> None:
    p = np.array([0.0, 0.5, 0.2, 0.3, 0.0])
    with np.errstate(divide="ignore"):
        logs = torch.from_numpy(np.log(np.tile(p, (20000, 1))))
    counts = np.bincount(drawn(logs, 0, 0).numpy(), minlength=5)
    assert counts[0] == counts[4] == 0
    np.testing.assert_allclose(counts / 20000, p, atol=0.015)
    assert torch.equal(drawn(logs, 0, 0), drawn(logs, 0, 0))
    assert not torch.equal(drawn(logs, 0, 0), drawn(logs, 1, 0))
    assert not torch.equal(drawn(logs, 0, 0), drawn(logs, 0, 1))
