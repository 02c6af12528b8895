"""The page of a report: what the model is worth first, then why, on what, and at what cost."""

from collections.abc import Mapping

from gam_kg.inference.charts import OTHERS, color_of
from gam_kg.inference.report import (
    LABELS,
    best_table,
    calibration_table,
    difference_table,
    metrics_table,
    part_table,
    time_table,
    traffic_table,
    worse_table,
)
from gam_kg.inference.report_data import RelationRow, ReportData
from gam_kg.inference.report_examples import Example
from gam_kg.inference.report_html import (
    NAME,
    beside,
    details,
    figure,
    glossary,
    legend,
    page,
    pairs,
    table,
    term,
    text,
    tiles,
)
from gam_kg.inference.report_verdict import judged, primary, verdict
from gam_kg.ingest.time_axis import TimeAxis
from gam_kg.metrics.parts import FEWEST_ANSWERS
from gam_kg.progress import duration
from gam_kg.schemas import MODEL, SPLITS

Charts = Mapping[str, str]
"""Name of a chart → its SVG; see `report_charts`."""

_ALWAYS_OPEN = 12
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def report_page(data: ReportData, charts: Charts) -> str:
    """The page of a run."""
    sections = {
        "Results": _results(data, charts),
        "Relations": _relations(data, charts),
        "Examples": _examples(data),
        "Neighbours": _neighbours(data, charts),
        "Probabilities": _probabilities(data, charts),
        "Data": _data(data, charts),
        "Training": _training(data, charts),
        "Cost": _cost(data, charts),
    }
    foot = f"<p>Made by gam-kg on {data.made:%Y-%m-%d %H:%M} UTC. Dotted words explain themselves when touched.</p>"
    shown = [(name, inner) for name, inner in sections.items() if inner]
    return page(f"{data.name}: gam-kg report", _head(data), shown, foot + glossary())


def _head(data: ReportData) -> str:
    found, (split, setting) = verdict(data.metrics), primary(data.metrics)
    claim = f'<span class="{found.kind}">{text(found.claim)}</span>'
    heading = f"<h1>{claim}{text(found.headline.removeprefix(found.claim))}</h1>"
    lines = "".join(f"<p class={'lead' if at == 0 else 'more'}>{text(line)}</p>" for at, line in enumerate(found.lines))
    both = data.metrics[split][setting]["time_aware"]["both"]
    shown = []
    for label, key, word in [("MRR", "mrr", "mrr"), *((f"Hits@{k}", f"hits@{k}", "hits") for k in (1, 3, 10))]:
        small = ""
        if found.baseline:
            theirs = data.metrics["baselines"][found.baseline][split][setting]["time_aware"]["both"][key]
            small = f"best baseline {100 * theirs:.1f} %"
        shown.append((term(word, label), f"{100 * both[key]:.1f} %", small))
    notices = "".join(f"<p class=notice>{text(notice)}</p>" for notice in data.notices)
    run = f"<p class=run>{text(data.name)} · temporal knowledge graph, {data.graph['num_facts']:,} facts</p>"
    return f"{run}{heading}{lines}{tiles(shown)}{notices}"


