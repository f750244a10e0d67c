"""The files of a configuration and a split: declared by a card, or by the names of the files."""

import random
from pathlib import Path
from typing import Any

import pytest
from datasets.load import LocalDatasetModuleFactory

from finetune_api.v1alpha1.data.rows import Rows
from finetune_trainer.data.selection.select import Selection, select
from finetune_trainer.errors import DatasetInvalid

GSM8K = [
    f"{config}/{split}-00000-of-00001.parquet"
    for config in ("main", "socratic")
    for split in ("train", "test")
]
GSM8K_CARD = """---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/train-*
  - split: test
    path: socratic/test-*
---
# Grade-school problems
"""
SMOLTALK = [
    f"data/{config}/{split}-00000-of-00001.parquet"
    for config in ("all", "apigen-80k", "everyday-conversations")
    for split in ("train", "test")
]
SMOLTALK_CARD = (
    "---\nconfigs:\n"
    + "".join(
        f"- config_name: {config}\n  data_files:\n"
        f"  - {{split: train, path: data/{config}/train-*}}\n"
        f"  - {{split: test, path: data/{config}/test-*}}\n"
        for config in ("all", "apigen-80k", "everyday-conversations")
    )
    + "---\n"
)
ULTRACHAT = [
    f"data/{split}-00000-of-00001-a67ad6fd0d9a1f8d.parquet"
    for split in ("train_gen", "train_sft", "test_gen", "test_sft")
]
ULTRACHAT_CARD = (
    "---\nconfigs:\n- config_name: default\n  data_files:\n"
    + "".join(
        f"  - split: {split}\n    path: data/{split}-*\n"
        for split in ("train_sft", "test_sft", "train_gen", "test_gen")
    )
    + "---\n"
)


def selected(
    names: list[str], card: str | None = None, source: str = "hf://acme/rows", **fields: Any
) -> Selection:
    rows = Rows(source=source, **fields)
    return select(
        [*names, "README.md"], {} if card is None else {"README.md": card}, rows, "dataset"
    )


def refusal(names: list[str], card: str | None = None, **fields: Any) -> str:
    with pytest.raises(DatasetInvalid) as refused:
        selected(names, card, **fields)
    return str(refused.value)


@pytest.mark.parametrize("card", [GSM8K_CARD, None])
def test_one_of_several_configurations_must_be_named(card: str | None) -> None:
    said = refusal(GSM8K, card)
    assert "main, socratic" in said
    assert "Set dataset.config to one of them, such as dataset.config: main" in said
    for config in ("main", "socratic"):
        assert selected(GSM8K, card, config=config) == Selection(
            config=config, split="train", files=(f"{config}/train-00000-of-00001.parquet",)
        )
    unknown = refusal(GSM8K, card, config="other")
    assert "has no configuration 'other'" in unknown
    assert "one that exists: main, socratic" in unknown


@pytest.mark.parametrize("card", [SMOLTALK_CARD, None])
def test_the_configuration_with_all_rows_is_not_combined_with_its_parts(card: str | None) -> None:
    assert "all, apigen-80k, everyday-conversations" in refusal(SMOLTALK, card)
    found = selected(SMOLTALK, card, config="all", split="test")
    assert found.files == ("data/all/test-00000-of-00001.parquet",)


@pytest.mark.parametrize("card", [ULTRACHAT_CARD, None])
def test_a_split_is_not_the_beginning_of_other_splits(card: str | None) -> None:
    said = refusal(ULTRACHAT, card)
    assert "has no split 'train'" in said
    for split in ("train_gen", "train_sft", "test_gen", "test_sft"):
        assert split in said.rsplit("a split that exists", 1)[1]
        assert selected(ULTRACHAT, card, split=split).files == (
            f"data/{split}-00000-of-00001-a67ad6fd0d9a1f8d.parquet",
        )


def test_splits_of_file_names_are_not_combined() -> None:
    names = ["train_gen.jsonl", "train_sft.jsonl", "test.jsonl"]
    said = refusal(names)
    assert "several splits that 'train' can mean: train_gen, train_sft" in said
    assert "Set dataset.split to one of them" in said
    assert selected(names, split="train_sft").files == ("train_sft.jsonl",)
    assert selected([*names, "train.jsonl"]).files == ("train.jsonl",)
    assert selected(["train_sft/1.jsonl", "test/1.jsonl"]).files == ("train_sft/1.jsonl",)


