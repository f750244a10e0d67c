"""GPU time and cost of the namespaces: how they are charged, and what planners know of them."""
