"""Generate the reference of the chart values from the comments in values.yaml."""
