# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__version__: str

def cpu_isa() -> str: ...
def cpu_isa_available() -> list[str]: ...
def cuda_built() -> bool: ...
def cuda_device_count() -> int: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def set_stream(handle: int | None) -> int | None: ...
def draft_fits(
    token: object,
    parent: object,
    score: object,
    index: object,
    root: int,
    n_vocab: int,
    most: int,
) -> bool: ...
def draft_recycle(table: object, tokens: object, top_ids: object) -> None: ...
def draft_recycle_best(table: object, tokens: object, logits: object) -> None: ...
def draft_recycled(
    table: NDArray[np.int32],
    parent: NDArray[np.int32],
    rank: NDArray[np.int32],
    root: int,
    limit: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32] | None] | None: ...
def kv_copy_pages(
    k_cache: object,
    v_cache: object,
    source: object,
    target: object,
    k_scale: object,
    v_scale: object,
) -> None: ...
def kv_export_bytes(
    layers: int, tokens: int, heads: int, head_dim: int, dtype_bits: int
) -> int: ...
def kv_export_tokens(
    k_cache: object,
    v_cache: object,
    begin: int,
    end: int,
    row: int,
    first_layer: int,
    k_scale: object,
    v_scale: object,
    page_table: object,
    out: object,
) -> None: ...
def kv_gather(
    k_cache: object,
    v_cache: object,
    index: object,
    count: object,
    k_scale: object,
    v_scale: object,
    page_table: object,
) -> None: ...
def kv_import_tokens(
    data: object,
    k_cache: object,
    v_cache: object,
    begin: int,
    row: int,
    first_layer: int,
    k_scale: object,
    v_scale: object,
    page_table: object,
    status: object,
) -> int: ...
def kv_truncate(length: object, kept: object) -> None: ...
def kv_append(
    k: object,
    v: object,
    k_cache: object,
    v_cache: object,
    indptr: object,
    length: object,
    page_table: object,
    k_scale: object,
    v_scale: object,
    rope: int,
    cos: object,
    sin: object,
    positions: object,
) -> None: ...
def kv_commit(
    k_cache: object,
    v_cache: object,
    path: object,
    accepted: object,
    base: object,
    k_scale: object,
    v_scale: object,
    page_table: object,
    first: int,
    length: object,
) -> None: ...
def have_same(
    owners: list[dict[str, Any]], name: str, attribute: str | None, objects: list[Any]
) -> bool: ...
def linear_apply(
    x: object,
    packed: object,
    kind: int,
    group: int,
    inputs: int,
    outputs: int,
    bias: object,
    most: int,
) -> Any: ...
def linear_pack(weight: object, kind: int, group: int, out: object) -> None: ...
def linear_packed_bytes(O: int, I: int, kind: int, group: int) -> int: ...
def linear_run(
    x: object,
    packed: object,
    kind: int,
    group: int,
    bias: object,
    up: object,
    residual: object,
    norm: object,
    norm_eps: float,
    out: object,
    workspace: object,
) -> None: ...
def linear_run_workspace_bytes(M: int, I: int, kind: int, group: int) -> int: ...
def linear_unpack(packed: object, kind: int, group: int, out: object) -> None: ...
def logits_gumbel_top_k(
    filters: tuple[Any, ...],
    stream: int,
    draw: int,
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
) -> None: ...
def logits_renorm(
    filters: tuple[Any, ...], inputs: tuple[Any, ...], outputs: tuple[Any, ...]
) -> None: ...
def logits_sample_arithmetic(
    filters: tuple[Any, ...], inputs: tuple[Any, ...], outputs: tuple[Any, ...]
) -> None: ...
def logits_top_k(normalise: bool, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None: ...
def logits_penalise(
    penalties: tuple[Any, ...], inputs: tuple[Any, ...], outputs: tuple[Any, ...]
) -> None: ...
def logits_sample(
    filters: tuple[Any, ...],
    stream: int,
    draw: int,
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
) -> None: ...
def logits_head_top_k(
    rows: int,
    kind: int,
    group: int,
    normalise: bool,
    norm_eps: float,
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
) -> None: ...
def logits_head_top_k_workspace_bytes(
    M: int, O: int, I: int, kind: int, group: int, K: int
) -> int: ...
def tree_verify(
    rule: int,
    law: int,
    params: tuple[float, float, float, float],
    filters: tuple[Any, ...],
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
) -> None: ...
def tree_k_seq_rho(
    k: int, filters: tuple[Any, ...], inputs: tuple[Any, ...], outputs: tuple[Any, ...]
) -> None: ...
def noise_brownian(
    seeds: object,
    t0: object,
    t1: object,
    out: object,
    stream: int,
    depth: int,
    normalized: bool,
    t_min: float,
    t_max: float,
    scale: float,
) -> None: ...
def noise_normal(seeds: object, out: object, step: int, stream: int, scale: float) -> None: ...
def solver_step(
    plan: Plan,
    row: object,
    state: Any,
    model_output: object,
    seeds: object,
    guidance: object,
    known: object,
    mask: object,
    model_input: object,
    clip: object,
) -> Any: ...
def solver_error_norm(
    error: object,
    before: object,
    after: object,
    minus: object,
    atol: float,
    rtol: float,
    tolerance: int,
    out: object,
    workspace: object,
) -> None: ...
def solver_error_norm_workspace_bytes(B: int, N: int) -> int: ...
def solver_gram(arrays: object, out: object, workspace: object) -> None: ...
def solver_gram_workspace_bytes(B: int, N: int, K: int) -> int: ...
def solver_quantile(
    x: object, q: float, magnitude: bool, out: object, workspace: object
) -> None: ...
def solver_quantile_workspace_bytes(B: int, N: int) -> int: ...
def solver_names() -> list[str]: ...
def tree_build(
    parent: object,
    indptr: object,
    base: object,
    max_depth: int,
    depth: object,
    first_child: object,
    next_sibling: object,
    positions: object,
    bits: object,
) -> None: ...
def tree_expand(
    cum_logp: object,
    logits: object,
    indptr: object,
    d2t: object,
    ids: object,
    logp: object,
    beam_ids: object,
    beam_logp: object,
    beam_parent: object,
    status: object,
) -> None: ...
def tree_from_template(
    parent: object, rank: object, root: object, table: object, heads: object, tokens: object
) -> None: ...
def tree_rerank(
    cum_logp: object,
    parent: object,
    indptr: object,
    budget: object,
    kept: object,
    kept_parent: object,
    kept_indptr: object,
    workspace: object,
) -> None: ...
def tree_rerank_workspace_bytes(M: int) -> int: ...
def tree_attention(
    q: object,
    k: object,
    v: object,
    kv_len: object,
    indptr: object,
    page_table: object,
    k_scale: object,
    v_scale: object,
    draft_k: object,
    draft_v: object,
    block: object,
    bits: object,
    depth: object,
    sinks: object,
    draft: int,
    scale: float,
    softcap: float,
    window: int,
    deterministic: bool,
    out: object,
    lse: object,
    workspace: object,
) -> None: ...
def tree_attention_workspace_bytes(
    N: int, H: int, G: int, D: int, S: int, deterministic: int
) -> int: ...
def tree_layout(
    parents: tuple[bytes, ...],
) -> tuple[
    NDArray[np.int32],
    NDArray[np.int32],
    list[int],
    NDArray[np.int32],
    NDArray[np.int32] | None,
    NDArray[np.uint32] | None,
    list[bool],
    int,
]: ...
def tree_merge(parts: object, lses: object, out: object, lse: object) -> None: ...
def tree_sample_children(
    law: int, filters: tuple[Any, ...], inputs: tuple[Any, ...], outputs: tuple[Any, ...]
) -> None: ...

class Row:
    def __init__(self, **fields: Any) -> None: ...
    def replace(self, **changes: Any) -> Row: ...
    def to_dict(self) -> dict[str, Any]: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def n_inputs(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...
    @property
    def n_noises(self) -> int: ...
    @property
    def n_guidance(self) -> int: ...
    @property
    def input(self) -> tuple[int, ...]: ...
    @property
    def output(self) -> tuple[int, ...]: ...
    @property
    def role(self) -> tuple[int, ...]: ...
    @property
    def blend(self) -> tuple[int, ...]: ...
    @property
    def noise_stream(self) -> tuple[int, ...]: ...
    @property
    def noise_step(self) -> tuple[int, ...]: ...
    @property
    def evaluates(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def frame(self) -> int: ...
    @property
    def variable(self) -> int: ...
    @property
    def order(self) -> int: ...
    @property
    def process(self) -> int: ...
    @property
    def gamma(self) -> tuple[float, ...]: ...
    @property
    def p(self) -> float: ...
    @property
    def q(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def a(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def noise(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def known(self) -> tuple[float, ...]: ...
    @property
    def known_noise(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def t(self) -> float: ...
    @property
    def alpha(self) -> float: ...
    @property
    def sigma(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def next_t(self) -> float: ...
    @property
    def next_alpha(self) -> float: ...
    @property
    def next_sigma(self) -> float: ...
    @property
    def next_scale(self) -> float: ...
    @property
    def from_alpha(self) -> float: ...
    @property
    def from_sigma(self) -> float: ...
    @property
    def tau(self) -> float: ...
    @property
    def prior(self) -> float: ...
    @property
    def next_prior(self) -> float: ...

class Schedule:
    def __init__(self, name: str, steps: int, **fields: Any) -> None: ...
    def nodes(
        self,
    ) -> tuple[NDArray[np.float64], ...]: ...
    @property
    def process(self) -> int: ...

class Plan:
    @staticmethod
    def _create(solver: str, schedule: Schedule, **options: Any) -> Plan: ...
    @staticmethod
    def from_tableau(
        a: ArrayLike,
        b: ArrayLike,
        *,
        order: int,
        schedule: Any,
        steps: int | None = None,
        frame: str = "epsilon",
        **options: Any,
    ) -> Plan: ...
    @staticmethod
    def from_rows(rows: Sequence[Row], name: str = "") -> Plan: ...
    @staticmethod
    def from_json(text: str) -> Plan: ...
    @staticmethod
    def concat(plans: Iterable[Plan]) -> Plan: ...
    def to_json(self) -> str: ...
    def start(self, row: int = 0, known: bool = False) -> Plan: ...
    def prepare(self, device: Any) -> None: ...
    def with_guidance(self, weights: ArrayLike) -> Plan: ...
    def validate(self) -> float: ...
    @property
    def rows(self) -> tuple[Row, ...]: ...
    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def process(self) -> int: ...
    @property
    def times(self) -> NDArray[np.float64]: ...
    @property
    def scales(self) -> NDArray[np.float64]: ...
    @property
    def alphas(self) -> NDArray[np.float64]: ...
    @property
    def sigmas(self) -> NDArray[np.float64]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Row: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Ngram:
    def __init__(self, n_min: int, n_max: int) -> None: ...
    def append(self, tokens: NDArray[np.int32]) -> None: ...
    def propose(
        self, context: NDArray[np.int32] | None, max_tokens: int, branches: int, max_nodes: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
    def __len__(self) -> int: ...

class Trigram:
    def __init__(self) -> None: ...
    def observe(self, tokens: NDArray[np.int32]) -> None: ...
    def count(self, first: int, second: int, third: int) -> int: ...
    def propose(
        self,
        context: NDArray[np.int32],
        depth: int,
        width: int,
        iterations: int,
        exploration: float,
        max_nodes: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
    def __len__(self) -> int: ...

class CallCost:
    def __init__(self) -> None: ...
    def add(self, rows: int, seconds: float) -> None: ...
    def count(self, rows: int) -> int: ...
    def curve(self, most: int) -> list[float] | None: ...

class Budget:
    def __init__(self) -> None: ...
    def cut(
        self, cost: CallCost, drafts: list[Any], drafting: float, trial: bool
    ) -> list[int | bytes | None] | None: ...
    def learn(
        self, cost: CallCost, drafts: list[Any], paths: Sequence[Sequence[int]]
    ) -> tuple[float, float, float]: ...
    def doubt(self) -> None: ...

class Recycler:
    def __init__(self, order: int, width: int, capacity: int) -> None: ...
    def read(self, tokens: NDArray[np.int32] | list[int]) -> None: ...
    def observe(
        self,
        token: NDArray[np.int32],
        parent: NDArray[np.int32],
        indptr: NDArray[np.int32],
        context: NDArray[np.int32] | None,
        ids: NDArray[np.int32],
        logits: NDArray[np.float32],
        path: NDArray[np.int32],
        accepted: NDArray[np.int32],
        next_token: NDArray[np.int32],
    ) -> None: ...
    def observe_call(
        self,
        texts: list[list[int]],
        token: NDArray[np.int32],
        parent: NDArray[np.int32],
        indptr: NDArray[np.int32],
        logits: Any,
        path: NDArray[np.int32],
        accepted: NDArray[np.int32],
        next_token: NDArray[np.int32],
    ) -> None: ...
    def propose(
        self, context: NDArray[np.int32] | list[int], depth: int, least: float, max_nodes: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]: ...
    def __len__(self) -> int: ...

class Cascade:
    def __init__(self, recycler: Recycler, room: int) -> None: ...
    def begin(self, context: NDArray[np.int32] | list[int], depth: int, least: float) -> None: ...
    def ask(
        self, most: int, least: float
    ) -> tuple[list[int], list[int], list[int], list[int], float]: ...
    def answer(
        self, ids: NDArray[np.int32], logp: NDArray[np.float32], first: int = 0
    ) -> float: ...
    def take(
        self, max_nodes: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]: ...

class Decoder:
    def __init__(
        self,
        layers: list[tuple[object, ...]],
        heads: int,
        inner: int,
        scale: float,
        deterministic: bool,
        head: object,
        vocabulary: int,
        norm: object,
        embedding: object,
        n_tokens: int,
    ) -> None: ...
    def run(
        self, scratch_x: bool, inputs: tuple[object, ...], outputs: tuple[object, ...]
    ) -> None: ...
    def chain(
        self, least: float, inputs: tuple[object, ...], outputs: tuple[object, ...]
    ) -> None: ...
    def chain_workspace_bytes(self, N: int, B: int, C: int) -> int: ...
    def workspace_bytes(self, N: int, B: int, M: int, C: int) -> int: ...

class KvPool:
    def __init__(self, pages: int, page_tokens: int) -> None: ...
    def add(self, tokens: NDArray[np.int32]) -> tuple[int, int]: ...
    def extend(self, sequence: int, n_tokens: int) -> tuple[int, int]: ...
    def truncate(self, sequence: int, length: int) -> None: ...
    def fork(self, sequence: int, length: int) -> int: ...
    def publish(self, sequence: int, tokens: NDArray[np.int32]) -> None: ...
    def free(self, sequence: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def page_table(
        self, sequences: Sequence[int] | NDArray[Any], columns: int
    ) -> NDArray[np.int32]: ...
    def rows(
        self,
        sequences: Sequence[int],
        lengths: Sequence[int],
        tokens: ArrayLike,
        indptr: NDArray[np.int32],
    ) -> (
        tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], list[int], list[int]] | None
    ): ...
    def kept(
        self,
        sequences: Sequence[int],
        lengths: Sequence[int],
        path: ArrayLike,
        accepted: ArrayLike,
        block: ArrayLike,
    ) -> tuple[bool, NDArray[np.int32], list[int]] | None: ...
    def references(self, page: int) -> int: ...
    def stats(self) -> dict[str, int]: ...
