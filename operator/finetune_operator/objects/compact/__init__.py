"""The compact form in which the store keeps objects: the used fields, as bytes. Pure."""