def _results(data: ReportData, charts: Charts) -> str:
    split, setting = primary(data.metrics)
    count, every = data.metrics[split][setting]["time_aware"]["both"]["count"], 2 * data.graph["splits"][split]
    which = f"Each of {count:,} of the {every:,} answers" if count < every else "Every answer"
    inner = (
        f"<p>{which} of {term(split)} is a question about the future: which entity "
        f"completes a fact, among all {data.graph['num_entities']:,} of them, in both directions. Ranks are "
        f"{term('time-aware')}; beside the model stand {term('baseline', 'untrained baselines')}. The best value of "
        "each column is bold.</p>"
    )
    inner += table(metrics_table(data.metrics, split), best=True)
    names = {
        "comparison": ("MRR of each scorer", ""),
        "over_time": ("MRR over time", "Thick: smoothed. Dots: the model, each snapshot."),
        "strata": (f"By {term('stratum')}", ""),
        "horizons": (f"By {term('horizon')}, {term('multi-step')}", ""),
    }
    inner += _charts(charts, names)
    if charts and data.metrics["baselines"]:
        inner += legend(
            {LABELS.get(name, name): color_of(at) for at, name in enumerate([MODEL, *data.metrics["baselines"]])}
        )
    compared = data.metrics.get("comparison", {}).get(split)
    if compared:
        inner += f"<h3>The model minus each baseline, with {term('interval', '95 % intervals')}</h3>"
        inner += table(difference_table(data.metrics, split))
    more = [part_table(data.metrics, split, setting, kind) for kind in ("strata", "entities")]
    if "multi_step" in data.metrics[split]:
        more.append(part_table(data.metrics, split, "multi_step", "horizons"))
    long = "".join(table(one, best=True) for one in more)
    if compared:
        long += table(best_table(data.metrics, split), words=(1, 3))
    inner += details("All parts as tables", long)
    if split == "test" and "valid" in data.metrics:
        inner += details("The same on validation", table(metrics_table(data.metrics, "valid"), best=True))
    return inner


def _relations(data: ReportData, charts: Charts) -> str:
    if not data.relations:
        return ""
    split, _ = primary(data.metrics)
    inner = (
        "<p>Each relation has answers in both directions: its objects and its subjects. ▲ is better than the best "
        f"baseline, ▼ worse, and ≈ may be chance; where answers are too few there is no {term('interval')}.</p>"
    )
    fewest = f"{FEWEST_ANSWERS} answers or more"
    note = f"A dot a relation and direction with {fewest}, with its interval. Green is better, red is worse."
    chart = _chart(charts, "differences", "The model minus the best baseline", note)
    if data.metrics.get("comparison", {}).get(split):
        (title, *_), found = worse_table(data.metrics, split)
        rows = sorted(found, key=lambda row: float(row[4].split()[0]))
        listed = [(f"{row[0]}, {row[1]}", row[4]) for row in rows]
        worse = f"<h3>{text(title.capitalize())}</h3>" + (pairs(listed[:_ALWAYS_OPEN]) if listed else "")
        if len(listed) > _ALWAYS_OPEN:
            worse += details(f"{len(listed) - _ALWAYS_OPEN:,} more", pairs(listed[_ALWAYS_OPEN:]))
        inner += beside(chart, worse)
    rows = list(map(_relation_row, data.relations))
    header = ["relation", "direction", "answers", "MRR", "best baseline", "its MRR", "difference [interval]"]
    shown = table((header, rows[:_ALWAYS_OPEN]), words=(1, 4))
    if len(rows) > _ALWAYS_OPEN:
        rest = table((header, rows[_ALWAYS_OPEN:]), words=(1, 4))
        shown += details(f"{len(rows) - _ALWAYS_OPEN:,} more", rest)
    return inner + shown


def _relation_row(row: RelationRow) -> list[str]:
    cells = [row.relation, row.direction, f"{row.count:,}", f"{100 * row.mrr:.1f}", LABELS.get(row.baseline or "", "")]
    cells.append("" if row.baseline_mrr is None else f"{100 * row.baseline_mrr:.1f}")
    if row.difference is None:
        return [*cells, "" if row.baseline_mrr is None else f"{100 * (row.mrr - row.baseline_mrr):+.1f}"]
    mean, low, high = (100 * row.difference[name] for name in ("mrr", "low", "high"))
    sign = {"better": "▲", "same": "≈", "worse": "▼"}[judged(row.difference)]
    return [*cells, f"{sign} {mean:+.1f} [{low:+.1f}, {high:+.1f}]"]


