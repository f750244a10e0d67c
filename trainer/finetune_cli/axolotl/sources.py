"""Converts the ``path`` of a dataset to ``source``.

A repository on the hub and an S3 path are copied. Rows in a local file become a ConfigMap, which
the user creates. A path that a job cannot read is rejected.
"""

import re

from finetune_api.v1alpha1.sources import HF_SOURCE, S3_SOURCE
from finetune_cli.axolotl.reader import Settings

FILE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet|arrow)(\.(gz|zst|bz2|xz))?$", re.I)
"""Ends of the names of local files; ``data/rows.jsonl`` looks like a repository otherwise."""


def source(one: Settings, *, configmap: str) -> str:
    """Return the source of a dataset. Raises Refusal.

    configmap: name of the ConfigMap for the rows of a local file.
    """
    path = one.text("path")
    if not path:
        raise one.refusal(
            "path",
            "is missing: set it to a dataset repository on the Hugging Face Hub, as "
            "organization/name",
        )
    kind, files = one.take("ds_type"), one.take("data_files")
    if "://" in path and not path.startswith("hf://"):
        return _remote(one, path)
    repository = f"hf://{path.removeprefix('hf://')}"
    if not re.fullmatch(HF_SOURCE, repository) or FILE.search(path) or (kind and not files):
        one.dropped(
            "path",
            "is not a hub repository, so the job reads the rows from a ConfigMap: create it "
            f"(kubectl create configmap {configmap} --from-file=rows.jsonl), or put the rows into "
            "a dataset repository and set source to hf://organization/name",
        )
        return f"configmap://{configmap}/rows.jsonl"
    if files:
        one.dropped(
            "data_files",
            "a job reads all files of a split: put these files into a repository of their own, and "
            "set source to that repository",
        )
    return repository


def _remote(dataset: Settings, path: str) -> str:
    """Return the source for a URL. Raises Refusal unless it is on S3."""
    if re.fullmatch(S3_SOURCE, path):
        dataset.changed(
            "path",
            "the job does not use the credentials of your environment: set s3.secretRef or "
            "access.serviceAccountName in the job, unless the bucket is public",
        )
        return path
    if path.startswith("https://"):
        raise dataset.refusal(
            "path",
            "is not supported, because a job needs the SHA-256 digest of a file at an https:// "
            "URL. Set path to the name of a local file, such as rows.jsonl, and replace source in "
            "the FineTuneJob by the URL and the field sha256",
        )
    raise dataset.refusal(
        "path",
        "is not supported: copy the rows to a dataset repository on the Hugging Face Hub "
        "(organization/name) or to an S3 bucket (s3://bucket/path)",
    )
