#!/usr/bin/env python3
"""Prints the figures of the test `the_fit_is_scikit_learns` in src/biases.rs.

A logistic regression on probabilities is one on both labels, each weighted by its probability.
Run: python3 length_bias.py   (numpy, scikit-learn)
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

preferences = np.array([1.2, -0.4, 0.3, 2.0, -1.1, 0.7, -0.2, 0.9])
pairs = np.array([(0, 1), (0, 2), (1, 3), (0, 3), (1, 2), (2, 3), (0, 1), (1, 3)])
prompts = np.array(list("pppqqsss"))

longer = 10.0 * (pairs[:, 0] - pairs[:, 1])
preferred = 1 / (1 + np.exp(-preferences))
fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
fit.fit(
    np.concatenate([longer, longer])[:, None],
    np.repeat([1, 0], len(longer)),
    sample_weight=np.concatenate([preferred, 1 - preferred]),
)
slope = fit.coef_[0, 0]
predicted = 1 / (1 + np.exp(-slope * longer))
score = longer * (preferred - predicted)
bread = np.sum(longer**2 * predicted * (1 - predicted))
meat = sum(score[prompts == prompt].sum() ** 2 for prompt in "pqs")
half = 1.959963984540054 * np.sqrt(meat) / bread
print([float(slope), float(slope - half), float(slope + half)])
