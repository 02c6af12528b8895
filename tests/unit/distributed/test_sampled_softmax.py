import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gam_kg.distributed.sampled_softmax import Sample, sampled_cross_entropy
from gam_kg.distributed.topology import Topology

SMOOTHING, NUM_CANDIDATES = 0.2, 50


def naive(scores: Tensor, extra: Tensor, sample: Sample) -> Tensor:
    """One query after another, each over the list of what it meets."""
    loss = scores.new_zeros(())
    weight = sample.log_weight.exp()
    for query in range(len(scores)):
        columns = [c for c in range(scores.shape[1]) if query * scores.shape[1] + c not in sample.replaced.tolist()]
        mine = sample.query == query
        own, own_weight = extra[mine], sample.extra_log_weight[mine].exp()
        normaliser = torch.log((weight[columns] * scores[query, columns].exp()).sum() + (own_weight * own.exp()).sum())
        mean = ((weight[columns] * scores[query, columns]).sum() + (own_weight * own).sum()) / NUM_CANDIDATES
        hits = [extra[answer] for answer in sample.answers.tolist() if mine[answer]]
        for hit in hits:
            loss = loss - (1 - SMOOTHING) * (hit - normaliser) - SMOOTHING * (mean - normaliser)
    return loss


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    num_queries, num_columns, num_extra = (draw(st.integers(low, 4)) for low in (1, 0, 0))
    num_extra += num_queries  # every query has an answer
    scores = 3 * torch.randn(num_queries, num_columns, generator=generator, dtype=torch.float64)
    extra = 3 * torch.randn(num_extra, generator=generator, dtype=torch.float64)
    log_weight = 2.5 * torch.randint(2, (num_columns,), generator=generator).double()
    query = torch.randint(num_queries, (num_extra,), generator=generator)
    query[:num_queries] = torch.arange(num_queries)
    positions = st.integers(0, max(0, scores.numel() - 1))
    replaced = torch.tensor(draw(st.lists(positions)) if num_columns else [], dtype=torch.int64)
    extra_log_weight = torch.rand(num_extra, generator=generator, dtype=torch.float64)
    more = draw(st.sets(st.integers(0, num_extra - 1)))
    answers = torch.tensor(sorted(more | set(range(num_queries))))
    per_query = torch.bincount(query[answers], minlength=num_queries)
    return scores, extra, Sample(log_weight, replaced, query, extra_log_weight, answers, per_query, NUM_CANDIDATES)


@given(cases())
@settings(max_examples=80)
def test_loss_and_gradients_are_those_of_lists_of_candidates(case):
    scores, extra, sample = case
    losses, gradients = [], []
    for function in (naive, None):
        leaf = scores.clone().requires_grad_(), extra.clone().requires_grad_()
        if function is None:
            loss = sampled_cross_entropy(leaf[0] * 1, leaf[1], sample, smoothing=SMOOTHING, topology=Topology())
        else:
            loss = function(*leaf, sample)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(2 * loss, leaf, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=1e-10)
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