@pytest.mark.parametrize(
    "folder", ["training", "training_data", "train_test_split", "my-train-data"]
)
def test_the_name_of_a_file_counts_more_than_words_of_its_folder(folder: str) -> None:
    """The test rows must not be trained on because the folder is called training_data."""
    names = [f"{folder}/{split}.jsonl" for split in ("train", "test")]
    assert selected(names).files == (f"{folder}/train.jsonl",)
    assert selected(names, split="test").files == (f"{folder}/test.jsonl",)
    assert selected(["train/part-1.jsonl", "train/part-2.jsonl", "test/part-1.jsonl"]).files == (
        "train/part-1.jsonl",
        "train/part-2.jsonl",
    )


def test_declared_files_of_several_formats_are_all_read() -> None:
    card = "---\nconfigs:\n- config_name: main\n  data_files: {}\n---\n"
    names = ["a.jsonl", "b.json", "c.jsonl.gz"]
    for declared in ("[a.jsonl, b.json, c.jsonl.gz]", "'*.json*'"):
        assert set(selected(names, card.format(declared)).files) == set(names)
    said = refusal(["a.jsonl", "b.jsonl.zst"], card.format("'*'"))
    assert "selects files that cannot be read for the split train (they are b.jsonl.zst)" in said


def test_compressed_files_of_a_split_are_read_with_the_others() -> None:
    names = ["train-0.jsonl", "train-1.jsonl.gz"]
    assert selected(names).files == tuple(names)


def test_all_folders_of_a_bucket_can_be_declared() -> None:
    names = ["2024/01/a.jsonl", "2024/02/b.jsonl"]
    said = refusal(names, source="s3://bucket/rows")
    line = said.split("three lines: ---, then ")[1].split(", then ---")[0]
    assert selected(names, f"---\n{line}\n---\n", source="s3://bucket/rows").files == tuple(names)


def test_a_folder_or_all_folders_can_be_named() -> None:
    everything = selected(GSM8K, config="default")
    assert everything.files == tuple(name for name in GSM8K if "train" in name)
    assert everything.config == "default"
    assert selected(["rows.jsonl", "old/rows.jsonl"], config=".").files == ("rows.jsonl",)
    assert "old, ." in refusal(["rows.jsonl", "old/rows.jsonl"])


@pytest.mark.parametrize("card", [GSM8K_CARD, None])
@pytest.mark.parametrize("source", ["pvc://claim/rows", "s3://bucket/rows"])
def test_folders_elsewhere_are_not_combined_either(card: str | None, source: str) -> None:
    said = refusal(GSM8K, card, source=source)
    assert "main, socratic" in said
    assert "Set dataset.source to the folder of one of them" in said
    assert "dataset.config" not in said


@pytest.mark.parametrize(
    ("entries", "config", "problem"),
    [
        ("- {config_name: one, data_files: a.jsonl}", "one", ""),
        (
            "- {config_name: default, data_files: a.jsonl}\n"
            "- {config_name: z, data_files: b.jsonl}",
            "default",
            "",
        ),
        (
            "- {config_name: y, data_files: b.jsonl}\n"
            "- {config_name: z, data_files: a.jsonl, default: true}",
            "z",
            "",
        ),
        (
            "- {config_name: y, data_files: b.jsonl, default: true}\n"
            "- {config_name: default, data_files: a.jsonl}",
            None,
            "declares several configurations as the default: y, default",
        ),
        (
            "- {config_name: y, data_files: a.jsonl}\n- {config_name: z, data_files: b.jsonl}",
            None,
            "has several configurations, and none of them is the default: y, z",
        ),
    ],
)
def test_default_configuration(entries: str, config: str | None, problem: str) -> None:
    card, names = f"---\nconfigs:\n{entries}\n---\n", ["a.jsonl", "b.jsonl"]
    if config is None:
        assert problem in refusal(names, card)
    else:
        assert selected(names, card) == Selection(config=config, split="train", files=("a.jsonl",))


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["train.jsonl", "test.jsonl"], "test", ["test.jsonl"]),
        (["data.jsonl", "README.md"], "train", ["data.jsonl"]),
        (["a.json", "b.json", "dataset_infos.json"], "train", ["a.json", "b.json"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], "train", None),
        (["d/validation-0.parquet", "d/train-0.parquet"], "val", ["d/validation-0.parquet"]),
        (["train.csv", "train.parquet"], "train", ["train.parquet"]),
        (["x/train_sft-0.parquet", "x/test_sft-0.parquet"], "train_sft", ["x/train_sft-0.parquet"]),
        (["constraining.jsonl"], "train", ["constraining.jsonl"]),
        (["alpaca_train.jsonl", "alpaca_test.jsonl"], "train", ["alpaca_train.jsonl"]),
        (["train_00001_of_00002.csv", "train_00002_of_00002.csv"], "train", None),
        (["train/1.jsonl", "train/2.jsonl", "test/1.jsonl"], "test", ["test/1.jsonl"]),
        (["rows.jsonl", ".cache/rows.jsonl", "__MACOSX/rows.jsonl"], "train", ["rows.jsonl"]),
        (["en/train.jsonl", "de/test.jsonl"], "train", ["en/train.jsonl"]),
    ],
)
def test_files_of_a_split_are_selected(
    names: list[str], split: str, chosen: list[str] | None
) -> None:
    assert selected(names, split=split).files == tuple(chosen or names)


