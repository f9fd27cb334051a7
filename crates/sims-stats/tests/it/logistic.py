#!/usr/bin/env python3
"""Writes logistic.json: what scikit-learn and scipy fit to small seeded tables with soft targets.

Run from this folder: python3 logistic.py   (numpy, scipy, scikit-learn)
"""

import json
import platform

import numpy as np
import scipy
import sklearn
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(20250712)


def rounded(values):
    return np.round(values, 6)


def lasso(x, t, a, strength):
    """Positive and negative parts as bounded variables, then smooth: L-BFGS-B to machine precision."""
    k = x.shape[1]

    def objective(parts):
        z = x @ (parts[:k] - parts[k:])
        loss = np.sum(a * (np.logaddexp(0, z) - t * z)) + strength * parts.sum()
        slope = x.T @ (a * (1 / (1 + np.exp(-z)) - t))
        return loss, np.concatenate([slope + strength, strength - slope])

    options = {"maxiter": 100_000, "ftol": 1e-16, "gtol": 1e-12}
    best = minimize(objective, np.zeros(2 * k), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2 * k, options=options)
    return best.x[:k] - best.x[k:]


def case(rows, columns, strength):
    x = rounded(rng.normal(size=(rows, columns)))
    truth = rng.normal(size=columns) * (rng.random(columns) < 0.6)
    t = rounded(1 / (1 + np.exp(-(x @ truth + rng.normal(size=rows)))))
    a = rounded(rng.uniform(0.1, 2.0, rows))
    # A soft target is a hard one of either kind, weighted.
    twice = np.concatenate([x, x])
    hard = np.concatenate([np.ones(rows), np.zeros(rows)])
    weights = np.concatenate([a * t, a * (1 - t)])

    def sklearn_fit(c):
        model = LogisticRegression(C=c, fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000)
        return model.fit(twice, hard, sample_weight=weights).coef_[0].tolist()

    return {
        "columns": columns,
        "features": x.ravel().tolist(),
        "targets": t.tolist(),
        "weights": a.tolist(),
        "strength": strength,
        "ridge": sklearn_fit(1 / strength),
        "none": sklearn_fit(np.inf),
        "lasso": lasso(x, t, a, strength).tolist(),
    }


if __name__ == "__main__":
    cases = [case(30, 3, 0.5), case(60, 5, 4.0), case(40, 2, 2e-3)]
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    versions |= {"scipy": scipy.__version__, "sklearn": sklearn.__version__}
    with open("logistic.json", "w") as file:
        json.dump({"cases": cases, "versions": versions}, file, indent=1)
        file.write("\n")
