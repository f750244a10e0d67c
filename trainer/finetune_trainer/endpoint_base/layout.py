"""Names of the scratch folders on the claim of an endpoint (``Layout.scratch``)."""

SHARDS = "base"
SCALES = "scales"