def test_missing_split_is_refused_with_the_list_of_files() -> None:
    said = refusal(["train.jsonl"], split="test")
    assert "has no split 'test'. Its data files are: train.jsonl" in said
    with pytest.raises(DatasetInvalid, match="has no data file"):
        selected([])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("../rows.jsonl", "leads out of the repository"),
        ("a/../../rows.jsonl", "leads out of the repository"),
        ("/etc/passwd", "leads out of the repository"),
        ("hf://datasets/other/rows/train.jsonl", "leads out of the repository"),
        ("https://example.com/rows.jsonl", "leads out of the repository"),
        ("zip://rows.jsonl::archive.zip", "leads out of the repository"),
        ("a" * 2000, "more than 1024 characters"),
        ("missing.jsonl", "names the file 'missing.jsonl', which does not exist"),
        ("other*.jsonl", "selects no file that can be read"),
        ("notes.txt", "(they are notes.txt)"),
    ],
)
def test_unusable_paths_of_a_card_are_refused(files: str, said: str) -> None:
    card = f"---\nconfigs:\n- config_name: main\n  data_files: '{files}'\n---\n"
    assert said in refusal(["rows.jsonl", "notes.txt"], card)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("none", "the folder 'none', which has no data file"),
        ("../other", "the folder '../other', but it leads out of the repository"),
        ("hf://datasets/other", "leads out of the repository"),
    ],
)
def test_unusable_folders_of_a_card_are_refused(folder: str, said: str) -> None:
    card = f"---\nconfigs: [{{config_name: a, data_dir: '{folder}'}}]\n---\n"
    assert said in refusal(["rows.jsonl"], card)


def test_a_card_with_too_many_patterns_is_refused() -> None:
    patterns = [f"{number}*" for number in range(1001)]
    card = f"---\nconfigs: [{{config_name: a, data_files: {patterns}}}]\n---\n"
    assert "more than 1000 patterns" in refusal(["rows.jsonl"], card)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("configs: main", "'configs' in the metadata is not a list"),
        ("- a", "the metadata in README.md is not a mapping"),
        ("configs: [main]", "has no config_name"),
        ("configs: [{config_name: a}, {config_name: a}]", "configuration 'a' twice"),
        ("configs: [{config_name: 'a|b'}]", "'a|b' is not allowed"),
        ("configs: [{config_name: a, data_files: {train: x}}]", "data_files of the configuration"),
        ("configs: [{config_name: a, data_files: [{split: x-y, path: x}]}]", "data_files of"),
        ("configs: [{config_name: a, data_files: [{split: x}]}]", "data_files of"),
        ("configs: [{config_name: a, data_dir: [b]}]", "data_dir of the configuration 'a'"),
        ("configs: [{config_name: a]", "the metadata in README.md is invalid"),
        ("configs: []\nconfigs: []", "the key 'configs' is set twice"),
        ("a: " + "[" * 100 + "]" * 100, "nested more than 32 levels deep"),
        ("a: &a [b]\nb: [" + "*a," * 100 + "]", "more than 64 aliases"),
        ("a: &a [*a]", "no complete anchor before it"),
    ],
)
def test_unreadable_metadata_are_refused(metadata: str, said: str) -> None:
    found = refusal(["rows.jsonl"], f"---\n{metadata}\n---\n")
    assert said in found
    assert "Correct the metadata" in found


@pytest.mark.parametrize(
    "card", ["", "# Rows\n", "---\nlicense: mit\n---\n", "---\nopen", "---\n---\n"]
)
def test_a_card_without_configurations_is_ignored(card: str) -> None:
    assert selected(["rows.jsonl"], card) == Selection(
        config=None, split="train", files=("rows.jsonl",)
    )


