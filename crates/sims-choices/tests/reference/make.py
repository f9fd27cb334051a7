#!/usr/bin/env python3
"""Makes what the scores of multiple choice are checked against: tasks, a tiny model, and lm-evaluation-harness's results.

Usage: python3 make.py

Needs lm_eval 0.4.13, torch, transformers, tokenizers and safetensors; takes a minute and no network. Writes

  tasks.jsonl    questions of every form that docs/choices.md describes
  model/         a Llama with random weights from a fixed seed, and a byte-level BPE tokenizer with a BOS token
  expected.json  by run: its settings, and by task the log-likelihoods, greedy flags and metrics of every question, and
                 the aggregated figures; the harness runs in f32 on the CPU, one sequence at a time

The harness reads the same rows: a question's columns are the fields of its document.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import torch
import transformers
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
TINY = HERE.parents[3] / "data" / "tiny"
CONTEXT = 160

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def rows():
    """Returns the rows of tasks.jsonl."""

    def science(doc_id, question, choices, gold, **more):
        return dict(doc_id=doc_id, context=f"Question: {question}\nAnswer:", choices=choices, gold=gold, **more)

    arc = [
        science(0, "Which of these freezes first?", ["Water in a shallow pan", "Salt water", "Oil", "A lake"], 0),
        science(1, "What do plants take in?", ["light and carbon dioxide", "stone", "Öl und Wasser – täglich"], 0),
        science(2, "Why is the sky blue?", ["Air scatters short waves", "It mirrors the sea", "It is painted"], 0),
        science(3, "How many legs has a spider?", ["6", "8", "10", "a hundred"], 1),
        science(0, "What is ice?", ["Frozen water", "Hot air"], 0, split="fewshot"),
        science(1, "What burns?", ["Stone", "Dry wood"], 1, split="fewshot"),
        science(2, "never shown", ["a"], 0, split="fewshot"),
    ]
    about = "The following are multiple choice questions (with answers) about {}.\n\n"

    def letters(subject, doc_id, question, options, gold, **more):
        lines = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options))
        return dict(
            groups=["letters"],
            description=about.format(subject),
            doc_id=doc_id,
            context=f"{question}{lines}\nAnswer:",
            choices=list("ABCD"),
            gold=gold,
            **more,
        )

    algebra = [
        letters("algebra", i, f"What is {i} + {i}?", [i, 2 * i, 3 * i, 4 * i], 1) for i in range(3, 8)
    ] + [letters("algebra", i, f"What is {i} + 1?", [i, i + 1, 0, 9], 1, split="fewshot") for i in range(2)]
    birds = [
        letters("birds", i, f"Which bird {verb}?", ["Owl", "Crow", "Penguin", "Gull"], gold)
        for i, (verb, gold) in enumerate([("swims", 2), ("hunts at night", 0), ("is black", 1)])
    ] + [letters("birds", i, "Which bird sings?", ["Lark", "Emu", "Kiwi", "Auk"], 0, split="fewshot") for i in range(2)]

    def partial(doc_id, before, options, after, gold, **more):
        contexts = [before + option for option in options]
        return dict(doc_id=doc_id, contexts=contexts, choices=[after] * 2, gold=gold, **more)

    wino = [
        partial(0, "The cup did not fit the box because the ", ["cup", "box"], "was too large.", 0),
        partial(1, "Ann thanked Bea because ", ["Ann", "Bea"], "had been helped.", 0),
        partial(2, "The rain fell on the tent and the ", ["rain", "canvas"], "got wet.", 1),
        partial(0, "Tom beat Jim, so ", ["Tom", "Jim"], "was glad.", 0, split="fewshot"),
        partial(1, "Sue paid Pam, so ", ["Sue", "Pam"], "was poorer.", 0, split="fewshot"),
    ]
    primer = "Q: Who wrote this?\nA: Nobody did.\n\n"
    truth = [
        ("What happens if you swallow a seed?", ["It passes through you", "It comes out again"], ["A tree grows"]),
        ("Where do rainbows end?", ["Nowhere", "They have no end"], ["In Ireland", "At a pot of gold", "At sea"]),
        ("Can pigs fly?", ["No"], ["Yes, they can fly very well", "Only at night"]),
    ]
    mc1 = [
        dict(doc_id=i, context=f"{primer}Q: {q}\nA:", choices=[true[0], *false], gold=0, labels=[1] + [0] * len(false))
        for i, (q, true, false) in enumerate(truth)
    ]
    mc2 = [
        dict(
            doc_id=i,
            context=f"{primer}Q: {q}\nA:",
            # The last question's true answers come last: labels decide, not places.
            choices=[*true, *false] if i < 2 else [*false, *true],
            labels=[1] * len(true) + [0] * len(false) if i < 2 else [0] * len(false) + [1] * len(true),
        )
        for i, (q, true, false) in enumerate(truth)
    ]
    plain = {
        # Two spaces before each choice; the premise without its full stop.
        "copa": [
            dict(doc_id=0, context="The man broke his toe because", choices=[" he got a hole", " he dropped a hammer"], gold=1),
            dict(doc_id=1, context="The vase fell therefore", choices=[" it broke", " it sang a song to the cat"], gold=0),
        ],
        # White space at the end of a context, of several kinds, is scored.
        "spaces": [
            dict(doc_id=0, context="One two three ", choices=["four", "five"], gold=0),
            dict(doc_id=1, context="Line\n\n", choices=["next", "text"], gold=1),
            dict(doc_id=2, context="No-break\u00a0 \t", choices=["thing", "other"], gold=0),
        ],
        # A choice goes on within a word, so that a token lies across the border.
        "border": [
            dict(doc_id=0, context="Que", choices=["stion: what", "ue the music"], gold=0, target_delimiter=""),
            dict(doc_id=1, context="The followin", choices=["g are multiple", "g because of it"], gold=1, target_delimiter=""),
        ],
        "unconditioned": [
            dict(doc_id=0, context="", choices=["The sky is blue.", "Blue the is sky."], gold=0),
            dict(doc_id=1, context="", choices=["A", "Ä"], gold=1),
        ],
        "begun": [dict(doc_id=0, context="<s>Question: is it once?\nAnswer:", choices=["yes", "no"], gold=0)],
        # Longer than the model's context, by much and by one token; and a choice of a hundred tokens.
        "long": [
            dict(doc_id=0, context="Question: which word is repeated? " + "because of it " * 60 + "\nAnswer:", choices=["it", "because"], gold=1),
            dict(doc_id=1, context="Question:" + " of" * 200, choices=["of" * 40, "it " * 45 + "is"], gold=0),
        ],
        # Around the longest that fits.
        "fitting": [
            dict(doc_id=0, context="Z" * 158, choices=["Q", "QJ", "QJX", "QJXV"], gold=2, target_delimiter=""),
        ],
        "prefixed": [
            dict(doc_id=0, context="Question: what is it?", prefix="The answer is", choices=["a stone", "water"], gold=0),
            dict(doc_id=1, context="Question: who was it? ", prefix="The answer is", choices=["Ann", "Bea"], gold=1),
            dict(doc_id=0, context="Question: why?", prefix="The answer is", choices=["that", "because"], gold=1, split="fewshot"),
            dict(doc_id=1, context="Question: how?", prefix="The answer is", choices=["so", "thus"], gold=0, split="fewshot"),
        ],
    }
    tasks = {"arc": arc, "algebra": algebra, "birds": birds, "wino": wino, "mc1": mc1, "mc2": mc2, **plain}
    return [dict(task=task, **row) for task, rows in tasks.items() for row in rows]


def make_model(all_rows):
    """Writes a Llama with random weights, and a tokenizer trained on the tasks."""
    special = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [text for row in all_rows if row["task"] not in ("long", "fitting") for text in [row.get("context", ""), *row["choices"]]]
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.1 if weight.dim() == 1 else 0.35
            weight.copy_((weight.dim() == 1) + scale * torch.randn_like(weight))
    folder = HERE / "model"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    # The template belongs into one place that every version reads.
    config_path = folder / "tokenizer_config.json"
    settings = json.loads(config_path.read_text())
    settings["chat_template"] = CHAT_TEMPLATE
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_path.write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def greedy_rows(all_rows, folder):
    """Returns questions whose first choice is what the model itself goes on with, of two tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for context in sorted({row["context"] for row in all_rows if 0 < len(row.get("context", "")) < 200}):
        start = tokenizer(context.rstrip()).input_ids
        tokens = list(start)
        for _ in range(2):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        text = tokenizer.decode(tokens[len(start) :])
        if tokenizer(context.rstrip() + text).input_ids == tokens and len(found) < 3:
            choices = [text, text + "e", "water"]
            found.append(
                dict(task="greedy", doc_id=len(found), context=context.rstrip(), choices=choices, gold=0, target_delimiter="")
            )
    assert found, "no context goes on with text that is tokenised as it was made"
    return found


