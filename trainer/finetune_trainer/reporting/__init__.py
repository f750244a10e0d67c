"""Files for people: model card and loss plot."""
