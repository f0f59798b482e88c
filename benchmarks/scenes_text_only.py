"""How well the embedded world's questions and statements can be answered from their words alone.

A logistic regression on words, pairs of neighbouring words and the form of a sentence is trained on the questions of
one set of scenes and asked those of another. It must stay near chance: who does better has looked at the picture.
Hypotheses and statements about two pictures are sentences like the others. Of four choices, one takes that with the
highest score, given by a regression on its words and pairs, the words that it shares with the question (and, of a
rationale, with the true answer), and each of its words together with each of theirs; "majority of the form" is there
the choice whose form was right most often in training.

    python benchmarks/scenes_text_only.py            # writes docs/results/scenes_text_only.md, about eight minutes
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
from uniter.scenes.choices import CHOICES, Words, choices
from uniter.scenes.claims import counts
from uniter.scenes.comparisons import comparison_set
from uniter.scenes.entailment import hypotheses
from uniter.scenes.language import _FREQUENCY, ANSWERS, CHANCE, _absent, questions, statement
from uniter.scenes.words import NOUNS, NUMBERS, SYNONYMS, VALUES, plural, tokens
from uniter.scenes.world import Scene, make_scene

Example = tuple[str, str, str]  # text, answer, kind
Chosen = tuple[str, list[str], int, str]  # what is known, four choices, the number of the right one, kind
KINDS = CHANCE | {"hypothesis": 3} | dict.fromkeys(("answer", "rationale"), CHOICES)


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


def gather(scenes: list[Scene], per_scene: int) -> tuple[list[Example], ...]:
    """Questions, statements, hypotheses and statements about two pictures."""
    asked: list[Example] = []
    said: list[Example] = []
    held: list[Example] = []
    compared: list[Example] = []
    for scene in scenes:
        asked += [(question.text, question.answer, question.kind) for question in questions(scene, 0, per_scene)]
        said += [
            (text, "yes" if true else "no", "statement")
            for text, true in (statement(scene, 0, k) for k in range(per_scene))
        ]
        held += [(text, label, "hypothesis") for text, label in hypotheses(scene, 0, per_scene)]
    for number in range(len(scenes)):
        for text, answers in comparison_set(scenes, 0, number).sentences:
            compared += [(text, "yes" if true else "no", "two pictures") for true in answers]
    return asked, said, held, compared


def gather_choices(scenes: list[Scene], per_scene: int) -> tuple[list[Chosen], list[Chosen]]:
    """Answers given the question, rationales given the question and its true answer; references as shapes."""
    answers: list[Chosen] = []
    rationales: list[Chosen] = []
    for scene in scenes:
        read = lambda words, scene=scene: _read(scene, words)
        for choice in choices(scene, 0, per_scene):
            known, said = read(choice.question), [read(answer) for answer in choice.answers]
            answers.append((known, said, choice.answer, "answer"))
            reasons = [read(rationale) for rationale in choice.rationales]
            rationales.append((f"{known} {said[choice.answer]}", reasons, choice.rationale, "rationale"))
    return answers, rationales


def _read(scene: Scene, words: Words) -> str:
    return " ".join(word if isinstance(word, str) else scene.things[word[0]].shape for word in words)


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


def choice_features(known: str, choice: str) -> list[str]:
    before, words = set(tokens(known)), set(tokens(choice))
    crossed = [f"{a} > {b}" for a in before for b in words]
    shared = [f"shared: {word}" for word in before & words] + [f"so many shared: {len(before & words)}"]
    return [*features(choice), *crossed, *shared, f"length: {len(tokens(choice))}"]


def choosing(train: list[Chosen], test: list[Chosen]) -> np.ndarray:
    """Which test questions a regression on each choice's words gets right, bool."""
    bags = [[set(choice_features(known, choice)) for choice in four] for known, four, _, _ in train]
    seen = Counter(feature for four in bags for bag in four for feature in bag)
    index = {feature: number for number, feature in enumerate(f for f, times in seen.items() if times >= 5)}

    def rows(bags: list[list[set[str]]]) -> tuple[torch.Tensor, torch.Tensor]:
        flat = [sorted(index[f] for f in bag if f in index) for four in bags for bag in four]
        offsets = np.cumsum([0, *map(len, flat)])[:-1]
        return torch.tensor([n for bag in flat for n in bag]), torch.tensor(offsets)

    model = torch.nn.EmbeddingBag(len(index), 1, mode="sum")
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    labels = torch.tensor([right for _, _, right, _ in train])
    scores = lambda encoded: model(*encoded).view(-1, CHOICES)
    held_back = len(train) // 10
    starts = range(held_back, len(train), 512)
    encoded = [rows(bags[k : k + 512]) for k in starts]
    tuning, best, kept = rows(bags[:held_back]), -1.0, model.weight.detach().clone()
    for _ in range(8):
        for batch, start in zip(encoded, starts):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(scores(batch), labels[start : start + 512]).backward()
            optimizer.step()
        right = (scores(tuning).argmax(1) == labels[:held_back]).float().mean().item()
        if right > best:
            best, kept = right, model.weight.detach().clone()
    model.weight.data = kept
    asked = rows([[set(choice_features(known, choice)) for choice in four] for known, four, _, _ in test])
    return scores(asked).argmax(1).numpy() == np.array([right for _, _, right, _ in test])


def likeliest(train: list[Chosen], test: list[Chosen]) -> np.ndarray:
    """Which test questions are right if the choice is taken whose form was right most often."""
    share: dict[str, list[int]] = defaultdict(lambda: [1, CHOICES])  # right, all; a form never seen is at chance
    for _, four, right, _ in train:
        for number, choice in enumerate(four):
            share[form_of(choice)][0] += number == right
            share[form_of(choice)][1] += 1
    rate = lambda choice: share[form_of(choice)][0] / share[form_of(choice)][1]
    return np.array([int(np.argmax([rate(choice) for choice in four])) == right for _, four, right, _ in test])


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
    training = [make_scene(0, "train", index) for index in range(train_scenes)]
    testing = [make_scene(0, "test", index) for index in range(test_scenes)]
    rows = []
    for train, test in zip(gather(training, per_scene), gather(testing, per_scene)):
        linear, by_form = logistic(train, test), majority(train, test)
        for kind in sorted({kind for _, _, kind in test}, key=lambda kind: (-KINDS.get(kind, 2), kind)):
            these = np.array([k == kind for _, _, k in test])
            answers = Counter(answer for _, answer, k in test if k == kind)
            rows.append(_row(kind, answers, by_form[these], linear[these]))
    for train, test in zip(gather_choices(training, CHOICES), gather_choices(testing, CHOICES)):
        positions = Counter(str(right) for _, _, right, _ in test)
        rows.append(_row(test[0][3], positions, likeliest(train, test), choosing(train, test)))
    return rows


def _row(kind: str, answers: Counter, by_form: np.ndarray, linear: np.ndarray) -> tuple:
    most, chance = answers.most_common(1)[0][1] / answers.total(), 1 / KINDS.get(kind, 2)
    return kind, answers.total(), *(100 * float(share) for share in (chance, most, by_form.mean(), linear.mean()))


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
        f"{chosen.train:,} scenes to train on, {chosen.test:,} others to test on, and of each up to 16",
        "questions, 16 statements, 16 hypotheses and 4 questions with choices, and a set of sentences about pairs of",
        "pictures; one CPU core,",
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
