# SPDX-License-Identifier: Apache-2.0
"""Evolutionary makers: time lists, and a solver for every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..plans import splice
from ..schedules import Schedule
from ..solver import Plan
from ._problem import Problem
from ._progress import bar

Fitness = Callable[[Plan], float]


class _Gene(NamedTuple):
    """Places among the fine levels, and a solver for every step."""

    places: tuple[int, ...]
    solvers: tuple[int, ...]


class _Evolution:
    """Keep the best, cross and mutate them, judge each gene once."""

    def __init__(
        self, judge: Callable[[_Gene], float], mutate: Callable[[_Gene], _Gene], seed: int
    ) -> None:
        self.random = np.random.default_rng(seed)
        self._judge, self._mutate = judge, mutate
        self._seen: dict[Hashable, float] = {}

    def score(self, gene: _Gene) -> float:
        if gene not in self._seen:
            self._seen[gene] = self._judge(gene)
        return self._seen[gene]

    def run(
        self, population: list[_Gene], generations: int, size: int, name: str, progress: bool
    ) -> _Gene:
        """Return the best gene of all that were judged."""
        elite = max(2, size // 4)
        with bar(generations, name, progress) as tick:
            for _ in range(generations):
                parents = sorted(dict.fromkeys(population), key=self.score)[:elite]
                population = list(parents)
                tries = 0
                while len(population) < size and tries < 50 * size:
                    tries += 1
                    child = self._child(parents)
                    if child not in self._seen and child not in population:
                        population.append(child)
                tick()
        return min(dict.fromkeys(population), key=self.score)

    def _child(self, parents: Sequence[_Gene]) -> _Gene:
        a, b = (parents[int(self.random.integers(len(parents)))] for _ in range(2))
        if self.random.random() < 0.5:
            cut = int(self.random.integers(1, max(2, len(a.solvers))))
            places = (*a.places[:cut], *b.places[cut:])
            solvers = (*a.solvers[:cut], *b.solvers[cut:])
            if all(x < y for x, y in itertools.pairwise(places)):
                return self._mutate(_Gene(places, solvers))
        return self._mutate(a)


def _moved(places: tuple[int, ...], random: np.random.Generator) -> tuple[int, ...]:
    """Move one inner place among its neighbours, near more often than far."""
    if len(places) < 3:
        return places
    k = int(random.integers(1, len(places) - 1))
    low, high = places[k - 1] + 1, places[k + 1] - 1
    step = round(float(random.standard_cauchy()) * 1.5)
    return (*places[:k], int(np.clip(places[k] + step, low, high)), *places[k + 1 :])


def _start_places(
    problem: Problem, start: Schedule | None, steps: int, name: str
) -> tuple[int, ...]:
    """The fine levels nearest to a schedule's nodes, all different."""
    nodes = (start or problem.schedule).nodes(steps)
    fine = problem.levels
    if not 1 <= steps < len(fine):
        raise ValueError(
            f"fewstep.search.{name}: 'steps' must be 1 to {len(fine) - 1}, got {steps}"
        )
    wanted = nodes.lam[1:-1]
    with np.errstate(divide="ignore"):
        lam = -np.log(fine)
    places = [0]
    for k, value in enumerate(wanted):
        low, high = places[-1] + 1, len(fine) - 1 - (len(wanted) - k)
        near = int(np.abs(lam[low : high + 1] - value).argmin()) + low
        places.append(near)
    return (*places, len(fine) - 1)


