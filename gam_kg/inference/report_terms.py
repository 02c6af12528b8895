"""What the words of a report mean, for a reader who has only the page."""

TERMS = {
    "mrr": ("MRR", "Mean reciprocal rank: the mean of 1 / rank over all answers, in percent. 100 % if every true "
            "answer is first; 50 % if every one is second. Higher is better."),
    "hits": ("Hits@k", "The share of true answers that are among the first k candidates. Higher is better."),
    "rank": ("rank", "The place of a true answer among all entities, by score: 1 + candidates above it + half of those "
             "that tie with it."),
    "time-aware": ("time-aware", "The other true answers of the same question at the same time are removed before a "
                   "rank is counted, and nothing else is."),
    "raw": ("raw", "Ranks among all candidates, the other true answers of the question included."),
    "single-step": ("single-step", "Everything before a question's own moment is visible to the model and the "
                    "baselines, with the weights as trained."),
    "multi-step": ("multi-step", "Nothing after the last moment before the split is visible: the further ahead the "
                   "question, the harder."),
    "horizon": ("horizon", "How many moments after the last visible one a question is."),
    "snapshot": ("snapshot", "All facts of one unit of time, such as a day or a year."),
    "test": ("test", "The last part of the time, which neither training nor the choice of weights has seen."),
    "valid": ("validation", "The part of the time before test. The weights are those that were best on it, so its "
              "figures flatter the model a little."),
    "baseline": ("untrained baseline", "A scorer that only counts the past and learns nothing. What does not beat it "
                 "is not worth training."),
    "popularity": ("popularity", "Baseline: the objects that a relation had most often and most recently, whoever the "
                   "subject."),
    "recurrency_strict": ("recurrency, strict", "Baseline: only facts that were true before, the latest first."),
    "recurrency_combined": ("recurrency, combined", "Baseline: facts that were true before, then popularity."),
    "typed_pair_counts": ("typed pair counts", "Baseline: how often the pair of entities had any fact, and with "
                          "which relation."),
    "rule_counts": ("c-rules and pair counts", "Baseline: counts of which past fact leads to which new one, together "
                    "with the counts of the pair."),
    "interval": ("interval", "95 %, by a paired bootstrap: where the difference would lie in 95 of 100 draws of as "
                 "many questions. It does not cover another seed of training."),
    "stratum": ("what had been seen before", "Recurrent: the same fact had been true before. Pair-only: the two "
                "entities had some other fact. Cold: they never had one."),
    "seen": ("seen in training", "Of an answer: both its own entity and that of the question have facts in training."),
    "probability": ("probability", "The softmax of the scores of all entities, divided by the temperature."),
    "temperature": ("temperature", "What scores are divided by before the softmax, fitted on validation so that "
                    "probabilities are honest."),
    "ece": ("calibration error", "How far the probability of the best candidate is from how often it is right, on "
            "average. 0 is honest; lower is better."),
    "log-likelihood": ("log-likelihood", "The mean logarithm of the probability of a true answer. Higher is better."),
    "degree": ("degree", "The number of facts that an entity is in."),
    "quarantine": ("quarantine", "Rows of the input that could not be used. They are in graph/quarantine.parquet, each "
                   "with its file and reason."),
    "cosine": ("cosine", "How alike two search vectors are: 1 is the same direction, 0 is nothing in common."),
    "loss": ("loss", "The mean of minus the logarithm of the probability of the true answers in training. Lower is "
             "better."),
    "phase": ("phase", "A part of a training step: make its batch, encode entities, score candidates, and so on."),
}  # fmt: skip
"""Key → the term as it is written, and one or two sentences about it."""
