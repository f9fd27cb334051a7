#!/usr/bin/env python3
"""Makes iti.json: what NumPy and scikit-learn compute for the fit of attention heads.

    python3 crates/sims-steering/tests/reference/make_iti_reference.py

Needs numpy and scikit-learn (made with numpy 2.4.6, scikit-learn 1.9.1). Three heads of five numbers: the classes
differ clearly in the first, a little in the second, not at all in the third.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

HEADS, WIDTH, FIT, HELD_OUT = 3, 5, 60, 25
rng = np.random.default_rng(20230606)


def main():
    rows = FIT + HELD_OUT
    shift = np.repeat([1.2, 0.4, 0.0], WIDTH) * rng.normal(size=HEADS * WIDTH)
    common = 2.0 * rng.normal(size=HEADS * WIDTH)
    positive, negative = (
        (common + rng.normal(size=(rows, HEADS * WIDTH)) + sign * shift / 2).astype(np.float32) for sign in (1, -1)
    )
    heads = []
    for head in range(HEADS):
        span = slice(head * WIDTH, (head + 1) * WIDTH)
        pos, neg = positive[:, span].astype(np.float64), negative[:, span].astype(np.float64)
        states, labels = np.vstack([pos[:FIT], neg[:FIT]]), np.repeat([1, 0], FIT)
        probe = LogisticRegression(C=1.0, tol=1e-12, max_iter=100_000).fit(states, labels)
        tested = np.vstack([pos[FIT:], neg[FIT:]])
        direction = pos[:FIT].mean(0) - neg[:FIT].mean(0)
        direction /= np.linalg.norm(direction)
        heads.append(
            {
                "probe": [*probe.coef_[0].tolist(), probe.intercept_[0].item()],
                "accuracy": probe.score(tested, np.repeat([1, 0], HELD_OUT)),
                "direction": direction.tolist(),
                "deviation": np.std(np.vstack([pos, neg]) @ direction).item(),
            }
        )
    result = {
        "head_dim": WIDTH,
        "fit": FIT,
        "positive": positive.ravel().tolist(),
        "negative": negative.ravel().tolist(),
        "heads": heads,
    }
    (Path(__file__).parent / "iti.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
