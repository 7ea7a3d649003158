"""``train_step`` and ``train_step_sparse``: one step on a batch in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from benchmarks.documented.step import DOCUMENTED_CONFIG, documented_step, own_step, random_batch
from benchmarks.peers.pytorch import PyTorchSteps, columns_of
from benchmarks.report import Result
from benchmarks.settings import Settings
from benchmarks.step_limit import StepLimit, optimizer_bytes
from benchmarks.timing import Way, alternate, medians, seconds_of
from src.model.model_config import ModelConfig
from src.model.workers import bind_workers, free_workers
from src.process.arrays import Array

EQUAL_STEPS = 20
EQUAL_WITHIN = 1e-5
EQUAL_TO_PEER_WITHIN = 1e-4  # another library sums up in another order
LOSSES = (0, 1)  # the outputs that are read
STEPS_AT_ONCE = 10
LARGE_VOCABULARY = 2_000_000
# Not 1: there an input of relu is so near 0 that rounding makes the two steps differ by 1e-4.
SEED = 2

Batches = Sequence[tuple[Tensor, ...]]


def run_dense(settings: Settings) -> list[Result]:
    """The documented step and ours, dense."""
    config, batches = _prepare(settings)
    documented, ours = documented_step(config, SEED), own_step(config, SEED)
    with contextlib.ExitStack() as stack:
        peer, by_decay = (
            stack.enter_context(peer_steps(settings, kind, ours.model, config, batches))
            for kind in ("dense", "dense_decay")
        )
        losses = check_equal(documented, ours, batches)
        ways: dict[str, Way] = {
            "documented": timed_steps(documented, batches),
            "ours": with_bound_workers(timed_steps(ours, batches)),
        }
        if by_decay is not None:
            check_equal_to_peer(by_decay, losses)
            ways["peer_by_weight_decay"] = by_decay.milliseconds
        moved = optimizer_bytes(config, touched_rows=config.vocab_size)
        return [measured("train_step", settings, ways, config, moved, peer, losses)]


def run_sparse(settings: Settings) -> list[Result]:
    """The documented dense step and ours with ``sparse``, at two sizes of the vocabulary."""
    config, batches = _prepare(settings)
    sparse = dataclasses.replace(config, sparse=True)
    large = dataclasses.replace(sparse, vocab_size=LARGE_VOCABULARY)
    steps: dict[str, nn.Cell] = {
        "documented": documented_step(config, SEED),
        "ours": own_step(sparse, SEED),
        "ours_at_2000000": own_step(large, SEED),
    }
    with peer_steps(settings, "sparse", steps["ours"].model, sparse, batches) as peer:
        first = float(steps["documented"](*batches[0])[0].asnumpy())
        losses = numbers_of(steps["ours"], batches)
        np.testing.assert_allclose(losses[0, 0], first, rtol=EQUAL_WITHIN)
        touched = int(np.median([len(np.unique(batch[0].asnumpy())) for batch in batches]))
        ways = {name: timed_steps(step, batches) for name, step in steps.items()}
        for name in ("ours", "ours_at_2000000"):
            ways[name] = with_bound_workers(ways[name])
        moved = optimizer_bytes(sparse, touched)
        result = measured("train_step_sparse", settings, ways, sparse, moved, peer, losses)
    ratio = result.ours / result.measures["ours_at_2000000"]
    measures = {"vocabulary_ratio": ratio, **result.measures}
    return [dataclasses.replace(result, measures=measures)]


def measured(
    name: str,
    settings: Settings,
    ways: Mapping[str, Way],
    config: ModelConfig,
    moved: int,
    peer: PyTorchSteps | None,
    losses: Array,
) -> Result:
    """Measures the ways of a step, its limit and, if there is one, its peer.

    Args:
        name: The stage.
        settings: How many rounds count.
        ways: "ours", maybe "documented", and others, which become measures of the result.
        config: What is trained.
        moved: The bytes that a step must move.
        peer: The peer.
        losses: What our first steps gave, float64[steps, 2]; the peer's must be the same.
    """
    others = {name: way for name, way in ways.items() if name not in ("ours", "documented")}
    every = dict(ways)
    if peer is not None:
        check_equal_to_peer(peer, losses)
        every["peer"] = peer.milliseconds
    limit = StepLimit(config, moved, {} if peer is None else {"pytorch": peer.multiply_adds})
    every["limit"] = limit
    median = medians(alternate(every, settings.repeats, name))
    measures = {**{other: median[other] for other in others}, **limit.rates()}
    return Result.of_medians(name, "ms", median, "" if peer is None else peer.name, **measures)


def check_equal_to_peer(peer: PyTorchSteps, losses: Array) -> None:
    """Fails unless a peer's first steps gave the same numbers as ours, float64[steps, 2]."""
    np.testing.assert_allclose(peer.losses, losses, rtol=EQUAL_TO_PEER_WITHIN, atol=1e-6)


