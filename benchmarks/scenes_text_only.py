"""How well the embedded world's questions and statements can be answered from their words alone.

A logistic regression on words, pairs of neighbouring words and the form of a sentence is trained on the questions of
one set of scenes and asked those of another. It must stay near chance: who does better has looked at the picture.

    python benchmarks/scenes_text_only.py            # writes docs/results/scenes_text_only.md, about three minutes
    python benchmarks/scenes_text_only.py --counts   # the frequencies that `uniter.scenes.language` keeps
"""

import argparse
import re
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from uniter import draws
from uniter.scenes.claims import counts
from uniter.scenes.language import _FREQUENCY, ANSWERS, CHANCE, _absent, questions, statement
from uniter.scenes.words import NOUNS, NUMBERS, SYNONYMS, VALUES, plural
from uniter.scenes.world import make_scene
from uniter.scenes.write import tokens

Example = tuple[str, str, str]  # text, answer, kind


def form_of(text: str) -> str:
    """A sentence with its attributes, nouns and numbers replaced by what they are."""
    classes = {}
    for field, values in VALUES.items():
        for value in values:
            for synonym in SYNONYMS.get(value, (value,)):
                classes[synonym] = f"<{field}>"
                if field == "shape":
                    classes[plural(synonym)] = "<shapes>"
    classes |= dict.fromkeys(NOUNS, "<thing>") | {plural(noun): "<things>" for noun in NOUNS}
    classes |= dict.fromkeys(NUMBERS[2:], "<number>")
    return " ".join("<number>" if word.isdigit() else classes.get(word, word) for word in tokens(text))


def gather(split: str, scenes: int, per_scene: int) -> tuple[list[Example], list[Example]]:
    asked: list[Example] = []
    said: list[Example] = []
    for index in range(scenes):
        scene = make_scene(0, split, index)
        asked += [(question.text, question.answer, question.kind) for question in questions(scene, 0, per_scene)]
        said += [
            (text, "yes" if true else "no", "statement")
            for text, true in (statement(scene, 0, k) for k in range(per_scene))
        ]
    return asked, said


def features(text: str) -> list[str]:
    words = tokens(text)
    return [*words, *(f"{a} {b}" for a, b in pairwise(words)), f"form: {form_of(text)}"]


def logistic(train: list[Example], test: list[Example]) -> np.ndarray:
    """Which test examples a logistic regression gets right, bool."""
    answers = {answer: number for number, answer in enumerate(sorted({answer for _, answer, _ in train}))}
    seen = Counter(feature for text, _, _ in train for feature in set(features(text)))
    known = {feature: number for number, feature in enumerate(f for f, times in seen.items() if times >= 5)}

    def rows(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        bags = [[known[f] for f in set(features(text)) if f in known] for text, _, _ in examples]
        offsets = np.cumsum([0, *map(len, bags)])[:-1]
        return torch.tensor([n for bag in bags for n in bag]), torch.tensor(offsets)

    torch.manual_seed(0)
    model = torch.nn.EmbeddingBag(len(known), len(answers), mode="sum")
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    labels = torch.tensor([answers[answer] for _, answer, _ in train])
    held_back = len(train) // 10
    batches = [range(k, min(k + 512, len(train))) for k in range(held_back, len(train), 512)]
    encoded = [rows([train[n] for n in batch]) for batch in batches]
    tuning, best, kept = rows(train[:held_back]), -1.0, model.weight.detach().clone()
    for _ in range(8):
        for batch, (flat, offsets) in zip(batches, encoded):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(flat, offsets), labels[batch.start : batch.stop])
            loss.backward()
            optimizer.step()
        right = (model(*tuning).argmax(1) == labels[:held_back]).float().mean().item()
        if right > best:
            best, kept = right, model.weight.detach().clone()
    model.weight.data = kept
    names = list(answers)
    predicted = model(*rows(test)).argmax(1).tolist()
    return np.array([names[guess] == answer for guess, (_, answer, _) in zip(predicted, test)])


def majority(train: list[Example], test: list[Example]) -> np.ndarray:
    """Which test examples are right if each form gets its most frequent answer, a rare form that of its kind."""
    by_form: dict[str, Counter] = defaultdict(Counter)
    for text, answer, kind in train:
        by_form[form_of(text)][answer] += 1
        by_form[kind][answer] += 1
    guesses = []
    for text, answer, kind in test:
        votes = by_form[form_of(text)]
        votes = votes if votes.total() >= 5 else by_form[kind]
        guesses.append(votes.most_common(1)[0][0] == answer)
    return np.array(guesses)


def measure(
    train_scenes: int, test_scenes: int, per_scene: int = 16
) -> list[tuple[str, int, float, float, float, float]]:
    """Rows of kind, number, and percent: chance, most frequent answer, majority of the form, logistic regression."""
    trained, tested = gather("train", train_scenes, per_scene), gather("test", test_scenes, per_scene)
    rows = []
    for train, test in zip(trained, tested):
        linear, by_form = logistic(train, test), majority(train, test)
        for kind in sorted({kind for _, _, kind in test}, key=lambda kind: (-CHANCE.get(kind, 2), kind)):
            these = np.array([k == kind for _, _, k in test])
            answers = Counter(answer for _, answer, k in test if k == kind)
            most = 100 * answers.most_common(1)[0][1] / these.sum()
            chance = 100 / CHANCE.get(kind, 2)
            numbers = (chance, most, 100 * by_form[these].mean(), 100 * linear[these].mean())
            rows.append((kind, int(these.sum()), *map(float, numbers)))
    return rows


def count_frequencies(scenes: int = 4000) -> None:
    shares = {fields: np.zeros(7) for fields in _FREQUENCY}
    for index in range(scenes):
        scene = make_scene(7, "train", index)
        for fields, share in shares.items():
            present = set(counts(scene, fields).values())
            share[0] += bool(_absent(scene, draws.generator(0, "absent", index), fields))
            share[1:] += [number in present for number in range(1, 7)]
    for fields, share in shares.items():
        print(fields, tuple(round(float(value) / scenes, 3) for value in share))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--train", type=int, default=6000, help="scenes to train on")
    options.add_argument("--test", type=int, default=2000, help="scenes to test on")
    options.add_argument("--counts", action="store_true", help="print how frequent each count is, and stop")
    options.add_argument("--out", type=Path, default=Path("docs/results/scenes_text_only.md"))
    chosen = options.parse_args()
    if chosen.counts:
        return count_frequencies()
    begun = time.time()
    rows = measure(chosen.train, chosen.test)
    lines = [
        "# The embedded world, answered without looking",
        "",
        f"`python benchmarks/scenes_text_only.py --train {chosen.train} --test {chosen.test}`:",
        f"{chosen.train:,} scenes to train on, {chosen.test:,} others to test on, 16 questions and 16 statements",
        "a scene, one CPU core,",
        f"{time.time() - begun:.0f} s. Percent right. Chance is uniform over the answers of a kind.",
        "",
        "| kind | tested | chance | most frequent | majority of the form | logistic regression | best above chance |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, number, chance, most, by_form, linear in rows:
        lines.append(
            f"| {kind} | {number} | {chance:.1f} | {most:.1f} | {by_form:.1f} | {linear:.1f} "
            f"| {max(by_form, linear) - chance:+.1f} |"
        )
    lines += ["", f"{len(ANSWERS)} different answers."]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"
    print(text)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text)
    return None


if __name__ == "__main__":
    main()
