"""Writes bleu.json: BLEU and self-BLEU of random token sequences as NLTK computes them.

Written with Python 3.11 and nltk 3.10.4; run it in this folder:

    python3 bleu.py

Texygen calls `sentence_bleu(references, hypothesis, weights, smoothing_function=SmoothingFunction().method1)` with four
equal weights. Sequences of fewer than four tokens are given as many weights as they have tokens, which is where
`sims_stats::bleu` differs from Texygen.
"""

import json
import random

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

METHOD1 = SmoothingFunction().method1


def bleu(hypothesis, references):
    order = min(4, len(hypothesis))
    weights = (1 / order,) * order
    return sentence_bleu(references, hypothesis, weights, smoothing_function=METHOD1)


def sequence(rng, vocabulary, longest):
    return [rng.randrange(vocabulary) for _ in range(rng.randint(1, longest))]


def main():
    rng = random.Random(5)
    cases = []
    for vocabulary in (2, 5, 30):
        for longest in (3, 8, 40):
            for draws in (2, 3, 6):
                responses = [sequence(rng, vocabulary, longest) for _ in range(draws)]
                # Some responses share a beginning, as answers to one prompt do.
                responses[0][: len(responses[1]) // 2] = responses[1][: len(responses[1]) // 2]
                values = [
                    bleu(own, responses[:i] + responses[i + 1 :]) for i, own in enumerate(responses)
                ]
                cases.append({"responses": responses, "self_bleu": values})
    with open("bleu.json", "w", encoding="utf-8") as file:
        json.dump(cases, file, separators=(",", ":"))
        file.write("\n")


main()
