import pytest
import torch
from columns import joined_of, layout_of
from graphs import HISTORY, graph_of, history_before, queries_of, random_facts, tiny_model
from torch.nn import functional

from gam_kg.history.found import PastAnswers
from gam_kg.history.pair_features import query_feature
from gam_kg.nn.decoder import DECODERS
from gam_kg.ops.counter_rng import CounterRNG

DIM = 6


def decoder_of(name, dropout=0.0):
    torch.manual_seed(0)
    decoder = DECODERS[name](DIM, dropout).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
    return decoder


def mlp(decoder, subject, relation):
    product = subject * relation
    direction = relation / relation.norm()
    read = torch.cat([subject * DIM**0.5, direction * DIM**0.5, subject * direction * DIM])
    hidden = functional.gelu(read @ decoder.wide.weight.T + decoder.wide.bias)
    raw = product * DIM**0.5 + hidden @ decoder.narrow.weight.T + decoder.narrow.bias
    return normed(raw, decoder.norm)


def distmult(decoder, subject, relation):
    return decoder.scale * subject * relation


def complex_product(decoder, subject, relation):
    half = DIM // 2
    product = torch.complex(subject[:half], subject[half:]) * torch.complex(relation[:half], relation[half:])
    return decoder.scale * torch.cat([product.real, product.imag])


def conv_trans_e(decoder, subject, relation):
    weight, bias = decoder.convolution.weight, decoder.convolution.bias
    padded = functional.pad(torch.stack([subject, relation]) * DIM**0.5, (1, 1))
    maps = torch.stack(
        [
            torch.stack([(padded[:, at : at + 3] * kernel).sum() + shift for at in range(DIM)])
            for kernel, shift in zip(weight, bias, strict=True)
        ]
    )
    hidden = torch.relu(normed(maps.flatten(), decoder.channel_norm))
    return normed(hidden @ decoder.linear.weight.T + decoder.linear.bias, decoder.norm)


def normed(x, norm):
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


FORMULAS = {"mlp": mlp, "distmult": distmult, "complex": complex_product, "conv_transe": conv_trans_e}


def test_every_decoder_has_its_formula_here():
    assert FORMULAS.keys() == DECODERS.keys()


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_equals_its_formula(name):
    decoder = decoder_of(name).eval()
    subject, relation = torch.randn(2, 5, DIM, dtype=torch.float64)
    expected = torch.stack([FORMULAS[name](decoder, s, r) for s, r in zip(subject, relation, strict=True)])
    torch.testing.assert_close(decoder(subject, relation), expected, rtol=1e-10, atol=1e-10)


def test_complex_scores_are_the_real_part_of_the_trilinear_product():
    decoder = decoder_of("complex").eval()
    subject, relation, candidate = torch.randn(3, 1, DIM, dtype=torch.float64)
    s, r, o = (torch.complex(*x[0].chunk(2)) for x in (subject, relation, candidate))
    expected = decoder.scale * (s * r * o.conj()).sum().real
    torch.testing.assert_close((decoder(subject, relation) * candidate).sum(), expected)


@pytest.mark.parametrize("name", DECODERS)
def test_a_query_vector_depends_on_its_own_query_only(name):
    decoder = decoder_of(name, dropout=0.5).eval()
    subject, relation = torch.randn(2, 7, DIM, dtype=torch.float64)
    together = decoder(subject, relation)
    for row in range(7):
        alone = decoder(subject[row : row + 1], relation[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_with_an_rng_that_is_so_in_training_too(name):
    decoder, rng, key = decoder_of(name, dropout=0.5), CounterRNG(0, 3), torch.arange(7) * 11
    subject, relation = torch.randn(2, 7, DIM, dtype=torch.float64)
    together = decoder(subject, relation, rng.rows(key, *decoder.sites))
    for row in range(7):
        one = slice(row, row + 1)
        alone = decoder(subject[one], relation[one], rng.rows(key[one], *decoder.sites))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)
    assert not torch.equal(together, decoder(subject, relation, CounterRNG(0, 4).rows(key, *decoder.sites)))
    expected = decoder.eval()(subject, relation)
    assert not torch.allclose(together, expected)
    assert torch.equal(decoder(subject, relation, rng.rows(key, *decoder.sites)), expected)


@pytest.mark.parametrize("name", DECODERS)
def test_dropout_acts_in_training_only(name):
    decoder = decoder_of(name, dropout=0.5)
    subject, relation = torch.randn(2, 3, DIM, dtype=torch.float64)
    assert not torch.equal(decoder(subject, relation), decoder(subject, relation))
    decoder.eval()
    assert torch.equal(decoder(subject, relation), decoder(subject, relation))


@pytest.mark.parametrize("name", DECODERS)
def test_dense_scores_are_gated_inner_products_with_the_entity_vectors(name):
    graph, no_history = (
        graph_of(random_facts(0)),
        dict.fromkeys(("recent", "same_relation", "popular", "two_hop_first", "rule_bodies"), 0),
    )
    model = tiny_model(graph, decoder=name, history={**HISTORY, **no_history})
    z = torch.randn(10, 4, dtype=torch.float64)
    queries = queries_of([(0, 1), (3, 5)], time=4)
    history = history_before(graph, model.config.history, queries.time)
    scores = model.scores(z, layout_of(history, joined_of(history, queries))).view(len(queries), len(z))
    never = query_feature(PastAnswers(*torch.tensor([[-1], [0], [0]])), queries.time)
    for row, (subject, relation) in enumerate([(0, 1), (3, 5)]):
        query = model.decoder(z[subject][None], model.relation[relation][None])[0]
        query = query * model.gate(model.gate.relation.rows[[relation]], model.gate.bias.rows[[relation]], never)[0]
        expected = torch.stack([query @ candidate for candidate in z])
        torch.testing.assert_close(scores[row], expected, rtol=1e-12, atol=1e-12)
