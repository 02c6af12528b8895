import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gam_kg.distributed.sampled_softmax import Sample, sampled_cross_entropy
from gam_kg.distributed.sharded_softmax import Targets
from gam_kg.distributed.topology import Topology

SMOOTHING, NUM_CANDIDATES = 0.2, 50


def naive(scores: Tensor, extra: Tensor, sample: Sample, targets: Targets) -> Tensor:
    """One query after another, each over the list of what it meets."""
    loss = scores.new_zeros(())
    weight = sample.log_weight.exp()
    for query in range(len(scores)):
        columns = [c for c in range(scores.shape[1]) if query * scores.shape[1] + c not in sample.replaced.tolist()]
        mine = sample.query == query
        own, own_weight = extra[mine], sample.extra_log_weight[mine].exp()
        normaliser = torch.log((weight[columns] * scores[query, columns].exp()).sum() + (own_weight * own.exp()).sum())
        mean = ((weight[columns] * scores[query, columns]).sum() + (own_weight * own).sum()) / NUM_CANDIDATES
        hits = [scores[query, answer] for answer in targets.candidate[targets.query == query].tolist()]
        hits += [extra[answer] for answer in sample.answers.tolist() if mine[answer]]
        for hit in hits:
            loss = loss - (1 - SMOOTHING) * (hit - normaliser) - SMOOTHING * (mean - normaliser)
    return loss


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    num_queries, num_own, num_drawn, num_extra = (draw(st.integers(low, 4)) for low in (1, 1, 0, 0))
    columns = num_own + num_drawn
    scores = 3 * torch.randn(num_queries, columns, generator=generator, dtype=torch.float64)
    extra = 3 * torch.randn(num_extra, generator=generator, dtype=torch.float64)
    log_weight = torch.zeros(columns, dtype=torch.float64)
    log_weight[num_own:] = 2.5
    query = torch.randint(num_queries, (num_extra,), generator=generator).sort().values
    drawn = [q * columns + c for q in range(num_queries) for c in range(num_own, columns)]
    replaced = torch.tensor(draw(st.lists(st.sampled_from(drawn), unique=True)) if drawn else [], dtype=torch.int64)
    extra_log_weight = torch.rand(num_extra, generator=generator, dtype=torch.float64)
    also = torch.tensor(draw(st.lists(st.integers(0, num_extra - 1), unique=True)) if num_extra else [])
    hits = draw(st.sets(st.tuples(st.integers(0, num_queries - 1), st.integers(0, num_own - 1)), min_size=1))
    rows = torch.tensor(sorted(hits))
    answers = torch.bincount(torch.cat([rows[:, 0], query[also.long()]]), minlength=num_queries)
    targets = Targets(rows[:, 0], rows[:, 1], answers)
    sample = Sample(log_weight, query, extra_log_weight, replaced, also.long(), NUM_CANDIDATES)
    return scores, extra, sample, targets


@given(cases())
@settings(max_examples=80)
def test_loss_and_gradients_are_those_of_lists_of_candidates(case):
    scores, extra, sample, targets = case
    losses, gradients = [], []
    for function in (naive, None):
        leaf = scores.clone().requires_grad_(), extra.clone().requires_grad_()
        if function is None:
            loss = sampled_cross_entropy(
                leaf[0] * 1, leaf[1], sample, targets, smoothing=SMOOTHING, topology=Topology()
            )
        else:
            loss = function(*leaf, sample, targets)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(2 * loss, leaf, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=1e-10)
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
