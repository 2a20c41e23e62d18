"""What a run knows of English grammar: minimal pairs, scored by the likelihood of the whole sentence.

    python benchmarks/minimal_pairs.py [starter] [RUN ...] [--write pairs.jsonl]

Pairs of a good and a bad sentence in the manner of BLiMP (Warstadt et al. 2020), generated from the small grammars
below: 13 phenomena, 100 pairs each. The two sentences of a pair have the same number of words, and within a phenomenon
each word that makes the difference is right as often as it is wrong, or both sentences have the same words. So neither
length nor the frequency of words tells them apart: a unigram model (word counts of Python's documentation) and random
weights, measured beside the runs, score about 50 %, which is chance. A pair whose sentences are equally likely counts
as half for the unigram model. The result goes to benchmarks/results/minimal_pairs.json.
"""

import argparse
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import gpt1
from gpt1.data.docstrings import docstrings, topics
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from record import record

Pair = tuple[str, str]  # the good and the bad sentence, without capital and full stop
COUNT = 100

PEOPLE = ("boy", "girl", "teacher", "doctor", "farmer", "sailor", "soldier", "neighbour", "servant", "stranger")
MEN, WOMEN = (
    ("king", "boy", "father", "brother", "uncle", "son"),
    ("queen", "girl", "mother", "sister", "aunt", "daughter"),
)
THINGS = ("key", "letter", "basket", "lamp", "picture", "horse", "book", "box", "chair", "hat")
PLACES = ("near the river", "in the garden", "behind the house", "at the door", "from the village", "on the bridge")
STATES = ("very tired", "quite happy", "here again", "afraid of the dark", "ready to leave", "late for dinner")
SEEN = ("saw", "followed", "met", "knew", "helped", "remembered")
HURT = ("hurt", "blamed", "saved", "watched", "washed", "praised")
OLD = ("old", "young", "tall", "poor", "strange", "quiet")
# Plain form, past, participle: three different words.
VERBS = (
    ("take", "took", "taken"), ("give", "gave", "given"), ("see", "saw", "seen"), ("break", "broke", "broken"),
    ("write", "wrote", "written"), ("hide", "hid", "hidden"), ("choose", "chose", "chosen"),
    ("steal", "stole", "stolen"),
)  # fmt: skip
TRANSITIVE, INTRANSITIVE = (
    ("found", "brought", "carried", "caught", "held"),
    ("arrived", "slept", "smiled", "vanished", "laughed"),
)
TIMES = ("last night", "this morning", "that evening", "many times", "long ago")


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("x") else "s")


def number(draw: random.Random, first: bool, between: str) -> Pair:
    """Subject-verb agreement, with words between the two; `first`: whether the subject is singular."""
    noun, state = draw.choice(PEOPLE), draw.choice(STATES)
    subject, verbs = (noun, ("was", "were")) if first else (plural(noun), ("were", "was"))
    good, bad = (f"the {subject} {between}{verb} {state}" for verb in verbs)
    return good, bad


def agreement(draw: random.Random, first: bool) -> Pair:
    return number(draw, first, "")


def agreement_across_phrase(draw: random.Random, first: bool) -> Pair:
    """The noun between, which is nearer to the verb, has the other number; below too."""
    other = draw.choice(THINGS)
    return number(draw, first, f"with the {plural(other) if first else other} ")


def agreement_across_clause(draw: random.Random, first: bool) -> Pair:
    other = draw.choice(THINGS)
    return number(draw, first, f"who {draw.choice(SEEN)} the {plural(other) if first else other} ")


def determiner(draw: random.Random, first: bool) -> Pair:
    noun, near = draw.choice(THINGS), draw.random() < 0.5
    words = ("this", "these") if near else ("that", "those")
    end = f"{noun if first else plural(noun)} {draw.choice(PLACES)}"
    good, bad = words if first else words[::-1]
    start = f"the {draw.choice(PEOPLE)} {draw.choice(SEEN)}"
    return f"{start} {good} {end}", f"{start} {bad} {end}"


def reflexive_gender(draw: random.Random, first: bool) -> Pair:
    words = ("himself", "herself") if first else ("herself", "himself")
    start = f"the {draw.choice(MEN if first else WOMEN)} {draw.choice(HURT)}"
    return f"{start} {words[0]} {(time := draw.choice(TIMES))}", f"{start} {words[1]} {time}"


def reflexive_number(draw: random.Random, first: bool) -> Pair:
    man, words = draw.choice(MEN), ("himself", "themselves") if first else ("themselves", "himself")
    start = f"the {man if first else plural(man)} {draw.choice(HURT)}"
    return f"{start} {words[0]} {(time := draw.choice(TIMES))}", f"{start} {words[1]} {time}"


def anaphor_across_clause(draw: random.Random, first: bool) -> Pair:
    """A reflexive belongs to its subject, not to the nearest noun."""
    man, woman, words = draw.choice(MEN), draw.choice(WOMEN), ("himself", "herself")
    one, other = (man, woman) if first else (woman, man)
    start = f"the {one} who {draw.choice(SEEN)} the {other} {draw.choice(HURT)}"
    good, bad = words if first else words[::-1]
    return f"{start} {good}", f"{start} {bad}"


def auxiliary(draw: random.Random, first: bool) -> Pair:
    """The plain form after did not, the past without it."""
    (plain, past, _), noun, thing = draw.choice(VERBS), draw.choice(PEOPLE), draw.choice(THINGS)
    if first:
        return f"the {noun} did not {plain} the {thing}", f"the {noun} did not {past} the {thing}"
    return f"long ago the {noun} {past} the {thing}", f"long ago the {noun} {plain} the {thing}"