def autodiffusion(
    problem: Problem,
    steps: int,
    *,
    solver: str = "ddim",
    start: Schedule | None = None,
    fitness: Fitness | None = None,
    generations: int = 20,
    population: int = 24,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Schedule:
    """Search the list of noise levels for a solver by evolution.

    The candidates are the teacher's levels; the first and last stay. The best list so far is never
    lost, so the result is no worse than the start.

    Parameters
    ----------
    problem : Problem
    steps : int
    solver : str, default "ddim"
    start : Schedule, optional
        By default the problem's own.
    fitness : callable, optional
        ``fitness(plan)``, smaller is better, such as a Frechet distance; by default the error to
        the reference.
    generations, population : int
    seed : int, default 0
    progress : bool, default False
        Show a tqdm bar of generations.
    **options
        Of the solver.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Li et al., "AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for
       Automated Diffusion Model Acceleration", arXiv 2309.10438. The choice of the network's
       blocks is the model's: a callable may read it from its time.

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3), teacher_steps=20,
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> found = fewstep.search.autodiffusion(problem, 4, generations=4)
    >>> problem.error(problem.plan("ddim", schedule=found)) < problem.error(problem.plan("ddim", 4))
    True
    """
    judge = fitness or problem.error

    def schedule(gene: _Gene) -> Schedule:
        return problem.schedule_at(problem.levels[list(gene.places)])

    def mutate(gene: _Gene) -> _Gene:
        return _Gene(_moved(gene.places, evolution.random), gene.solvers)

    evolution = _Evolution(
        lambda gene: judge(problem.plan(solver, schedule=schedule(gene), **options)), mutate, seed
    )
    first = _Gene(_start_places(problem, start, steps, "autodiffusion"), (0,) * steps)
    return schedule(evolution.run([first], generations, population, "autodiffusion", progress))


#: What `s3` chooses from in each step: (solver, options).
CHOICES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("euler", {}),
    ("dpmpp_2m", {"variant": "heun"}),
    ("dpmpp_2m", {"variant": "midpoint"}),
    ("dpmpp_3m", {}),
    ("deis", {"order": 2}),
    ("deis", {"order": 3}),
    ("deis", {"order": 2, "variant": "rho"}),
    ("deis", {"order": 3, "variant": "rho"}),
    ("unipc", {"order": 1}),
    ("unipc", {"order": 2}),
    ("unipc", {"order": 2, "variant": "bh1"}),
    ("unipc", {"order": 3}),
)


def s3(
    problem: Problem,
    steps: int,
    *,
    start: Schedule | None = None,
    choices: Sequence[tuple[str, dict[str, Any]]] = CHOICES,
    fitness: Fitness | None = None,
    move_nodes: bool = True,
    generations: int = 30,
    population: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Plan:
    """Search a solver for every step, and the steps, by evolution (USF, S3).

    Each step chooses frame, interpolation variable, order, derivative estimate and corrector
    through a row of `choices`; `fewstep.plans.splice` joins the rows. The unmixed plans of all
    choices are in the first population and the best plan is never lost, so the result is no worse
    than the best of them.

    Parameters
    ----------
    problem : Problem
    steps : int
        At most 7.
    start : Schedule, optional
        Where the nodes begin; by default the problem's own.
    choices : sequence of (solver, options)
        Deterministic solvers with one call a step.
    fitness : callable, optional
        ``fitness(plan)``, smaller is better; by default the error to the reference.
    move_nodes : bool, default True
        Also search the noise levels, among the teacher's.
    generations, population : int
    seed : int, default 0
    progress : bool, default False
        Show a tqdm bar of generations.

    Returns
    -------
    Plan

    Notes
    -----
    The published search asks a learned predictor first because its fitness, a Frechet distance,
    is dear; here each candidate is judged.

    References
    ----------
    .. [1] Liu et al., "A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic
       Models", arXiv 2312.07243

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3), teacher_steps=20,
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> found = fewstep.search.s3(problem, 4, generations=3, population=16)
    >>> problem.error(found) < problem.error(problem.plan("unipc", 4))
    True
    """
    if not 1 <= steps <= 7:
        raise ValueError(f"fewstep.search.s3: 'steps' must be 1 to 7, got {steps}")
    if not choices:
        raise ValueError("fewstep.search.s3: 'choices' must not be empty, got none")
    judge = fitness or problem.error

    def build(gene: _Gene) -> Plan:
        schedule = problem.schedule_at(problem.levels[list(gene.places)])
        used = sorted(set(gene.solvers))
        made = [problem.plan(choices[k][0], schedule=schedule, **choices[k][1]) for k in used]
        return splice(made, [used.index(k) for k in gene.solvers])

    def mutate(gene: _Gene) -> _Gene:
        random = evolution.random
        if move_nodes and random.random() < 0.6:
            return gene._replace(places=_moved(gene.places, random))
        k = int(random.integers(steps))
        new = int(random.integers(len(choices)))
        return gene._replace(solvers=(*gene.solvers[:k], new, *gene.solvers[k + 1 :]))

    evolution = _Evolution(lambda gene: judge(build(gene)), mutate, seed)
    places = _start_places(problem, start, steps, "s3")
    pure = [_Gene(places, (k,) * steps) for k in range(len(choices))]
    return build(evolution.run(pure, generations, max(population, len(pure)), "s3", progress))