def test_choices_in_messages_are_bounded_and_escaped() -> None:
    names = [f"{number:03}\x1b[31m{'x' * 200}/train.jsonl" for number in range(100)]
    said = refusal(names)
    assert "and 80 more" in said
    assert "\x1b" not in said
    assert len(said) < 2500


def test_a_file_that_two_patterns_match_is_read_once() -> None:
    card = "---\nconfigs: [{config_name: a, data_files: ['*.jsonl', 'b.jsonl', 'a.*']}]\n---\n"
    assert selected(["a.jsonl", "b.jsonl"], card).files == ("a.jsonl", "b.jsonl")


# The files of a repository and the entries of its card, from which the test below makes cards.
TREE = [
    "a.jsonl",
    "b.jsonl",
    "train.jsonl",
    "data/train-00000-of-00002.jsonl",
    "data/train-00001-of-00002.jsonl",
    "data/test-00000-of-00001.jsonl",
    "data/sub/deep/x1.jsonl",
    "data/sub/x2.jsonl",
    "data/sub/.hidden.jsonl",
    "data/__cache__/x3.jsonl",
    "en/train/1.jsonl",
    "en/train/2.jsonl",
    "en/test/1.jsonl",
    "de/validation.jsonl",
    "de/train.jsonl",
    "config.json",
]
STEPS = ["*", "**", "data", "sub", "en", "tr*", "t?ain", "[ab].jsonl", "*.jsonl", "x[0-9]*"]
STEPS += ["train-*", "*-of-*", "[!a]*.jsonl", ".hidden.jsonl", "__cache__", ".h*", "config.json"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "x"}\n')
    return folder


@pytest.mark.parametrize("seed", range(60))
def test_cards_mean_the_same_as_for_the_datasets_library(repository: Path, seed: int) -> None:
    choose = random.Random(seed)

    def path() -> str:
        return "/".join(choose.choice(STEPS) for _ in range(choose.randint(1, 4)))

    def entry(at: int) -> str:
        splits = "".join(f", {{split: {name}, path: {path()!r}}}" for name in ("test", "train_2"))
        of = f"[{{split: train, path: [{path()!r}, {path()!r}]}}{splits}]"
        folder = choose.choice(["", ", data_dir: data", ", data_dir: en", ", data_dir: ./de"])
        marked = choose.choice(["", ", default: true"]) if at == 1 else ""
        return f"- {{config_name: c{at}, data_files: {of}{folder}{marked}}}\n"

    # The library infers the format from the first configuration, so this one must have files.
    first = "- {config_name: c0, data_files: '*.jsonl'}\n"
    card = f"---\nconfigs:\n{first}{entry(1)}{entry(2)}---\n"
    (repository / "README.md").write_text(card)
    default, expected = resolved_by_the_library(repository)
    assert (files_or_none(card) is None) == (default is None or expected[default]["train"] is None)
    for config, splits in expected.items():
        for split, files in splits.items():
            assert files_or_none(card, config=config, split=split) == files, (card, config, split)
    assert any(files for splits in expected.values() for files in splits.values())


Files = dict[str, dict[str, set[str] | None]]
"""Files by configuration and split; None if there are none."""


def resolved_by_the_library(folder: Path) -> tuple[str | None, Files]:
    """Return the default configuration, if there is one, and the files of all."""
    found = LocalDatasetModuleFactory(str(folder)).get_module().builder_configs_parameters
    result: Files = {}
    for config in found.builder_configs or ():
        below = folder / (config.data_dir or "")
        result[config.name] = {}
        for split, patterns in config.data_files.items():
            try:
                paths = patterns.resolve(str(below))
            except FileNotFoundError:
                paths = []
            names = {Path(path).resolve().relative_to(folder).as_posix() for path in paths}
            result[config.name][split] = names or None
    return found.default_config_name, result


def files_or_none(card: str, **fields: Any) -> set[str] | None:
    try:
        return set(selected(TREE, card, **fields).files)
    except DatasetInvalid:
        return None


@pytest.mark.parametrize("folder", ["", "data", "en", "de"])
def test_splits_of_a_declared_folder_are_those_of_the_datasets_library(
    repository: Path, folder: str
) -> None:
    card = f"---\nconfigs: [{{config_name: one, data_dir: '{folder}'}}]\n---\n"
    (repository / "README.md").write_text(card)
    _, expected = resolved_by_the_library(repository)
    (splits,) = expected.values()
    for split in ("train", "test", "validation"):
        assert files_or_none(card, split=split) == splits.get(split), (folder, split)
