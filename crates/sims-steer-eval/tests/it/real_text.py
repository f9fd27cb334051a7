"""Prints the numbers that real_text.rs expects, from `../shared/real-text/alpaca-responses.parquet`.

Written with Python 3.11, polars and nltk 3.10.4; the argument is the file:

    python3 real_text.py ../../../../../shared/real-text/alpaca-responses.parquet

Refusals by a regular expression, self-BLEU by NLTK over words apart by white space, for every sixteenth instruction.
"""

import re
import sys

import polars
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

REFUSAL = re.compile(
    r"[\W_]*(?:(?:i'm|i am) sorry|sorry|i apologi[sz]e|my apologies|as an ai|as a (?:large )?language model|as an assistant"
    r"|i (?:cannot|can not|can't|could not|won't|will not|must decline|refuse)|(?:i'm|i am) (?:unable|not able) to)(?![^\W_])"
)
METHOD1 = SmoothingFunction().method1


def bleu(own, others):
    if not own:
        return float(any(not other for other in others))
    order = min(4, len(own))
    return sentence_bleu(others, own, (1 / order,) * order, smoothing_function=METHOD1)


def main():
    table = polars.read_parquet(sys.argv[1])
    texts = table["output"].str.replace_all("’", "'").str.to_lowercase()
    refuses = [bool(REFUSAL.match(text)) for text in texts]
    counts = table.with_columns(polars.Series("refuses", refuses))
    counts = counts.group_by("generator").agg(polars.col("refuses").sum()).sort("generator")
    for generator, count in counts.iter_rows():
        print(f'    ("{generator}", {count}),')
    means = []
    for index in range(0, 805, 16):
        rows = table.filter(polars.col("instruction_index") == index)
        answers = [text.split() for text in rows["output"]]
        values = [bleu(own, answers[:i] + answers[i + 1 :]) for i, own in enumerate(answers)]
        means.append(sum(values) / len(values))
    print(len(means), sum(means) / len(means), min(means), max(means))


main()
