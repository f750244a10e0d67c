"""Files for people: model card, loss history and loss plot."""