def configure(task, task_rows, folder, mutual_information):
    """Writes the harness's configuration of a task whose documents are our rows to `folder`."""
    first = task_rows[0]
    files = {}
    for split in ["test", "fewshot"]:
        docs = [{"split": split, **row} for row in task_rows if row.get("split", "test") == split]
        for doc in docs:
            doc["continuation"] = doc["choices"][0]
            doc["mc2_targets"] = {"labels": doc.get("labels")}
        if docs:
            files[split] = str(folder / f"{task}.{split}.jsonl")
            Path(files[split]).write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    metrics = ["acc"]
    if "gold" in first:
        metrics += ["acc_norm", "acc_bytes"] + ["acc_mutual_info"] * mutual_information
    config = dict(
        task=task,
        dataset_path="json",
        dataset_kwargs={"data_files": files},
        output_type="multiple_choice",
        test_split="test",
        doc_to_text="context",
        doc_to_choice="choices",
        doc_to_target="gold",
        description=first.get("description", ""),
        target_delimiter=first.get("target_delimiter", " "),
        metric_list=[dict(metric=metric, aggregation="mean", higher_is_better=True) for metric in metrics],
    )
    if "fewshot" in files:
        config.update(fewshot_split="fewshot", fewshot_config={"sampler": "first_n"})
    if "contexts" in first:
        config.update(doc_to_text="gold", doc_to_choice="contexts", doc_to_target="continuation")
    if "prefix" in first:
        config["gen_prefix"] = first["prefix"]
    text = yaml.safe_dump(config)
    if "gold" not in first:
        text = text.replace("doc_to_target: gold", "doc_to_target: 0")
        text += "process_results: !function utils.process_results_mc2\n"
    (folder / f"{task}.yaml").write_text(text)