def _examples(data: ReportData) -> str:
    if data.look is None or not data.look.examples:
        return ""
    right = [example for example in data.look.examples if example.right]
    wrong = [example for example in data.look.examples if not example.right]
    inner = (
        f"<p>Questions of {text(data.look.examples[0].timestamp)}, the last snapshot that was evaluated, drawn by the "
        "seed. The bars are probabilities; true answers are green.</p>"
    )
    if right:
        inner += "<h3>Right, and most of them not mere repetition</h3>"
        inner += f"<div class=cards>{''.join(map(_card, right))}</div>"
    if wrong:
        inner += "<h3>Wrong: where the model was surest of something that did not happen</h3>"
        inner += f"<div class=cards>{''.join(map(_card, wrong))}</div>"
    return inner


def _card(example: Example) -> str:
    slot = "<span class=slot>?</span>"
    subject, found = (slot if name is None else text(name, NAME) for name in (example.subject, example.object))
    items = "".join(
        f"<li{' class=true' if true else ''}><span>{'✓ ' if true else ''}{text(name, NAME)}</span>"
        f'<span>{probability:.1%}</span><span class=bar><i style="width:{probability:.1%}"></i></span></li>'
        for name, probability, true in example.answers
    )
    truth = f"<p>True was {text(example.truth, NAME)}, at {term('rank')} {example.rank:,.0f}.</p>"
    truth = "" if example.right else truth
    items_why = "".join(
        f"<li><b>{percent:+.0f} %</b><span>{text(reason, 3 * NAME)}</span></li>" for reason, percent in example.reasons
    )
    why = f"<p>Why {text(example.answers[0][0], NAME)}</p><ul>{items_why}</ul>" if items_why else ""
    question = f"{subject} · {text(example.relation, NAME)} · {found}"
    return f"<article class=card><h4>{question}</h4><ol class=answers>{items}</ol>{truth}{why}</article>"


def _neighbours(data: ReportData, charts: Charts) -> str:
    if data.look is None or not data.look.neighbours:
        return ""
    cards = [_neighbour_card(name, nearest) for name, nearest in data.look.neighbours.items()]
    inner = f"<p>Entities whose vectors point the same way after the last fact, by {term('cosine')}.</p>"
    if (found := data.look.entities) is None or "map" not in charts:
        return f"{inner}<div class=cards>{''.join(cards)}</div>"
    note = (
        f"The {len(found.names):,} entities with most facts, along the two directions in which they differ most "
        f"({found.share:.0%} of the variance). Point at one for its name."
    )
    colors = legend(dict(zip(found.groups, ["model", *OTHERS], strict=False)))
    return inner + beside(
        figure(charts["map"] + colors, "A map of the embeddings", note, large=True), "".join(cards), "map"
    )


def _neighbour_card(name: str, nearest: list[tuple[str, float]]) -> str:
    items = "".join(f"<li><span>{text(other, NAME)}</span><span>{cosine:.3f}</span></li>" for other, cosine in nearest)
    return f"<article class=card><h4>{text(name, NAME)}</h4><ol class=answers>{items}</ol></article>"


def _probabilities(data: ReportData, charts: Charts) -> str:
    split, setting = primary(data.metrics)
    found = calibration_table(data.metrics, split) if "calibration" in data.metrics[split][setting] else ([], [])
    if not found[1]:
        return ""
    inner = (
        f"<p>Scores become {term('probability', 'probabilities')} by a softmax. They are calibrated on validation by a "
        f"{term('temperature')}, so that an answer of 70 % should be right in 70 of 100 cases.</p>"
    )
    note = "On the dotted line they are honest; below it, too sure. Grey: before calibration."
    header = ["", "queries", "temperature", "calibration error", "log-likelihood"]
    rows = [[*row[:3], f"{row[3]} → {row[4]} %", f"{row[5]} → {row[6]}"] for row in found[1]]
    return inner + beside(_chart(charts, "reliability", "Are they honest?", note), table((header, rows)))


