"""A folder with a published model is not what the operator signed, and ``ftj verify`` says so.

Whoever stores or copies the folder controls everything in it, except the signature.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.published_folder import Published
from tests.support.signing_keys import new_key

from finetune_cli.verifying.failures import Code

pytestmark = pytest.mark.finding(19, "a published model is hostile")

Attack = Callable[[Published], object]
KINDS = ("provenance.sigstore.json",)


def rewritten(published: Published, **changes: object) -> None:
    """Change manifest.json without the key."""
    path = published.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def signed_manifest(published: Published, name: str) -> None:
    """Let manifest.json name another file, as if the operator had signed that."""
    entry = {"name": name, "size": 1, "sha256": "0" * 64}
    rewritten(published, files=[entry])
    published.sign(published.statement())


def linked(name: str, to: str) -> Attack:
    def attack(published: Published) -> None:
        path = published.folder / name
        path.unlink()
        path.symlink_to(to)

    return attack


def moved_out(name: str) -> Attack:
    def attack(published: Published) -> None:
        path = published.folder / name
        path.rename(published.folder.parent / "outside")
        path.symlink_to("../outside")

    return attack


def replaced(name: str, make: Callable[[Path], None]) -> Attack:
    def attack(published: Published) -> None:
        path = published.folder / name
        path.unlink()
        make(path)

    return attack


def extra(name: str) -> Attack:
    def attack(published: Published) -> None:
        path = published.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    return attack


ATTACKS: dict[str, tuple[Attack, tuple[int, ...]]] = {
    "code next to the model": (extra("modeling_llama.py"), (Code.EXTRA,)),
    "a pickle next to the weights": (extra("pytorch_model.bin"), (Code.EXTRA,)),
    "a hidden file": (extra(".gitattributes"), (Code.EXTRA,)),
    "a statement in a subfolder": (extra("tokenizer/provenance.sigstore.json"), (Code.EXTRA,)),
    "a name with a line break": (extra("a\nb"), (Code.EXTRA,)),
    "a name that colors the terminal": (extra("\x1b[32mverified"), (Code.EXTRA,)),
    "a name that is no text": (extra(os.fsdecode(b"\xff")), (Code.EXTRA,)),
    "a name in another form": (extra("cönfig.json"), (Code.EXTRA,)),
    "weights that are a link": (moved_out("model.safetensors"), (Code.CHANGED,)),
    "a manifest that is a link": (moved_out("manifest.json"), (Code.CHANGED,)),
    "a statement that is a link": (
        moved_out("provenance.sigstore.json"),
        (Code.NO_STATEMENT, Code.NOT_SIGNED),
    ),
    "a link to a device": (linked("model.safetensors", "/dev/zero"), (Code.CHANGED,)),
    "a pipe that never ends": (
        replaced("config.json", os.mkfifo),
        (Code.CHANGED,),
    ),
    "a folder in place of a file": (
        replaced("config.json", os.mkdir),
        (Code.MISSING,),
    ),
    "a link to a folder": (
        lambda found: (found.folder / "more").symlink_to("/"),
        (Code.EXTRA,),
    ),
    "a manifest without files": (lambda found: rewritten(found, files=[]), (Code.CHANGED,)),
    "a manifest with another file": (
        lambda found: rewritten(found, files=[{"name": "a", "size": 1, "sha256": "0" * 64}]),
        (Code.CHANGED,),
    ),
    "a name above the folder": (
        lambda found: signed_manifest(found, "../../etc/passwd"),
        (Code.CHANGED, Code.MISSING),
    ),
    "an absolute name": (
        lambda found: signed_manifest(found, "/etc/passwd"),
        (Code.CHANGED, Code.MISSING),
    ),
    "a statement of another key": (
        lambda found: found.sign(found.statement(), new_key()),
        (Code.NOT_SIGNED,),
    ),
    "a large statement": (
        lambda found: (found.folder / KINDS[0]).write_text(" " * (5 << 20) + "{}"),
        (Code.NOT_SIGNED,),
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_a_folder_is_named(
    tmp_path: Path, attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    published = Published(tmp_path / "model", KINDS)
    assert published.verify(capsys)[0] == 0
    change, codes = ATTACKS[attack]
    change(published)
    code, shown, said = published.verify(capsys)
    assert code in codes, said
    assert shown == "", "no statement is shown as if it were true"
    assert said.isascii()
    assert "\x1b" not in said
    assert len(said.splitlines()) == 1