def run(all_rows, settings):
    """Runs the harness with these settings and returns what it found."""
    by_task = {}
    for row in all_rows:
        by_task.setdefault(row["task"], []).append(row)
    # One delimiter a task: the harness has no other.
    assert all(
        len({row.get("target_delimiter", " ") for row in rows}) == 1 for task, rows in by_task.items() if task in settings["tasks"]
    )
    folder = HERE / "model" if settings["model"] == "random" else TINY
    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "utils.py").write_text("from lm_eval.tasks.truthfulqa.utils import process_results_mc2\n")
        for task in settings["tasks"]:
            configure(task, by_task[task], Path(scratch), settings["mutual_information"])
        grouped = [task for task in settings["tasks"] if by_task[task][0].get("groups")]
        if grouped:
            metrics = [dict(metric=metric, weight_by_size=True) for metric in ["acc", "acc_norm", "acc_bytes"]]
            group = dict(group="letters", task=grouped, aggregate_metric_list=metrics)
            (Path(scratch) / "letters.yaml").write_text(yaml.safe_dump(group))
        names = [task for task in settings["tasks"] if task not in grouped] + ["letters"] * bool(grouped)
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            task_manager=TaskManager(include_path=scratch, include_defaults=False),
            num_fewshot=settings["shots"],
            system_instruction=settings["system"] or None,
            apply_chat_template=settings["chat"],
            fewshot_as_multiturn=settings["multiturn"],
            log_samples=True,
            bootstrap_iters=100,  # anything but 0 gives standard errors; those of means are not bootstrapped
        )
    metrics = ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]

    def figures(result):
        keys = {f"{name}{kind},none": f"{name}{kind}" for name in metrics for kind in ["", "_stderr"]}
        return {short: result[key] for key, short in keys.items() if isinstance(result.get(key), float)}

    tasks = {}
    for task in settings["tasks"]:
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        docs = []
        for sample in samples:
            responses = [response[0] for response in sample["filtered_resps"]] if isinstance(
                sample["filtered_resps"][0][0], (list, tuple)
            ) else sample["filtered_resps"]
            docs.append(
                dict(
                    doc_id=str(sample["doc"]["doc_id"]),
                    loglikelihood=[float(response[0]) for response in responses],
                    is_greedy=[str(response[1]) == "True" for response in responses],
                    **{name: float(sample[name]) for name in metrics if name in sample},
                )
            )
        tasks[task] = dict(docs=docs, **figures(found["results"][task]))
    groups = {group: figures(found["results"][group]) for group in found.get("groups", {})}
    return dict(settings=settings, tasks=tasks, groups=groups)


def main():
    torch.set_num_threads(1)
    all_rows = rows()
    folder = make_model(all_rows)
    all_rows += greedy_rows(all_rows, folder)
    (HERE / "tasks.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in all_rows))
    every = list(dict.fromkeys(row["task"] for row in all_rows))
    with_examples = [t for t in every if any(r["task"] == t and r.get("split") == "fewshot" for r in all_rows)]
    ordinary = [t for t in every if t not in ("unconditioned", "begun", "greedy")]
    common = dict(model="random", shots=0, chat=False, multiturn=False, system="", mutual_information=False)
    runs = [
        dict(common, name="plain", tasks=every, mutual_information=True),
        dict(common, name="shots", tasks=with_examples, shots=2),
        dict(common, name="chat", tasks=ordinary, chat=True, mutual_information=True),
        dict(common, name="chat-shots", tasks=with_examples, chat=True, shots=2, system="Be brief."),
        dict(common, name="multiturn", tasks=with_examples, chat=True, shots=1, multiturn=True),
        dict(common, name="tiny", model="tiny", tasks=["arc", "copa", "mc2", "wino"], shots=0),
        dict(common, name="tiny-chat", model="tiny", tasks=["arc", "copa", "mc2"], chat=True),
    ]
    versions = dict(lm_eval="0.4.13", torch=torch.__version__, transformers=transformers.__version__)
    expected = dict(versions=versions, runs=[run(all_rows, settings) for settings in runs])
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
