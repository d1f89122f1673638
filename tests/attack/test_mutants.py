"""Each mutant is one still: what it takes out is there.  `scripts/torture --mutants` tells whether it is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutants import MUTANTS, ROOT, Mutant
from .room import load


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_what_a_mutant_takes_out_is_there_and_an_attack_is_for_it(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    changed = mutant.applied(text)
    compile(changed, mutant.file, "exec")
    assert changed != text and mutant.attack in load()


@pytest.mark.parametrize("text", ["nothing of it", "a mend, a mend"])
def test_what_is_there_not_once_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="'none'"):
        Mutant("none", "file.py", "a mend", "", "connects", "").applied(text)


def test_mutants_have_names_of_their_own_and_are_for_many_attacks() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS) >= 10
    assert len({each.attack for each in MUTANTS}) > 8 and all(Path(each.file).suffix == ".py" for each in MUTANTS)
