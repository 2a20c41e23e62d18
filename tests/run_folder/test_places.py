"""What a killed process leaves in a folder does not keep the same command out of it."""

from pathlib import Path

from conftest import one_line
from gpt1.run_folder.metadata import STAGED
from gpt1.run_folder.places import check_finetuned_place, check_pretrained_place, read_ablation
from gpt1.storage import write_json


def test_the_temporary_file_of_a_first_write_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / ".settings.json.0123456789ab.tmp").touch()
    check_pretrained_place(tmp_path)
    (tmp_path / "mine.tmp").touch()
    with one_line("is not empty and holds no run"):
        check_pretrained_place(tmp_path)


def test_a_model_whose_files_were_being_moved_is_a_fine_tuning(tmp_path: Path) -> None:
    """gpt1.json comes last; until then the others lie there beside the folder that they come from."""
    (tmp_path / "README.md").touch()
    with one_line("holds README.md, which `gpt1 finetune` did not write"):
        check_finetuned_place(tmp_path)
    (tmp_path / STAGED).mkdir()
    check_finetuned_place(tmp_path)


def test_the_table_of_a_newer_ablation_is_refused(tmp_path: Path) -> None:
    """It may hold what this version would drop."""
    made = {"cells": [], "data": {}, "settings": {}}
    write_json(tmp_path / "table.json", made | {"format": 1})
    assert read_ablation(tmp_path / "table.json")["format"] == 1
    write_json(tmp_path / "table.json", made | {"format": 2})
    with one_line("table.json: format 2 is newer than 1; update gpt1"):
        read_ablation(tmp_path / "table.json")
