# SPDX-License-Identifier: Apache-2.0
"""Verification of drafts in torch: where a walk ends, and the next token.

``B`` requests, ``K`` drafts of a chain, ``Q`` nodes of a tree, ``V`` tokens. Each is exact. There
are the forms that public libraries have, which draw by ``torch.multinomial``, and for each an
``_inverted`` one, the best that torch offers: it draws by inversion and computes less.

All take the target's `logits`, shape (B, K + 1, V) or of trees (B, Q, V), and the drafts' `tokens`,
shape (B, K), or of trees lists of each node's token for each request. `q`, shape (B, K, V), are the
probabilities that drafts were drawn from; of trees row i those of node i's children. `children` are
those of each node, the same in every request.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .inversion import inverted

Found = tuple[torch.Tensor, torch.Tensor]  # the last accepted nodes [B], the next tokens [B]


def chain_lazy(logits: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor) -> Found:
    """Compute one residual law a request, as transformers' ``_speculative_sampling`` does."""
    batch, count = tokens.shape
    p, rows = logits.softmax(-1), torch.arange(batch, device=logits.device)
    accepted = _accepted(p, q, tokens).cumprod(1).sum(1)
    law, refused = p[rows, accepted], accepted < count
    left = (law[refused] - q[rows[refused], accepted[refused]]).clamp(min=0.0)
    law[refused] = left / left.sum(-1, keepdim=True)
    return accepted, torch.multinomial(law, 1)[:, 0]


def chain_full(logits: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor) -> Found:
    """Draw from every position's residual law, which is how vLLM's torch path is built."""
    batch, count = tokens.shape
    p = logits.softmax(-1)
    accepted = _accepted(p, q, tokens).cumprod(1).sum(1)
    left = (p[:, :count] - q).clamp(min=torch.finfo(q.dtype).tiny)
    left = left / left.sum(-1, keepdim=True)
    recovered = torch.multinomial(left.flatten(0, 1), 1).view(batch, count)
    bonus = torch.multinomial(p[:, count], 1)
    return accepted, torch.cat([recovered, bonus], 1).gather(1, accepted[:, None])[:, 0]