def _data(data: ReportData, charts: Charts) -> str:
    graph, axis, labels = data.graph, TimeAxis(**data.graph["time"]), data.profile.labels
    quarantined = graph.get("quarantined", {})
    splits = ", ".join(f"{_SPLITS[split]} {graph['splits'][split]:,}" for split in SPLITS)
    unit = f"{axis.unit}, zone {axis.zone}" if axis.zone else f"{axis.unit}"
    shown = [
        ("facts", f"{graph['num_facts']:,}", splits),
        ("entities", f"{graph['num_entities']:,}", ""),
        ("relations", f"{graph['num_relations']:,}", ""),
        (
            term("snapshot", "snapshots"),
            f"{graph['num_snapshots']:,}",
            f"{labels[0]} to {labels[-1]}, time unit {unit}",
        ),
    ]
    rows = [
        ["rows read", f"{graph.get('num_rows', 0):,}"],
        ["merged with the same fact of the same snapshot", f"{graph.get('merged', 0):,}"],
        ["names stripped or folded", f"{graph.get('names_changed', 0):,}"],
        ["rows in quarantine", f"{sum(quarantined.values()):,}"],
        *([f"… {reason}", f"{count:,}"] for reason, count in quarantined.items()),
    ]
    names = {
        "facts": ("Facts over time", "Grey: train. Orange: validation. Blue: test."),
        "relation_counts": ("Facts by relation", "The most frequent ones."),
        "degrees": (f"Entities by {term('degree')}", "How many have so many facts, or more."),
    }
    inner = f"<p>What the model was given. Rows that could not be used are in {term('quarantine')}.</p>"
    return inner + tiles(shown) + _charts(charts, names) + pairs(rows)


def _training(data: ReportData, charts: Charts) -> str:
    epochs, best = data.epochs, data.checkpoint["best_epoch"]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    facts = [
        ["weights", f"of epoch {best} of {data.checkpoint['epochs']}, chosen by validation MRR"],
        ["seed", str(data.seed)],
        ["duration", f"{duration(seconds)} for {len(epochs)} epochs, {duration(seconds / len(epochs))} an epoch"],
        ["workers", str(epochs[-1]["world_size"])],
        ["trained with", ", ".join(f"{name} {number}" for name, number in data.versions.items())],
        *([f"page made on: {name}", value] for name, value in data.machine.items()),
    ]
    inner = "<p>What it takes to make this run again.</p>"
    inner += beside(_chart(charts, "training", "Loss and validation MRR"), pairs(facts))
    if not data.settings:
        return f"{inner}<p>All settings have their defaults.</p>"
    return f"{inner}<h3>Settings that are not the default</h3>" + table(
        (["setting", "value", "default"], [list(row) for row in data.settings]), words=(1, 2)
    )


def _cost(data: ReportData, charts: Charts) -> str:
    last = data.epochs[-1]
    rows = [["facts a second", f"{last['facts_per_second']:,.0f}"]]
    if last.get("peak_memory_bytes"):
        rows.append(["peak memory of a worker", f"{last['peak_memory_bytes'] / 2**30:.2f} GiB"])
    tables = pairs(rows) + details("Time by phase as a table", table(time_table(data.epochs)))
    tables += table(traffic_table(data.epochs)) if last["traffic"] else ""
    inner = f"<p>Of the last epoch. A training step has {term('phase', 'phases')}.</p>"
    return inner + beside(_chart(charts, "phases", "Time by phase"), tables)


def _charts(charts: Charts, names: dict[str, tuple[str, str]]) -> str:
    """Those of the charts that there are; title and note of each are HTML."""
    found = [_chart(charts, name, *about) for name, about in names.items() if name in charts]
    even = "" if len(found) % 3 == 0 else " even"
    return f'<div class="charts{even}">{"".join(found)}</div>' if found else ""


def _chart(charts: Charts, name: str, title: str, note: str = "") -> str:
    return figure(charts[name], title, note) if name in charts else ""
