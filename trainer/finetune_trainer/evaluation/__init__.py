"""The reference pass, and the tuned model's loss compared with the base model's."""
