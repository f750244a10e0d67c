"""Files on the volume: manifests, published folders, checkpoints, adapters and safetensors."""
