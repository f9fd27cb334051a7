#!/usr/bin/env python3
"""Writes random_and_markdown.json: CPython's numbers seeded by texts, and counts of markdown elements.

The counts come from the regular expressions that Arena-Hard counts with. Run from this folder:
python3 random_and_markdown.py
"""

import json
import platform
import random
import re

SEEDS = [
    "",
    "a",
    "is_switched_outputs0",
    "is_switched_outputsWhat is 2 + 2?0",
    "is_switched_outputsWhy does ice float?\nAnswer in one sentence.0",
    "is_switched_outputsÜber 東京 🙂0",
    "\0leading zero",
    "x" * 5000,
]

TEXTS = [
    "",
    "# One\n## Two\ntext # none\n####### seven\n#none\n#\n###### six\n#",
    "1. a\n2. b\n  3. c\n10.d\n- e\n* f\n+ g\n-h\n1.\n\n2.",
    "**bold** and __also__ but **not\nthis** or ****, ***a** b*, **a*b**, ____ _x_ __a_b__",
    "before\n```\n# code\n- item\n**b**\n```\n# after\n- item",
    "```python\nx```\nand x again\n``````\n# h",
    "```open\n# h\n- a `b` c\n",
    "- **a**: b\n\n\n   - c\n\t* d\n> - e\n1) f\n٣. g",
    "# A\r\n- b\r\n",
]


def count(text):
    for block in re.compile("```([^`]*)```").findall(text):
        text = text.replace(block, "")
    total = lambda *patterns: sum(len(re.findall(p, text, re.MULTILINE)) for p in patterns)
    return [
        total(*(r"^#{%d}\s" % level for level in range(1, 7))),
        total(r"^\s*\d+\.\s", r"^\s*[-*+]\s"),
        total(r"\*\*[^*\n]+\*\*", r"__[^_\n]+__"),
    ]


def numbers(seed):
    generator = random.Random(seed)
    drawn = [generator.random() for _ in range(700)]
    # The first ones, and one beyond the first refill of the state.
    return drawn[:3] + drawn[699:]


if __name__ == "__main__":
    content = {
        "python": platform.python_version(),
        "random": [{"seed": seed, "numbers": numbers(seed)} for seed in SEEDS],
        "markdown": [{"text": text, "counts": count(text)} for text in TEXTS],
    }
    with open("random_and_markdown.json", "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
