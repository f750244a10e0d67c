"""Parts of a training that fit every trainer of transformers: checkpoint, resume and monitor."""
