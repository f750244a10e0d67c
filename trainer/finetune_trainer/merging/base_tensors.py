"""The tensors of the base for one merge, by the names that the adapter uses.

The names differ from those in the files if transformers renames tensors as it loads the model, or
if the model is the text model of a multimodal base. The merged model keeps the names of its base;
only an extracted text model gets those of the text model, and all other tensors are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_trainer.checkpointing import adapter_files
from finetune_trainer.checkpointing.safetensors_header import Header, read_header
from finetune_trainer.merging.request import MergeRequest
from finetune_trainer.models import base_files, tensor_names, text_model
from finetune_trainer.models.tensor_names import TensorNames
from finetune_trainer.volume.files import read_json


@dataclass(frozen=True, kw_only=True)
class BaseTensors:
    """``header``: by names of the model.

    stored, written: names in the files of the base and of the merged model, by names of the model.
    tied: whether the head shares the embedding.
    """

    header: Header
    stored: Mapping[str, str]
    written: Mapping[str, str]
    tied: bool


def read(merging: MergeRequest) -> BaseTensors:
    """Read the headers of the base, and rename its tensors if the adapter needs it."""
    base = merging.layout.base
    files = read_header(base, merging.shards)
    names = _names(merging, files)
    config = read_json(base / base_files.CONFIG)
    if merging.is_text_model:
        config = text_model.load_config(base).to_dict()
    stored = names.stored
    return BaseTensors(
        header=names.header(files),
        stored=stored,
        written={name: names.written[file] for name, file in stored.items()},
        tied=bool(config.get("tie_word_embeddings")),
    )


def _names(merging: MergeRequest, files: Header) -> TensorNames:
    base = merging.layout.base
    if merging.is_text_model:
        return tensor_names.find(base, files.tensors)
    needed = adapter_files.changed_tensors(merging.layout.adapter)
    needed |= {f"{module}.weight" for module in merging.trained.facts["quantizedModules"]}
    # Most families need no other names, and it takes seconds to find them. An adapter of an earlier
    # version, which trained a multimodal base as a whole, has names of the whole.
    if needed <= files.tensors.keys() or text_model.extracted(base) is not None:
        return tensor_names.identity(files.tensors)
    return tensor_names.find(base, files.tensors)