@contextlib.contextmanager
def peer_steps(
    settings: Settings, kind: str, model: nn.Cell, config: ModelConfig, batches: Batches
) -> Iterator[PyTorchSteps | None]:
    """PyTorch's step from the weights that a model has now; None where it is not asked for."""
    if settings.pytorch is None:
        yield None
        return
    values = {parameter.name: parameter.asnumpy() for parameter in model.trainable_params()}
    values.update(columns_of([[part.asnumpy() for part in batch] for batch in batches]))
    learning = {**dataclasses.asdict(config), "compared_steps": EQUAL_STEPS}
    with PyTorchSteps(settings.pytorch, kind, values, learning, settings.work_dir) as steps:
        yield steps


def _prepare(settings: Settings) -> tuple[ModelConfig, Batches]:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    config = dataclasses.replace(DOCUMENTED_CONFIG, batch_size=settings.batches[0])
    random = np.random.default_rng(SEED)
    return config, [random_batch(config, random) for _ in range(EQUAL_STEPS)]


def numbers_of(step: nn.Cell, batches: Batches, read: tuple[int, int] = LOSSES) -> Array:
    """Two outputs of steps on all batches, float64[steps, 2]; of a logit [b, 1] the mean."""
    numbers = []
    for batch in batches:
        outputs = step(*batch)
        numbers.append([float(outputs[place].asnumpy().mean()) for place in read])
    return np.array(numbers)


def check_equal(documented: nn.Cell, ours: nn.Cell, batches: Batches) -> Array:
    """Fails unless both steps give the same losses and weights over the batches.

    Losses are compared one by one, a parameter by the norm of its difference.

    Returns:
        The losses, see ``numbers_of``.
    """
    losses = numbers_of(ours, batches)
    np.testing.assert_allclose(losses, numbers_of(documented, batches), rtol=EQUAL_WITHIN)
    weights = {p.name: p.asnumpy() for p in documented.losses.model.trainable_params()}
    for parameter in ours.model.trainable_params():
        wanted_weight = weights.pop(parameter.name)
        difference = np.linalg.norm(parameter.asnumpy() - wanted_weight)
        if difference > EQUAL_WITHIN * np.linalg.norm(wanted_weight):
            raise AssertionError(f"{parameter.name} differs by {difference:g} (norm)")
    if weights:
        raise AssertionError(f"not among our parameters: {', '.join(weights)}")
    return losses


def timed_steps(step: nn.Cell, batches: Batches, read: tuple[int, int] = LOSSES) -> Way:
    """Some steps, each with the reading of two outputs; milliseconds per step."""
    coming = itertools.cycle(batches)

    def steps() -> None:
        for batch in itertools.islice(coming, STEPS_AT_ONCE):
            outputs = step(*batch)
            for place in read:
                outputs[place].asnumpy()

    return lambda: 1e3 * seconds_of(steps) / STEPS_AT_ONCE


def with_bound_workers(way: Way) -> Way:
    """A way measured as in our trainer, which binds MindSpore's workers to CPUs."""

    def bound() -> float:
        bind_workers()
        try:
            return way()
        finally:
            free_workers()

    return bound
