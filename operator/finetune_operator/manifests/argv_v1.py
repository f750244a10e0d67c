"""Version 1 of the contract with the trainer: a stage and its options on a command line.

The trainer images of revisions that an operator before version 2 started read it. The words and
their order never change: the Job of an attempt is compared with what the operator would create.
"""

from finetune_api.contracts.stage_request import (
    MergeStageRequest,
    PrepareStageRequest,
    TrainStageRequest,
)


def words(request: PrepareStageRequest | TrainStageRequest | MergeStageRequest) -> list[str]:
    """Return the command line of a stage."""
    common = [
        *(request.stage, "--config", request.config),
        *("--config-digest", request.config_digest or "", "--work", request.work),
    ]
    match request:
        case PrepareStageRequest():
            untrusted = ["--untrusted-volume"] if request.untrusted_volume else []
            return [*common, *untrusted, *of_prepare(request)]
        case TrainStageRequest():
            return [
                *common,
                *("--base-manifest", request.base_manifest or ""),
                *("--dataset-manifest", request.dataset_manifest or ""),
                *_images(request),
                *_option("--max-gpu-seconds", request.max_gpu_seconds),
            ]
        case MergeStageRequest():
            return [
                *common,
                *("--base-manifest", request.base_manifest or ""),
                *("--adapter-manifest", request.adapter_manifest or ""),
                *_images(request),
                *("--build", request.build, "--dtype", request.dtype),
                *_option("--largest-activation", request.largest_activation),
                *("--base", request.base),
            ]


def of_prepare(request: PrepareStageRequest) -> list[str]:
    """Return the options of prepare about GPUs, pods and connections."""
    options = [word for card in request.cards for word in ("--card", card)]
    options += _option("--driver", request.driver)
    options += _option("--compute-capability", request.compute_capability)
    if serving := request.serving:
        options += _option("--serving-share", serving.gpu_memory_utilization)
        options += _option("--serving-length", serving.max_model_len)
        options += _option("--serving-dtype", serving.dtype if serving.dtype != "auto" else None)
    options += _option("--volume-size", request.volume_size)
    options += _option("--train-memory", request.train_memory)
    options += [] if request.merges else ["--no-merge"]
    if request.destinations is not None:
        options += _option("--destinations", request.destinations.model_dump_json())
    options += _option("--ca-certificates", request.ca_certificates or None)
    if request.signatures:
        # No image of version 1 verifies signatures; it rejects the option.
        options += ["--signatures", str(len(request.signatures))]
    return options


def _images(request: TrainStageRequest | MergeStageRequest) -> list[str]:
    return [word for image in request.images.items() for word in ("--image", "=".join(image))]


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]
