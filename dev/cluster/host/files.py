"""Write configuration files atomically, and only if their content changes."""

from __future__ import annotations

from pathlib import Path


def write(file: Path, content: str, *, mode: int = 0o644) -> Path:
    """Write by rename, unless the content is equal: kube-proxy exits when its file is touched.

    ``mode`` applies from the first byte on. Return the file.
    """
    try:
        if file.read_text() == content:
            return file
    except OSError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.touch(mode=mode)
    partial.write_text(content)
    partial.replace(file)
    return file