def _accepted(p: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return 1 for drafts that pass their own tests, shape (B, K)."""
    chosen = tokens[:, :, None]
    ratio = p[:, : tokens.shape[1]].gather(2, chosen) / q.gather(2, chosen)
    return (torch.rand_like(ratio[:, :, 0]) < ratio[:, :, 0]).long()


def chain_lazy_inverted(logits: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor) -> Found:
    """Read only the rows that the walk visits, those of all requests at once."""
    batch, count = tokens.shape
    accepted, next_token = torch.zeros_like(tokens[:, 0]), torch.empty_like(tokens[:, 0])
    live = torch.arange(batch, device=tokens.device)
    for i in range(count):
        rows = logits[:, i] if len(live) == batch else logits[live, i]
        logp, token = rows.log_softmax(-1), tokens[live, i]
        p = logp.gather(1, token[:, None])[:, 0].exp_()
        refused = torch.rand_like(p) * q[live, i, token] >= p
        ends = live[refused]
        if len(ends):
            left = logp[refused].exp_().sub_(q[ends, i]).clamp_(min=0.0)
            next_token[ends] = inverted(left)[:, 0]
            live = live[~refused]
            if not len(live):
                break
        accepted[live] += 1
    if len(live):
        next_token[live] = inverted(logits[live, count].softmax(-1))[:, 0]
    return accepted, next_token


def chain_full_inverted(
    logits: torch.Tensor, draft_logits: torch.Tensor, tokens: torch.Tensor
) -> Found:
    """Take the softmax of all rows first, those of `draft_logits`, shape (B, K, V), too."""
    batch, count = tokens.shape
    p, q = logits.softmax(-1), draft_logits.softmax(-1)
    chosen = tokens[:, :, None]
    p_token, q_token = (x[:, :count].gather(2, chosen)[:, :, 0] for x in (p, q))
    passed = (torch.rand_like(q_token) * q_token < p_token).long()
    accepted = passed.cumprod(1).sum(1)
    rows = torch.arange(batch, device=logits.device)
    drawn_from = q[rows, accepted.clamp(max=count - 1)].mul_((accepted < count)[:, None])
    return accepted, inverted(p[rows, accepted].sub_(drawn_from).clamp_(min=0.0))[:, 0]


def rejection_rows(
    logits: torch.Tensor,
    q: torch.Tensor,
    children: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
) -> Found:
    """Verify visited rows one after the other, as SpecInfer and EAGLE's ``evaluate_posterior`` do.

    Where a draft is refused, both laws become what is left of them, as for Sequoia's drafts without
    replacement.
    """
    last, next_tokens = [], []
    for b, own in enumerate(tokens):
        node = 0
        while True:
            p, chosen = logits[b, node].softmax(-1), -1
            drawn_from = q[b, node].clone() if children[node] else p
            for child in children[node]:
                token = own[child]
                if random.random() * float(drawn_from[token]) < float(p[token]):
                    chosen = child
                    break
                p = (p - drawn_from).clamp(min=0.0)
                p = p / p.sum()
                drawn_from[token] = 0.0
                drawn_from = drawn_from / drawn_from.sum()
            if chosen < 0:
                break
            node = chosen
        last.append(node)
        next_tokens.append(int(torch.multinomial(p, 1)))
    return torch.tensor(last), torch.tensor(next_tokens)


def rejection_rows_inverted(
    logits: torch.Tensor,
    q: torch.Tensor,
    children: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    q_token: Sequence[Sequence[float]],
) -> Found:
    """Recursive rejection sampling of drafts without replacement, a visited row after the other.

    `q_token` are the nodes' own probabilities in `q`, as `tokens` are their tokens.
    """
    last, next_tokens = [], []
    for b, own in enumerate(tokens):
        node = 0
        while True:
            p, chosen = logits[b, node].softmax(-1), -1
            mass, rest = 1.0, 1.0  # of p; of q without the tokens that were tried
            for child in children[node]:
                chance, drawn = float(p[own[child]]), q_token[b][child]
                if random.random() * drawn * mass < chance * rest:
                    chosen = child
                    break
                # A rejected token has nothing left, whatever is taken from it later.
                p.sub_(q[b, node], alpha=mass / rest).clamp_(min=0.0)
                mass, rest = float(p.sum()), rest - drawn
            if chosen < 0:
                break
            node = chosen
        last.append(node)
        next_tokens.append(int(inverted(p[None])))
    return torch.tensor(last), torch.tensor(next_tokens)


def rejection_batched(
    logits: torch.Tensor, q: torch.Tensor, children: torch.Tensor, tokens: torch.Tensor, levels: int
) -> Found:
    """Verify all requests level by level; the host waits for nothing.

    Of drafts without replacement, as `rejection_rows`. Here `children` has shape (Q, C), -1 where
    a node has fewer, `tokens` has shape (B, Q), and no path has more than `levels` nodes.
    """
    every = torch.arange(len(tokens), device=tokens.device)
    last, next_token = torch.zeros_like(tokens[:, 0]), torch.zeros_like(tokens[:, 0])
    live = torch.ones_like(last, dtype=torch.bool)
    for _ in range(levels):
        p = logits[every, last].softmax(-1)
        drawn_from = q[every, last.clamp(max=q.shape[1] - 1)]
        chosen = torch.full_like(last, -1)
        for column in range(children.shape[1]):
            child = children[last, column]
            token, untried = tokens[every, child], live & (child >= 0) & (chosen < 0)
            chance = drawn_from[every, token]
            accepted = torch.rand_like(chance) * chance < p[every, token]
            chosen = torch.where(untried & accepted, child, chosen)
            refused = (untried & ~accepted)[:, None]
            p = torch.where(refused, (p - drawn_from).clamp_(min=0.0), p)
            p /= p.sum(-1, keepdim=True)
            drawn_from[every, token] = torch.where(refused[:, 0], 0.0, chance)
            drawn_from /= drawn_from.sum(-1, keepdim=True)
        ends = live & (chosen < 0)
        next_token = torch.where(ends, inverted(p)[:, 0], next_token)
        live = live & (chosen >= 0)
        last = torch.where(live, chosen, last)
    return last, next_token


def greedy_full(logits: torch.Tensor, child_with: Sequence[Sequence[Mapping[int, int]]]) -> Found:
    """Take the best tokens of all nodes first, then walk.

    Parameters
    ----------
    logits : torch.Tensor, shape (B, Q, V)
        The target's.
    child_with : sequence of sequence of mapping
        Of each node of each request its children by their tokens.
    """
    best = logits.argmax(-1).tolist()
    return _walked(lambda b, node: best[b][node], child_with)


def greedy_rows(logits: Any, child_with: Sequence[Sequence[Mapping[int, int]]]) -> Found:
    """Take the best tokens of visited nodes only; `logits` may be a NumPy array too."""
    return _walked(lambda b, node: int(logits[b, node].argmax()), child_with)


def _walked(
    best: Callable[[int, int], int], child_with: Sequence[Sequence[Mapping[int, int]]]
) -> Found:
    last, next_tokens = [], []
    for b, children in enumerate(child_with):
        node, token = 0, best(b, 0)
        while (child := children[node].get(token, -1)) >= 0:
            node, token = child, best(b, child)
        last.append(node)
        next_tokens.append(token)
    return torch.tensor(last), torch.tensor(next_tokens)