def participle(draw: random.Random, first: bool) -> Pair:
    (_, past, participle), noun, thing = draw.choice(VERBS), draw.choice(PEOPLE), draw.choice(THINGS)
    if first:
        return f"the {noun} had {participle} the {thing}", f"the {noun} had {past} the {thing}"
    return f"long ago the {noun} {past} the {thing}", f"long ago the {noun} {participle} the {thing}"


def polarity(draw: random.Random, first: bool) -> Pair:
    """ever needs a negation above it; one inside a relative clause does not count."""
    one, other = draw.sample(PEOPLE, 2)
    end = f"has ever been {draw.choice(STATES)}"
    inside = draw.choice(SEEN)
    return f"no {one} that the {other} {inside} {end}", f"the {one} that no {other} {inside} {end}"


def wh_gap(draw: random.Random, first: bool) -> Pair:
    """what leaves a gap, that does not."""
    start, noun = draw.choice(("i know", "we heard", "they told me", "she remembered")), draw.choice(PEOPLE)
    clause = f"the {noun} {draw.choice(TRANSITIVE)}"
    if first:
        time = draw.choice(TIMES)
        return f"{start} what {clause} {time}", f"{start} that {clause} {time}"
    thing = draw.choice(THINGS)
    return f"{start} that {clause} the {thing}", f"{start} what {clause} the {thing}"


def word_order(draw: random.Random, first: bool) -> Pair:
    old, noun = draw.choice(OLD), draw.choice(PEOPLE)
    end = f"{draw.choice(SEEN)} the {draw.choice(THINGS)}"
    return f"the {old} {noun} {end}", f"the {noun} {old} {end}"


def argument_structure(draw: random.Random, first: bool) -> Pair:
    """Some verbs need an object, others have none."""
    one, other, noun = draw.choice(TRANSITIVE), draw.choice(INTRANSITIVE), draw.choice(PEOPLE)
    if first:
        thing = draw.choice(THINGS)
        return f"the {noun} {one} the {thing}", f"the {noun} {other} the {thing}"
    time = draw.choice(TIMES)
    return f"the {noun} {other} {time}", f"the {noun} {one} {time}"


PHENOMENA: dict[str, Callable[[random.Random, bool], Pair]] = {
    "subject-verb agreement": agreement,
    "agreement across a phrase": agreement_across_phrase,
    "agreement across a clause": agreement_across_clause,
    "determiner and noun": determiner,
    "reflexive, gender": reflexive_gender,
    "reflexive, number": reflexive_number,
    "anaphor across a clause": anaphor_across_clause,
    "form after did not": auxiliary,
    "past and participle": participle,
    "negative polarity": polarity,
    "wh-gap": wh_gap,
    "word order": word_order,
    "argument structure": argument_structure,
}


def pairs() -> list[dict[str, str]]:
    """Return the pairs, always the same; of each kind half are of the first form, half of the other."""
    rows = []
    for name, make in PHENOMENA.items():
        draw, seen = random.Random(name), dict[Pair, None]()
        while len(seen) < COUNT:
            before = len(seen)
            while len(seen) == before:
                seen[make(draw, before % 2 == 0)] = None
        for good, bad in seen:
            assert len(good.split()) == len(bad.split()), (good, bad)
            rows.append({"good": sentence(good), "bad": sentence(bad), "phenomenon": name})
    return rows


def sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def unigram(rows: list[dict[str, str]]) -> dict[str, float]:
    """Return the accuracy of a unigram model by phenomenon; a tie counts as half."""
    counts = Counter(word for text in [d.text for d in docstrings()] + topics() for word in words_of(text))
    found: dict[str, list[float]] = {}
    for row in rows:
        good, bad = (
            sum(math.log(counts[word] + 1) for word in sorted(words_of(row[which]))) for which in ("good", "bad")
        )
        found.setdefault(row["phenomenon"], []).append(0.5 if good == bad else float(good > bad))
    return {name: sum(values) / len(values) for name, values in found.items()}


def random_weights(run: str, folder: Path) -> Path:
    """Write a run of the same shape and tokenizer as another, untrained."""
    base = load_run(run)
    body = GPT(base.body.config).init_weights(torch.Generator().manual_seed(1))
    save_run(folder, body, base.tokenizer, RunMetadata(kind="pretrained"))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=["starter"])
    parser.add_argument("--write", help="also write the pairs to a file, for `gpt1 evaluate RUN FILE --as pairs`")
    asked = parser.parse_args()
    rows = pairs()
    result = {"unigram": unigram(rows)}
    with TemporaryDirectory() as work:
        file = Path(asked.write or Path(work) / "pairs.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        untrained = str(random_weights(asked.runs[0], Path(work) / "random"))
        for name, run in [("random weights", untrained), *((Path(run).name, run) for run in asked.runs)]:
            found = gpt1.evaluate(run, file, as_="pairs")
            result[name] = {group: one["accuracy"] for group, one in found["groups"].items()}
    for scores in result.values():
        scores["all"] = sum(scores[name] for name in PHENOMENA) / len(PHENOMENA)
    print("| phenomenon | " + " | ".join(result) + " |\n|---|" + "---|" * len(result))
    for name in (*PHENOMENA, "all"):
        print(f"| {name} | " + " | ".join(f"{100 * scores[name]:.0f}" for scores in result.values()) + " |")
    command = " ".join(["python benchmarks/minimal_pairs.py", *(Path(run).name for run in asked.runs)])
    record("minimal_pairs", command, {"pairs_each": COUNT, "accuracy": result})


if __name__ == "__main__":
    main()
